// What an evaluation would ask, before it is started: how many questions of which kind, in which modes, and how long about.

import { Problem } from '../../components/problem.js';
import { useText } from '../../components/texts.js';
import { useLanguage, useWords } from '../../language.js';
import { html, useEffect, useState } from '../../libraries/preact.js';
import { formatNumber } from '../../numbers.js';
import { send, SERVER_IS_BACK, UNREACHABLE } from '../../server.js';
import * as file from '../../words/proof.js';

const WAIT_MS = 150; // while the form is typed into

/** Show what the verb `eval` would ask, as the server counts it; `finishes` changes when one has ended. */
export function Workload({ verb, finishes }) {
  const words = useWords(file);
  const text = useText();
  const language = useLanguage();
  const [state, setState] = useState({ found: null, error: null });
  const body = JSON.stringify(verb);
  useEffect(() => {
    let gone = false;
    const ask = async () => {
      try {
        const found = await send('POST', 'studio/workload', JSON.parse(body));
        if (!gone) setState({ found, error: null });
      } catch (error) {
        if (!gone) setState({ found: null, error });
      }
    };
    const timer = setTimeout(ask, state.found ? WAIT_MS : 0);
    addEventListener(SERVER_IS_BACK, ask);
    return () => {
      gone = true;
      clearTimeout(timer);
      removeEventListener(SERVER_IS_BACK, ask);
    };
  }, [body, finishes]);
  const { found, error } = state;
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
