// Replies to held-out questions at each evaluation, beside their reference; one question at a time.

import { useWords } from '../language.js';
import { html, useState } from '../libraries/preact.js';
import { inPath, useServer } from '../server.js';
import * as file from '../words/train.js';
import { Problem } from './problem.js';

/** Show the samples of a run; `count` tells how many there are, so that new ones are asked for. */
export function Samples({ name, count }) {
  const words = useWords(file);
  const { value, error } = useServer(count ? `studio/run-samples/${inPath(name)}?count=${count}` : null);
  const [kept, setKept] = useState(null);
  const [number, setNumber] = useState(0);
  const [chosen, setChosen] = useState(null);
  if (value && value !== kept) setKept(value);
  const groups = (value ?? kept)?.samples ?? [];
  if (!groups.length) return html`<${Problem} error=${error} />${!error && html`<p class="small">${words.noSamples}</p>`}`;
  const group = groups[Math.min(number, groups.length - 1)];
  const reply = group.replies[Math.min(chosen ?? 0, group.replies.length - 1)];
  const turn = (by) => {
    setNumber((number + by + groups.length) % groups.length);
    setChosen(null);
  };
  return html`<div class="card samples">
    <div class="bar"><button type="button" onClick=${() => turn(-1)} aria-label=${words.former}>←</button>
      <span class="small" role="status">${words.question(Math.min(number, groups.length - 1) + 1, groups.length)} · ${group.row}</span>
      <button type="button" onClick=${() => turn(1)} aria-label=${words.next}>→</button>
      <label class="small">${words.atStep} <select value=${chosen ?? 0} onChange=${(event) => setChosen(Number(event.target.value))}>
        ${group.replies.map((one, index) => html`<option value=${index}>${one.step}${one.sampling ? ` (${words[one.sampling] ?? one.sampling})` : ''}</option>`)}
      </select></label></div>
    <p class="question" dir="auto">${group.question}</p>
    <div class="pair">
      <div><h3>${words.reply(reply.step)} <${Badges} reply=${reply} /></h3><${Reply} reply=${reply} /></div>
      <div><h3>${words.reference}</h3><${Reply} reply=${group.reference} /></div>
    </div>
  </div>`;
}

function Badges({ reply }) {
  const words = useWords(file);
  const said = [
    reply.finish === 'length' && words.cut,
    reply.reasoning_closed === false && words.open,
    reply.repetition >= 0.5 && words.repeats(Math.round(100 * reply.repetition)),
  ].filter(Boolean);
  return said.map((text) => html`<span class="badge">${text}</span> `);
}

function Reply({ reply }) {
  const words = useWords(file);
  return html`${reply.reasoning && html`<details><summary>${words.reasoning}</summary><div class="written thought" dir="auto">${reply.reasoning}</div></details>`}
    ${reply.answer ? html`<div class="written" dir="auto" tabindex="0" role="group" aria-label=${words.reference}>${reply.answer}</div>` : html`<p class="small">${words.noAnswer}</p>`}`;
}
