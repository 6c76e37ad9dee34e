// The settings of memory that were planned for a card, the chosen one marked.

import { useLanguage, useWords } from '../language.js';
import { html } from '../libraries/preact.js';
import { formatNumber } from '../numbers.js';
import * as file from '../words/plan.js';
import { Sentence } from './sentence.js';

const COLUMNS = ['memory', 'update', 'budget', 'batch', 'train', 'evaluate', 'sample', 'host', 'speed'];

/** Show the table of options; of the CPU, which has none, only that it is slow. */
export function CardTable({ plan }) {
  const words = useWords(file);
  const language = useLanguage();
  const number = (count) => formatNumber(count, language);
  const cell = (option, column) => {
    if (column === 'memory') return option.memory;
    if (column === 'update') return option.update_in_backward ? words.inBackward : words.afterBackward;
    if (column === 'budget') return option.offload_activations ? words.onHost : String(option.activation_budget);
    if (column === 'batch') return number(option.batch_tokens);
    if (column === 'speed') return option.predicted_range ? option.predicted_range.map(number).join('–') : '–';
    return option[`${column}_gib`].toFixed(1);
  };
  return html`<p>${plan.card === 'cpu' ? words.onCpu : html`<${Sentence} text=${plan.why} />`}</p>
    ${[plan.card_note, plan.precision].filter(Boolean).map((note) => html`<p class="warning"><${Sentence} text=${note} /></p>`)}
    ${plan.options.length > 0 && html`<p class="small">${words.planned(plan.ranks > 1 ? `${plan.ranks} × ${plan.card}` : plan.card, plan.card_gib)}</p>
      <div class="scroll" tabindex="0" role="group" aria-label=${words.cardTable}><table>
        <thead><tr><th scope="col">${words.columns.mark}</th>${COLUMNS.map((column) => html`<th key=${column} scope="col" class=${['memory', 'update'].includes(column) ? '' : 'number'}>${words.columns[column]}</th>`)}</tr></thead>
        <tbody>${plan.options.map((option, index) => html`<tr key=${index} class=${option.chosen ? 'chosen' : option.fits ? '' : 'off'}>
          <th scope="row">${option.chosen ? words.chosen : option.fits ? words.fits : words.tooLarge}</th>
          ${COLUMNS.map((column) => html`<td key=${column} class=${['memory', 'update'].includes(column) ? '' : 'number'}>${cell(option, column)}</td>`)}</tr>`)}</tbody>
      </table></div>`}`;
}
