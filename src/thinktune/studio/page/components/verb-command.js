// The command of a verb that has not been started yet, as the server would start it.

import { html, useEffect, useState } from '../libraries/preact.js';
import { send, SERVER_IS_BACK } from '../server.js';
import { Command } from './command.js';
import { Problem } from './problem.js';

const WAIT_MS = 150; // while a form is typed into

/** Show the line of a verb's body, {verb: 'eval', run, …}, ready to copy; what the server refuses is told below it. */
export function VerbCommand({ verb }) {
  const [state, setState] = useState({ line: '', error: null });
  const body = JSON.stringify(verb);
  useEffect(() => {
    let gone = false;
    const ask = async () => {
      try {
        const { command } = await send('POST', 'studio/command', JSON.parse(body));
        if (!gone) setState({ line: command, error: null });
      } catch (error) {
        if (!gone) setState({ line: '', error });
      }
    };
    const timer = setTimeout(ask, state.line ? WAIT_MS : 0);
    addEventListener(SERVER_IS_BACK, ask);
    return () => {
      gone = true;
      clearTimeout(timer);
      removeEventListener(SERVER_IS_BACK, ask);
    };
  }, [body]);
  return html`${state.line && html`<${Command} line=${state.line} />`}<${Problem} error=${state.error} />`;
}
