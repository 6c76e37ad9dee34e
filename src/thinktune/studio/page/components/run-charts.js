// The report's own charts, drawn by the server and made live by the report's own script; new values are taken over
// without losing what the reader has chosen.

import { useLanguage, useWords } from '../language.js';
import { html, useEffect, useRef, useState } from '../libraries/preact.js';
import { call, inPath } from '../server.js';
import * as file from '../words/train.js';
import { Problem } from './problem.js';

const REDRAW_MS = 3000; // at most so often

/** Show the charts of a run; they are drawn again when `version` differs. */
export function RunCharts({ name, version }) {
  const words = useWords(file);
  const language = useLanguage();
  const box = useRef(null);
  const update = useRef(null);
  const drawnAt = useRef(0);
  const [state, setState] = useState({ drawn: false, error: null });
  useEffect(() => {
    const leaving = new AbortController();
    const draw = async () => {
      try {
        const text = await (await call(`studio/run-charts/${inPath(name)}`, { signal: leaving.signal })).text();
        drawnAt.current = Date.now();
        const newer = new DOMParser().parseFromString(text, 'text/html').body;
        if (!update.current?.(newer)) {
          box.current.replaceChildren(...newer.childNodes);
          update.current = globalThis.makeChartsLive(box.current);
        }
        setState({ drawn: true, error: null });
      } catch (error) {
        if (error.name !== 'AbortError') setState((before) => ({ ...before, error }));
      }
    };
    const timer = setTimeout(draw, Math.max(0, drawnAt.current + REDRAW_MS - Date.now()));
    return () => {
      leaving.abort();
      clearTimeout(timer);
    };
  }, [name, version]);
  useEffect(() => {
    // An option holds text alone, so it has both languages in the report.
    for (const option of box.current.querySelectorAll('.chart-tools option')) {
      option.dataset.both ??= option.textContent;
      option.textContent = option.dataset.both.split(' · ')[language === 'zh' ? 1 : 0] ?? option.dataset.both;
    }
  }, [language, state.drawn]);
  return html`<${Problem} error=${state.error} />
    ${!state.drawn && !state.error && html`<p class="small">${words.chartsLoading}</p>`}
    <div class="report-charts" ref=${box}></div>`;
}
