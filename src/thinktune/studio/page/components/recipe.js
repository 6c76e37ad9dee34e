// A recipe as the screens show and change it, and what `check` last said about it.

import { html, useEffect, useRef, useState } from '../libraries/preact.js';
import { useWords } from '../language.js';
import { inPath, refreshAll, send, useServer } from '../server.js';
import * as file from '../words/recipe.js';
import { Act, ActButton } from './act.js';
import { Sentence } from './sentence.js';
import { VerbCommand } from './verb-command.js';

const REFRESH_MS = 4000;
const DOUBTS_UP_TO_BYTES = 20 * 2 ** 20; // of rows, which are then looked through for doubtful ones with every check

/**
 * Return a recipe with `change(settings)`, which writes settings by key (null takes one out), and `rewrite(text, digest)`,
 * which replaces a text of that digest and no other; both return whether it was written, and what the server says against
 * it is in `problem`.
 */
export function useRecipe(name) {
  const path = name ? `studio/recipe/${inPath(name)}` : null;
  const { value: recipe, error, refresh } = useServer(path, REFRESH_MS);
  const [state, setState] = useState({ problem: null, busy: false });
  const digest = useRef(null);
  const last = useRef(Promise.resolve());
  useEffect(() => {
    if (recipe) digest.current = recipe.digest;
  }, [recipe]);
  const write = async (asked) => {
    setState({ problem: null, busy: true });
    try {
      digest.current = (await send('PUT', path, { digest: digest.current, ...asked })).digest;
      setState({ problem: null, busy: false });
      refreshAll();
      return true;
    } catch (problem) {
      setState({ problem, busy: false });
      refresh();
      return false;
    }
  };
  const inTurn = (asked) => (last.current = last.current.then(() => write(asked)));
  const change = (changes) => inTurn({ changes: Array.isArray(recipe.own.data) ? ofFirstSource(changes) : changes });
  const rewrite = (text, from) => inTurn({ text, digest: from });
  return { recipe, error, change, rewrite, ...state };
}

/** Where `data` is a list, its settings are those of its first source, which are one's own rows. */
const ofFirstSource = (changes) => Object.fromEntries(Object.entries(changes).map(([key, value]) => [key.replace(/^data\.(?!\d)/, 'data.0.'), value]));

/** Return what `check` last said: {facts, act, is_stale, running}, or null until that is known. */
export const useFacts = (name) => useServer(name ? `studio/facts/${inPath(name)}` : null, REFRESH_MS).value;

/** The verb that checks a recipe, and looks for doubtful rows where that is quick. */
export function checkVerb(recipe, overrides = []) {
  const quick = recipe.rows_bytes < DOUBTS_UP_TO_BYTES;
  return { verb: 'check', recipe: recipe.name, overrides, ...(quick ? { doubts: doubtsFolder(recipe.name) } : {}) };
}

/** The folder in which `check --doubts` puts the doubtful rows of a recipe. */
export const doubtsFolder = (name) => `doubts/${name.replace(/\.ya?ml$/i, '').replaceAll('/', '-')}`;

/** Show the state of a check: not made, running, made before the last change, or made; with the button that checks. */
export function CheckState({ recipe, facts, overrides = [] }) {
  const words = useWords(file);
  const state = !facts?.facts ? words.neverChecked : facts.is_stale ? words.stale : null;
  return html`<div class="check">
    ${facts?.running
      ? html`<${Act} id=${facts.running} showCommand=${false} />`
      : html`${state && html`<p class=${facts?.facts ? 'warning' : 'small'} role="status">${state}</p>`}
        <${ActButton} verb=${() => checkVerb(recipe, overrides)} label=${facts?.facts ? words.checkAgain : words.check} strong=${!facts?.facts || facts.is_stale} />`}
    <${VerbCommand} verb=${checkVerb(recipe, overrides)} />
  </div>`;
}

/** Show sentences of `check`, each with buttons that write what it proposes. */
export function Advice({ sentences, kind, change }) {
  const words = useWords(file);
  if (!sentences?.length) return null;
  return html`<ul class="advice">${sentences.map((one) => html`<li key=${one.text} class=${kind}>
    ${kind !== 'note' && words.about[one.key] && html`<strong>${words.about[one.key]}</strong> `}<${Sentence} text=${one.text} />
    ${one.changes.map((changes) => html` <${WriteButton} key=${spell(changes)} changes=${changes} change=${change} />`)}
  </li>`)}</ul>`;
}

/** Button that writes settings into the recipe. */
export function WriteButton({ changes, change }) {
  const words = useWords(file);
  return html`<button type="button" onClick=${() => change(flatten(changes))}>${words.write(spell(changes))}</button>`;
}

const spellValue = (value) => (typeof value === 'object' && value !== null ? JSON.stringify(value).replaceAll('"', '') : String(value));
const spell = (changes) => Object.entries(changes).map(([key, value]) => `${key}: ${spellValue(value)}`).join(', ');

/** Policies are added to those that a recipe names already; every other setting is replaced. */
function flatten(changes) {
  const policies = changes['data.faults'];
  if (!policies) return changes;
  const { 'data.faults': _, ...others } = changes;
  return { ...others, ...Object.fromEntries(Object.entries(policies).map(([fault, policy]) => [`data.faults.${fault}`, policy])) };
}

/** Show the mistakes of a recipe that cannot be read as one. */
export function Mistakes({ recipe }) {
  const words = useWords(file);
  if (!recipe?.mistakes.length) return null;
  return html`<section class="card" role="alert"><h2>${words.mistakes}</h2>
    <ul class="advice">${recipe.mistakes.map((line) => html`<li key=${line} class="stop"><${Sentence} text=${line} /></li>`)}</ul></section>`;
}

/**
 * The recipe's file as a text to edit; it is checked as a file is before it is written. What is typed replaces only the
 * text from which it was begun: where the file has become another one meanwhile, the reader chooses.
 */
export function RecipeText({ recipe, rewrite, busy, open = false }) {
  const words = useWords(file);
  const [edited, setEdited] = useState(null); // {text, digest}: what is typed, and of which file it was begun
  const type = (event) => setEdited({ text: event.target.value, digest: edited?.digest ?? recipe.digest });
  const save = async () => (await rewrite(edited.text, edited.digest)) && setEdited(null);
  const isOlder = edited !== null && edited.digest !== recipe.digest;
  return html`<details class="recipe-text" open=${open}><summary>${words.text}</summary>
    <textarea aria-label=${words.text} rows="18" spellcheck=${false} value=${edited?.text ?? recipe.text} onInput=${type}></textarea>
    ${isOlder && !busy && html`<div class="warning" role="status"><p>${words.newer}</p>
      <details><summary>${words.newerText}</summary><pre tabindex="0" role="group" aria-label=${words.newerText}>${recipe.text}</pre></details></div>`}
    ${edited !== null && html`<p class="actions"><button type="button" onClick=${() => setEdited(null)}>${isOlder ? words.takeNewer : words.undo}</button>
      ${isOlder && html`<button type="button" disabled=${busy} onClick=${() => setEdited({ ...edited, digest: recipe.digest })}>${words.keepMine}</button>`}
      <button type="button" class="strong" disabled=${busy || isOlder} onClick=${save}>${words.writeText}</button></p>`}
  </details>`;
}
