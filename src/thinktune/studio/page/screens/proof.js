// The proof screen.

import { useWords } from '../language.js';
import { html } from '../libraries/preact.js';
import * as file from '../words/proof.js';

/** Show the screen for the recipe or the run of a name. */
export function Proof({ name }) {
  const words = useWords(file);
  return html`<h1>${words.title}</h1><p>${name}</p>`;
}
