// The rows that a person should look at, one by one: before, after each policy, and what is decided about each.

import { useLanguage, useWords } from '../language.js';
import { html, useEffect, useState } from '../libraries/preact.js';
import { formatNumber } from '../numbers.js';
import { inPath, refreshAll, send } from '../server.js';
import * as file from '../words/rows.js';
import { ActButton } from './act.js';
import { BeforeAfter, Both } from './faults.js';
import { Problem } from './problem.js';
import { doubtsFolder } from './recipe.js';
import { Sentence } from './sentence.js';

/** Show the doubtful rows of a recipe, or the button that looks for them. */
export function Doubts({ name, doubts, running, onShow }) {
  const words = useWords(file);
  const language = useLanguage();
  const number = (count) => formatNumber(count, language);
  const total = doubts ? Object.values(doubts.counts).reduce((sum, count) => sum + count, 0) : 0;
  return html`<p>${words.doubtsAre}</p>
    ${!running && html`<${ActButton} strong=${!doubts} label=${doubts ? words.lookAgain : words.lookForDoubts} verb=${{ verb: 'check', recipe: name, doubts: doubtsFolder(name) }} />`}
    ${doubts && html`<p class="small" role="status">${doubts.rows.length ? words.doubtCount(number(doubts.rows.length), number(total)) : words.noDoubts}</p>
      <div class="doubts">${doubts.rows.map((doubt) => html`<${Doubt} key=${`${doubt.row} ${doubt.fault}`} name=${name} doubt=${doubt} onShow=${onShow} />`)}</div>`}`;
}

function Doubt({ name, doubt, onShow }) {
  const words = useWords(file);
  const language = useLanguage();
  const [error, setError] = useState(null);
  const [looked, setLooked] = useState(null);
  const [asked, setAsked] = useState(null); // shown as chosen until the server has written it
  useEffect(() => setAsked(null), [doubt.decided]);
  const chosen = asked ?? doubt.decided ?? doubt.policy;
  const decide = async (policy) => {
    setAsked(policy);
    try {
      await send('PUT', `studio/doubts/${inPath(name)}`, { row: doubt.row, fault: doubt.fault, policy });
      setError(null);
      setLooked(null);
      refreshAll();
    } catch (problem) {
      setAsked(null);
      setError(problem);
    }
  };
  const group = `${doubt.row} ${doubt.fault}`;
  return html`<article class="card" aria-label=${group}>
    <h3><${Both} text=${doubt.name} /> <button type="button" class="quiet" onClick=${() => onShow(doubt.row)}>${doubt.row}</button>
      ${doubt.decided && html` <span class="state finished">${words.decided}</span>`}</h3>
    <p class="small"><${Sentence} text=${doubt.sentence} /></p>
    <${BeforeAfter} doubt=${doubt} policy=${looked ?? chosen} />
    <fieldset class="choices"><legend>${words.decide}</legend>
      ${doubt.choices.map((choice) => html`<label key=${choice.policy}><input type="radio" name=${group} checked=${chosen === choice.policy}
        onFocus=${() => setLooked(choice.policy)} onBlur=${() => setLooked(null)} onChange=${() => decide(choice.policy)} /> ${choice[language]}${choice.policy === doubt.policy ? ` · ${words.asRecipe}` : ''}</label>`)}
      ${doubt.decided && html`<button type="button" class="quiet" onClick=${() => decide(null)}>${words.takeBack}</button>`}
    </fieldset>
    <${Problem} error=${error} />
  </article>`;
}
