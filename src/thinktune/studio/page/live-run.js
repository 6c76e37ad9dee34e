// One run as it goes on: its facts by server-sent events, asked for again whenever the stream ends.

import { useEffect, useState } from './libraries/preact.js';
import { get, inPath, streamEvents } from './server.js';

const RETRY_MS = 2000;
const FINISHED_MS = 10_000; // a finished run is looked at again: it may be evaluated meanwhile

/** Keep the facts of a run: {facts, error, live}. A lost connection keeps what was last known. */
export function useRun(name) {
  const [state, setState] = useState({ name, facts: null, error: null, live: false });
  useEffect(() => {
    if (!name) return;
    const leaving = new AbortController();
    let timer = 0;
    const show = (facts, live) => setState({ name, facts, error: null, live });
    const follow = async () => {
      let wait = RETRY_MS;
      try {
        for await (const facts of streamEvents(`studio/run-events/${inPath(name)}`, leaving.signal)) {
          show(facts, facts.state === 'running');
          if (facts.state === 'finished') wait = FINISHED_MS;
        }
      } catch (error) {
        if (error.name === 'AbortError' || leaving.signal.aborted) return;
        setState((before) => ({ ...before, name, error, live: false }));
      }
      timer = setTimeout(follow, wait);
    };
    const again = async () => {
      try {
        const facts = await get(`studio/run/${inPath(name)}`, { signal: leaving.signal });
        show(facts, facts.state === 'running');
      } catch {
        // The stream tells of it.
      }
    };
    follow();
    for (const event of ['studio-refresh', 'focus']) addEventListener(event, again);
    return () => {
      leaving.abort();
      clearTimeout(timer);
      for (const event of ['studio-refresh', 'focus']) removeEventListener(event, again);
    };
  }, [name]);
  return state.name === name ? state : { facts: null, error: null, live: false };
}
