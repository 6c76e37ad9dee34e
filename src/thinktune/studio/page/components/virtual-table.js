// A table of very many rows, of which only those in view are asked for and drawn.

import { html, useCallback, useEffect, useLayoutEffect, useRef, useState } from '../libraries/preact.js';

const BESIDE = 10; // rows drawn above and below those in view
const WAIT_MS = 60; // after scrolling, before what came into view is asked for

/**
 * Keep what is in view of a list: {rows (by number), total, error, look(first, count), refresh}. `fetch` takes first and
 * count and returns {rows, total}; while it changes (another search or order), what was read is shown until the new is
 * here.
 */
export function useWindow(fetch, everyMs = 0) {
  const [state, setState] = useState({ rows: new Map(), total: 0, error: null, loaded: false });
  const seen = useRef({ first: 0, count: 40 });
  const asked = useRef(0);
  const load = useCallback(async () => {
    const number = ++asked.current;
    const { first, count } = seen.current;
    try {
      const found = await fetch(first, count);
      if (number !== asked.current) return;
      setState({ rows: new Map(found.rows.map((row, index) => [first + index, row])), total: found.total, error: null, loaded: true });
    } catch (error) {
      if (number === asked.current && error.name !== 'AbortError') setState((before) => ({ ...before, error, loaded: true }));
    }
  }, [fetch]);
  const look = useCallback((first, count) => {
    if (first === seen.current.first && count === seen.current.count) return;
    seen.current = { first, count };
    load();
  }, [load]);
  useEffect(() => {
    load();
    const whenSeen = () => document.visibilityState === 'visible' && load();
    const events = ['studio-refresh', 'studio-key', 'focus'];
    for (const name of events) addEventListener(name, load);
    const timer = everyMs ? setInterval(whenSeen, everyMs) : 0;
    return () => {
      asked.current++;
      clearInterval(timer);
      for (const name of events) removeEventListener(name, load);
    };
  }, [load, everyMs]);
  return { ...state, look, refresh: load };
}

/**
 * Draw a table of `total` rows, each `rowHeight` px high: `head` is the row of its head, `row(number)` draws one. `look`
 * is told which rows come into view.
 */
export function VirtualTable({ total, rowHeight, columns, label, head, row, look }) {
  const box = useRef(null);
  const [view, setView] = useState({ first: 0, count: 40 });
  const timer = useRef(0);
  const measure = () => {
    const { scrollTop, clientHeight } = box.current;
    const first = Math.max(0, Math.floor(scrollTop / rowHeight) - BESIDE);
    const count = Math.ceil(clientHeight / rowHeight) + 2 * BESIDE;
    setView((before) => (before.first === first && before.count === count ? before : { first, count }));
    clearTimeout(timer.current);
    timer.current = setTimeout(() => look?.(first, count), WAIT_MS);
  };
  useLayoutEffect(measure, [total, rowHeight]);
  useEffect(() => () => clearTimeout(timer.current), []);
  const last = Math.min(total, view.first + view.count);
  const numbers = Array.from({ length: Math.max(0, last - view.first) }, (_, index) => view.first + index);
  const space = (rows) => rows > 0 && html`<tr aria-hidden="true" class="space"><td colspan=${columns} style=${{ height: `${rows * rowHeight}px` }}></td></tr>`;
  return html`<div class="virtual" ref=${box} onScroll=${measure} tabindex="0" role="region" aria-label=${label}>
    <table aria-rowcount=${total + 1}>
      <thead>${head}</thead>
      <tbody>${space(view.first)}${numbers.map(row)}${space(total - last)}</tbody>
    </table>
  </div>`;
}
