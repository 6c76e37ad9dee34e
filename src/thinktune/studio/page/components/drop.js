// Choose rows: drop a file, take one of the folder, or name a data set of a hub.

import { useWords } from '../language.js';
import { html, useRef, useState } from '../libraries/preact.js';
import { addressOf, go, Link } from '../router.js';
import { call, refreshAll, send } from '../server.js';
import { formatBytes } from '../numbers.js';
import * as file from '../words/rows.js';
import { Problem } from './problem.js';

/** Area that takes a dropped or chosen file, keeps it in the folder, and goes on with it. */
export function DropZone() {
  const words = useWords(file);
  const [state, setState] = useState({ over: false, sending: null, error: null });
  const picker = useRef(null);
  const keep = async (dropped) => {
    if (!dropped) return;
    setState({ over: false, sending: dropped, error: null });
    try {
      await call(`studio/files/${encodeURIComponent(dropped.name)}`, { method: 'PUT', body: dropped });
      refreshAll();
      go(addressOf('rows', dropped.name));
    } catch (error) {
      setState({ over: false, sending: null, error });
    }
  };
  const drop = (event) => {
    event.preventDefault();
    keep(event.dataTransfer.files[0]);
  };
  const over = (event) => {
    event.preventDefault();
    if (!state.over) setState({ ...state, over: true });
  };
  return html`<div class=${state.over ? 'drop over' : 'drop'} onDrop=${drop} onDragOver=${over} onDragLeave=${() => setState({ ...state, over: false })}>
    <p>${words.dropHere}</p>
    <button type="button" class="strong" disabled=${Boolean(state.sending)} onClick=${() => picker.current.click()}>${words.chooseFile}</button>
    <input ref=${picker} type="file" class="away" tabindex="-1" aria-label=${words.chooseFile} onChange=${(event) => keep(event.target.files[0])} />
    <p class="small">${words.forms}</p>
    ${state.sending && html`<p role="status">${words.sending(state.sending.name, formatBytes(state.sending.size))}</p>`}
    <${Problem} error=${state.error} />
  </div>`;
}

/** Form that makes a recipe for a data set of a hub. */
export function HubRows() {
  const words = useWords(file);
  const [asked, setAsked] = useState({ hub: 'modelscope', data: '', model: 'Qwen/Qwen3-0.6B' });
  const [error, setError] = useState(null);
  const set = (name) => (event) => setAsked({ ...asked, [name]: event.target.value.trim() });
  const make = async (event) => {
    event.preventDefault();
    const name = `${asked.data.split('/').pop().replace(/[^\w-]+/g, '-') || 'recipe'}.yaml`;
    const changes = { 'model.name': asked.model, 'model.hub': asked.hub, 'data.name': asked.data, 'data.hub': asked.hub };
    try {
      await send('PUT', `studio/recipe/${encodeURIComponent(name)}`, { digest: '', changes });
      refreshAll();
      go(addressOf('rows', name));
    } catch (problem) {
      setError(problem);
    }
  };
  return html`<form class="fields" onSubmit=${make}>
    <label>${words.hubName}<input required value=${asked.data} placeholder="owner/name" pattern="[^\\s/]+/[^\\s/]+" onInput=${set('data')} /></label>
    <label>${words.hub}<select value=${asked.hub} onChange=${set('hub')}><option value="modelscope">ModelScope</option><option value="huggingface">Hugging Face</option></select></label>
    <label>${words.model}<input required value=${asked.model} onInput=${set('model')} /></label>
    <button>${words.makeRecipe}</button>
    <${Problem} error=${error} />
  </form>`;
}

/** List names, each a link to the rows screen. */
export function NameList({ names, none }) {
  if (!names?.length) return html`<p class="small">${none}</p>`;
  return html`<ul class="names">${names.map((name) => html`<li key=${name}><${Link} to=${addressOf('rows', name)}>${name}<//></li>`)}</ul>`;
}
