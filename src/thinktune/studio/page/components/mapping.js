// The mapping: each column of a file with example cells, and what it is read as; a change is written into the recipe.

import { useWords } from '../language.js';
import { html, useEffect, useState } from '../libraries/preact.js';
import { get, inPath } from '../server.js';
import * as file from '../words/rows.js';
import { Problem } from './problem.js';
import { keyQuery } from './raw-rows.js';
import { visible } from './visible.js';

const PARTS = ['question', 'reasoning', 'answer', 'system', 'messages', 'keypoint', 'mode', 'label'];
const OF_MANY_COLUMNS = ['question', 'reasoning', 'answer', 'system'];
const TRAINED = ['question', 'reasoning', 'answer', 'messages', 'system'];
const EXAMPLES = 3;
const MOST_CHARACTERS = 160;

const listOf = (columns) => (Array.isArray(columns) ? columns : columns ? [columns] : []);

/**
 * Return the part of each column: {q: 'question'}, and 'ignore' for what is left out on purpose. What the recipe gives
 * counts; its other parts are as `check` read them.
 */
function partsOf(read, given, ignored) {
  const parts = {};
  const take = (part, columns) => listOf(columns).forEach((column) => (parts[column] = part));
  for (const part of PARTS) if (!given?.[part]) take(part, read?.[part]);
  take('ignore', ignored);
  for (const part of PARTS) take(part, given?.[part]);
  return parts;
}

/** Return the columns that hold what is trained, the question's first: of several that are joined, the first one. */
export function columnsRead(read, given) {
  const parts = Object.entries(partsOf(read, given));
  return TRAINED.map((part) => parts.find(([, found]) => found === part)?.[0]).filter((column) => column !== undefined);
}

/**
 * Return the settings that a choice of parts changes, as `data.columns.answer` and `data.ignore`; null takes one out.
 * Columns that stay keep their order, and a recipe that gives no column yet is given all.
 */
function settingsOf(parts, columns, read, given, ignored) {
  const isGiven = PARTS.some((part) => given?.[part]);
  const settings = {};
  const set = (key, part, before, isNew) => {
    const stay = before.filter((column) => parts[column] === part);
    const after = [...stay, ...columns.filter((column) => parts[column] === part && !stay.includes(column))];
    const isSame = after.join('\n') === before.join('\n');
    if (!isSame || (isNew && after.length)) settings[key] = after.length ? after : null;
  };
  for (const part of PARTS) set(`data.columns.${part}`, part, listOf(given?.[part] ?? read?.[part]), !isGiven);
  for (const [key, after] of Object.entries(settings)) if (after?.length === 1) settings[key] = after[0];
  set('data.ignore', 'ignore', listOf(ignored), false);
  // A section stays in its place where it is added to before anything is taken out.
  return Object.fromEntries(Object.entries(settings).sort(([, one], [, other]) => (one === null) - (other === null)));
}

/** Show the table for the file of rows of a recipe; `read` is the mapping that `check` found. */
export function Mapping({ recipe, rows, read, change, busy }) {
  const words = useWords(file);
  const listed = Array.isArray(recipe.values.data);
  const source = recipe.sources[recipe.rows.indexOf(rows)] ?? 0;
  const data = listed ? recipe.values.data[source] : recipe.values.data;
  const now = partsOf(read, data.columns, data.ignore);
  const [edited, setEdited] = useState(null);
  const [examples, setExamples] = useState({ columns: [], rows: [], error: null });
  useEffect(() => {
    let gone = false;
    if (!rows) return undefined; // of a hub
    get(`studio/rows/${inPath(rows)}?count=${EXAMPLES}${keyQuery(data.rows)}`).then(
      (page) => gone || setExamples({ columns: page.columns, rows: page.rows, error: null }),
      (error) => gone || setExamples({ columns: [], rows: [], error }),
    );
    return () => (gone = true);
  }, [rows, recipe.digest]);
  const parts = edited ?? now;
  const columns = [...new Set([...examples.columns, ...Object.keys(parts)])];
  const choose = (column) => (event) => setEdited({ ...parts, [column]: event.target.value });
  const twice = PARTS.find((part) => !OF_MANY_COLUMNS.includes(part) && columns.filter((column) => parts[column] === part).length > 1);
  const save = async () => {
    const settings = Object.entries(settingsOf(parts, columns, read, data.columns, data.ignore));
    const keyed = settings.map(([key, value]) => [listed ? key.replace('data.', `data.${source}.`) : key, value]);
    if (await change(Object.fromEntries(keyed))) setEdited(null);
  };
  const cells = (column) => examples.rows.map((row) => row.cells[column]).filter(Boolean);
  return html`<${Problem} error=${examples.error} />
    <div class="scroll" tabindex="0" role="group" aria-label=${words.mapping}><table class="mapping">
      <thead><tr><th scope="col">${words.column}</th><th scope="col">${words.readAs}</th><th scope="col">${words.examples}</th></tr></thead>
      <tbody>${columns.map((column) => html`<tr key=${column}>
        <th scope="row">${visible(column)}</th>
        <td><select aria-label=${words.readAsOf(column)} value=${parts[column] ?? ''} onChange=${choose(column)}>
          <option value="">${words.parts.none}</option>
          ${[...PARTS, 'ignore'].map((part) => html`<option key=${part} value=${part} selected=${parts[column] === part}>${words.parts[part]}</option>`)}
        </select></td>
        <td>${cells(column).map((cell, index) => html`<div key=${index} class="example">${cell.kind === 'n' ? html`<em>null</em>` : visible(cell.text.slice(0, MOST_CHARACTERS))}</div>`)}</td>
      </tr>`)}</tbody>
    </table></div>
    ${twice && html`<p class="problem" role="alert">${words.onlyOne(words.parts[twice])}</p>`}
    ${edited && html`<p class="actions"><button type="button" onClick=${() => setEdited(null)}>${words.undo}</button>
      <button type="button" class="strong" disabled=${Boolean(twice) || busy} onClick=${save}>${words.writeMapping}</button></p>`}`;
}
