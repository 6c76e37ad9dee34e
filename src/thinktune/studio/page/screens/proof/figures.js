// The figures of an evaluation: verdicts, tables with intervals, what was forgotten by kind, switches and exams.

import { Drawing, Figure, useText } from '../../components/texts.js';
import { useLanguage, useWords } from '../../language.js';
import { html } from '../../libraries/preact.js';
import { formatNumber, formatWritten } from '../../numbers.js';
import * as file from '../../words/proof.js';

/** Show all figures of one mode; what follows from the verdicts is `children`. */
export function Figures({ shown, children }) {
  const words = useWords(file);
  const text = useText();
  const language = useLanguage();
  const { sampling } = shown.settings;
  return html`<section aria-label=${words[shown.mode]}>
    ${shown.verdicts.map((verdict) => html`<p class="verdict">${text(verdict)}</p>`)}
    ${children}
    ${shown.sets.map((set) => html`<${QuestionSet} key=${set.name} set=${set} />`)}
    ${shown.switches.length > 0 && html`<${Table} caption=${words.switches} first=${words.mode} lines=${shown.switches} />`}
    ${shown.judge && html`<p class="small">${text(shown.judge)}</p>`}
    ${shown.exams.length > 0 && html`<h2>${words.examsTitle}</h2>`}
    ${shown.exams.map((exam) => html`<${Exam} key=${exam.name} exam=${exam} />`)}
    ${sampling && html`<p class="small">${words.settings(sampling.max_new_tokens, sampling.temperature ? words.temperature(sampling.temperature) : words.greedy)} ${shown.settings.made && formatWritten(shown.settings.made, language)}</p>`}
  </section>`;
}

function QuestionSet({ set }) {
  const words = useWords(file);
  const text = useText();
  const language = useLanguage();
  const caption = `${text(set.words)}${language === 'zh' ? '，' : ', '}${words.rows(formatNumber(set.rows, language))}`;
  return html`<div class="card">
    <${Table} caption=${caption} first=${words.measure} lines=${set.lines} />
    ${set.more_lines.length > 0 && html`<details class="fold"><summary>${words.more(set.more_lines.length)}</summary>
      <${Table} caption=${caption} first=${words.measure} lines=${set.more_lines} /></details>`}
    ${set.group_lines.length > 0 && html`<${Groups} set=${set} />`}
    ${set.apart > 0 && html`<p class="small">${words.apart(formatNumber(set.apart, language))}</p>`}
  </div>`;
}

function Table({ caption, first, lines }) {
  const words = useWords(file);
  const text = useText();
  return html`<div class="scrolls" tabindex="0" role="group" aria-label=${caption}><table class="measures">
    <caption>${caption}</caption>
    <thead><tr><th scope="col">${first}</th><th scope="col" class="amount">${words.base}</th><th scope="col" class="amount">${words.tuned}</th>
      <th scope="col" class="amount">${words.difference}</th><th scope="col" class="drawn">${words.interval}</th></tr></thead>
    <tbody>${lines.map((line) => html`<tr>
      <th scope="row">${text(line.label)}${text(line.meaning) && html`<span class="meaning">${text(line.meaning)}</span>`}</th>
      <td class="amount"><${Figure} pair=${line.base} /></td><td class="amount"><${Figure} pair=${line.tuned} /></td>
      <td class="amount"><${Figure} pair=${line.difference} verdict=${line.verdict} />${line.verdict && html`<span class=${`interval-text ${line.verdict}`}>${text(line.verdict_words)}</span>`}</td>
      <td class="drawn"><${Drawing} svg=${line.drawing} /></td></tr>`)}</tbody>
  </table></div>`;
}

/** Right answers by kind and language; of the general questions this is what was forgotten. */
function Groups({ set }) {
  const words = useWords(file);
  const text = useText();
  const title = set.is_general ? words.forgotten : words.groups;
  return html`<details class="fold" open=${set.is_general}><summary>${title}</summary>
    <div class="scrolls" tabindex="0" role="group" aria-label=${title}><table class="measures">
      <thead><tr><th scope="col">${words.kind}</th><th scope="col" class="amount">${words.base}</th><th scope="col" class="amount">${words.tuned}</th>
        <th scope="col" class="amount">${words.difference}</th><th scope="col" class="drawn">${words.interval}</th></tr></thead>
      <tbody>${set.group_lines.map((group) => html`<tr><th scope="row">${text(group.name)} <span class="meaning">${words.rows(group.rows)}</span></th>
        <td class="amount">${group.base}</td><td class="amount">${group.tuned}</td>
        <td class="amount"><${Figure} pair=${group.difference} verdict=${group.verdict} /></td><td class="drawn"><${Drawing} svg=${group.drawing} /></td></tr>`)}</tbody>
    </table></div></details>`;
}

function Exam({ exam }) {
  const words = useWords(file);
  const text = useText();
  const { figures } = exam;
  return html`<div class="card"><h3>${exam.title}</h3>
    ${figures.base ? html`<div class="scrolls" tabindex="0" role="group" aria-label=${exam.title}><table class="measures">
      <thead><tr><th scope="col">${words.right}</th><th scope="col" class="amount">${words.base}</th><th scope="col" class="amount">${words.tuned}</th><th scope="col" class="amount">${words.difference}</th></tr></thead>
      <tbody><tr><th scope="row">${words.rows(figures.rows)}</th><td class="amount"><${Figure} pair=${figures.base} /></td>
        <td class="amount"><${Figure} pair=${figures.tuned} /></td><td class="amount"><${Figure} pair=${figures.difference} verdict=${figures.verdict} /></td></tr></tbody>
    </table></div>` : html`<p class="small">${words.noQuestion}</p>`}
    <p class="small">${words.examFacts(exam)} · ${text(exam.split)} · ${text(exam.language)}. ${words.licence(exam)}. ${words.from(exam)}</p>
    <div class="report-charts"><${Drawing} svg=${exam.curve} /></div>
    ${exam.points.length > 1 && html`<details class="fold"><summary>${words.curve}</summary><div class="scrolls" tabindex="0" role="group" aria-label=${words.curve}><table class="measures">
      <thead><tr><th scope="col">${words.budget}</th><th scope="col" class="amount">${words.base}</th><th scope="col" class="amount">${words.tuned}</th><th scope="col" class="amount">${words.difference}</th></tr></thead>
      <tbody>${exam.points.map((point) => html`<tr><th scope="row">${point.budget_tokens}</th>
        ${['base', 'tuned'].map((side) => html`<td class="amount"><${Figure} pair=${point[side]} /></td>`)}
        <td class="amount"><${Figure} pair=${point.difference} verdict=${point.verdict} /></td></tr>`)}</tbody>
    </table></div></details>`}
  </div>`;
}
