// A list of many rows of one height, of which only those in sight exist; pages are fetched as they come into sight.

import { html, useCallback, useEffect, useRef, useState } from '../libraries/preact.js';

const PAGE = 50; // rows of one request
const SPARE = 6; // rows above and below those in sight
const SETTLE_MS = 60; // before rows that are scrolled past are asked for

/**
 * Show `total` rows of `height` pixels. `fetchRows(start, count)` resolves to rows; `stamp` changes when they do.
 * `children(row, index, properties)` draws one: the properties belong on what takes its focus. Arrows, Page Up and Down,
 * Home and End move the focus; `onChoose(row, index)` is called for a click or Enter on it.
 */
export function VirtualList({ total, height, stamp, fetchRows, label, children, onChoose }) {
  const box = useRef(null);
  const pages = useRef(new Map());
  const [, redraw] = useState(0);
  const [top, setTop] = useState(0);
  const [seen, setSeen] = useState(400);
  const [active, setActive] = useState(0);
  const latest = useRef(0); // the same, at once: two keys may come before the next drawing
  const toFocus = useRef(false); // the active row is to have the focus once it is there
  const activate = (index) => setActive((latest.current = index));
  const first = Math.max(0, Math.floor(top / height) - SPARE);
  const last = Math.min(total, Math.ceil((top + seen) / height) + SPARE);

  useEffect(() => {
    pages.current = new Map();
    activate(0);
    if (box.current) box.current.scrollTop = 0;
    setTop(0);
  }, [stamp]);

  useEffect(() => {
    const watch = new ResizeObserver(() => setSeen(box.current?.clientHeight ?? 400));
    watch.observe(box.current);
    return () => watch.disconnect();
  }, []);

  useEffect(() => {
    const known = pages.current;
    const ask = () => {
      for (let page = Math.floor(first / PAGE); page * PAGE < last; page++) {
        if (known.has(page)) continue;
        known.set(page, []);
        fetchRows(page * PAGE, PAGE).then(
          (rows) => known.set(page, rows),
          () => known.delete(page),
        ).then(() => pages.current === known && redraw((times) => times + 1));
      }
    };
    const timer = setTimeout(ask, known.size ? SETTLE_MS : 0);
    return () => clearTimeout(timer);
  }, [first, last, stamp]);

  useEffect(() => {
    if (!toFocus.current) return;
    const row = box.current.querySelector(`[data-index="${latest.current}"]`); // it comes with its page
    row?.focus({ preventScroll: true });
    toFocus.current = !row;
  });

  const rowAt = useCallback((index) => pages.current.get(Math.floor(index / PAGE))?.[index % PAGE], []);
  const move = (event) => {
    const inSight = Math.max(1, Math.floor(seen / height) - 1);
    const steps = { ArrowDown: 1, ArrowUp: -1, PageDown: inSight, PageUp: -inSight, Home: -total, End: total };
    const step = steps[event.key];
    if (!step || !total) return;
    event.preventDefault();
    const next = Math.min(total - 1, Math.max(0, latest.current + step));
    const place = box.current;
    if (next * height < place.scrollTop) place.scrollTop = next * height;
    if ((next + 1) * height > place.scrollTop + place.clientHeight) place.scrollTop = (next + 1) * height - place.clientHeight;
    toFocus.current = true;
    place.focus({ preventScroll: true }); // the row that had it may go out of sight, and further keys would be lost
    setTop(place.scrollTop);
    activate(next);
  };
  const stop = active >= first && active < last ? active : Math.min(last - 1, first + SPARE); // where Tab comes in
  const indexes = Array.from({ length: Math.max(0, last - first) }, (_, number) => first + number);
  return html`<div class="long-list" tabindex="-1" ref=${box} onScroll=${() => setTop(box.current.scrollTop)} onKeyDown=${move}>
    <ul class="long-rows" aria-label=${label} style=${{ height: `${total * height}px` }}>
      ${indexes.map((index) => {
        const row = rowAt(index);
        const choose = () => (activate(index), onChoose?.(row, index));
        const properties = { 'data-index': index, tabindex: index === stop ? 0 : -1, onClick: choose };
        return html`<li key=${index} aria-setsize=${total} aria-posinset=${index + 1} style=${{ height: `${height}px`, top: `${index * height}px` }}>
          ${row ? children(row, index, properties) : html`<span class="small">…</span>`}
        </li>`;
      })}
    </ul>
  </div>`;
}
