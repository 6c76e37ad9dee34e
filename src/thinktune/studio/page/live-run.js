// One run as it goes on: its facts by server-sent events, asked for again whenever the stream ends.

import { useEffect, useState } from './libraries/preact.js';
import { get, inPath, streamEvents, UNSEEN_MS } from './server.js';

const RETRY_MS = 2000;
const FINISHED_MS = 10_000; // a finished run is looked at again: it may be evaluated meanwhile

/**
 * Keep the facts of a run: {facts, error, live}. A lost connection keeps what was last known. Only a run that goes on, in a
 * tab that is seen, holds a connection: a browser has six for a server, and every tab needs some.
 */
export function useRun(name) {
  const [state, setState] = useState({ name, facts: null, error: null, live: false });
  useEffect(() => {
    if (!name) return;
    const leaving = new AbortController();
    let stream = null; // its AbortController, while it is followed
    let timer = 0;
    let shown = 0; // answers
    const show = (facts, live) => {
      shown++;
      setState({ name, facts, error: null, live });
    };
    const follow = async () => {
      const mine = (stream = new AbortController());
      let wait = RETRY_MS;
      try {
        for await (const facts of streamEvents(`studio/run-events/${inPath(name)}`, mine.signal)) {
          show(facts, facts.state === 'running');
          if (facts.state === 'finished') wait = FINISHED_MS;
          if (facts.state !== 'running') break;
        }
      } catch (error) {
        if (error.name === 'AbortError' || mine.signal.aborted) return;
        setState((before) => ({ ...before, name, error, live: false }));
      }
      if (stream === mine) stream = null;
      if (!mine.signal.aborted) timer = setTimeout(follow, wait);
    };
    const whenSeen = () => {
      clearTimeout(timer);
      stream?.abort();
      stream = null;
      if (document.visibilityState === 'visible') follow();
      else timer = setTimeout(askUnseen, UNSEEN_MS);
    };
    const again = async () => {
      const before = shown;
      try {
        const facts = await get(`studio/run/${inPath(name)}`, { signal: leaving.signal });
        if (shown === before) show(facts, facts.state === 'running'); // else the stream was quicker, and tells what is newer
      } catch {
        // The stream tells of it.
      }
    };
    const askUnseen = async () => {
      await again();
      if (!leaving.signal.aborted && document.visibilityState !== 'visible') timer = setTimeout(askUnseen, UNSEEN_MS);
    };
    whenSeen();
    document.addEventListener('visibilitychange', whenSeen);
    for (const event of ['studio-refresh', 'focus']) addEventListener(event, again);
    return () => {
      leaving.abort();
      stream?.abort();
      document.removeEventListener('visibilitychange', whenSeen);
      clearTimeout(timer);
      for (const event of ['studio-refresh', 'focus']) removeEventListener(event, again);
    };
  }, [name]);
  return state.name === name ? state : { facts: null, error: null, live: false };
}
