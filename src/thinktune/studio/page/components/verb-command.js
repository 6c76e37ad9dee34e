// The command of a verb that has not been started yet, as the server would start it.

import { html } from '../libraries/preact.js';
import { useAnswer } from '../server.js';
import { Command } from './command.js';
import { Problem } from './problem.js';

/** Show the line of a verb's body, {verb: 'eval', run, …}, ready to copy; what the server refuses is told below it. */
export function VerbCommand({ verb }) {
  const { value, error } = useAnswer('studio/command', verb);
  return html`${value && html`<${Command} line=${value.command} />`}<${Problem} error=${error} />`;
}
