// The first screen: what the folder holds, and what goes on in it.

import { Problem } from '../components/problem.js';
import { useWords } from '../language.js';
import { html } from '../libraries/preact.js';
import { useServer } from '../server.js';
import * as file from '../words/home.js';

export function Home() {
  const words = useWords(file);
  const { value: home, error } = useServer('studio/home', 4000);
  return html`<h1>${words.title}</h1>
    <${Problem} error=${error} />
    ${home && html`<p class="small">${words.folder}: ${home.folder}</p>`}`;
}
