// The Train screen: one run, live. The run goes on without it.

import { Act, ActButton, isAlive, Log, NotifyButton, StateWord } from '../components/act.js';
import { Command } from '../components/command.js';
import { NewRun } from '../components/new-run.js';
import { Problem } from '../components/problem.js';
import { RunCharts } from '../components/run-charts.js';
import { Samples } from '../components/samples.js';
import { useLanguage, useWords } from '../language.js';
import { html, useEffect, useRef, useState } from '../libraries/preact.js';
import { useRun } from '../live-run.js';
import { notify } from '../notify.js';
import { formatDuration, formatNumber } from '../numbers.js';
import { addressOf, Link, root } from '../router.js';
import { inPath, refreshAll, send, useServer } from '../server.js';
import * as common from '../words/common.js';
import * as file from '../words/train.js';

const NAVIGATION_MS = 3000;
const QUIET_SECONDS = 120;

/** Show a run by its name, also one that has not begun. */
export function Train({ name }) {
  const words = useWords(file);
  const { value: navigation, error } = useServer(`studio/navigation?name=${encodeURIComponent(name)}`, NAVIGATION_MS);
  const run = useRun(navigation?.begun ? navigation.run : null);
  if (!navigation) return html`<h1>${name}</h1><${Problem} error=${error} />`;
  if (!navigation.begun) return html`<${NotBegun} navigation=${navigation} name=${name} />`;
  if (!run.facts) return html`<h1>${navigation.run}</h1><${Problem} error=${run.error ?? error} />`;
  return html`<${RunView} run=${run} navigation=${navigation} />`;
}

function NotBegun({ navigation, name }) {
  const words = useWords(file);
  const { value: act } = useServer(navigation.act ? `studio/acts/${navigation.act}` : null, NAVIGATION_MS);
  return html`<h1>${navigation.run ?? name}</h1>
    <p>${isAlive(act) && !act.progress?.waits ? words.starting : words.notBegun}</p>
    ${act?.progress?.waits && html`<p class="small">${words.waitingFor}</p>`}
    ${navigation.act && html`<${Act} id=${navigation.act} key=${navigation.act} openLog />`}
    <${TrainButton} navigation=${navigation} label=${words.begin} />`;
}

/** Start or resume the training of a recipe, where nothing trains it. */
function TrainButton({ navigation, label }) {
  const { value: act } = useServer(navigation.act ? `studio/acts/${navigation.act}` : null, NAVIGATION_MS);
  if (!navigation.recipe || (act && isAlive(act))) return null;
  return html`<${ActButton} verb=${{ verb: 'train', recipe: navigation.recipe }} label=${label} />`;
}

function RunView({ run, navigation }) {
  const words = useWords(file);
  const states = useWords(common).states;
  const language = useLanguage();
  const { facts, error, live } = run;
  const said = (text) => text[language];
  const { value: act } = useServer(navigation.act ? `studio/acts/${navigation.act}` : null, NAVIGATION_MS);
  const shownAct = act && tellsMore(act, facts) ? act.id : null;
  useWhenEnded(facts.state, () => notify(words.ended(facts.run, states[facts.state])));
  return html`<div class="run-head"><h1>${facts.run}</h1> <${StateWord} state=${facts.state} /></div>
    ${error && html`<p class="problem" role="alert">${words.lost}</p>`}
    ${facts.damages.map((line) => html`<p class="problem" role="alert">${line}</p>`)}
    <p class="verdict"><span class=${`verdict-state ${facts.verdict.state}`}>${said(facts.verdict.name)}</span> ${facts.sentences.map(said).join(language === 'zh' ? '' : ' ')}</p>
    ${facts.ending.en && html`<p class="verdict">${said(facts.ending)}</p>`}
    <${Progress} facts=${facts} live=${live} />
    <${Buttons} facts=${facts} navigation=${navigation} />
    <${NewRun} recipe=${navigation.recipe} run=${facts.run} advised=${facts.advised} />
    ${shownAct && html`<${Act} id=${shownAct} key=${shownAct} showCommand=${false} openLog />`}
    <h2>${words.figures}</h2>
    <dl class="figures">${facts.figures.map((one) => html`<div key=${one.key} class=${one.direction}><dt>${said(one.name)}</dt><dd>${said(one.value)}
      ${said(one.note) && html`<span class="small">${said(one.note)}</span>`}
      ${one.command && html`<${Link} class="small" to=${addressOf('proof', facts.run)}>${words.measure}<//>`}</dd></div>`)}</dl>
    <h2>${words.charts}</h2>
    <${RunCharts} name=${facts.run} version=${`${facts.step} ${facts.state} ${facts.best.step}`} />
    <h2>${words.samples}</h2>
    <${Samples} name=${facts.run} count=${facts.samples} />
    <h2>${words.events(facts.events.length)}</h2>
    ${facts.events.length ? html`<ul class="events">${[...facts.events].reverse().map((one) => html`<li><span class="small">${words.eventAt(one.step)}</span> ${one.text}</li>`)}</ul>` : html`<p class="small">${words.noEvents}</p>`}
    <h2>${words.settings}</h2>
    <dl class="facts">${facts.settings.map((one) => html`<div><dt title=${one.key}>${said(one.name)}</dt><dd>${said(one.value)}</dd></div>`)}</dl>
    ${navigation.act && !shownAct && html`<h2>${words.log}</h2><${Log} id=${navigation.act} key=${navigation.act} alive=${facts.state === 'running'} />`}`;
}

/** Return whether an act of training knows what its run's folder does not show: it waits or starts, or ended without a word there. */
function tellsMore(act, facts) {
  if (['running', 'finished'].includes(facts.state)) return false;
  if (isAlive(act)) return true;
  const endedAt = act.ended_at ?? act.started_at; // of one that died
  return ['failed', 'died'].includes(act.state) && endedAt > (facts.changed_at ?? 0);
}

function Progress({ facts, live }) {
  const words = useWords(file);
  const language = useLanguage();
  const { progress, latest } = facts;
  const loss = (value) => (value == null ? null : value.toFixed(3));
  const quiet = useQuiet(live ? facts.changed_at : null);
  const figures = [
    [words.elapsed, progress?.elapsed],
    [words.left, progress?.left],
    [words.speed, latest.tokens_per_second && words.tokensPerSecond(formatNumber(Math.round(latest.tokens_per_second), language))],
    [words.memory, latest.memory_gib && `${latest.memory_gib.toFixed(2)} GiB`],
    [words.trainLoss, loss(progress?.train_loss ?? latest.loss)],
    [words.evalLoss, loss(progress?.eval_loss)],
  ].filter(([, value]) => value);
  return html`<section class="card progress-card" aria-label=${words.step(facts.step, facts.steps)}>
    <p class="step">${words.step(formatNumber(facts.step, language), facts.steps && formatNumber(facts.steps, language))}</p>
    ${facts.steps && html`<progress max=${facts.steps} value=${facts.step} aria-label=${words.step(facts.step, facts.steps)}></progress>`}
    <dl class="facts">${figures.map(([name, value]) => html`<div key=${name}><dt>${name}</dt><dd>${value}</dd></div>`)}</dl>
    ${quiet && html`<p class="small" role="status">${words.quiet(quiet)}</p>`}
  </section>`;
}

/** Return how long a running run's journal has been quiet, as text, once that is long. */
function useQuiet(changedAt) {
  const [now, setNow] = useState(Date.now() / 1000);
  useEffect(() => {
    const timer = setInterval(() => setNow(Date.now() / 1000), 10_000);
    return () => clearInterval(timer);
  }, []);
  return changedAt && now - changedAt > QUIET_SECONDS ? formatDuration(now - changedAt) : null;
}

function Buttons({ facts, navigation }) {
  const words = useWords(file);
  const [state, setState] = useState({ stopping: false, error: null });
  useEffect(() => setState((before) => ({ ...before, stopping: false })), [facts.state]);
  const stop = async () => {
    setState((before) => ({ ...before, stopping: true, error: null })); // at once: a second stop would not save
    try {
      await send('POST', `studio/run-stop/${inPath(facts.run)}`, {});
      refreshAll();
    } catch (error) {
      setState((before) => ({ ...before, stopping: false, error }));
    }
  };
  const running = facts.state === 'running';
  return html`<div class="bar">
      ${running && facts.stoppable && html`<button type="button" disabled=${state.stopping || facts.stopping} onClick=${stop}>${words.stop}</button>`}
      ${!running && facts.state !== 'finished' && html`<${TrainButton} navigation=${navigation} label=${words.resume} />`}
      ${facts.state === 'finished' && html`<${Link} class="button strong" to=${addressOf('proof', facts.run)}>${words.onToProof}<//> <${Link} class="button" to=${addressOf('talk', facts.run)}>${words.onToTalk}<//>`}
      ${facts.report && html`<a class="button" href=${root + facts.report} target="_blank" rel="noopener">${words.openReport}</a>`}
      ${running && html`<${NotifyButton} />`}
    </div>
    ${running && (state.stopping || facts.stopping) && html`<p class="small" role="status">${words.stopping}</p>`}
    <${Problem} error=${state.error} />
    ${facts.command && html`<${Command} line=${facts.command} />`}`;
}

/** Call `ended` when a run that was running ends while it is watched. */
function useWhenEnded(state, ended) {
  const before = useRef(state);
  useEffect(() => {
    if (before.current === 'running' && state !== 'running') ended();
    if (before.current !== state) refreshAll(); // the navigation's words as well
    before.current = state;
  }, [state]);
}
