// The proof screen: an evaluation with its progress, its figures as the report shows them, and its rows to read.

import { isAlive } from '../components/act.js';
import { NewRun } from '../components/new-run.js';
import { NewestAct, useNewestAct } from '../components/newest-act.js';
import { Problem } from '../components/problem.js';
import { useWords } from '../language.js';
import { html, useState } from '../libraries/preact.js';
import { readPlace, replaceQuery } from '../router.js';
import { inPath, useServer } from '../server.js';
import * as file from '../words/proof.js';
import { EvaluationForm } from './proof/form.js';
import { Figures } from './proof/figures.js';
import { RowReader } from './proof/rows.js';
import { Votes } from './talk.js';

const NOTHING_ASKED = { mode: 'thinking', outcome: 'all', set: '', search: '', row: '' };

/** Show what an evaluation of a run found, and start one. */
export function Proof({ name }) {
  const words = useWords(file);
  const { value: proof, error } = useServer(`studio/proof/${inPath(name)}`);
  const { value: home } = useServer('studio/home');
  const act = useNewestAct('eval', 'run', name);
  const [started, setStarted] = useState(null);
  const [asked, setAsked] = useState(() => ({ ...NOTHING_ASKED, ...Object.fromEntries(readPlace().query) }));
  const ask = (changes) => {
    const next = { ...asked, ...changes };
    setAsked(next);
    replaceQuery(Object.fromEntries(Object.entries(next).filter(([key, value]) => value !== NOTHING_ASKED[key]))); // a link to what is seen
  };
  const shown = proof?.modes.find((one) => one.mode === asked.mode) ?? proof?.modes[0];
  return html`<h1>${words.title}</h1>
    <p class="lead">${words.lead}</p>
    <${Problem} error=${error} />
    <${NewestAct} act=${act} started=${started} title=${words.running} />
    ${proof && !shown && html`<p>${proof.has_model ? words.none : words.noModel}</p>`}
    ${proof?.has_model && !isAlive(act) && html`<${EvaluationForm} name=${name} proof=${proof} files=${home?.rows ?? []} onStart=${({ id }) => setStarted(id)} />`}
    ${proof?.modes.length > 1 && html`<${ModeChoice} mode=${shown.mode} onChoose=${(mode) => ask({ mode, row: '' })} />`}
    ${shown && html`<div key=${shown.mode}>
      <${Figures} shown=${shown}><${NewRun} recipe=${proof.recipe} run=${name} advised=${shown.advised} /><//>
      ${proof.votes && html`<h2>${words.votes}</h2><${Votes} votes=${proof.votes} />`}
      <${RowReader} name=${name} shown=${shown} asked=${asked} ask=${ask} />
    </div>`}`;
}

function ModeChoice({ mode, onChoose }) {
  const words = useWords(file);
  return html`<fieldset class="segments"><legend class="away">${words.asked}</legend>
    ${['thinking', 'silent'].map((one) => html`<label><input type="radio" name="mode" checked=${mode === one} onChange=${() => onChoose(one)} />${words[one]}</label>`)}
  </fieldset>`;
}
