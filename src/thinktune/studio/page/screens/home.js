// The first screen: what the folder holds, what goes on in it, and its runs.

import { ActButton, ActProgress, isAlive, StateWord, StopButton } from '../components/act.js';
import { LongList, useRows } from '../components/long-list.js';
import { Problem } from '../components/problem.js';
import { useLanguage, useWords } from '../language.js';
import { html, useCallback, useEffect, useState } from '../libraries/preact.js';
import { formatNumber, formatTime } from '../numbers.js';
import { addressOf, Link, root } from '../router.js';
import { get, useServer } from '../server.js';
import * as file from '../words/home.js';

const REFRESH_MS = 4000;
const ROW_PX = 45;
const nameOf = (run) => run.name;
const COLUMNS = ['name', 'model', 'rows', 'state', 'best_loss', 'right', 'when'];

export function Home() {
  const words = useWords(file);
  const { value: home, error } = useServer('studio/home', REFRESH_MS);
  if (!home) return html`<h1>${words.title}</h1><${Problem} error=${error} />`;
  const used = new Set(home.recipes.flatMap((recipe) => recipe.rows ?? []));
  const loose = home.rows.filter((name) => !used.has(name));
  return html`<div class="home-head"><div><h1>${words.title}</h1>
      <p class="small">${words.folder} <code>${home.folder}</code></p></div>
      ${(home.recipes.length > 0 || home.rows.length > 0) && html`<${Link} class="button strong" to=${addressOf('rows')}>${words.newRows}<//>`}</div>
    <${Problem} error=${error} />
    <${Going} acts=${home.acts} />
    ${!home.recipes.length && !home.rows.length && html`<section class="card welcome">
      <h2>${words.begin}</h2><p>${words.beginLong}</p>
      <p><${Link} class="button strong" to=${addressOf('rows')}>${words.chooseRows}<//></p>
    </section>`}
    <${Names} title=${words.recipes} names=${home.recipes.map((recipe) => recipe.name)} screen="plan" />
    <${Names} title=${words.rowFiles} names=${loose} screen="rows" />
    <${Runs} />
    <${Cards} cards=${home.cards} />`;
}

function Names({ title, names, screen }) {
  if (!names.length) return null;
  return html`<section><h2>${title}</h2>
    <ul class="names">${names.map((name) => html`<li key=${name}><${Link} to=${addressOf(screen, name)}>${name}<//></li>`)}</ul>
  </section>`;
}

/** Acts that wait or run, each with a way to where it is shown. */
function Going({ acts }) {
  const words = useWords(file);
  if (!acts.length) return null;
  return html`<section><h2>${words.going}</h2>
    <ul class="going card">${acts.map((act) => html`<li key=${act.id}>
      <${StateWord} state=${act.state} /> <${Link} to=${addressOfAct(act)}>${`${act.verb} ${Object.values(act.about)[0] ?? ''}`}<//>
      <${ActProgress} act=${act} /> <${StopButton} act=${act} />
    </li>`)}</ul>
  </section>`;
}

const SCREEN_OF = { check: 'rows', init: 'rows', think: 'think', pilot: 'plan', train: 'train', eval: 'proof', average: 'proof', export: 'take-home', push: 'take-home', serve: 'talk' };

/** Return the address of the screen on which an act is shown. */
export const addressOfAct = ({ verb, about }) => (SCREEN_OF[verb] ? addressOf(SCREEN_OF[verb], about.recipe ?? about.run ?? about.rows ?? '') : addressOf(''));

function Cards({ cards }) {
  const words = useWords(file);
  const gib = (mib) => (mib / 1024).toFixed(1);
  return html`<section><h2>${words.cards}</h2>${cards.length
    ? html`<ul class="plain">${cards.map((card) => html`<li>${words.card(card.name, words.memoryOf(gib(card.used_mib), gib(card.total_mib)))}${card.percent === null ? '' : ` · ${words.busy(card.percent)}`}${card.in_use ? ` · ${words.held}` : ''}</li>`)}</ul>`
    : html`<p class="small">${words.noCard}</p>`}</section>`;
}

function Runs() {
  const words = useWords(file);
  const [search, setSearch] = useState('');
  const [sort, setSort] = useState('-when');
  const [ticked, setTicked] = useState([]);
  const ask = useCallback(async (first, count, signal) => {
    const { runs, total } = await get(`studio/runs?${new URLSearchParams({ first, count, sort, search })}`, { signal });
    return { rows: runs, total };
  }, [search, sort]);
  const list = useRows(ask, REFRESH_MS);
  const tick = (name) => setTicked((before) => (before.includes(name) ? before.filter((one) => one !== name) : [...before, name]));
  if (!list.answer && !list.error) return html`<section><h2>${words.runs}</h2></section>`;
  if (!list.total && !search) return html`<section><h2>${words.runs}</h2><${Problem} error=${list.error} /><p class="small">${words.noRuns}</p></section>`;
  return html`<section class="runs"><h2>${words.runs}</h2>
    <div class="bar"><input type="search" value=${search} onInput=${(event) => setSearch(event.target.value)} aria-label=${words.search} placeholder=${words.search} />
      <span class="small" role="status">${words.found(list.total)}</span></div>
    <${SideBySide} runs=${ticked} />
    <${Problem} error=${list.error} />
    <${LongList} rows=${list} height=${ROW_PX} label=${words.tableLabel} keyOf=${nameOf}
      head=${html`<tr><th class="tick"><span class="away">${words.sideBySide}</span></th>${COLUMNS.map((column) => html`<${SortHead} column=${column} sort=${sort} onSort=${setSort} />`)}</tr>`}>
      ${(run, index, stop) => html`<${RunCells} run=${run} stop=${stop} ticked=${ticked} tick=${tick} />`}
    <//>
  </section>`;
}

function SortHead({ column, sort, onSort }) {
  const words = useWords(file);
  const chosen = sort.replace('-', '') === column;
  const falls = sort.startsWith('-');
  const first = column === 'when' || column === 'rows' ? `-${column}` : column;
  const order = chosen ? (falls ? 'descending' : 'ascending') : 'none';
  const next = !chosen ? first : falls ? column : `-${column}`;
  return html`<th class=${`col-${column}`} aria-sort=${order}><button type="button" class="quiet" onClick=${() => onSort(next)}>${words[column]}${chosen ? html`<span aria-hidden="true"> ${falls ? '↓' : '↑'}</span>` : ''}</button></th>`;
}

function RunCells({ run, stop, ticked, tick }) {
  const words = useWords(file);
  const language = useLanguage();
  if (!run) return html`<td colspan=${COLUMNS.length + 1}>…</td>`;
  const loss = (value) => (value == null ? '–' : value.toFixed(3));
  const progress = run.state === 'running' && run.steps ? words.step(run.step ?? 0, run.steps) : null;
  return html`<td class="tick"><input type="checkbox" tabindex=${stop.tabindex} checked=${ticked.includes(run.name)} onChange=${() => tick(run.name)} aria-label=${words.select(run.name)} /></td>
    <td class="col-name"><${Link} to=${addressOf('train', run.name)} title=${run.name} ...${stop}>${run.name}<//></td>
    <td class="col-model" title=${run.model}>${run.model}</td>
    <td class="col-rows">${run.rows == null ? '–' : formatNumber(run.rows, language)}</td>
    <td class="col-state"><${StateWord} state=${run.state} />${progress && html` <span class="small">${progress}</span>`}</td>
    <td class="col-best_loss">${loss(run.best_loss)}</td>
    <td class="col-right"><${Right} right=${run.right} /></td>
    <td class="col-when">${run.changed_at ? formatTime(run.changed_at, language) : '–'}</td>`;
}

function Right({ right }) {
  const words = useWords(file);
  if (!right) return '–';
  const share = right.measure === 'right' || right.measure === 'preferred';
  const side = (value) => (share ? `${(100 * value).toFixed(0)} %` : value.toFixed(3));
  const what = words.others[right.measure];
  return html`<span class=${right.verdict}>${side(right.base)} → ${side(right.tuned)}</span>${what && html` <span class="small">${what}</span>`}`;
}

/** Write the page that compares the ticked runs, and offer it. */
function SideBySide({ runs }) {
  const words = useWords(file);
  const [act, setAct] = useState(null);
  const [address, setAddress] = useState(null);
  const [refused, setRefused] = useState(null);
  const { value, error } = useServer(act && !address ? `studio/acts/${act}` : null, 1000);
  useEffect(() => {
    setAct(null);
    setAddress(null);
    setRefused(null);
  }, [runs]);
  useEffect(() => {
    if (value?.state !== 'finished') return;
    const query = new URLSearchParams(runs.map((run) => ['run', run]));
    get(`studio/comparison?${query}`).then((found) => setAddress(found.address), setRefused);
  }, [value?.id, value?.state]);
  const ended = value && !isAlive(value);
  const comparing = act && !address && !refused && !error && (!ended || value.state === 'finished');
  if (runs.length < 2) return html`<p class="small">${words.chooseTwo}</p>`;
  return html`<div class="bar">
    ${address ? html`<a class="button strong" href=${root + address} target="_blank" rel="noopener">${words.openComparison}</a>`
      : html`<${ActButton} verb=${{ verb: 'report', runs }} label=${words.sideBySide} disabled=${Boolean(comparing)} onStart=${(started) => (setRefused(null), setAct(started.id))} />`}
    ${comparing && html`<span class="small" role="status">${words.comparing}</span>`}
    ${act && ended && value.state !== 'finished' && html`<${StateWord} state=${value.state} />`}
    <${Problem} error=${refused ?? error} />
    ${value?.errors?.map((line) => html`<${Problem} error=${line} />`)}
  </div>`;
}
