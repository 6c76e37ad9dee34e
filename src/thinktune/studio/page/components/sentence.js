// Sentences that verbs say in English: shown in the reader's language, Chinese ones fetched once each.

import { useLanguage } from '../language.js';
import { html, useEffect, useState } from '../libraries/preact.js';
import { send } from '../server.js';

const AT_ONCE = 200;
const chinese = new Map(); // by the English sentence
const waiting = new Map(); // what to call once a sentence is known

/** Return a function that returns a sentence in the reader's language; the English one until the Chinese is here. */
export function useSentences(sentences) {
  const language = useLanguage();
  const [, refresh] = useState(0);
  const key = language === 'zh' ? JSON.stringify(sentences) : '';
  useEffect(() => {
    let gone = false;
    const seen = () => !gone && refresh((count) => count + 1);
    if (key) for (const sentence of sentences) if (!chinese.has(sentence)) ask(sentence, seen);
    return () => {
      gone = true;
    };
  }, [key]);
  return (sentence) => (language === 'zh' ? (chinese.get(sentence) ?? sentence) : sentence);
}

/** Show a sentence. `show` may change what is drawn of it. */
export function Sentence({ text, show = (shown) => shown }) {
  const inLanguage = useSentences([text]);
  const shown = inLanguage(text);
  return shown === text ? html`<span lang="en">${show(text)}</span>` : html`<span>${show(shown)}</span>`;
}

/** Ask for a sentence together with the others that are drawn now. */
function ask(sentence, seen) {
  if (!waiting.size) setTimeout(fetchWaiting);
  waiting.set(sentence, [...(waiting.get(sentence) ?? []), seen]);
}

async function fetchWaiting() {
  const asked = [...waiting.entries()];
  waiting.clear();
  for (let first = 0; first < asked.length; first += AT_ONCE) {
    const part = asked.slice(first, first + AT_ONCE);
    const { texts } = await send('POST', 'studio/sentences', { texts: part.map(([text]) => text) }).catch(() => ({ texts: [] }));
    texts.forEach((text, index) => chinese.set(part[index][0], text));
  }
  for (const seen of new Set(asked.flatMap(([, calls]) => calls))) seen();
}
