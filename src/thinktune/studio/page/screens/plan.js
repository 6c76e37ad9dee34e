// The plan screen: model, settings and card, what a run then takes, and its start.

import { isAlive, Act, ActButton } from '../components/act.js';
import { CardTable } from '../components/card-table.js';
import { Cost } from '../components/cost.js';
import { CardChoice, ModelChoice } from '../components/models.js';
import { Problem } from '../components/problem.js';
import { Advice, CheckState, Mistakes, RecipeText, useFacts, useRecipe } from '../components/recipe.js';
import { belongs, Settings, SETTINGS } from '../components/settings.js';
import { VerbCommand } from '../components/verb-command.js';
import { useLanguage, useWords } from '../language.js';
import { html, useState } from '../libraries/preact.js';
import { formatNumber } from '../numbers.js';
import { addressOf, go, Link } from '../router.js';
import { get, useServer } from '../server.js';
import * as file from '../words/plan.js';
import { Sentence } from '../components/sentence.js';

/** Show the plan of a recipe, or the choice of one. */
export function Plan({ name }) {
  return name ? html`<${RecipePlan} name=${name} />` : html`<${Choose} />`;
}

function Choose() {
  const words = useWords(file);
  const { value: home, error } = useServer('studio/home', 5000);
  return html`<h1>${words.title}</h1><${Problem} error=${error} />
    ${home && !home.recipes.length && html`<p>${words.noRecipes} <${Link} to=${addressOf('rows')}>${words.toRows}<//></p>`}
    <ul class="names">${home?.recipes.map((recipe) => html`<li key=${recipe.name}><${Link} to=${addressOf('plan', recipe.name)}>${recipe.name}<//></li>`)}</ul>`;
}

function RecipePlan({ name }) {
  const words = useWords(file);
  const { recipe, error, change, rewrite, problem, busy } = useRecipe(name);
  const checked = useFacts(name);
  const [card, setCard] = useState(null);
  if (!recipe) return html`<h1>${name}</h1><${Problem} error=${error} />${!error && html`<p class="small">${words.loading}</p>`}`;
  const facts = checked?.facts;
  const { values } = recipe;
  if (!values) return html`<h1>${name}</h1><${Mistakes} recipe=${recipe} /><${Problem} error=${problem} /><${RecipeText} recipe=${recipe} rewrite=${rewrite} busy=${busy} open />`;
  const planned = facts?.plan?.card && facts.plan.card !== 'cpu' ? facts.plan.card : '';
  const wanted = card ?? values.plan?.card ?? '';
  const overrides = wanted && wanted !== values.plan?.card ? [`plan.card=${wanted}`] : [];
  const others = facts?.warnings?.filter((one) => !SETTINGS.some(({ key }) => belongs(one.key, key)));
  return html`<h1>${name}</h1>
    <${Problem} error=${problem} />
    <section aria-labelledby="model"><h2 id="model">${words.model}</h2>
      <${ModelChoice} values=${values} change=${change} busy=${busy} card=${wanted} />
      ${facts?.model_notes?.map((note) => html`<p key=${note} class="small"><${Sentence} text=${note} /></p>`)}</section>
    <section aria-labelledby="settings"><h2 id="settings">${words.fourSettings}</h2>
      <${Settings} recipe=${recipe} facts=${facts} change=${change} busy=${busy} />
      <${Advice} sentences=${others} kind="warning" change=${change} />
      <${Advice} sentences=${facts?.notes} kind="note" change=${change} /></section>
    <section aria-labelledby="takes"><h2 id="takes">${words.takes}</h2>
      <${CardChoice} card=${wanted} onCard=${setCard} />
      ${facts?.plan && wanted !== planned && wanted && html`<p class="warning" role="status">${words.otherCard(planned || words.cpu)}</p>`}
      <${CheckState} recipe=${recipe} facts=${checked} overrides=${overrides} />
      ${facts && html`<${Cost} facts=${facts} />`}
      ${facts?.plan && html`<${CardTable} plan=${facts.plan} />`}</section>
    <${RecipeText} recipe=${recipe} rewrite=${rewrite} busy=${busy} />
    <${Start} name=${name} checked=${checked} recipe=${recipe} change=${change} />`;
}

/** The verdict, and the button that starts the run; a run of this recipe that lives is shown instead. */
function Start({ name, checked, change }) {
  const words = useWords(file);
  const language = useLanguage();
  const { value: acts } = useServer('studio/acts', 4000);
  const navigationPath = `studio/navigation?name=${encodeURIComponent(name)}`;
  const { value: navigation } = useServer(navigationPath, 5000);
  const training = acts?.acts.find((act) => act.verb === 'train' && act.about.recipe === name && isAlive(act));
  const facts = checked?.facts;
  const ready = facts?.verdict === 'ready' && !checked.is_stale;
  const state = navigation?.screens.train.state;
  const begun = state && !['new', 'none'].includes(state);
  const serving = acts?.acts.some((act) => act.verb === 'serve' && isAlive(act));
  const started = async () => {
    const run = (navigation ?? (await get(navigationPath))).screens.train.name;
    if (run) go(addressOf('train', run));
  };
  return html`<section aria-labelledby="start"><h2 id="start">${words.start}</h2>
    ${facts && html`<p><span class=${`state ${facts.verdict === 'ready' ? 'ready' : 'not'}`}>${facts.verdict === 'ready' ? words.ready : words.notReady}</span>
      ${facts.steps ? ` ${words.steps(formatNumber(facts.steps, language), formatNumber(facts.train_rows, language), formatNumber(facts.validation_rows, language))}` : ''}</p>
      <${Advice} sentences=${facts.stops} kind="stop" change=${change} />`}
    ${training && html`<${Act} id=${training.id} />`}
    ${(training || state === 'finished') && html`<p>${!training && words.hasEnded} <${Link} to=${addressOf('train', navigation?.screens.train.name ?? '')}>${words.watch}<//></p>`}
    ${!training && state !== 'finished' && html`${serving && html`<p class="warning">${words.serving}</p>`}
      ${!ready && html`<p class="small">${facts ? (checked.is_stale ? words.checkFirstStale : words.mendFirst) : words.checkFirst}</p>`}
        <${ActButton} verb=${{ verb: 'train', recipe: name }} label=${begun ? words.goOn : words.train} disabled=${!ready} onStart=${started} />
        <${VerbCommand} verb=${{ verb: 'train', recipe: name }} /><p class="small">${words.waits}</p>`}
  </section>`;
}
