// What a run takes: time, disk, and money at the price of an hour.

import { keepChoice, readChoice } from '../choices.js';
import { useWords } from '../language.js';
import { html, useState } from '../libraries/preact.js';
import { formatBytes } from '../numbers.js';
import * as file from '../words/plan.js';
import { Sentence } from './sentence.js';

const UNITS = [['hours', 3600], ['minutes', 60]];

/** Spell a range of seconds in the unit that suits its longer end. */
function spellRange([shortest, longest], words) {
  const [unit, seconds] = UNITS.find(([, size]) => longest >= 2 * size) ?? ['seconds', 1];
  const ends = [shortest, longest].map((each) => (seconds === 1 ? String(Math.max(1, Math.round(each))) : String(Number((each / seconds).toPrecision(2)))));
  return words.range([...new Set(ends)].join('–'), words.units[unit]);
}

const money = (amount) => (amount >= 100 ? Math.round(amount).toString() : amount.toFixed(2));

/** Show time, disk and cost of what `check` planned. */
export function Cost({ facts }) {
  const words = useWords(file);
  const [price, setPrice] = useState(readChoice('hourly-price') ?? '');
  const [currency, setCurrency] = useState(readChoice('currency') ?? '');
  const keep = (name, set) => (event) => {
    set(event.target.value);
    keepChoice(name, event.target.value);
  };
  const { time, disk } = facts;
  const amounts = time && Number(price) > 0 ? time.seconds.map((seconds) => money((seconds / 3600) * Number(price))) : null;
  return html`<dl class="takes">
    <div><dt>${words.time}</dt><dd>${time ? spellRange(time.seconds, words) : words.unknownTime}</dd>
      ${time && html`<dd class="small">${words.timeIs}<${Sentence} text=${time.basis} />${words.onTop(time.left_out.map((what) => words.leftOut[what] ?? what))}</dd>`}</div>
    <div><dt>${words.disk}</dt><dd>${disk ? words.atMost(formatBytes(disk.most_bytes)) : '–'}</dd>
      ${disk && html`<dd class=${disk.fits ? 'small' : 'small problem'}>${words.free(formatBytes(disk.free_bytes))}</dd>`}</div>
    <div><dt>${words.cost}</dt><dd>${amounts ? `${[...new Set(amounts)].join('–')} ${currency}` : '–'}</dd>
      <dd class="price"><label>${words.price} <input type="number" min="0" step="any" value=${price} onInput=${keep('hourly-price', setPrice)} /></label>
        <label>${words.currency} <input maxlength="4" size="4" value=${currency} onInput=${keep('currency', setCurrency)} /></label></dd></div>
  </dl>`;
}
