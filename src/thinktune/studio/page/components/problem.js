// A fault as a sentence, read out when it appears.

import { useWords } from '../language.js';
import { html, useEffect, useState } from '../libraries/preact.js';
import { SERVER_IS_BACK, UNREACHABLE } from '../server.js';
import * as file from '../words/common.js';
import { Sentence } from './sentence.js';

/** Show an error of the server, a text, or nothing; that no server answered is shown until one does. */
export function Problem({ error }) {
  const words = useWords(file);
  const [past, setPast] = useState(null);
  const outage = error?.status === UNREACHABLE;
  useEffect(() => {
    if (!outage) return;
    const forget = () => setPast(error);
    addEventListener(SERVER_IS_BACK, forget);
    return () => removeEventListener(SERVER_IS_BACK, forget);
  }, [error]);
  if (!error || error === past) return null;
  return html`<p class=${outage ? 'problem unreachable' : 'problem'} role="alert">${outage ? words.unreachable : html`<${Sentence} text=${error.message ?? error} />`}</p>`;
}
