// Faults of rows as cards: how many, what becomes of them and what that costs, an example before and after its repair.

import { useLanguage, useWords } from '../language.js';
import { html } from '../libraries/preact.js';
import { formatNumber } from '../numbers.js';
import * as file from '../words/rows.js';
import { Turns } from './turns.js';
import { visible } from './visible.js';
import { Sentence } from './sentence.js';

const EXAMPLE_PLACE = /^(.*?(?::\d+|\[\d+\]))(?=: |$)/;

/** Show a card for each fault that was met, and a list of the others, whose policies can be set as well. */
export function Faults({ facts, doubts, recipe, catalogue, change, onShow }) {
  const words = useWords(file);
  const policies = (Array.isArray(recipe.values.data) ? recipe.values.data[0] : recipe.values.data).faults;
  const met = new Set(facts.faults.map((fault) => fault.fault));
  const others = (catalogue ?? []).filter((fault) => !met.has(fault.fault));
  return html`${!facts.faults.length && html`<p>${words.noFaults}</p>`}
    <div class="faults">${facts.faults.map((fault) => html`<${FaultCard} key=${fault.fault} fault=${fault} policy=${policies[fault.fault]} change=${change} onShow=${onShow}
      doubt=${doubts?.find((row) => row.fault === fault.fault)} rowsRead=${facts.rows_read} />`)}</div>
    ${others.length > 0 && html`<details class="others"><summary>${words.otherFaults(others.length)}</summary>
      <div class="scroll" tabindex="0" role="group" aria-label=${words.otherFaults(others.length)}><table><tbody>${others.map((fault) => html`<tr key=${fault.fault}>
        <th scope="row"><${Both} text=${fault.name} /></th>
        <td><${PolicySelect} fault=${fault} policy=${policies[fault.fault]} change=${change} /></td>
        <td class="small"><${Both} text=${fault.meaning} /></td></tr>`)}</tbody></table></div></details>`}`;
}

/** A text that the server sends in both languages. */
export function Both({ text }) {
  return text[useLanguage()];
}

function FaultCard({ fault, policy, doubt, rowsRead, change, onShow }) {
  const words = useWords(file);
  const language = useLanguage();
  const number = (count) => formatNumber(count, language);
  const share = fault.dropped_share >= 0.01 ? `${Math.round(fault.dropped_share * 100)} %` : `${(fault.dropped_share * 100).toFixed(1)} %`;
  const isOfFile = fault.of_file.length > 0 && fault.of_file.length === fault.examples.length && fault.actions.every(({ action }) => action === 'repaired');
  return html`<article class="card fault" aria-label=${fault.name[language]}>
    <h3><${Both} text=${fault.name} /> ${!isOfFile && html`<span class="count">${number(fault.count)}</span>`}</h3>
    <p class="small"><${Both} text=${fault.meaning} /></p>
    <p>${isOfFile ? words.ofFile : fault.actions.map((each) => `${number(each.count)} ${each.name[language]}`).join(', ')}${fault.dropped_share > 0 ? ` · ${words.costs(share, number(rowsRead))}` : ''}</p>
    <p><${PolicySelect} fault=${fault} policy=${policy} change=${change} />
      ${policy !== fault.policy && html` <span class="warning">${words.policyChanged}</span>`}</p>
    <ul class="advice">${fault.examples.slice(0, 3).map((sentence) => {
      const place = !fault.of_file.includes(sentence) && EXAMPLE_PLACE.exec(sentence)?.[1];
      return html`<li key=${sentence} class="small"><${Sentence} text=${sentence} show=${visible} />
        ${place && html` <button type="button" class="quiet" aria-label=${words.showRow(place)} onClick=${() => onShow(place)}>${words.show}</button>`}</li>`;
    })}</ul>
    ${doubt && html`<details><summary>${words.beforeAfter(doubt.row)}</summary><${BeforeAfter} doubt=${doubt} policy=${policy} /></details>`}
  </article>`;
}

/** A row before, and as a policy would train it. */
export function BeforeAfter({ doubt, policy }) {
  const words = useWords(file);
  const language = useLanguage();
  const after = doubt.after[policy];
  const named = doubt.choices.find((choice) => choice.policy === policy)?.[language] ?? policy;
  return html`<div class="before-after">
    <div><h4>${words.before}</h4><${Turns} turns=${doubt.before} other=${after} /></div>
    <div><h4>${words.after(named)}</h4>${after ? html`<${Turns} turns=${after} other=${doubt.before} />` : html`<p class="warning">${policy in doubt.after ? words.leftOut : words.unknownAfter}</p>`}</div>
  </div>`;
}

function PolicySelect({ fault, policy, change }) {
  const words = useWords(file);
  const language = useLanguage();
  const choose = async ({ target }) => {
    if (!(await change({ [`data.faults.${fault.fault}`]: target.value }))) target.value = policy; // as the file still says
  };
  return html`<label>${words.policy} <select value=${policy} aria-label=${words.policyOf(fault.name[language])} onChange=${choose}>
    ${fault.policies.map((each) => html`<option key=${each.policy} value=${each.policy} selected=${each.policy === policy}>${each[language]}${each.policy === fault.default ? ` · ${words.usual}` : ''}</option>`)}
  </select></label>`;
}
