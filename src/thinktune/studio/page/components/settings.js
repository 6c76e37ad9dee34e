// The four settings that matter most, each with a sentence, and with what `check` says against its value.

import { useLanguage, useWords } from '../language.js';
import { html, useState } from '../libraries/preact.js';
import { formatNumber } from '../numbers.js';
import * as file from '../words/plan.js';
import { Advice } from './recipe.js';

export const SETTINGS = [
  { key: 'train.epochs', name: 'epochs', step: 1, min: 1 },
  { key: 'train.learning_rate', name: 'rate', step: 'any', min: 0 },
  { key: 'train.tokens_per_step', name: 'step', step: 1, min: 1 },
  { key: 'data.max_tokens', name: 'longest', step: 1, min: 1 },
];
const USUAL_STEP_TOKENS = 16384;

/** Return the value of a setting among all values of a recipe; of several sources, the first one's. */
export function valueOf(values, key) {
  const found = key.split('.').reduce((held, part) => (Array.isArray(held) ? held[0] : held)?.[part], values);
  return key === 'train.tokens_per_step' ? (found ?? USUAL_STEP_TOKENS) : found;
}

/** Show the settings as a form that is written at once, whole or not at all. */
export function Settings({ recipe, facts, change, busy }) {
  const words = useWords(file);
  const language = useLanguage();
  const [edited, setEdited] = useState({});
  const { values } = recipe;
  const byRows = values.expert?.rows_per_step;
  const set = (key) => (event) => setEdited({ ...edited, [key]: event.target.value });
  const changed = Object.fromEntries(Object.entries(edited).filter(([key, text]) => text !== '' && Number(text) !== valueOf(values, key)));
  const write = async (event) => {
    event.preventDefault();
    const settings = Object.fromEntries(Object.entries(changed).map(([key, text]) => [key, Number(text)]));
    if ('train.tokens_per_step' in settings && byRows) settings['expert.rows_per_step'] = null;
    if (await change(settings)) setEdited({});
  };
  const number = (count) => formatNumber(count, language);
  const said = {
    epochs: facts?.steps ? words.epochsSay(number(facts.train_rows), number(facts.steps)) : '',
    rate: '',
    step: byRows ? words.byRows(byRows) : facts?.steps && facts.train_rows ? words.stepSays(((facts.train_rows * facts.epochs) / facts.steps).toFixed(1), number(facts.steps), number(facts.evaluate_every_steps)) : '',
    longest: facts?.lengths?.whole ? words.longestSays(number(facts.lengths.whole.max), number(facts.over[String(facts.max_tokens)] ?? 0)) : '',
  };
  return html`<form class="settings" onSubmit=${write}>
    ${SETTINGS.map(({ key, name, step, min }) => html`<div key=${key} class="setting card">
      <label for=${`set-${name}`}>${words.settings[name].title}</label>
      <input id=${`set-${name}`} type="number" required step=${step} min=${min} value=${edited[key] ?? valueOf(values, key)} aria-describedby=${`about-${name}`} onInput=${set(key)} />
      <p class="small" id=${`about-${name}`}>${words.settings[name].about} ${said[name]}</p>
      <${Advice} sentences=${facts?.warnings?.filter((one) => belongs(one.key, key))} kind="warning" change=${change} />
    </div>`)}
    ${Object.keys(changed).length > 0 && html`<p class="actions"><button type="button" onClick=${() => setEdited({})}>${words.undo}</button>
      <button class="strong" disabled=${busy}>${words.writeSettings}</button></p>`}
  </form>`;
}

/** Return true if a warning's key is that of a setting, also in a list of sources or by rows instead of tokens. */
export const belongs = (warned, key) =>
  warned === key || warned.replace(/^data\.\d+\./, 'data.') === key || (warned === 'expert.rows_per_step' && key === 'train.tokens_per_step');
