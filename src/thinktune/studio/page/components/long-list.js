// A list or a table of very many rows of one height: only those in sight are asked for and drawn.

import { html, useCallback, useEffect, useLayoutEffect, useRef, useState } from '../libraries/preact.js';
import { useAgain } from '../server.js';

const AHEAD = 30; // rows that are asked for above and below those drawn
const START = [0, 40]; // rows that are asked for first, before a list tells which it shows
const SPARE = 6; // rows drawn above and below those in sight
const SETTLE_MS = 60; // of scrolling, before what came into sight is asked for
const MOST_PIXELS = 8_000_000; // of a list's inside; browsers lay out no higher ones

/**
 * Keep the rows in sight: {at(index), total, answer, error, …}. `ask(first, count, signal)` resolves to {rows, total, …}. Of
 * another `ask` (another search or order), the former answer is shown until the new is here. `everyMs` may depend on the
 * answer.
 */
export function useRows(ask, everyMs = 0) {
  const [state, setState] = useState({ ask: null, first: 0, answer: null, error: null });
  const sight = useRef(START);
  const asking = useRef(null);
  const timer = useRef(0);
  const refresh = useCallback(async () => {
    clearTimeout(timer.current);
    asking.current?.abort();
    const mine = (asking.current = new AbortController());
    const first = Math.max(0, sight.current[0] - AHEAD);
    const told = await ask(first, sight.current[1] + AHEAD - first, mine.signal).then((answer) => ({ ask, first, answer, error: null }), (error) => ({ error }));
    if (asking.current !== mine) return;
    asking.current = null;
    setState((before) => ({ ...before, ...told }));
  }, [ask]);
  const { first, answer, error } = state;
  const held = useRef([0, 0]);
  held.current = [first, first + (answer?.rows.length ?? 0)];
  const want = useCallback((from, to) => {
    sight.current = [from, to];
    clearTimeout(timer.current);
    if (from < held.current[0] || to > held.current[1]) timer.current = setTimeout(refresh, SETTLE_MS);
  }, [refresh]);
  useEffect(() => {
    sight.current = START;
    refresh();
    return () => {
      clearTimeout(timer.current);
      asking.current?.abort();
      asking.current = null;
    };
  }, [refresh]);
  const isAsking = useCallback(() => asking.current !== null, []);
  useAgain(refresh, isAsking, { everyMs: typeof everyMs === 'function' ? everyMs(answer) : everyMs, error });
  return { question: state.ask, first, answer, error, total: answer?.total ?? 0, at: (index) => answer?.rows[index - first], want, refresh };
}

/**
 * Draw `rows` of `useRows`, each `height` px high, as a list, or with a `head` as a table. `children(row, index, stop)` draws
 * one (undefined while it is on its way): `stop` belongs on what takes its focus. Arrows, Page Up and Down, Home and End
 * move the focus. Where `keyOf(row)` is given, a row keeps focus and place while others come and go above it.
 */
export function LongList({ rows, height, label, head = null, keyOf = null, children }) {
  const box = useRef(null);
  const [view, setView] = useState({ top: 0, seen: 400 });
  const [active, setActive] = useState(0);
  const latest = useRef(0); // the same, at once: two keys may come before the next drawing
  const hasFocus = useRef(false);
  const former = useRef({}); // what was drawn last: {answer, key and index of the row at the top}
  const { total } = rows;
  const inside = Math.min(MOST_PIXELS, total * height);
  const isScaled = inside < total * height; // then the place of the scroll bar is a share of the rows
  const fits = Math.max(1, Math.floor(view.seen / height));
  const lastTop = Math.max(0, total - fits); // the row at the top when the end is in sight
  const rowOf = (pixels) => Math.min(lastTop, isScaled ? Math.round((pixels / (inside - view.seen)) * lastTop) : Math.floor(pixels / height));
  const pixelsOf = (row) => (isScaled ? (row / lastTop) * (inside - view.seen) : row * height);
  const top = rowOf(view.top);
  const first = Math.max(0, top - SPARE);
  const last = Math.min(total, top + fits + 1 + SPARE);
  const above = Math.max(0, Math.min((isScaled ? view.top : top * height) - (top - first) * height, inside - (last - first) * height));

  const activate = (index) => setActive((latest.current = index));
  const measure = () => {
    const { scrollTop, clientHeight } = box.current;
    const seen = clientHeight - (box.current.querySelector('thead')?.offsetHeight ?? 0);
    const rounded = isScaled ? scrollTop : Math.floor(scrollTop / height) * height;
    setView((before) => (before.top === rounded && before.seen === seen ? before : { top: rounded, seen }));
  };
  const scrollTo = (pixels) => {
    box.current.scrollTop = pixels;
    measure();
  };
  useLayoutEffect(() => {
    const watch = new ResizeObserver(measure);
    watch.observe(box.current);
    return () => watch.disconnect();
  }, [isScaled, height]);
  useLayoutEffect(() => {
    scrollTo(0);
    activate(0);
  }, [rows.question]);
  useEffect(() => void (total && rows.want(first, last)), [first, last, total, rows.want]);

  useLayoutEffect(() => { // what is read stays where it is
    const { answer, key, index } = former.current;
    const place = key && answer !== rows.answer && box.current.scrollTop > 0 ? rows.answer.rows.findIndex((row) => keyOf(row) === key) : -1;
    if (place >= 0 && rows.first + place !== index) scrollTo(box.current.scrollTop + (rows.first + place - index) * height);
    former.current = { answer: rows.answer, key: keyOf && rows.at(top) && keyOf(rows.at(top)), index: top };
  });
  const settle = () => {
    const focused = document.activeElement;
    const row = focused.closest('[data-index]');
    if (row && box.current.contains(row)) {
      if (Number(row.dataset.index) !== latest.current) activate(Number(row.dataset.index));
    } else if (focused === box.current || (hasFocus.current && focused === document.body)) {
      // A row that had the focus and went out of sight leaves it to the box, so that further keys are not lost.
      (box.current.querySelector(`[data-index="${latest.current}"] [data-stop]`) ?? box.current).focus({ preventScroll: true });
    }
  };
  useLayoutEffect(settle);
  const onFocusOut = ({ target }) => setTimeout(() => {
    if (target.isConnected && !box.current?.contains(document.activeElement)) hasFocus.current = false; // and was not drawn away
  });
  const onFocusIn = ({ target }) => {
    hasFocus.current = true;
    const row = target.closest('[data-index]');
    if (row) activate(Number(row.dataset.index));
  };
  const onKeyDown = (event) => {
    const steps = { ArrowDown: 1, ArrowUp: -1, PageDown: fits, PageUp: -fits, Home: -total, End: total };
    const step = steps[event.key];
    const isOfRows = event.target === box.current || event.target.closest('[data-index]');
    if (!step || !total || !isOfRows || event.ctrlKey || event.metaKey || event.altKey) return;
    event.preventDefault();
    const next = Math.min(total - 1, Math.max(0, latest.current + step));
    const now = rowOf(box.current.scrollTop);
    if (next <= now) scrollTo(pixelsOf(next));
    else if (next >= now + fits) scrollTo(pixelsOf(next - fits + 1));
    activate(next);
    box.current.focus({ preventScroll: true }); // until the row is drawn
    settle();
  };

  const enter = active >= first && active < last ? active : Math.min(last - 1, top); // where Tab comes in
  const drawn = Array.from({ length: Math.max(0, last - first) }, (_, number) => {
    const index = first + number;
    const row = rows.at(index);
    const shared = { key: row && keyOf ? keyOf(row) : index, 'data-index': index, style: { height: `${height}px` } };
    const content = children(row, index, { tabindex: index === enter ? 0 : -1, 'data-stop': '' });
    return head ? html`<tr class="row" aria-rowindex=${index + 2} ...${shared}>${content}</tr>` : html`<li aria-setsize=${total} aria-posinset=${index + 1} ...${shared}>${content}</li>`;
  });
  const below = inside - above - drawn.length * height;
  return html`<div class="long-list" tabindex="-1" ref=${box} onScroll=${measure} onKeyDown=${onKeyDown} onfocusin=${onFocusIn} onfocusout=${onFocusOut}>
    <div style=${{ paddingBlock: `${above}px ${below}px` }}>${head
      ? html`<table aria-label=${label} aria-rowcount=${total + 1}><thead>${head}</thead><tbody>${drawn}</tbody></table>`
      : html`<ul aria-label=${label}>${drawn}</ul>`}</div>
  </div>`;
}
