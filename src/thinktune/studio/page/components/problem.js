// A fault as a sentence, read out when it appears.

import { useWords } from '../language.js';
import { html } from '../libraries/preact.js';
import { UNREACHABLE } from '../server.js';
import * as file from '../words/common.js';

/** Show an error of the server, a text, or nothing. */
export function Problem({ error }) {
  const words = useWords(file);
  if (!error) return null;
  const text = error.status === UNREACHABLE ? words.unreachable : (error.message ?? error);
  return html`<p class="problem" role="alert">${text}</p>`;
}
