// Choose rows: drop a file, take one of the folder, or name a data set of a hub.

import { useWords } from '../language.js';
import { html, useEffect, useRef, useState } from '../libraries/preact.js';
import { addressOf, go, Link } from '../router.js';
import { refreshAll, send, UNREACHABLE, upload } from '../server.js';
import { formatBytes } from '../numbers.js';
import * as file from '../words/rows.js';
import { Problem } from './problem.js';

/** Area that takes dropped or chosen files, keeps them in the folder, and goes on with one that came alone. */
export function DropZone() {
  const words = useWords(file);
  const [state, setState] = useState({ over: false, sending: null, share: 0, kept: [], errors: [] });
  const picker = useRef(null);
  const isHere = useRef(true);
  useEffect(() => () => (isHere.current = false), []);
  const set = (changes) => setState((before) => ({ ...before, ...changes }));
  const keep = async (dropped) => {
    if (!dropped.length || state.sending) return;
    const [kept, errors] = [[], []];
    for (const one of dropped) {
      set({ sending: one, share: 0 });
      try {
        await upload(one, (share) => set({ share }));
        kept.push(one.name);
      } catch (error) {
        errors.push(error.status === UNREACHABLE ? words.brokeOff(one.name) : error);
      }
    }
    set({ sending: null, kept, errors });
    refreshAll();
    if (isHere.current && dropped.length === 1 && kept.length) go(addressOf('rows', kept[0])); // a reader elsewhere stays there
  };
  const drop = (event) => {
    event.preventDefault();
    set({ over: false });
    keep([...event.dataTransfer.files]);
  };
  const choose = (event) => {
    keep([...event.target.files]);
    event.target.value = ''; // so that the same file can be chosen again
  };
  const over = (event) => {
    event.preventDefault();
    if (!state.over) set({ over: true });
  };
  const { sending } = state;
  return html`<div class=${state.over ? 'drop over' : 'drop'} onDrop=${drop} onDragOver=${over} onDragLeave=${() => set({ over: false })}>
    <p>${words.dropHere}</p>
    <button type="button" class="strong" disabled=${Boolean(sending)} onClick=${() => picker.current.click()}>${words.chooseFile}</button>
    <input ref=${picker} type="file" multiple class="away" tabindex="-1" aria-label=${words.chooseFile} onChange=${choose} />
    <p class="small">${words.forms}</p>
    ${sending && html`<p><span role="status">${words.sending(sending.name, formatBytes(sending.size))}</span> <progress max="1" value=${state.share} aria-label=${sending.name}></progress></p>`}
    ${!sending && state.kept.length > 0 && html`<div role="status"><p>${words.kept}</p><${NameList} names=${state.kept} /></div>`}
    ${state.errors.map((error, place) => html`<${Problem} key=${place} error=${error} />`)}
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
