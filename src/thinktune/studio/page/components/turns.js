// Turns of a conversation as texts; what differs from another version is marked.

import { useWords } from '../language.js';
import { html } from '../libraries/preact.js';
import * as file from '../words/rows.js';
import { visible } from './visible.js';

const CONTEXT = 160; // characters of what is the same, around what differs

/** Show turns; `other` are those of the other version. */
export function Turns({ turns, other }) {
  const words = useWords(file);
  return html`<div class="turns">${turns.map((turn, index) => html`<div key=${index} class=${`turn ${turn.role}`}>
    <p class="small">${words.roles[turn.role] ?? turn.role}${turn.trained === 'no' ? ` · ${words.notTrained}` : ''}</p>
    ${turn.reasoning && html`<p class="turn-text thought"><${Marked} text=${turn.reasoning} other=${other?.[index]?.reasoning} /></p>`}
    <p class="turn-text"><${Marked} text=${turn.content} other=${other?.[index]?.content} /></p>
  </div>`)}</div>`;
}

function commonLength(one, other) {
  let length = 0;
  while (length < Math.min(one.length, other.length) && one[length] === other[length]) length++;
  return length;
}

const reversed = (text) => [...text].reverse().join('');
const cutStart = (text) => (text.length > CONTEXT ? `[…] ${text.slice(-CONTEXT)}` : text);
const cutEnd = (text) => (text.length > CONTEXT ? `${text.slice(0, CONTEXT)} […]` : text);

/** A text with the part marked that another version has not. */
function Marked({ text, other }) {
  if (other === undefined || other === text) return visible(text, true);
  const start = commonLength(text, other);
  const end = commonLength(reversed(text.slice(start)), reversed(other.slice(start)));
  const [before, middle, after] = [text.slice(0, start), text.slice(start, text.length - end), text.slice(text.length - end)];
  return html`${visible(cutStart(before), true)}${middle && html`<mark>${visible(middle, true)}</mark>`}${visible(cutEnd(after), true)}`;
}
