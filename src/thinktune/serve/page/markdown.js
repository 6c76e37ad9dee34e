// Markdown of a reply to elements. HTML in a reply is shown as text; the result is sanitised before it is shown.

import { Marked } from './libraries/marked.esm.js';

const escaped = (text) =>
  text.replace(/[&<>"']/g, (found) => ({ '&': '&amp;', '<': '&lt;', '>': '&gt;', '"': '&quot;', "'": '&#39;' })[found]);

const formula = (tex, displayMode) => {
  try {
    const drawn = window.temml.renderToString(tex, { displayMode, throwOnError: true, annotate: false });
    return drawn.replace(/<[^>]*>/g, (tag) => tag.replace(/ style="[^"]*"/g, '')); // the page's policy forbids inline styles
  } catch {
    return `<code>${escaped(tex)}</code>`;
  }
};

const mathRule = (name, level, start, rule, displayMode) => ({
  name,
  level,
  start: (source) => source.match(start)?.index,
  tokenizer: (source) => {
    const found = rule.exec(source);
    return found ? { type: name, raw: found[0], tex: (found[1] ?? found[2]).trim() } : undefined;
  },
  renderer: (token) => formula(token.tex, displayMode),
});

const marked = new Marked({ gfm: true, async: false });
marked.use({
  extensions: [
    mathRule('shown', 'block', /^(\$\$|\\\[)/m, /^(?:\$\$([^]+?)\$\$|\\\[([^]+?)\\\]) *(?:\n|$)/, true),
    mathRule('within', 'inline', /\$\$|\\\[/, /^(?:\$\$([^]+?)\$\$|\\\[([^]+?)\\\])/, true),
    mathRule('inner', 'inline', /\$|\\\(/, /^(?:\$(?![\s$])((?:\\.|[^$\\\n])+?)(?<!\s)\$(?!\d)|\\\(([^]+?)\\\))/, false),
  ],
  renderer: {
    html: (token) => escaped(token.raw),
    image: (token) => escaped(token.raw), // an image would be fetched from another site
  },
});

const SANITISED = {
  USE_PROFILES: { html: true, mathMl: true },
  FORBID_TAGS: ['style', 'img', 'form', 'input', 'button', 'textarea', 'select', 'video', 'audio', 'picture', 'dialog'],
  FORBID_ATTR: ['style', 'id', 'name'],
  ALLOWED_URI_REGEXP: /^(?:https?|mailto):/i,
  RETURN_DOM_FRAGMENT: true,
};

/** Show a text as Markdown inside an element. */
export function showMarkdown(text, element) {
  const fragment = window.DOMPurify.sanitize(marked.parse(text), SANITISED);
  for (const link of fragment.querySelectorAll('a')) {
    link.target = '_blank';
    link.rel = 'noopener noreferrer';
  }
  for (const table of fragment.querySelectorAll('table')) {
    const frame = document.createElement('div'); // wide tables scroll in here
    frame.className = 'table';
    frame.tabIndex = 0;
    table.replaceWith(frame);
    frame.append(table);
  }
  element.replaceChildren(fragment);
}
