// The rows screen: rows chosen, read, looked at and mended, until it is clear what will be trained.

import { Act, ActButton } from '../components/act.js';
import { Command } from '../components/command.js';
import { Doubts } from '../components/doubts.js';
import { DropZone, HubRows, NameList } from '../components/drop.js';
import { Faults } from '../components/faults.js';
import { Lengths } from '../components/lengths.js';
import { Mapping } from '../components/mapping.js';
import { Problem } from '../components/problem.js';
import { RawRows } from '../components/raw-rows.js';
import { Advice, CheckState, Mistakes, quote, useFacts, useRecipe } from '../components/recipe.js';
import { Tokens } from '../components/tokens.js';
import { useLanguage, useWords } from '../language.js';
import { html, useEffect, useState } from '../libraries/preact.js';
import { formatNumber } from '../numbers.js';
import { addressOf, go, Link } from '../router.js';
import { get, inPath, useServer } from '../server.js';
import * as file from '../words/rows.js';

const WRITTEN = /^written: (.+?\.ya?ml)(?:, which is not ready.*)?$/m;

/** Show the screen for a recipe, for a file of rows, or the choice of one. */
export function Rows({ name }) {
  if (!name) return html`<${Choose} />`;
  return /\.ya?ml$/i.test(name) ? html`<${RecipeRows} name=${name} />` : html`<${NewRows} name=${name} />`;
}

function Choose() {
  const words = useWords(file);
  const { value: home, error } = useServer('studio/home', 5000);
  return html`<h1>${words.title}</h1>
    <p>${words.intro}</p>
    <${DropZone} />
    <${Problem} error=${error} />
    <h2>${words.filesHere}</h2><${NameList} names=${home?.rows} none=${words.noFiles} />
    <h2>${words.recipesHere}</h2><${NameList} names=${home?.recipes.map((recipe) => recipe.name)} none=${words.noRecipes} />
    <h2>${words.fromHub}</h2><${HubRows} />`;
}

/** A file of rows that has no recipe yet: its rows, and the act that makes one. */
function NewRows({ name }) {
  const words = useWords(file);
  const [model, setModel] = useState('');
  const [act, setAct] = useState(null);
  const [shown, setShown] = useState(null);
  const { value: acts } = useServer('studio/acts', 4000);
  const former = acts?.acts.find((one) => one.verb === 'init' && one.about.rows === name);
  const id = act ?? former?.id;
  const verb = { verb: 'init', rows: name, ...(model ? { model } : {}) };
  return html`<h1>${name}</h1>
    <section class="card"><h2>${words.makeFromRows}</h2>
      <p>${words.initDoes}</p>
      <label class="field">${words.model} <input value=${model} placeholder=${words.modelChosen} onInput=${(event) => setModel(event.target.value.trim())} /></label>
      <${ActButton} verb=${verb} label=${words.makeRecipe} onStart=${(started) => setAct(started.id)} />
      ${id ? html`<${Act} key=${id} id=${id} /><${Made} key=${`made ${id}`} id=${id} />` : html`<${Command} line=${`thinktune init --yes ${model ? `--model=${quote(model)} ` : ''}${quote(name)}`} />`}
    </section>
    <h2>${words.rawRows}</h2><${RawRows} name=${name} shown=${shown} onShown=${setShown} />`;
}

/** What init chose and why, with the way to the recipe that it wrote. */
function Made({ id }) {
  const words = useWords(file);
  const { value: act } = useServer(`studio/acts/${id}`, 3000);
  const [text, setText] = useState('');
  const ended = act && !['waiting', 'running'].includes(act.state);
  useEffect(() => {
    if (ended) get(`studio/acts/${id}/log?name=stdout&from=0`).then((log) => setText(log.text), () => {});
  }, [id, ended]);
  const recipe = WRITTEN.exec(text)?.[1];
  if (!text) return null;
  return html`<h3>${words.chosenWhy}</h3><pre class="printed" tabindex="0" role="group" aria-label=${words.chosenWhy} lang="en">${text}</pre>
    ${recipe && html`<p><${Link} class="button strong" to=${addressOf('rows', recipe)}>${words.openRecipe(recipe)}<//></p>`}`;
}

function RecipeRows({ name }) {
  const words = useWords(file);
  const { recipe, error, change, problem, busy } = useRecipe(name);
  const checked = useFacts(name);
  const { value: catalogue } = useServer('studio/faults');
  const { value: found, refresh: lookAgain } = useServer(recipe ? `studio/doubts/${inPath(name)}` : null);
  const doubts = found?.made_at ? found : null;
  useEffect(() => void lookAgain(), [checked?.act?.id]);
  const [shown, setShown] = useState(null);
  const [rowsFile, setRowsFile] = useState(null);
  if (!recipe) return html`<h1>${name}</h1><${Problem} error=${error} />${!error && html`<p class="small">${words.loading}</p>`}`;
  const facts = checked?.facts;
  const files = recipe.rows;
  const raw = files.includes(rowsFile) ? rowsFile : files[0];
  const read = facts?.files?.find((one) => one.path.split('/').pop() === raw?.split('/').pop());
  const show = (place) => {
    const found = files.find((one) => place.startsWith(`${one.split('/').pop()}:`) || place.startsWith(`${one.split('/').pop()}[`));
    if (found) setRowsFile(found);
    setShown(place);
  };
  return html`<h1>${name}</h1>
    <${Mistakes} recipe=${recipe} /><${Problem} error=${problem} />
    ${recipe.values && html`<${CheckState} recipe=${recipe} facts=${checked} />`}
    ${facts && html`<${Account} facts=${facts} /><${Advice} sentences=${facts.stops} kind="stop" change=${change} />`}
    ${recipe.values && raw && html`<section aria-labelledby="mapping"><h2 id="mapping">${words.mapping}</h2>
      ${files.length > 1 && html`<p><label>${words.file} <select value=${raw} onChange=${(event) => setRowsFile(event.target.value)}>${files.map((one) => html`<option key=${one}>${one}</option>`)}</select></label></p>`}
      ${read && html`<p class="small" lang="en">${read.format}</p>`}
      <${Mapping} key=${raw} recipe=${recipe} rows=${raw} read=${read?.mapping} change=${change} busy=${busy} /></section>`}
    ${recipe.values && facts?.rows_read > 0 && html`<section aria-labelledby="faults"><h2 id="faults">${words.faults}</h2>
      <${Faults} facts=${facts} doubts=${doubts?.rows} recipe=${recipe} catalogue=${catalogue?.faults} change=${change} onShow=${show} /></section>`}
    ${recipe.values && html`<section aria-labelledby="tokens"><h2 id="tokens">${words.tokens}</h2><${LateTokens} name=${name} version=${`${recipe.digest} ${checked?.act?.id}`} ready=${Boolean(facts?.train_rows)} /></section>`}
    ${facts?.lengths && html`<section aria-labelledby="lengths"><h2 id="lengths">${words.lengths}</h2><${Lengths} facts=${facts} /></section>`}
    ${recipe.values && html`<section aria-labelledby="doubts"><h2 id="doubts">${words.doubts}</h2><${Doubts} name=${name} doubts=${doubts} running=${checked?.running} onShow=${show} /></section>`}
    <section aria-labelledby="raw"><h2 id="raw">${words.rawRows}</h2>${raw ? html`<${RawRows} name=${raw} shown=${shown} onShown=${setShown} />` : html`<p class="small">${words.rowsElsewhere}</p>`}</section>
    <p><button type="button" class="strong" onClick=${() => go(addressOf('plan', name))}>${words.onToPlan}</button></p>`;
}

/** Tokens are made by a process of their own, so only for rows that have passed a check. */
function LateTokens({ name, version, ready }) {
  const words = useWords(file);
  return ready ? html`<${Tokens} name=${name} version=${version} />` : html`<p class="small">${words.tokensAfterCheck}</p>`;
}

/** What became of the rows, in figures. */
function Account({ facts }) {
  const words = useWords(file);
  const language = useLanguage();
  if (facts.rows_read === undefined) return null;
  const figures = { read: facts.rows_read, trained: facts.train_rows, heldOut: facts.validation_rows, dropped: facts.dropped_rows, stopping: facts.stopping_rows };
  return html`<dl class="account">${Object.entries(figures).filter(([key, count]) => count || key !== 'stopping').map(([key, count]) => html`<div key=${key} class=${key}>
    <dt>${words.account[key]}</dt><dd>${formatNumber(count ?? 0, language)}</dd></div>`)}
    <div><dt>${words.account.learned}</dt><dd>${formatNumber(facts.train_learned_tokens ?? 0, language)}</dd></div></dl>
    ${Object.keys(facts.languages ?? {}).length > 0 && html`<p class="small">${words.languages(Object.entries(facts.languages).map(([code, count]) => `${code} ${formatNumber(count, language)}`).join(', '))}</p>`}`;
}
