// The think screen: a teacher gives reasoning to a recipe's rows, within a budget; its account, and the rows it kept.

import { isAlive } from '../components/act.js';
import { Command } from '../components/command.js';
import { NewestAct, useNewestAct } from '../components/newest-act.js';
import { Problem } from '../components/problem.js';
import { useLanguage, useWords } from '../language.js';
import { html, useState } from '../libraries/preact.js';
import { formatNumber } from '../numbers.js';
import { addressOf, Link } from '../router.js';
import { inPath, useServer } from '../server.js';
import * as common from '../words/common.js';
import * as file from '../words/think.js';
import { ThinkForm } from './think/form.js';

const SOON_MS = 2000; // while a teacher is asked
const MONEY_DIGITS = 4;

/** Show what a teacher was asked for a recipe, and ask one. */
export function Think({ name }) {
  const words = useWords(file);
  const [started, setStarted] = useState(null);
  const act = useNewestAct('think', 'recipe', name);
  const { value: shown, error } = useServer(`studio/think/${inPath(name)}`, isAlive(act) ? SOON_MS : 0);
  const done = shown && Object.values(shown.thoughts).some(Boolean);
  return html`<h1>${words.title}</h1>
    <p class="lead">${words.lead}</p>
    <${Problem} error=${error} />
    <${NewestAct} act=${act} started=${started} title=${words.running} />
    ${shown?.is_list && html`<p class="warning">${words.list}</p>`}
    ${shown && !shown.is_list && !isAlive(act) && html`<details class="card" open=${!done} key=${Boolean(done)}>
      <summary>${done ? words.goOn : words.ask}</summary>
      <${ThinkForm} name=${name} shown=${shown} onStart=${({ id }) => setStarted(id)} />
    </details>`}
    ${shown && ['new', 'short'].map((kind) => shown.thoughts[kind] && html`<${Thought} key=${kind} kind=${kind} thought=${shown.thoughts[kind]} />`)}`;
}

function Thought({ kind, thought }) {
  const words = useWords(file);
  const { account, rows } = thought;
  return html`<section aria-label=${words.thoughts[kind]}>
    <h2>${words.thoughts[kind]}</h2>
    <p class="small">${words.by(account?.teacher ?? thought.settings.teacher)}</p>
    <${Spent} spent=${thought.spent} />
    ${account && html`<${Account} account=${account} />`}
    ${thought.recipe && html`<${Next} thought=${thought} />`}
    ${rows.shown.length > 0 && html`<${KeptRows} rows=${rows} />`}
  </section>`;
}

function Spent({ spent }) {
  const words = useWords(file);
  const language = useLanguage();
  const { money, tokens } = spent;
  const number = (value) => formatNumber(value, language);
  return html`<ul class="fact-list" aria-label=${words.soFar}>
    <li><b>${words.replies(number(spent.replies))}</b></li>
    <li>${words.spentTokens(number(tokens.prompt), number(tokens.reply))}</li>
    ${money && html`<li><b>${words.spentMoney(money.currency, money.spent.toFixed(MONEY_DIGITS))}</b></li>`}
    ${money?.reserved > 0 && html`<li>${words.reserved(money.currency, money.reserved.toFixed(MONEY_DIGITS))}</li>`}
    ${spent.lost > 0 && html`<li class="warning">${words.lost(number(spent.lost))}</li>`}
  </ul>`;
}

function Account({ account }) {
  const words = useWords(file);
  const rounds = account.rounds.filter((round) => Object.keys(round.pass_at).length);
  return html`<div class="card"><h3>${words.account}</h3>
    <p>${words.rows(account.rows)}</p>
    <p>${words.kept(account)}</p>
    <p class="mono">${words.written(account.written_rows, account.file)}</p>
    ${rounds.length > 0 && html`<p>${words.passAt}</p><ul>${rounds.map((round, number) => html`<li>${words.round(number + 1, round.teacher)}: ${passText(round)} ${words.ofQuestions(round.graded_questions)}</li>`)}</ul>`}
    ${account.why_not.length > 0 && html`<p>${words.whyNot}</p>
      <ul>${account.why_not.map((reason) => html`<li><b>${reason.count}</b> ${words.why[reason.why] ?? reason.why} <span class="small">${words.example} ${reason.examples[0]}</span></li>`)}</ul>`}
    ${account.notes.map((note) => html`<p class="warning">${note}</p>`)}
  </div>`;
}

const percent = (share) => `${(100 * share).toFixed(1)} %`;
const passText = (round) => Object.entries(round.pass_at).map(([n, [value, low, high]]) => `pass@${n} ${percent(value)} (${percent(low)} – ${percent(high)})`).join(', ');

function Next({ thought }) {
  const words = useWords(file);
  const { screens } = useWords(common);
  return html`<h3>${words.next}</h3>
    <p><${Link} to=${addressOf('rows', thought.recipe)}>${screens.rows}<//> · <${Link} to=${addressOf('plan', thought.recipe)}>${screens.plan}<//> <span class="mono">${thought.recipe}</span></p>
    ${thought.commands.map((line) => html`<${Command} line=${line} />`)}`;
}

function KeptRows({ rows }) {
  const words = useWords(file);
  return html`<h3>${words.keptRows}</h3>
    ${rows.total > rows.shown.length && html`<p class="small">${words.firstOf(rows.shown.length, rows.total)}</p>`}
    ${rows.shown.map((row) => html`<div class="side-of kept-row"><h4 lang="">${row.question}</h4>
      ${row.reasoning && html`<details class="reasoning-of"><summary>${words.reasoning}</summary><div class="as-written" lang="">${row.reasoning}</div></details>`}
      <div class="as-written" lang="">${row.answer}</div></div>`)}`;
}
