// What the page asks of its server, and how a screen keeps what it shows up to date.

import { useCallback, useEffect, useRef, useState } from './libraries/preact.js';
import { root } from './router.js';

export const UNREACHABLE = 'unreachable'; // the status of an error where no server answered
const KEY = 'thinktune.key'; // the same as the chat page's, so a tab is asked once

export class ServerError extends Error {
  constructor(status, message) {
    super(message);
    this.status = status;
  }
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
    throw error.name === 'AbortError' ? error : new ServerError(UNREACHABLE, error.message);
  });
  if (response.ok) return response;
  const body = await response.json().catch(() => null);
  if (response.status === 401 && key === sessionStorage.getItem(KEY)) { // else another key was given meanwhile
    sessionStorage.removeItem(KEY);
    dispatchEvent(new CustomEvent('studio-locked', { detail: { wasWrong: key !== null } }));
  }
  if (!body && [502, 503, 504].includes(response.status)) throw new ServerError(UNREACHABLE, `HTTP ${response.status}`);
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
    request.onerror = () => reject(new ServerError(UNREACHABLE, 'HTTP 0'));
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

export const get = async (path, options) => (await call(path, options)).json();

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
 * Keep the answer of an address: {value, error, refresh}. It is asked again when the tab is looked at, when something was
 * started or stopped, and every `everyMs` while the tab is visible. A tick waits for a slow answer. An answer to what was
 * asked before something was written is not taken: it is asked again. A null path asks nothing.
 */
export function useServer(path, everyMs = 0) {
  const [state, setState] = useState({ path: null, value: null, error: null });
  const asking = useRef(null); // {path, request, again} of the request under way
  const refresh = useCallback(async () => {
    if (!path) return;
    if (asking.current?.path === path) return void (asking.current.again = true);
    const mine = (asking.current = { path, request: new AbortController(), again: false });
    do {
      mine.again = false;
      try {
        const value = await get(path, { signal: mine.request.signal });
        if (asking.current === mine && !mine.again) setState({ path, value, error: null });
      } catch (error) {
        if (error.name !== 'AbortError' && asking.current === mine && !mine.again) setState((before) => ({ path, value: before.path === path ? before.value : null, error }));
      }
    } while (mine.again && asking.current === mine);
    if (asking.current === mine) asking.current = null;
  }, [path]);
  useEffect(() => {
    refresh();
    const whenSeen = () => document.visibilityState === 'visible' && refresh();
    const tick = () => asking.current || whenSeen();
    const events = ['studio-refresh', 'studio-key', 'focus'];
    for (const name of events) addEventListener(name, refresh);
    document.addEventListener('visibilitychange', whenSeen);
    const timer = everyMs ? setInterval(tick, everyMs) : 0;
    return () => {
      clearInterval(timer);
      for (const name of events) removeEventListener(name, refresh);
      document.removeEventListener('visibilitychange', whenSeen);
      asking.current?.request.abort();
      asking.current = null;
    };
  }, [path, everyMs, refresh]);
  const mine = state.path === path;
  return { value: mine ? state.value : null, error: mine ? state.error : null, refresh };
}

/** Yield the events of a stream, each as its parsed data, until it ends or `signal` is aborted. */
export async function* streamEvents(path, signal) {
  const reader = (await call(path, { signal })).body.pipeThrough(new TextDecoderStream()).getReader();
  let text = '';
  try {
    for (;;) {
      const { value, done } = await reader.read();
      if (done) return;
      text += value;
      const events = text.split('\n\n');
      text = events.pop();
      for (const event of events) {
        const data = event.split('\n').filter((line) => line.startsWith('data: ')).map((line) => line.slice(6)).join('\n');
        if (data) yield JSON.parse(data);
      }
    }
  } finally {
    reader.cancel().catch(() => {}); // whoever listens no longer gives the connection back
  }
}
