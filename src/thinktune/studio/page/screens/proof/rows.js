// Rows of an evaluation: found by outcome, set and words, and read with both replies side by side.

import { CopyButton } from '../../components/command.js';
import { LongList, useRows } from '../../components/long-list.js';
import { Problem } from '../../components/problem.js';
import { useText } from '../../components/texts.js';
import { useLanguage, useWords } from '../../language.js';
import { html, useCallback, useEffect, useState } from '../../libraries/preact.js';
import { formatNumber } from '../../numbers.js';
import { addressOfTalk, Link } from '../../router.js';
import { get, inPath } from '../../server.js';
import * as file from '../../words/proof.js';

const ROW_PIXELS = 54;
const TYPED_MS = 200;
const MOST_NAMED = 200; // rows that name a row: itself, and those whose text does

/** Show the rows of one mode; `shown` are its figures, `asked` which rows and which of them is open, and `ask` changes that. */
export function RowReader({ name, shown, asked, ask }) {
  const words = useWords(file);
  const language = useLanguage();
  const { outcome, set, search } = asked;
  const [open, setOpen] = useState(null);
  const typed = useLater(search, TYPED_MS);
  const query = new URLSearchParams({ mode: shown.mode, outcome, named_set: set, search: typed }).toString();
  const find = useCallback((start, count, signal) => get(`studio/proof-rows/${inPath(name)}?${query}&start=${start}&count=${count}`, { signal }), [name, query]);
  const list = useRows(find);
  useEffect(() => void list.refresh(), [shown.settings.made, shown.rows]);
  useEffect(() => {
    if (!asked.row) return;
    const named = new URLSearchParams({ mode: shown.mode, search: asked.row, count: MOST_NAMED });
    get(`studio/proof-rows/${inPath(name)}?${named}`).then(({ rows }) => setOpen(rows.find((one) => one.row === asked.row)?.number ?? null), () => {});
  }, []); // as the address names it; a row keeps its name where the run is evaluated again
  const choose = (row) => {
    setOpen(row.number);
    ask({ row: row.row });
  };
  const counts = { all: shown.rows, ...shown.counts };
  return html`<h2 id="row-by-row">${words.rowByRow}</h2>
    <fieldset class="segments"><legend class="away">${words.outcome}</legend>
      ${Object.entries(words.outcomes).map(([key, text]) => html`<label><input type="radio" name="outcome" checked=${outcome === key} onChange=${() => ask({ outcome: key })} />${text} ${formatNumber(counts[key], language)}</label>`)}
    </fieldset>
    <div class="finder">
      <${SetChoice} sets=${shown.sets} value=${set} onChoose=${(set) => ask({ set })} />
      <input type="search" aria-label=${words.search} placeholder=${words.search} value=${search} onInput=${(event) => ask({ search: event.target.value })} />
      <span role="status">${list.answer && words.found(formatNumber(list.total, language))}</span>
    </div>
    <p class="small reader-note">${words.notForTraining}</p>
    <${Problem} error=${list.error} />
    <div class="reader">
      <${LongList} rows=${list} height=${ROW_PIXELS} label=${words.rowByRow}>
        ${(row, index, stop) => html`<${RowLine} row=${row} isOpen=${row && row.number === open} stop=${stop} onChoose=${() => row && choose(row)} />`}
      <//>
      <div class="opened">${open === null ? html`<p class="small">${words.choose}</p>` : html`<${Row} name=${name} mode=${shown.mode} number=${open} stamp=${shown.settings.made} />`}</div>
    </div>`;
}

function SetChoice({ sets, value, onChoose }) {
  const words = useWords(file);
  const text = useText();
  return html`<label>${words.set} <select value=${value} onChange=${(event) => onChoose(event.target.value)}>
    <option value="">${words.allSets}</option>
    ${sets.map((one) => html`<option value=${one.name}>${text(one.words)}</option>`)}
  </select></label>`;
}

function RowLine({ row, isOpen, stop, onChoose }) {
  const words = useWords(file);
  const text = useText();
  return html`<button type="button" class="row-line" aria-current=${isOpen ? 'true' : null} onClick=${onChoose} ...${stop}>${row ? html`
    <span class="asked" lang="">${row.question}</span>
    <span class="place">${row.outcome && html`<b class=${row.outcome}>${words.become[row.outcome]}</b> · `}${text(row.set)} · ${row.row}${row.apart ? ` · ${words.setApart}` : ''}</span>` : '…'}
  </button>`;
}

/** Show all of a row: the question, its reference, and what both models wrote. */
function Row({ name, mode, number, stamp }) {
  const words = useWords(file);
  const [state, setState] = useState({ row: null, error: null });
  useEffect(() => {
    let gone = false;
    get(`studio/proof-row/${inPath(name)}?mode=${mode}&number=${number}`).then(
      (row) => gone || setState({ row, error: null }),
      (error) => gone || setState({ row: null, error }),
    );
    return () => (gone = true);
  }, [name, mode, number, stamp]);
  const { row, error } = state;
  if (!row) return html`<${Problem} error=${error} />`;
  return html`<article class="card" aria-label=${row.row}>
    <h3 class="as-written" lang="">${row.question}</h3>
    ${row.references.length + row.keypoints.length > 0 && html`<div class="side-of"><h4>${words.reference}</h4>
      <${Reasoning} text=${row.reference_reasoning} />
      ${row.references.map((reference) => html`<${Said} text=${reference} />`)}
      ${row.keypoints.length > 0 && html`<p class="small">${words.keypoints}: ${row.keypoints.join('; ')}</p>`}
    </div>`}
    <div class="two-sides"><${Reply} title=${words.base} reply=${row.base} /><${Reply} title=${words.tuned} reply=${row.tuned} /></div>
    <p class="actions"><${CopyButton} text=${asText(row, words)} label=${words.copyRow} what=${words.copyRow} />
      <${Link} class="button" to=${addressOfTalk(name, row.question)}>${words.askInTalk}<//></p>
  </article>`;
}

/** Return all of a row as a text, to be sent to somebody. */
function asText(row, words) {
  const side = (title, { reasoning, answer }) => [title, reasoning && `${words.reasoning}: ${reasoning}`, answer || words.noAnswer].filter(Boolean).join('\n');
  const reference = [...row.references, ...row.keypoints].join('\n');
  return [`${row.row}\n${row.question}`, reference && `${words.reference}\n${reference}`, side(words.base, row.base), side(words.tuned, row.tuned)].filter(Boolean).join('\n\n');
}

function Reply({ title, reply }) {
  const words = useWords(file);
  const { right, loops } = reply.scores;
  return html`<div class="side-of"><h4>${title}
      ${right !== undefined && html`<span class=${right ? 'better' : 'worse'}>${right ? words.right : words.wrong}</span>`}
      ${reply.finish === 'length' && html`<span class="badge">${words.cut}</span>`}
      ${loops ? html`<span class="badge">${words.loops}</span>` : null}
      ${reply.grader_error && html`<span class="badge" title=${reply.grader_error}>${words.ungraded}</span>`}
    </h4>
    <${Reasoning} text=${reply.reasoning} />
    ${reply.answer ? html`<${Said} text=${reply.answer} />` : html`<p class="small">${words.noAnswer}</p>`}
  </div>`;
}

function Reasoning({ text }) {
  const words = useWords(file);
  return text ? html`<details class="reasoning-of"><summary>${words.reasoning}</summary><${Said} text=${text} /></details>` : null;
}

/** Show a text as it was written; a long one scrolls, also by keys. */
function Said({ text }) {
  return html`<div class="as-written" lang="" tabindex=${text.length > 600 ? 0 : null}>${text}</div>`;
}

/** Return a value once it has stayed the same for a while. */
function useLater(value, afterMs) {
  const [settled, setSettled] = useState(value);
  useEffect(() => {
    const timer = setTimeout(() => setSettled(value), afterMs);
    return () => clearTimeout(timer);
  }, [value, afterMs]);
  return settled;
}
