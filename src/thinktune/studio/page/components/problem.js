// A fault as a sentence, read out when it appears.

import { useWords } from '../language.js';
import { html } from '../libraries/preact.js';
import { UNREACHABLE } from '../server.js';
import * as file from '../words/common.js';
import { Sentence } from './sentence.js';

/** Show an error of the server, a text, or nothing. */
export function Problem({ error }) {
  const words = useWords(file);
  if (!error) return null;
  const ours = error.status === UNREACHABLE; // the page's own words
  return html`<p class="problem" role="alert">${ours ? words.unreachable : html`<${Sentence} text=${error.message ?? error} />`}</p>`;
}
