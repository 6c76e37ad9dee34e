// Raw rows of a file as a long list: only what is seen is in the page, and any of them opens whole.

import { useLanguage, useWords } from '../language.js';
import { html, useEffect, useRef, useState } from '../libraries/preact.js';
import { formatNumber } from '../numbers.js';
import { get, inPath } from '../server.js';
import * as file from '../words/rows.js';
import { Problem } from './problem.js';
import { visible } from './visible.js';
import { Sentence } from './sentence.js';

const PAGE = 100;
const ROW_PIXELS = 60; // as .raw-row is high
const MOST_PIXELS = 8_000_000; // of the list's inside; browsers lay out no higher ones
const OVERSCAN = 4;
const SEARCH_AFTER_MS = 300;
const GROWS_MS = 1500;

/** Name the key under which the rows of a JSON file are, where the recipe names one (`data.rows`). */
export const keyQuery = (rowsKey) => (rowsKey ? `&key=${encodeURIComponent(rowsKey)}` : '');

/** Return pages of rows as they are asked for: {total, found, columns, whole, error, row(number), want(first, last)}. */
function usePages(name, search, rowsKey) {
  const [, redraw] = useState(0);
  const held = useRef(null);
  const key = `${name}\n${search}`;
  if (held.current?.key !== key) held.current = { key, pages: new Map(), asked: new Set(), total: 0, found: null, columns: [], whole: false, mistakes: [], error: null };
  const now = held.current;
  const fetchPage = async (page) => {
    if (now.asked.has(page)) return;
    now.asked.add(page);
    try {
      const value = await get(`studio/rows/${inPath(name)}?from=${page * PAGE}&count=${PAGE}&search=${encodeURIComponent(search)}${keyQuery(rowsKey)}`);
      const { rows, total, found, columns, is_whole: whole, mistakes } = value;
      Object.assign(now, { total, found, columns, whole, mistakes, error: null });
      now.pages.set(page, rows);
      if (rows.length < PAGE && !whole) now.asked.delete(page); // more may come
    } catch (error) {
      now.asked.delete(page);
      now.error = error;
    }
    if (held.current === now) redraw((count) => count + 1);
  };
  useEffect(() => {
    fetchPage(0);
    const timer = setInterval(() => {
      if (now.whole || now.error) return clearInterval(timer);
      now.asked.delete(0);
      fetchPage(0);
    }, GROWS_MS);
    return () => clearInterval(timer);
  }, [key]);
  return {
    ...now,
    count: now.found ?? now.total,
    row: (place) => now.pages.get(Math.floor(place / PAGE))?.[place % PAGE],
    want: (first, last) => {
      for (let page = Math.floor(first / PAGE); page <= Math.floor(last / PAGE); page++) fetchPage(page);
    },
  };
}

/** Show the rows of a file with a search. */
export function RawRows({ name, rowsKey = null }) {
  const words = useWords(file);
  const language = useLanguage();
  const [typed, setTyped] = useState('');
  const [search, setSearch] = useState('');
  const [open, setOpen] = useState(null);
  const pages = usePages(name, search, rowsKey);
  useEffect(() => {
    const timer = setTimeout(() => setSearch(typed), SEARCH_AFTER_MS);
    return () => clearTimeout(timer);
  }, [typed]);
  const number = (count) => formatNumber(count, language);
  const counted = search && pages.found !== null ? words.found(number(pages.found), number(pages.total)) : words.rowCount(number(pages.total));
  return html`<div class="raw">
    <p class="raw-head"><label>${words.search} <input type="search" value=${typed} onInput=${(event) => setTyped(event.target.value)} /></label>
      <span role="status">${counted}${pages.whole ? '' : ` ${words.reading}`}</span></p>
    <${Problem} error=${pages.error} />
    ${pages.mistakes.map((line) => html`<p class="problem" role="alert"><${Sentence} text=${line} /></p>`)}
    <${VirtualList} key=${`${name}\n${search}`} pages=${pages} onOpen=${setOpen} />
    ${open && html`<${RowDialog} name=${name} rowsKey=${rowsKey} place=${open} onClose=${() => setOpen(null)} onMove=${(number) => setOpen({ number })} />`}
  </div>`;
}

/** A list box of which only the rows in view are in the page. Arrows move, Enter opens. */
function VirtualList({ pages, onOpen }) {
  const words = useWords(file);
  const box = useRef(null);
  const [view, setView] = useState({ top: 0, height: 480 });
  const [active, setActive] = useState(0);
  const { count } = pages;
  const inside = Math.min(MOST_PIXELS, count * ROW_PIXELS);
  const fits = Math.max(1, Math.floor(view.height / ROW_PIXELS));
  // Of a list too high for a browser, the place of the scrollbar is a share of the rows.
  const first = inside < count * ROW_PIXELS
    ? Math.round((view.top / Math.max(1, inside - view.height)) * Math.max(0, count - fits))
    : Math.floor(view.top / ROW_PIXELS);
  const from = Math.max(0, first - OVERSCAN);
  const to = Math.min(count, first + fits + OVERSCAN + 1);
  const offset = inside < count * ROW_PIXELS ? Math.min(view.top, inside - (to - from) * ROW_PIXELS) : from * ROW_PIXELS;
  useEffect(() => {
    if (count) pages.want(from, Math.max(from, to - 1));
  }, [from, to, count]);
  useEffect(() => {
    const measure = () => box.current && setView((before) => ({ ...before, height: box.current.clientHeight }));
    measure();
    addEventListener('resize', measure);
    return () => removeEventListener('resize', measure);
  }, [count > 0]);
  const move = (place) => {
    const next = Math.max(0, Math.min(count - 1, place));
    setActive(next);
    const element = box.current;
    if (inside < count * ROW_PIXELS) element.scrollTop = (next / Math.max(1, count - fits)) * (inside - view.height);
    else if (next * ROW_PIXELS < element.scrollTop) element.scrollTop = next * ROW_PIXELS;
    else if ((next + 1) * ROW_PIXELS > element.scrollTop + view.height) element.scrollTop = (next + 1) * ROW_PIXELS - view.height;
  };
  const open = (place) => pages.row(place) && onOpen({ number: pages.row(place).number });
  const onKeyDown = (event) => {
    const steps = { ArrowDown: 1, ArrowUp: -1, PageDown: fits, PageUp: -fits, Home: -count, End: count };
    if (event.key in steps) move(active + steps[event.key]);
    else if (event.key === 'Enter') open(active);
    else return;
    event.preventDefault();
  };
  const places = Array.from({ length: Math.max(0, to - from) }, (_, index) => from + index);
  if (!count) return html`<p class="small">${pages.whole ? words.noRows : words.readingRows}</p>`;
  return html`<div ref=${box} class="raw-list" role="listbox" tabindex="0" aria-label=${words.rawRows} aria-activedescendant=${`raw-${active}`}
    onScroll=${(event) => setView({ top: event.target.scrollTop, height: event.target.clientHeight })} onKeyDown=${onKeyDown}>
    <div class="raw-inside" role="presentation" style=${{ height: `${inside}px` }}><div role="presentation" style=${{ transform: `translateY(${offset}px)` }}>
      ${places.map((place) => html`<${RawRow} key=${place} place=${place} row=${pages.row(place)} size=${count} isActive=${place === active}
        onClick=${() => (setActive(place), open(place))} />`)}
    </div></div>
  </div>`;
}

function RawRow({ place, row, size, isActive, onClick }) {
  const words = useWords(file);
  const cells = Object.entries(row?.cells ?? {});
  return html`<div class=${isActive ? 'raw-row active' : 'raw-row'} id=${`raw-${place}`} role="option" aria-selected=${isActive} aria-setsize=${size} aria-posinset=${place + 1} onClick=${onClick}>
    <span class="place">${row ? row.source.split(':').pop() : place + 1}</span>
    ${!row && html`<span class="small">…</span>`}
    ${row?.findings.length > 0 && html`<span class="fault-mark">${row.findings[0].fault}</span>`}
    ${row && !cells.length && html`<span class="cell">${words.unreadable}</span>`}
    ${cells.map(([name, cell]) => html`<span key=${name} class="cell"><span class="cell-name">${visible(name)}</span> ${cell.kind === 'n' ? html`<em>null</em>` : visible(cell.text)}</span>`)}
  </div>`;
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
