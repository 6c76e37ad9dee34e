// Raw rows of a file as a long list: only what is seen is in the page, and any of them opens whole.

import { useLanguage, useWords } from '../language.js';
import { html, useCallback, useEffect, useRef, useState } from '../libraries/preact.js';
import { formatNumber } from '../numbers.js';
import { get, inPath, SLOW_MS } from '../server.js';
import * as file from '../words/rows.js';
import { LongList, useRows } from './long-list.js';
import { Problem } from './problem.js';
import { Sentence } from './sentence.js';
import { visible } from './visible.js';

const ROW_PIXELS = 60;
const LINE_PIXELS = 22; // of a cell or a fault's name on a narrow screen, where they are below each other
const MOST_LINES = 3; // where nothing tells which columns are read
const NARROW = matchMedia('(max-width: 720px)');
const SEARCH_AFTER_MS = 300;
const GROWS_MS = 1500; // between looks at a file that is still being read

/** Name the key under which the rows of a JSON file are, where the recipe names one (`data.rows`). */
export const keyQuery = (rowsKey) => (rowsKey ? `&key=${encodeURIComponent(rowsKey)}` : '');

function useNarrow() {
  const [narrow, setNarrow] = useState(NARROW.matches);
  useEffect(() => {
    const tell = () => setNarrow(NARROW.matches);
    NARROW.addEventListener('change', tell);
    return () => NARROW.removeEventListener('change', tell);
  }, []);
  return narrow;
}

/** Return the columns with the longest cells, which are hardly ever numbers or marks, in the file's order. */
function longestColumns({ rows, columns }) {
  const characters = (column) => rows.reduce((sum, row) => sum + (row.cells[column]?.characters ?? 0), 0);
  const longest = new Set([...columns].sort((one, other) => characters(other) - characters(one)).slice(0, MOST_LINES));
  return columns.filter((column) => longest.has(column));
}

/** Return the cells of a row that a narrow screen shows, as [name, cell]: of the columns, and what was searched for. */
function narrowCells(row, columns, search) {
  const all = Object.entries(row?.cells ?? {});
  const known = columns.filter((column) => Object.hasOwn(row?.cells ?? {}, column)).map((column) => [column, row.cells[column]]);
  const shown = known.length ? known : all.slice(0, MOST_LINES);
  const has = ([, cell]) => cell.text.toLowerCase().includes(search.toLowerCase());
  const hit = search && !shown.some(has) && all.find(has);
  return hit ? [...shown.slice(0, -1), hit] : shown;
}

/** Show the rows of a file with a search; `read` are the columns that are read, which a narrow screen shows. */
export function RawRows({ name, rowsKey = null, read = [] }) {
  const words = useWords(file);
  const language = useLanguage();
  const [typed, setTyped] = useState('');
  const [search, setSearch] = useState('');
  const [open, setOpen] = useState(null);
  useEffect(() => {
    const timer = setTimeout(() => setSearch(typed), SEARCH_AFTER_MS);
    return () => clearTimeout(timer);
  }, [typed]);
  const ask = useCallback(async (first, count, signal) => {
    const asked = `from=${first}&count=${count}&search=${encodeURIComponent(search)}${keyQuery(rowsKey)}`;
    const { total, found, ...others } = await get(`studio/rows/${inPath(name)}?${asked}`, { signal, waitMs: SLOW_MS }); // a search reads the whole file
    return { ...others, total: found ?? total, found, all: total };
  }, [name, search, rowsKey]);
  const list = useRows(ask, (answer) => (answer?.is_whole ? 0 : GROWS_MS));
  const { answer, total } = list;
  const narrow = useNarrow();
  const guessed = useRef(null);
  if (!guessed.current && answer?.rows.length) guessed.current = longestColumns(answer);
  const columns = read.length ? read : guessed.current ?? [];
  const height = narrow ? Math.max(ROW_PIXELS, (columns.length + 1) * LINE_PIXELS) : ROW_PIXELS;
  const number = (count) => formatNumber(count, language);
  const counted = answer && answer.found !== null ? words.found(number(total), number(answer.all)) : words.rowCount(number(total));
  return html`<div class="raw">
    <p class="raw-head"><label>${words.search} <input type="search" value=${typed} onInput=${(event) => setTyped(event.target.value)} /></label>
      <span role="status">${counted}${answer?.is_whole ? '' : ` ${words.reading}`}</span></p>
    <${Problem} error=${list.error} />
    ${answer?.mistakes.map((line) => html`<p class="problem" role="alert"><${Sentence} text=${line} /></p>`)}
    ${answer?.notes.map((line) => html`<p class="small"><${Sentence} text=${line} /></p>`)}
    ${!total && html`<p class="small">${answer?.is_whole ? words.noRows : words.readingRows}</p>`}
    <div hidden=${!total}><${LongList} rows=${list} height=${height} label=${words.rawRows}>
      ${(row, index, stop) => html`<${RawRow} row=${row} cells=${narrow ? narrowCells(row, columns, search) : Object.entries(row?.cells ?? {})} index=${index} stop=${stop} onOpen=${() => row && setOpen({ number: row.number })} />`}
    <//></div>
    ${open && html`<${RowDialog} name=${name} rowsKey=${rowsKey} place=${open} onClose=${() => setOpen(null)} onMove=${(number) => setOpen({ number })} />`}
  </div>`;
}

function RawRow({ row, cells, index, stop, onOpen }) {
  const words = useWords(file);
  const language = useLanguage();
  const [finding] = row?.findings ?? [];
  return html`<button type="button" class="raw-row" onClick=${onOpen} ...${stop}>
    <span class="place">${row ? row.source.split(':').pop() : index + 1}</span>
    ${!row && html`<span class="small">…</span>`}
    <span class="cells">${finding && html`<span class=${`fault-mark ${finding.action}`}>${finding.name[language]}</span>`}
    ${row && !cells.length && html`<span class="cell">${words.unreadable}</span>`}
    ${cells.map(([name, cell]) => html`<span key=${name} class="cell"><span class="cell-name">${visible(name)}</span> ${cell.kind === 'n' ? html`<em>null</em>` : visible(cell.text)}</span>`)}</span>
  </button>`;
}

/** One row, whole, with the rows before and after it; `place` is {number} or {source}, as in rows.jsonl:12. */
export function RowDialog({ name, rowsKey = null, place, onClose, onMove }) {
  const words = useWords(file);
  const dialog = useRef(null);
  const [state, setState] = useState({ row: null, error: null });
  const query = (place.source ? `source=${encodeURIComponent(place.source)}` : `number=${place.number}`) + keyQuery(rowsKey);
  useEffect(() => {
    let gone = false;
    get(`studio/row/${inPath(name)}?${query}`).then((row) => gone || setState({ row, error: null }), (error) => gone || setState((before) => ({ ...before, error })));
    return () => (gone = true);
  }, [name, query]);
  const [end, setEnd] = useState(Infinity); // the last row's number, where the whole file has been read
  useEffect(() => {
    const tell = ({ total, is_whole: isWhole }) => isWhole && setEnd(total - 1);
    get(`studio/rows/${inPath(name)}?count=1${keyQuery(rowsKey)}`).then(tell, () => {}); // the row's own answer tells what is wrong
  }, [name, rowsKey]);
  useEffect(() => dialog.current.showModal(), []);
  const { row, error } = state;
  const onKeyDown = (event) => {
    if (event.key === 'ArrowLeft' && row?.number > 0) onMove(row.number - 1);
    else if (event.key === 'ArrowRight' && row && row.number < end) onMove(row.number + 1);
  };
  return html`<dialog ref=${dialog} class="row-dialog" aria-labelledby="row-title" onClose=${onClose} onKeyDown=${onKeyDown}>
    <h2 id="row-title">${row ? row.source : words.row}</h2>
    <${Problem} error=${error} />
    ${row?.findings.map((finding) => html`<p class="warning"><${Sentence} text=${finding.sentence} /></p>`)}
    <dl tabindex="0" role="group" aria-label=${words.cells}>${Object.entries(row?.cells ?? {}).map(([column, cell]) => html`<div key=${column}>
      <dt>${visible(column)} <span class="small">${words.characters(cell.characters)}</span></dt>
      <dd>${cell.kind === 'n' ? html`<em>null</em>` : visible(cell.text, true)}</dd></div>`)}</dl>
    <p class="actions">
      <button type="button" disabled=${!row?.number} onClick=${() => onMove(row.number - 1)}>← ${words.previous}</button>
      <button type="button" disabled=${!row || row.number >= end} onClick=${() => onMove(row.number + 1)}>${words.next} →</button>
      <button type="button" class="strong" onClick=${() => dialog.current.close()}>${words.close}</button>
    </p>
  </dialog>`;
}
