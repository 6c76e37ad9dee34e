// The rows screen: rows chosen, read, looked at and mended, until it is clear what will be trained.

import { Act, ActButton } from '../components/act.js';
import { Doubts } from '../components/doubts.js';
import { DropZone, HubRows, NameList } from '../components/drop.js';
import { Faults } from '../components/faults.js';
import { Lengths } from '../components/lengths.js';
import { columnsRead, Mapping } from '../components/mapping.js';
import { Problem } from '../components/problem.js';
import { RawRows, RowDialog } from '../components/raw-rows.js';
import { Advice, CheckState, Mistakes, RecipeText, useFacts, useRecipe } from '../components/recipe.js';
import { Tokens } from '../components/tokens.js';
import { VerbCommand } from '../components/verb-command.js';
import { useLanguage, useWords } from '../language.js';
import { html, useEffect, useState } from '../libraries/preact.js';
import { formatNumber } from '../numbers.js';
import { addressOf, go, Link, readPlace, replaceQuery } from '../router.js';
import { get, inPath, useServer } from '../server.js';
import * as file from '../words/rows.js';
import { Sentence, useSentences } from '../components/sentence.js';

const VIEWS = ['read', 'tokens', 'lengths', 'doubts', 'raw'];
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
  const { value: acts } = useServer('studio/acts', 4000);
  const former = acts?.acts.find((one) => one.verb === 'init' && one.about.rows === name);
  const id = act ?? former?.id;
  const verb = { verb: 'init', rows: name, ...(model ? { model } : {}) };
  return html`<h1>${name}</h1>
    <section class="card"><h2>${words.makeFromRows}</h2>
      <p>${words.initDoes}</p>
      <label class="field narrow">${words.model} <input value=${model} placeholder=${words.modelChosen} onInput=${(event) => setModel(event.target.value.trim())} /></label>
      <p class="small">${words.modelHint}</p>
      <${ActButton} verb=${verb} label=${words.makeRecipe} onStart=${(started) => setAct(started.id)} />
      ${id ? html`<${Act} key=${id} id=${id} /><${Made} key=${`made ${id}`} id=${id} />` : html`<${VerbCommand} verb=${verb} />`}
    </section>
    <h2>${words.rawRows}</h2><${RawRows} key=${name} name=${name} />`;
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
  const lines = text.split('\n');
  const inLanguage = useSentences(lines);
  if (!text) return null;
  return html`<h3>${words.chosenWhy}</h3><pre class="printed" tabindex="0" role="group" aria-label=${words.chosenWhy}>${lines.map(inLanguage).join('\n')}</pre>
    ${recipe && html`<p><${Link} class="button strong" to=${addressOf('rows', recipe)}>${words.openRecipe(recipe)}<//></p>`}`;
}

function RecipeRows({ name }) {
  const words = useWords(file);
  const { recipe, error, change, rewrite, problem, busy } = useRecipe(name);
  const checked = useFacts(name);
  const { value: catalogue } = useServer('studio/faults');
  const { value: found, refresh: lookAgain } = useServer(recipe ? `studio/doubts/${inPath(name)}` : null);
  const doubts = found?.made_at ? found : null;
  useEffect(() => void lookAgain(), [checked?.act?.id]);
  const [shown, setShown] = useState(null); // the row in the dialog: {name, place}
  const [view, setView] = useState(() => readPlace().query.get('view') ?? VIEWS[0]);
  const [rowsFile, setRowsFile] = useState(null);
  if (!recipe) return html`<h1>${name}</h1><${Problem} error=${error} />${!error && html`<p class="small">${words.loading}</p>`}`;
  const files = recipe.rows;
  const raw = files.includes(rowsFile) ? rowsFile : files[0];
  const dataOf = (one) => [recipe.values?.data ?? {}].flat()[recipe.sources[files.indexOf(one)] ?? 0];
  const show = (source) => {
    const holds = (one) => [':', '['].some((mark) => source.startsWith(one.split('/').pop() + mark));
    const found = files.find(holds);
    if (found) setShown({ name: found, rowsKey: dataOf(found).rows, place: { source } });
  };
  const choose = (next) => {
    setView(next);
    replaceQuery(next === VIEWS[0] ? {} : { view: next });
  };
  const shared = { name, recipe, checked, facts: checked?.facts, catalogue: catalogue?.faults, doubts, change, busy, raw, show, rowsKey: raw && dataOf(raw).rows, given: raw && dataOf(raw).columns };
  return html`<h1>${name}</h1>
    <${Mistakes} recipe=${recipe} /><${Problem} error=${problem} />
    ${!recipe.values && html`<${RecipeText} recipe=${recipe} rewrite=${rewrite} busy=${busy} open />`}
    ${recipe.values && html`<${CheckState} recipe=${recipe} facts=${checked} />`}
    ${checked?.facts && html`<${Account} facts=${checked.facts} /><${Advice} sentences=${checked.facts.stops} kind="stop" change=${change} />`}
    ${recipe.values && html`<nav class="views" aria-label=${words.viewsLabel}><ul>${VIEWS.map((each) => html`<li key=${each}>
      <button type="button" aria-current=${each === view ? 'true' : null} onClick=${() => choose(each)}>${words.views[each]}</button></li>`)}</ul></nav>`}
    ${files.length > 1 && ['read', 'raw'].includes(view) && html`<p><label>${words.file} <select value=${raw} onChange=${(event) => setRowsFile(event.target.value)}>${files.map((one) => html`<option key=${one}>${one}</option>`)}</select></label></p>`}
    ${recipe.values && html`<${View} view=${view} ...${shared} />
      <p><button type="button" class="strong" onClick=${() => go(addressOf('plan', name))}>${words.onToPlan}</button></p>`}
    ${shown && html`<${RowDialog} ...${shown} onClose=${() => setShown(null)} onMove=${(number) => setShown({ ...shown, place: { number } })} />`}`;
}

/** One of the views of a recipe's rows. */
function View({ view, name, recipe, checked, facts, catalogue, doubts, change, busy, raw, show, rowsKey, given }) {
  const words = useWords(file);
  const last = (path) => path?.split('/').pop();
  const read = raw ? facts?.files?.find((one) => last(one.path) === last(raw)) : facts?.files?.[0];
  switch (view) {
    case 'tokens':
      return html`<h2>${words.tokens}</h2>${facts?.train_rows
        ? html`<${Tokens} name=${name} version=${`${recipe.digest} ${checked.act.id}`} />`
        : html`<p class="small">${words.tokensAfterCheck}</p>`}`;
    case 'lengths':
      return html`<h2>${words.lengths}</h2>${facts?.lengths ? html`<${Lengths} facts=${facts} />` : html`<p class="small">${words.noLengths}</p>`}`;
    case 'doubts':
      return html`<h2>${words.doubts}</h2><${Doubts} name=${name} doubts=${doubts} running=${checked?.running} onShow=${show} />`;
    case 'raw':
      return html`<h2>${words.rawRows}</h2>${raw ? html`<${RawRows} key=${raw} name=${raw} rowsKey=${rowsKey} read=${columnsRead(read?.mapping, given)} />` : html`<p class="small">${words.rowsElsewhere}</p>`}`;
    default:
      return html`${!raw && !read && html`<p class="small">${words.rowsElsewhere}</p>`}
        ${(raw || read) && html`<section aria-labelledby="mapping"><h2 id="mapping">${words.mapping}</h2>
          ${read && html`<p class="small"><${Sentence} text=${read.format} /></p>`}
          <${Mapping} key=${raw} recipe=${recipe} rows=${raw} read=${read?.mapping} change=${change} busy=${busy} /></section>`}
        ${facts?.rows_read > 0 && html`<section aria-labelledby="faults"><h2 id="faults">${words.faults}</h2>
          <${Faults} facts=${facts} doubts=${doubts?.rows} recipe=${recipe} catalogue=${catalogue} change=${change} onShow=${show} /></section>`}`;
  }
}

/** What became of the rows, in figures. */
function Account({ facts }) {
  const words = useWords(file);
  const language = useLanguage();
  if (facts.rows_read === undefined) return null;
  const names = new Intl.DisplayNames(language, { type: 'language', fallback: 'code' });
  const figures = { read: facts.rows_read, trained: facts.train_rows, heldOut: facts.validation_rows, dropped: facts.dropped_rows, stopping: facts.stopping_rows };
  return html`<dl class="account">${Object.entries(figures).filter(([key, count]) => count || key !== 'stopping').map(([key, count]) => html`<div key=${key} class=${count ? key : ''}>
    <dt>${words.account[key]}</dt><dd>${formatNumber(count ?? 0, language)}</dd></div>`)}
    <div><dt>${words.account.learned}</dt><dd>${formatNumber(facts.train_learned_tokens ?? 0, language)}</dd></div></dl>
    ${Object.keys(facts.languages ?? {}).length > 0 && html`<p class="small">${words.languages(Object.entries(facts.languages).map(([code, count]) => `${code ? names.of(code) : words.noLanguage} ${formatNumber(count, language)}`).join(', '))}</p>`}`;
}
