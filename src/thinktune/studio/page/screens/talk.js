// The talk screen.

import { useWords } from '../language.js';
import { html } from '../libraries/preact.js';
import * as file from '../words/talk.js';

/** Show the screen for the recipe or the run of a name. */
export function Talk({ name }) {
  const words = useWords(file);
  return html`<h1>${words.title}</h1><p>${name}</p>`;
}
