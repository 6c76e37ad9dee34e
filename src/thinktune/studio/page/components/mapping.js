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
const EXAMPLES = 3;
const MOST_CHARACTERS = 160;

/** Return the part of each column: {q: 'question'}, and 'ignore' for what is left out on purpose. */
function partsOf(mapping, ignored) {
  const parts = {};
  for (const part of PARTS) {
    const columns = mapping?.[part];
    for (const column of Array.isArray(columns) ? columns : columns ? [columns] : []) parts[column] = part;
  }
  for (const column of ignored ?? []) parts[column] ??= 'ignore';
  return parts;
}

/** Return the settings that a choice of parts is: `data.columns` and `data.ignore`. */
function settingsOf(parts, columns, roles) {
  const mapping = {};
  for (const part of PARTS) {
    const chosen = columns.filter((column) => parts[column] === part);
    if (chosen.length) mapping[part] = chosen.length > 1 ? chosen : chosen[0];
  }
  if (roles && Object.keys(roles).length) mapping.roles = roles;
  const ignored = columns.filter((column) => parts[column] === 'ignore');
  return { 'data.columns': Object.keys(mapping).length ? mapping : null, 'data.ignore': ignored.length ? ignored : null };
}

/** Show the table for the file of rows of a recipe; `read` is the mapping that `check` found. */
export function Mapping({ recipe, rows, read, change, busy }) {
  const words = useWords(file);
  const listed = Array.isArray(recipe.values.data);
  const source = recipe.sources[recipe.rows.indexOf(rows)] ?? 0;
  const data = listed ? recipe.values.data[source] : recipe.values.data;
  const now = partsOf(read ?? data.columns, data.ignore);
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
    const settings = Object.entries(settingsOf(parts, columns, data.columns?.roles));
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
