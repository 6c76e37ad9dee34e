// Models by name, and which of them a card trains.

import { useLanguage, useWords } from '../language.js';
import { html, useState } from '../libraries/preact.js';
import { formatNumber } from '../numbers.js';
import { SLOW_MS, useServer } from '../server.js';
import * as file from '../words/plan.js';
import { Problem } from './problem.js';

/** The model of a recipe: its name and hub, and the table of what fits. */
export function ModelChoice({ values, change, busy, card }) {
  const words = useWords(file);
  const { model } = values;
  const [edited, setEdited] = useState(null);
  const [open, setOpen] = useState(false);
  const asked = edited ?? { name: model.name, hub: model.hub ?? '' };
  const write = async (event) => {
    event.preventDefault();
    if (await change({ 'model.name': asked.name, 'model.hub': asked.hub || null, 'model.revision': null })) setEdited(null);
  };
  const use = (name) => change({ 'model.name': name, 'model.hub': model.hub ?? 'modelscope', 'model.revision': null });
  return html`<form class="fields" onSubmit=${write}>
      <label>${words.modelName}<input required value=${asked.name} onInput=${(event) => setEdited({ ...asked, name: event.target.value.trim() })} /></label>
      <label>${words.hub}<select value=${asked.hub} onChange=${(event) => setEdited({ ...asked, hub: event.target.value })}>
        <option value="">${words.folderHere}</option><option value="modelscope">ModelScope</option><option value="huggingface">Hugging Face</option></select></label>
      ${edited && html`<button class="strong" disabled=${busy}>${words.writeModel}</button>`}
    </form>
    <details onToggle=${(event) => setOpen(event.target.open)}><summary>${words.whatFits}</summary>
      ${open && html`<${ModelTable} card=${card} current=${model.name} onUse=${use} busy=${busy} />`}</details>`;
}

function ModelTable({ card, current, onUse, busy }) {
  const words = useWords(file);
  const language = useLanguage();
  const { value: held, error } = useServer(`studio/models?card=${encodeURIComponent(card)}`, 0, { waitMs: SLOW_MS });
  if (!held) return html`<${Problem} error=${error} />${!error && html`<p role="status">${words.planning}</p>`}`;
  const billions = (count) => (count / 1e9).toFixed(1);
  const number = (count) => formatNumber(count, language);
  return html`<p class="small">${held.card ? words.forCard(held.card.name, held.card.gib) : words.noCard}${held.card?.in_use ? ` ${words.cardHeld}` : ''}</p>
    <div class="scroll" tabindex="0" role="group" aria-label=${words.whatFits}><table>
      <thead><tr>${['model', 'parameters', 'download', 'fits', 'needs', 'speed', 'use'].map((key) => html`<th key=${key} scope="col" class=${['model', 'fits', 'use'].includes(key) ? '' : 'number'}>${words.modelTable[key]}</th>`)}</tr></thead>
      <tbody>${held.models.map((model) => html`<tr key=${model.name} class=${model.fits === false ? 'off' : ''}>
        <th scope="row">${model.name}${model.name === held.chosen ? html` <span class="state finished">${words.suggested}</span>` : ''}</th>
        <td class="number">${billions(model.parameters)} B</td><td class="number">${model.download_gib} GiB</td>
        <td>${model.fits === null ? '–' : model.fits ? `${model.memory}${model.keeps_updates ? '' : ` · ${words.rounded}`}` : words.tooLarge}</td>
        <td class="number">${model.needed_gib ? `${model.needed_gib} GiB` : '–'}</td>
        <td class="number">${model.speeds ? model.speeds.map(number).join('–') : '–'}</td>
        <td>${model.name === current ? words.inUse : html`<button type="button" disabled=${busy} aria-label=${words.useModel(model.name)} onClick=${() => onUse(model.name)}>${words.modelTable.use}</button>`}</td>
      </tr>`)}</tbody></table></div>
    <p class="small">${words.assumed}</p>
    <p class="small">${words.knownCards(held.cards.map((one) => one.name).join(', '))}</p>`;
}

/** The card that is planned for: this machine's where nothing is written, or any by name or size. */
export function CardChoice({ card, onCard }) {
  const words = useWords(file);
  return html`<label class="field narrow">${words.card}
    <input value=${card} placeholder=${words.thisMachine} aria-describedby="card-hint" onChange=${(event) => onCard(event.target.value.trim())} /></label>
    <p class="small" id="card-hint">${words.cardHint}</p>`;
}
