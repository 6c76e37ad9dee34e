// Markdown that may be a stranger's, as formatted text; what draws it is loaded only where it is shown.

import { useLanguage } from '../language.js';
import { html, useEffect, useRef } from '../libraries/preact.js';
import { root } from '../router.js';

/** Show a text as the chat page shows a reply: nothing in it runs or is loaded. It stands below a heading of `levelAbove`. */
export function Markdown({ text, label, levelAbove = 2 }) {
  const language = useLanguage();
  const box = useRef(null);
  useEffect(() => {
    let gone = false;
    import('../markdown.js').then(({ showMarkdown }) => gone || showMarkdown(text, box.current, levelAbove), () => gone || (box.current.textContent = text));
    return () => (gone = true);
  }, [text, language]);
  return html`<link rel="stylesheet" href=${`${root}page/markdown.css`} />
    <div class="markdown" key=${language} ref=${box} tabindex="0" role="group" aria-label=${label}></div>`;
}
