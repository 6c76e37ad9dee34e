// How long the rows are: a histogram of the chosen part, and its figures as a table.

import { useLanguage, useWords } from '../language.js';
import { html, useState } from '../libraries/preact.js';
import { formatNumber } from '../numbers.js';
import * as file from '../words/rows.js';

const PARTS = ['whole', 'prompt', 'reasoning', 'answer'];
const WIDTH = 640;
const HEIGHT = 170;
const FOOT = 26;
const HEAD = 16;

/** Show the lengths that `check` measured. */
export function Lengths({ facts }) {
  const words = useWords(file);
  const language = useLanguage();
  const [part, setPart] = useState('whole');
  if (!facts.lengths?.[part]) return html`<p class="small">${words.noLengths}</p>`;
  const number = (count) => formatNumber(Math.round(count), language);
  const over = Object.entries(facts.over).filter(([, count]) => count);
  return html`<p><label>${words.lengthsOf} <select value=${part} onChange=${(event) => setPart(event.target.value)}>
      ${PARTS.map((each) => html`<option key=${each} value=${each} selected=${each === part}>${words.lengthParts[each]}</option>`)}</select></label></p>
    <${Histogram} histogram=${facts.histograms[part]} limit=${part === 'whole' ? facts.max_tokens : null} label=${words.lengthParts[part]} />
    <div class="scroll" tabindex="0" role="group" aria-label=${words.lengths}><table>
      <thead><tr><th scope="col">${words.tokensOf}</th>${['mean', 'median', 'p95', 'max'].map((key) => html`<th key=${key} scope="col" class="number">${words.figures[key]}</th>`)}</tr></thead>
      <tbody>${PARTS.map((each) => html`<tr key=${each}><th scope="row">${words.lengthParts[each]}</th>
        ${['mean', 'median', 'p95', 'max'].map((key) => html`<td key=${key} class="number">${number(facts.lengths[each][key])}</td>`)}</tr>`)}</tbody>
    </table></div>
    <p class="small">${over.length ? over.map(([mark, count]) => words.over(number(count), number(Number(mark)))).join(' · ') : words.noneOver(number(facts.max_tokens))}</p>`;
}

function Histogram({ histogram, limit, label }) {
  const words = useWords(file);
  const language = useLanguage();
  const { width, counts } = histogram;
  const most = Math.max(...counts, 1);
  const step = WIDTH / counts.length;
  const end = width * counts.length;
  const height = HEIGHT - FOOT - HEAD;
  const ticks = [0, 6, 12, 18, counts.length].map((bin) => ({ x: bin * step, tokens: bin * width }));
  const at = limit !== null && limit < end ? (limit / end) * WIDTH : null;
  return html`<svg class="histogram" viewBox=${`0 0 ${WIDTH} ${HEIGHT}`} role="img" aria-label=${words.histogram(label, formatNumber(most, language))}>
    ${counts.map((count, bin) => html`<rect key=${bin} x=${bin * step + 1} width=${step - 2} y=${HEAD + height - (count / most) * height} height=${count ? Math.max(1.5, (count / most) * height) : 0}>
      <title>${words.bin(formatNumber(bin * width, language), bin === counts.length - 1 ? '…' : formatNumber((bin + 1) * width, language), formatNumber(count, language))}</title></rect>`)}
    <line x1="0" x2=${WIDTH} y1=${HEAD + height} y2=${HEAD + height} />
    <text x="2" y="11">${formatNumber(most, language)}</text>
    ${ticks.map(({ x, tokens }, index) => html`<text key=${x} x=${x} y=${HEIGHT - 8} text-anchor=${index === 0 ? 'start' : index === ticks.length - 1 ? 'end' : 'middle'}>${formatNumber(tokens, language)}${index === ticks.length - 1 ? '+' : ''}</text>`)}
    ${at !== null && html`<line class="limit" x1=${at} x2=${at} y1=${HEAD} y2=${HEAD + height} /><text x=${at} y="11" text-anchor="middle">${words.limit}</text>`}
  </svg>`;
}
