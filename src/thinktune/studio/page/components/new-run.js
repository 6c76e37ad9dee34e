// Settings that a verdict says to change, as a form that writes them into a copy of the recipe, for a run of its own.

import { useText } from './texts.js';
import { Problem } from './problem.js';
import { useWords } from '../language.js';
import { html, useState } from '../libraries/preact.js';
import { addressOf, go } from '../router.js';
import { inPath, refreshAll, send } from '../server.js';
import * as file from '../words/recipe.js';

/** Offer the settings `advised` of a run in a new one; nothing where the run's recipe is not in the folder any more. */
export function NewRun({ recipe, run, advised }) {
  const words = useWords(file);
  const text = useText();
  const [typed, setTyped] = useState({});
  const [state, setState] = useState({ busy: false, error: null });
  if (!advised?.length || !recipe || recipe.startsWith(`${run}/`)) return null;
  const valueOf = ({ key, now, value }) => typed[key] ?? String(value ?? now);
  const changed = advised.filter((one) => Number(valueOf(one)) !== one.now);
  const fits = (one) => (one.direction === 'higher' ? Number(valueOf(one)) > one.now : Number(valueOf(one)) < one.now && Number(valueOf(one)) > 0);
  const write = async (event) => {
    event.preventDefault();
    setState({ busy: true, error: null });
    try {
      const changes = Object.fromEntries(changed.map((one) => [one.key, Number(valueOf(one))]));
      const { name } = await send('POST', `studio/recipe-copy/${inPath(recipe)}`, { changes });
      refreshAll();
      go(addressOf('plan', name));
    } catch (error) {
      setState({ busy: false, error });
    }
  };
  return html`<form class="card new-run" onSubmit=${write}>
    <p>${words.newRun}</p>
    <div class="form-grid">${advised.map((one) => html`<label key=${one.key}>${words[one.direction](text(one.name), one.now)}
      <input type="number" required step="any" min="0" title=${one.key} value=${valueOf(one)} onInput=${(event) => setTyped({ ...typed, [one.key]: event.target.value })} /></label>`)}</div>
    <p class="actions"><button disabled=${state.busy || !changed.length || !changed.every(fits)}>${words.writeNew}</button></p>
    <${Problem} error=${state.error} /></form>`;
}
