// What a teacher is asked, and what it may cost.

import { ActButton } from '../../components/act.js';
import { VerbCommand } from '../../components/verb-command.js';
import { useWords } from '../../language.js';
import { html, useState } from '../../libraries/preact.js';
import * as file from '../../words/think.js';

const FIRST = { kind: 'server', address: '', run: '', price: '', budget: '', tokens: '', tries: '4', length: '', judge: '', instruct: false, hints: false, teacherAnswers: false, shorten: false };
const FLAGS = ['instruct', 'hints', 'teacherAnswers', 'shorten'];

/** Show the options of `think`, its command, and the button that starts it. */
export function ThinkForm({ name, shown, onStart }) {
  const words = useWords(file);
  const former = shown.thoughts.new?.settings;
  const [asked, setAsked] = useState(() => ({ ...FIRST, ...asBefore(former), run: shown.runs[0] ?? '' }));
  const change = (values) => setAsked((before) => ({ ...before, ...values }));
  const verb = verbOf(name, asked);
  const isReady = asked.kind !== 'server' || /^https?:\/\/./.test(asked.address.trim());
  const isBounded = asked.kind !== 'server' || verb.tokens || (verb.price && verb.budget !== undefined);
  const { key } = shown;
  const field = (id, hint = '', more = {}) => html`<div class="form-field"><label for=${id}>${words[id]}</label>
    <input id=${id} type="text" autocomplete="off" spellcheck=${false} aria-describedby=${hint ? `${id}-hint` : null} value=${asked[id]} onInput=${(event) => change({ [id]: event.target.value })} ...${more} />
    ${hint && html`<span id=${`${id}-hint`} class="hint">${hint}</span>`}</div>`;
  const count = { type: 'number', min: 1, step: 1 };
  return html`<fieldset class="form-set ticks"><legend>${words.teacher}</legend>
      ${['server', 'base', ...(shown.runs.length ? ['run'] : [])].map((kind) => html`<label><input type="radio" name="teacher" checked=${asked.kind === kind} onChange=${() => change({ kind })} /><span>${words.teachers[kind]}</span></label>`)}
    </fieldset>
    <div class="form-grid">
      ${asked.kind === 'server' && field('address', words.addressHint, { type: 'url' })}
      ${asked.kind === 'run' && html`<label>${words.run}<select value=${asked.run} onChange=${(event) => change({ run: event.target.value })}>${shown.runs.map((one) => html`<option value=${one}>${one}</option>`)}</select></label>`}
      ${asked.kind === 'server' && html`${field('price', words.priceHint)}${field('budget', words.budgetHint, { type: 'number', min: 0, step: 'any' })}`}
      ${field('tokens', '', count)}${field('tries', '', count)}${field('length', words.lengthHint)}${field('judge', '', { type: 'url' })}
    </div>
    ${asked.kind === 'server' && html`<p class="small">${key.set ? words.key(key.set) : words.noKey(key.variables[0])}</p>`}
    <div class="ticks flags">${FLAGS.map((flag) => html`<label><input type="checkbox" checked=${asked[flag]} onChange=${(event) => change({ [flag]: event.target.checked })} /><span>${words[flag]}</span></label>`)}</div>
    ${isReady && !isBounded && html`<p class="warning">${words.unbounded}</p>`}
    ${isReady && html`<${VerbCommand} verb=${verb} />`}
    <${ActButton} verb=${verb} label=${words.start} disabled=${!isReady} onStart=${onStart} />`;
}

/** Return what former replies were asked with, so that going on asks as before. */
function asBefore(settings) {
  if (!settings) return {};
  const isAddress = /^https?:\/\//.test(settings.teacher);
  const price = settings.price ? `${settings.price[0]}/${settings.price[1]}${settings.price[2]}` : '';
  return { kind: isAddress ? 'server' : 'base', address: isAddress ? settings.teacher : '', price, instruct: Boolean(settings.instruct) };
}

function verbOf(recipe, asked) {
  const given = { price: asked.price.trim(), length: asked.length.trim(), judge: asked.judge.trim() };
  const numbers = { budget: asked.budget, tokens: asked.tokens, tries: asked.tries };
  const teacher = { server: asked.address.trim(), run: asked.run, base: '' }[asked.kind];
  return {
    ...{ verb: 'think', recipe, instruct: asked.instruct, hints: asked.hints, shorten: asked.shorten, teacher_answers: asked.teacherAnswers },
    ...(teacher ? { teacher } : {}),
    ...Object.fromEntries(Object.entries(given).filter(([, value]) => value)),
    ...Object.fromEntries(Object.entries(numbers).filter(([, value]) => value !== '').map(([key, value]) => [key, Number(value)])),
  };
}
