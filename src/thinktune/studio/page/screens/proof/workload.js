// What an evaluation would ask, before it is started: how many questions of which kind, in which modes, and how long about.

import { Problem } from '../../components/problem.js';
import { useText } from '../../components/texts.js';
import { useLanguage, useWords } from '../../language.js';
import { html } from '../../libraries/preact.js';
import { formatNumber } from '../../numbers.js';
import { UNREACHABLE, useAnswer } from '../../server.js';
import * as file from '../../words/proof.js';

/** Show what the verb `eval` would ask, as the server counts it; `finishes` changes when one has ended. */
export function Workload({ verb, finishes }) {
  const words = useWords(file);
  const text = useText();
  const language = useLanguage();
  const { value: found, error } = useAnswer('studio/workload', verb, finishes);
  const number = (count) => formatNumber(count, language);
  const sets = found?.sets.map((one) => words.asksOf[one.kind](one.questions === null ? null : number(one.questions), text(one.words)));
  const mode = found && (found.modes.length > 1 ? 'both' : found.modes[0] ? 'thinking' : 'silent');
  const sentences = found && [
    words.asks(sets, words.asksIn[mode]),
    found.replies !== null && words.replies(number(found.replies), found.seconds && words.about(found.seconds)),
    found.sets.some((one) => one.kind === 'exam') && words.examsOnTop,
  ];
  return html`<div role="status" class="workload">${found && html`<p>${sentences.filter(Boolean).join(language === 'zh' ? '' : ' ')}</p>`}
    <${Problem} error=${error?.status === UNREACHABLE ? null : error} /></div>`; // the frame tells of an outage
}
