// What the page asks of its server, and how a screen keeps what it shows up to date.

import { useCallback, useEffect, useRef, useState } from './libraries/preact.js';
import { root } from './router.js';

export const UNREACHABLE = 'unreachable'; // the status of an error where no server answered
const TYPING_MS = 150; // of rest while a form is typed into
export const SERVER_IS_OUT = 'studio-out'; // an event: no server took a request
export const SERVER_IS_BACK = 'studio-back'; // an event: a server that did not answer does again
export const UNSEEN_MS = 10_000; // between looks of a tab that nobody sees, for what may end meanwhile
export const SLOW_MS = 240_000; // at most, for an answer that a process of its own makes
export const ANSWER_MS = 30_000; // at most, for any other; a connection may be open to nobody
const STREAM_MS = 90_000; // at most, between two signs of life of a stream: one comes each 15 s, and later where a run takes long to read
const RETRY_MS = 3000; // of a server that did not answer
const KEY = 'thinktune.key'; // the same as the chat page's, so a tab is asked once

export class ServerError extends Error {
  constructor(status, message) {
    super(message);
    this.status = status;
  }
}

let isOut = false; // no server took the last request

/** Return the error of a request that no server took. */
function outage(message) {
  const error = new ServerError(UNREACHABLE, message);
  if (!isOut) {
    isOut = true;
    dispatchEvent(new CustomEvent(SERVER_IS_OUT, { detail: error })); // the frame tells it, whoever asked
  }
  return error;
}

/** Keep the key until the tab is closed, and let every screen try again. */
export function useKeyFromNowOn(key) {
  sessionStorage.setItem(KEY, key);
  dispatchEvent(new Event('studio-key'));
}

/** Fetch an address below the root, as in 'studio/home'; throws ServerError with the server's sentence. */
export async function call(path, options = {}) {
  const key = sessionStorage.getItem(KEY);
  // Refusals come in the reader's language.
  const headers = { 'accept-language': document.documentElement.lang, ...options.headers, ...(key ? { authorization: `Bearer ${key}` } : {}) };
  const response = await fetch(root + path, { ...options, headers }).catch((error) => {
    throw error.name === 'AbortError' ? error : outage(error.message);
  });
  const body = response.ok ? null : await response.json().catch(() => null);
  if (!response.ok && !body && [502, 503, 504].includes(response.status)) throw outage(`HTTP ${response.status}`);
  if (isOut) {
    isOut = false;
    dispatchEvent(new Event(SERVER_IS_BACK));
  }
  if (response.ok) return response;
  if (response.status === 401 && key === sessionStorage.getItem(KEY)) { // else another key was given meanwhile
    sessionStorage.removeItem(KEY);
    dispatchEvent(new CustomEvent('studio-locked', { detail: { wasWrong: key !== null } }));
  }
  throw new ServerError(response.status, body?.error?.message ?? `HTTP ${response.status}`);
}

/** Keep a file in the folder under its name; `onShare` is told the share that is sent, from 0 to 1. */
export function upload(sent, onShare) {
  const key = sessionStorage.getItem(KEY);
  const request = new XMLHttpRequest(); // fetch does not tell how far it is
  request.open('PUT', `${root}studio/files/${encodeURIComponent(sent.name)}`);
  request.setRequestHeader('accept-language', document.documentElement.lang);
  if (key) request.setRequestHeader('authorization', `Bearer ${key}`);
  request.upload.onprogress = (event) => event.total && onShare(event.loaded / event.total);
  return new Promise((resolve, reject) => {
    request.onload = () => (request.status < 300 ? resolve() : reject(new ServerError(request.status, refusalIn(request))));
    request.onerror = () => reject(outage('HTTP 0'));
    request.send(sent);
  });
}

function refusalIn(request) {
  try {
    return JSON.parse(request.responseText).error.message;
  } catch {
    return `HTTP ${request.status}`;
  }
}

/** Fetch the JSON of an address; throws ServerError (UNREACHABLE) where it is not there after `waitMs`. */
export async function get(path, { signal, waitMs = ANSWER_MS } = {}) {
  const limit = limited(signal);
  limit.wait(waitMs);
  try {
    return await (await call(path, { signal: limit.signal })).json();
  } catch (error) {
    throw limit.isOver() ? new ServerError(UNREACHABLE, 'no answer') : error;
  } finally {
    limit.end();
  }
}

/** Return a signal that is aborted with another one, or when what `wait(ms)` waits for has not come. */
function limited(other) {
  const own = new AbortController();
  const follow = () => own.abort(); // AbortSignal.any is of 2024
  let timer = 0;
  if (other?.aborted) follow();
  other?.addEventListener('abort', follow);
  return {
    signal: own.signal,
    wait: (ms) => (clearTimeout(timer), (timer = setTimeout(() => own.abort(), ms))),
    end: () => (clearTimeout(timer), other?.removeEventListener('abort', follow)),
    isOver: () => own.signal.aborted && !other?.aborted,
  };
}

/** Send a value as JSON and return what is answered. */
export async function send(method, path, value) {
  const headers = { 'content-type': 'application/json' };
  return (await call(path, { method, headers, body: JSON.stringify(value) })).json();
}

/** Start a verb: {verb: 'train', recipe, …}; returns the act. Every screen that watches is refreshed. */
export async function startAct(verb) {
  const act = await send('POST', 'studio/acts', verb);
  refreshAll();
  return act;
}

export async function stopAct(id) {
  const act = await send('POST', `studio/acts/${id}/stop`, {});
  refreshAll();
  return act;
}

/** Let every screen ask again now: something was started, stopped or written. */
export const refreshAll = () => dispatchEvent(new Event('studio-refresh'));

/** Return the address of a name below the folder, with its slashes, for the end of a path. */
export const inPath = (name) => name.split('/').map(encodeURIComponent).join('/');

/**
 * Call `refresh` again when the tab is looked at, when something was started, stopped or written, and every `everyMs` while
 * the tab is visible; while it is not, every `unseenMs`, or not at all. A tick waits for a slow answer: `isAsking()` tells.
 * After an `error` of a server that did not answer it is tried again in any case.
 */
export function useAgain(refresh, isAsking, { everyMs, unseenMs = 0, error = null }) {
  const seenMs = everyMs || (error?.status === UNREACHABLE ? RETRY_MS : 0);
  useEffect(() => {
    const events = ['studio-refresh', 'studio-key', 'focus'];
    const tick = () => isAsking() || refresh();
    let timer = 0;
    const setTimer = () => {
      clearInterval(timer);
      const ms = document.visibilityState === 'visible' ? seenMs : unseenMs;
      timer = ms ? setInterval(tick, ms) : 0;
    };
    const whenSeen = () => {
      setTimer();
      if (document.visibilityState === 'visible') refresh();
    };
    setTimer();
    for (const name of events) addEventListener(name, refresh);
    document.addEventListener('visibilitychange', whenSeen);
    return () => {
      clearInterval(timer);
      for (const name of events) removeEventListener(name, refresh);
      document.removeEventListener('visibilitychange', whenSeen);
    };
  }, [refresh, isAsking, seenMs, unseenMs]);
}

/**
 * Keep the answer of an address: {value, error, refresh}. It is asked again as `useAgain` says. An answer to what was asked
 * before something was written is not taken: it is asked again. A null path asks nothing.
 */
export function useServer(path, everyMs = 0, { unseenMs = 0, waitMs } = {}) {
  const [state, setState] = useState({ path: null, value: null, error: null });
  const asking = useRef(null); // {path, request, again} of the request under way
  const isAsking = useCallback(() => asking.current !== null, []);
  const refresh = useCallback(async () => {
    if (!path) return;
    if (asking.current?.path === path) return void (asking.current.again = true);
    const mine = (asking.current = { path, request: new AbortController(), again: false });
    do {
      mine.again = false;
      try {
        const value = await get(path, { signal: mine.request.signal, waitMs });
        if (asking.current === mine && !mine.again) setState({ path, value, error: null });
      } catch (error) {
        if (error.name !== 'AbortError' && asking.current === mine && !mine.again) setState((before) => ({ path, value: before.path === path ? before.value : null, error }));
      }
    } while (mine.again && asking.current === mine);
    if (asking.current === mine) asking.current = null;
  }, [path, waitMs]);
  useEffect(() => {
    refresh();
    return () => {
      asking.current?.request.abort();
      asking.current = null;
    };
  }, [refresh]);
  const mine = state.path === path;
  const error = mine ? state.error : null;
  useAgain(refresh, isAsking, { everyMs, unseenMs, error });
  return { value: mine ? state.value : null, error, refresh };
}

/**
 * Ask what the server makes of a value that a form holds, by POST: again as it changes, when `again` does, and when a server
 * that did not answer does. Returns {value, error}; one of them is null.
 */
export function useAnswer(path, asked, again = null) {
  const [state, setState] = useState({ value: null, error: null });
  const body = JSON.stringify(asked);
  useEffect(() => {
    let gone = false;
    const ask = async () => {
      try {
        const value = await send('POST', path, JSON.parse(body));
        if (!gone) setState({ value, error: null });
      } catch (error) {
        if (!gone) setState({ value: null, error });
      }
    };
    const timer = setTimeout(ask, state.value ? TYPING_MS : 0);
    addEventListener(SERVER_IS_BACK, ask);
    return () => {
      gone = true;
      clearTimeout(timer);
      removeEventListener(SERVER_IS_BACK, ask);
    };
  }, [path, body, again]);
  return state;
}

/** Yield the events of a stream, each as its parsed data, until it ends or `signal` is aborted; throws where it falls silent. */
export async function* streamEvents(path, signal) {
  const limit = limited(signal);
  limit.wait(STREAM_MS);
  let text = '';
  let reader = null;
  try {
    reader = (await call(path, { signal: limit.signal })).body.pipeThrough(new TextDecoderStream()).getReader();
    for (;;) {
      const { value, done } = await reader.read();
      limit.wait(STREAM_MS);
      if (done) return;
      text += value;
      const events = text.split('\n\n');
      text = events.pop();
      for (const event of events) {
        const data = event.split('\n').filter((line) => line.startsWith('data: ')).map((line) => line.slice(6)).join('\n');
        if (data) yield JSON.parse(data);
      }
    }
  } catch (error) {
    throw limit.isOver() ? new ServerError(UNREACHABLE, 'no answer') : error;
  } finally {
    limit.end();
    reader?.cancel().catch(() => {}); // whoever listens no longer gives the connection back
  }
}
