// What an evaluation asks: files of the folder, public exams, general questions, and in which modes.

import { ActButton } from '../../components/act.js';
import { VerbCommand } from '../../components/verb-command.js';
import { useWords } from '../../language.js';
import { html, useState } from '../../libraries/preact.js';
import * as file from '../../words/proof.js';
import { Workload } from './workload.js';

const MODES = { both: null, on: true, off: false }; // as the verb has them
const QUESTIONS = 400; // of each set, as the verb draws them if nothing is said

/** Show the options of an evaluation, its command, and the button that starts it. */
export function EvaluationForm({ name, proof, files, onStart }) {
  const words = useWords(file);
  const [asked, setAsked] = useState({ tasks: [], exam: [], questions: String(QUESTIONS), probe: true, modes: 'both', judge: '' });
  const change = (values) => setAsked((before) => ({ ...before, ...values }));
  const toggle = (key, value) => () => change({ [key]: asked[key].includes(value) ? asked[key].filter((one) => one !== value) : [...asked[key], value] });
  const verb = verbOf(name, asked);
  const done = proof.modes.length > 0;
  return html`<details class="card" open=${!done} key=${done}>
    <summary>${done ? words.askAgain : words.ask}</summary>
    <p class="hint">${words.heldOut} ${done ? words.resumes : ''}</p>
    <fieldset class="form-set"><legend>${words.tasks}</legend><div class="ticks">
      ${files.length ? files.map((one) => html`<label key=${one}><input type="checkbox" checked=${asked.tasks.includes(one)} onChange=${toggle('tasks', one)} /><span>${one}</span></label>`)
        : html`<span class="hint">${words.noTasks}</span>`}
    </div></fieldset>
    <fieldset class="form-set"><legend>${words.exams}</legend><div class="ticks">
      ${proof.exams.map((exam) => html`<label key=${exam.name}><input type="checkbox" checked=${asked.exam.includes(exam.name)} onChange=${toggle('exam', exam.name)} />
        <span>${words.examNames[exam.name] ?? exam.name} <span class="hint">${exam.sets.map((set) => set.title).join(', ')}</span></span></label>`)}
    </div></fieldset>
    <div class="form-grid">
      <label>${words.modes}<select value=${asked.modes} onChange=${(event) => change({ modes: event.target.value })}>
        <option value="both">${words.modesBoth}</option><option value="on">${words.modesOn}</option><option value="off">${words.modesOff}</option>
      </select></label>
      ${asked.exam.length > 0 && html`<label>${words.examQuestions}<input type="number" min="0" step="1" value=${asked.questions} onInput=${(event) => change({ questions: event.target.value })} /></label>`}
      <div class="form-field"><label for="judge">${words.judge}</label><input id="judge" type="url" aria-describedby="judge-hint" value=${asked.judge} onInput=${(event) => change({ judge: event.target.value })} />
        <span id="judge-hint" class="hint">${words.judgeHint}</span></div>
    </div>
    <p class="ticks"><label><input type="checkbox" checked=${asked.probe} onChange=${(event) => change({ probe: event.target.checked })} /><span>${words.general}</span></label></p>
    <${Workload} verb=${verb} finishes=${proof.modes.map((one) => one.settings.made).join()} />
    <${VerbCommand} verb=${verb} />
    <${ActButton} verb=${verb} label=${words.start} onStart=${onStart} />
  </details>`;
}

function verbOf(run, asked) {
  const questions = Number(asked.questions);
  return {
    ...{ verb: 'eval', run, tasks: asked.tasks, exam: asked.exam, probe: asked.probe, thinking: MODES[asked.modes] },
    ...(asked.exam.length && asked.questions !== '' && questions !== QUESTIONS ? { exam_questions: questions } : {}),
    ...(asked.judge.trim() ? { judge: asked.judge.trim() } : {}),
  };
}
