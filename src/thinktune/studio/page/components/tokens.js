// One row token by token, each kind in its colour and named; arrows go to the rows before and after it.

import { useLanguage, useWords } from '../language.js';
import { html, useEffect, useRef, useState } from '../libraries/preact.js';
import { formatNumber } from '../numbers.js';
import { get, inPath, SLOW_MS } from '../server.js';
import * as file from '../words/rows.js';
import { Problem } from './problem.js';
import { visible } from './visible.js';

const BATCH = 20;
const KINDS = ['prompt', 'reasoning', 'answer', 'end'];

/** Show the tokens of a recipe's rows; `version` changes with the recipe. */
export function Tokens({ name, version }) {
  const words = useWords(file);
  const language = useLanguage();
  const [place, setPlace] = useState(0);
  const [state, setState] = useState({ error: null, busy: false });
  const held = useRef({});
  if (held.current.version !== version) held.current = { version, rows: new Map(), total: null, asked: new Set() };
  const now = held.current;
  const fetchFrom = async (first) => {
    if (first < 0 || now.asked.has(first) || (now.total !== null && first >= now.total)) return;
    now.asked.add(first);
    setState((before) => ({ ...before, busy: true }));
    try {
      const value = await get(`studio/tokens/${inPath(name)}?from=${first}&count=${BATCH}`, { waitMs: SLOW_MS });
      now.total = value.total;
      value.rows.forEach((row, index) => now.rows.set(value.first + index, row));
      if (held.current === now) setState({ error: null, busy: false });
    } catch (error) {
      now.asked.delete(first);
      if (held.current === now) setState({ error, busy: false });
    }
  };
  useEffect(() => {
    const first = place - (place % BATCH);
    fetchFrom(first).then(() => place % BATCH > BATCH / 2 && fetchFrom(first + BATCH)); // the next ones are at hand in time
  }, [place, version]);
  const move = (next) => setPlace(Math.max(0, Math.min((now.total ?? 1) - 1, next)));
  const onKeyDown = (event) => {
    if (event.target.matches('input')) return;
    const steps = { ArrowLeft: -1, ArrowRight: 1 };
    if (!(event.key in steps)) return;
    event.preventDefault();
    move(place + steps[event.key]);
  };
  const row = now.rows.get(place);
  const number = (count) => formatNumber(count, language);
  return html`<div class="tokens" onKeyDown=${onKeyDown}>
    <p class="tokens-head">
      <button type="button" disabled=${place === 0} onClick=${() => move(place - 1)}>← ${words.previous}</button>
      <label>${words.row} <input type="number" min="1" max=${now.total ?? 1} value=${place + 1} onChange=${(event) => move(event.target.valueAsNumber - 1 || 0)} /></label>
      <span>${now.total !== null && words.of(number(now.total))}</span>
      <button type="button" disabled=${now.total === null || place >= now.total - 1} onClick=${() => move(place + 1)}>${words.next} →</button>
    </p>
    <p class="token-legend">${KINDS.map((kind, index) => html`<span key=${kind} class=${`token k${index}`}>${words.kinds[kind]}</span>`)}</p>
    <p class="small" role="status">${row ? html`${row.source} · ${words.tokenCount(number(row.replies.at(-1)?.tokens ?? 0), number(row.replies.reduce((sum, reply) => sum + reply.learned, 0)))}${row.held_out ? ` · ${words.heldOut}` : ''}` : state.busy ? words.readingTokens : ''}</p>
    <${Problem} error=${state.error} />
    ${row?.replies.map((reply, index) => html`<${Reply} key=${index} reply=${reply} />`)}
  </div>`;
}

function Reply({ reply }) {
  const words = useWords(file);
  const shown = [];
  let former = null;
  reply.pieces.forEach(([kind, text], index) => {
    if (kind !== former) shown.push(html`<span class="kind">${words.kinds[KINDS[kind]]}</span>`);
    former = kind;
    const lines = visible(text, true).split('\n');
    shown.push(html`<span class=${`token k${kind}${index % 2 ? ' odd' : ''}`}>${lines.map((line, at) => (at ? html`↵<br />${line}` : line))}</span>`);
  });
  return html`<div class="token-text" tabindex="0" role="group" aria-label=${words.tokens}>${shown}
    ${reply.hidden > 0 && html`<p class="small">${words.hiddenTokens(reply.hidden)}</p>`}</div>`;
}
