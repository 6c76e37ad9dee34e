// Acts: start one, watch how far it is, read what it prints, stop it.

import { useLanguage, useWords } from '../language.js';
import { html, useEffect, useRef, useState } from '../libraries/preact.js';
import { get, startAct, stopAct, UNSEEN_MS, useServer } from '../server.js';
import { formatBytes, formatDuration, formatNumber } from '../numbers.js';
import { askToNotify, mayAsk, notify } from '../notify.js';
import * as file from '../words/common.js';
import { Command } from './command.js';
import { Problem } from './problem.js';
import { Sentence } from './sentence.js';

const WATCH_MS = 1000;
const LOG_MS = 1500;
const REST_MS = 1000; // of a stop's button

/** Return true while an act waits or runs. */
export const isAlive = (act) => act?.state === 'waiting' || act?.state === 'running';

const SIGKILL = 9;

/** Return true for an act that ended without a word of its own: its process, or its verb, was killed. */
const wasKilled = (act) => act.state === 'died' || (act.state === 'failed' && act.code === -SIGKILL);

/** Button that starts a verb, then calls `onStart` with the act; a refusal is shown below it. */
export function ActButton({ verb, label, onStart, disabled = false, strong = true }) {
  const [state, setState] = useState({ busy: false, error: null });
  const asked = typeof verb === 'function' ? '' : JSON.stringify(verb);
  useEffect(() => setState((before) => ({ ...before, error: null })), [asked]); // it was about something else
  const start = async () => {
    setState({ busy: true, error: null });
    try {
      const act = await startAct(typeof verb === 'function' ? verb() : verb);
      setState({ busy: false, error: null });
      onStart?.(act);
    } catch (error) {
      setState({ busy: false, error });
    }
  };
  return html`<div class="act-start">
    <button type="button" class=${strong ? 'strong' : ''} disabled=${disabled || state.busy} onClick=${start}>${label}</button>
    <${Problem} error=${state.error} />
  </div>`;
}

/**
 * Show an act that lives or has ended: state, progress, time left, errors, log and a button that stops it. `onEnd` is
 * called once with the act when it ends while it is watched.
 */
export function Act({ id, onEnd, showCommand = true, openLog = false }) {
  const words = useWords(file);
  const [ended, setEnded] = useState(false);
  const { value: act, error } = useServer(`studio/acts/${id}`, ended ? 0 : WATCH_MS, { unseenMs: ended ? 0 : UNSEEN_MS });
  const wasAlive = useRef(false);
  useEffect(() => {
    if (!act) return;
    if (isAlive(act)) wasAlive.current = true;
    else {
      setEnded(true);
      if (wasAlive.current) {
        wasAlive.current = false;
        notify(words.actEnded(act.verb, words.states[act.state]));
        onEnd?.(act);
      }
    }
  }, [act]);
  useEffect(() => setEnded(false), [id]);
  if (!act) return html`<${Problem} error=${error} />`;
  return html`<section class="act" aria-label=${words.actOf(act.verb)} data-state=${act.state}>
    <p class="act-head"><${StateWord} state=${act.state} /> <${ActProgress} act=${act} />
      ${isAlive(act) && html`<${StopButton} act=${act} /><${NotifyButton} />`}</p>
    ${wasKilled(act) && html`<p class="problem" role="alert">${words.killed}</p>`}
    ${act.errors.map((line) => html`<p class="problem" role="alert"><${Sentence} text=${line} /></p>`)}
    ${showCommand && html`<${Command} line=${act.command} />`}
    <${Log} id=${id} alive=${isAlive(act)} opened=${openLog} name=${act.verb === 'check' ? 'stderr' : 'stdout'} />
    <${Problem} error=${error} />
  </section>`;
}

/** Button that asks the reader to allow notifications, until that is decided. */
export function NotifyButton() {
  const words = useWords(file);
  const [asks, setAsks] = useState(mayAsk);
  const ask = () => askToNotify().then(() => setAsks(mayAsk()));
  return asks && html`<button type="button" class="quiet" onClick=${ask}>${words.notifyMe}</button>`;
}

/** The word of a state, as text and by a colour. */
export function StateWord({ state }) {
  const words = useWords(file);
  return html`<span class=${`state ${state}`}>${words.states[state] ?? state}</span>`;
}

/** A bar with what is done, of how much, and the time left; a text alone where nothing is counted. */
export function ActProgress({ act }) {
  const words = useWords(file);
  const language = useLanguage();
  const { progress } = act;
  if (!isAlive(act)) return null;
  if (!progress?.what || (progress.total && progress.done >= progress.total)) return html`<span class="small">${words.working}</span>`;
  const what = words.work(String(progress.what));
  const format = (number) => (progress.what.startsWith('bytes ') ? formatBytes(number) : formatNumber(number, language));
  if (progress.waits || !progress.total) return html`<span class="small">${what}${progress.done ? ` · ${format(progress.done)}` : ''}</span>`;
  const counted = `${format(progress.done)} / ${format(progress.total)}`;
  const left = progress.seconds_left == null ? '' : ` · ${words.left(formatDuration(progress.seconds_left))}`;
  return html`<progress max=${progress.total} value=${progress.done} aria-label=${what}></progress>
    <span class="small">${what} ${counted}${left}</span>`;
}

/** Button that asks an act to stop, as Ctrl-C does; asked again, it is told to end. */
export function StopButton({ act }) {
  const words = useWords(file);
  const [error, setError] = useState(null);
  const [resting, setResting] = useState(false); // so that a double click asks once
  const stop = async () => {
    setResting(true);
    setError(null);
    await stopAct(act.id).catch(setError);
    setTimeout(() => setResting(false), REST_MS);
  };
  const now = act.verb === 'train' ? words.stopNowTrain : words.stopNow;
  return html`<button type="button" disabled=${resting} onClick=${stop}>${act.stopping ? now : words.stop}</button>
    ${act.stopping && html`<span class="small" role="status">${words.stopping}</span>`}<${Problem} error=${error} />`;
}

/** What an act prints, folded (of a check its standard error: the other is its facts as JSON); it grows while the act lives. */
export function Log({ id, alive, name = 'stdout', opened = false }) {
  const words = useWords(file);
  const [open, setOpen] = useState(opened);
  const [text, setText] = useState('');
  const box = useRef(null);
  useEffect(() => {
    if (!open) return;
    let [next, gone, timer] = [0, false, 0];
    setText('');
    const read = async () => {
      try {
        const found = await get(`studio/acts/${id}/log?name=${name}&from=${next}`);
        if (gone) return;
        next = found.next;
        if (found.text) setText((before) => before + found.text);
        if (found.more || alive) timer = setTimeout(read, found.more ? 0 : LOG_MS);
      } catch {
        if (!gone && alive) timer = setTimeout(read, LOG_MS);
      }
    };
    read();
    return () => {
      gone = true;
      clearTimeout(timer);
    };
  }, [id, open, alive, name]);
  useEffect(() => {
    if (box.current) box.current.scrollTop = box.current.scrollHeight;
  }, [text]);
  return html`<details class="log" open=${opened} onToggle=${(event) => setOpen(event.target.open)}>
    <summary>${words.log}</summary>
    <pre ref=${box} tabindex="0" role="group" aria-label=${words.log}>${text}</pre>
  </details>`;
}
