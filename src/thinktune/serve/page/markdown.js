// Markdown of a reply to elements. What is shown says what was written: where Markdown would drop or change characters
// that are no markup in a model's answer (ranges, products, comparisons, list numbers), they stay. HTML in a reply is
// shown as text; the result is sanitised before it is shown.

import { Marked } from './libraries/marked.esm.js';

const LINK = /^(?:https?|mailto):/i;
const FORMULA_STYLES = /^(?:border|padding|margin|width|height|min-width|text-align|vertical-align|color|background-color)(?:-[a-z]+)*$/;
const PLAIN_STYLE = /^(?!.*url)[-\w#%.,() ]*$/i;

const escaped = (text) =>
  text.replace(/[&<>"']/g, (found) => ({ '&': '&amp;', '<': '&lt;', '>': '&gt;', '"': '&quot;', "'": '&#39;' })[found]);
const asWritten = (text) => `<p class="written">${escaped(text.replace(/\n+$/, ''))}</p>\n`;

const formula = ({ raw, tex }, displayMode) => {
  try {
    const drawn = window.temml.renderToString(tex, { displayMode, throwOnError: true, annotate: false });
    // The page's policy forbids inline styles; those of a formula (boxes, colours, columns) are set by script below.
    return drawn.replace(/<[^>]*>/g, (tag) => tag.replace(/ style="/g, ' data-style="'));
  } catch {
    return `<code>${escaped(raw.trim())}</code>`;
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
  renderer: (token) => formula(token, displayMode),
});

const marked = new Marked({ gfm: true, breaks: true, async: false });
marked.use({
  extensions: [
    mathRule('shown', 'block', /^(\$\$|\\\[)/m, /^(?:\$\$([^]+?)\$\$|\\\[([^]+?)\\\]) *(?:\n|$)/, true),
    mathRule('within', 'inline', /\$\$|\\\[/, /^(?:\$\$([^]+?)\$\$|\\\[([^]+?)\\\])/, true),
    mathRule('inner', 'inline', /\$|\\\(/, /^(?:\$(?![\s$])((?:\\.|[^$\\\n])+?)(?<!\s)\$(?!\d)|\\\(([^]+?)\\\))/, false),
  ],
  // A tokenizer that returns undefined leaves the characters as text; false means: as Markdown does.
  tokenizer: {
    del: (source) => (source.startsWith('~~') ? false : undefined), // "3~5 days, 7~10 days" is two ranges
    emStrong(source, _, before = '') {
      const [raw] = /^__\w+?__(?!_)/.exec(source) ?? operator(source, before) ?? []; // as in Python: __init__, 2**3
      return raw ? { type: 'text', raw, text: raw } : false;
    },
    blockquote: (source) => (/^ {0,3}>(?:=| ?[-+−]?[\d.])/.test(source) ? undefined : false), // "> 65 years" compares
  },
  renderer: {
    html: (token) => (token.block ? asWritten(token.raw) : escaped(token.raw)),
    image: (token) => escaped(token.raw), // an image would be fetched from another site
    def: (token) => asWritten(token.raw), // "[Answer]: B" is one for Markdown, which would show nothing
    checkbox: ({ checked }) => (checked ? '☑ ' : '☐ '),
    table(token) {
      const longer = token.raw.trim().split('\n').some((line) => cellsOf(line) > token.header.length);
      return longer ? asWritten(token.raw) : false; // Markdown would drop the cells that have no head
    },
    list(token) {
      if (!token.ordered) return false;
      const marks = token.items.map((item) => /^\s*(\d+)([.)])/.exec(item.raw));
      const items = token.items.map((item, at) => `<li value="${Number(marks[at]?.[1] ?? 0)}">${this.parser.parse(item.tokens)}</li>\n`);
      return `<ol start="${Number(token.start)}"${marks[0]?.[2] === ')' ? ' class="bracket"' : ''}>\n${items.join('')}</ol>\n`;
    },
  },
});

/** Match asterisks that stand between factors, as in 2*3*4 or 2**3, and not around words. */
function operator(source, before) {
  if (/[0-9)\]]/.test(before)) return /^\*{1,2}(?=[0-9(])|^\*(?=[A-Za-z])/.exec(source);
  return /[A-Za-z]/.test(before) ? /^\*(?=[A-Za-z0-9(])/.exec(source) : null;
}

const cellsOf = (line) => line.trim().replace(/^\||(?<!\\)\|$/g, '').split(/(?<!\\)\|/).length;

const SANITISED = {
  USE_PROFILES: { html: true, mathMl: true },
  FORBID_TAGS: ['style', 'img', 'form', 'input', 'button', 'textarea', 'select', 'video', 'audio', 'picture', 'dialog'],
  FORBID_ATTR: ['style', 'id', 'name', 'src', 'srcset', 'background', 'poster', 'cite', 'longdesc', 'action', 'formaction', 'xlink:href'],
  ADD_ATTR: ['form'], // of MathML's operators: before or after what they belong to
  RETURN_DOM_FRAGMENT: true,
};

// Only links go elsewhere, and only to the web or to a letter. DOMPurify's own option for this would test all attributes.
window.DOMPurify.addHook('uponSanitizeAttribute', (element, attribute) => {
  if (attribute.attrName === 'href' && !LINK.test(attribute.attrValue)) attribute.keepAttr = false;
});

/** Show a text as Markdown inside an element. */
export function showMarkdown(text, element) {
  const fragment = window.DOMPurify.sanitize(parse(text), SANITISED);
  for (const link of fragment.querySelectorAll('a')) {
    link.target = '_blank';
    link.rel = 'noopener noreferrer';
  }
  for (const table of fragment.querySelectorAll('table')) {
    const frame = document.createElement('div'); // wide tables scroll in here
    frame.className = 'table';
    table.replaceWith(frame);
    frame.append(table);
  }
  for (const scrolls of fragment.querySelectorAll('.table, pre')) scrolls.tabIndex = 0; // by the keyboard, too
  for (const block of fragment.querySelectorAll('p, li, blockquote, td, th, h1, h2, h3, h4, h5, h6'))
    if (!block.parentElement?.closest('blockquote') && !(block.localName === 'p' && block.closest('li'))) block.dir = 'auto';
  for (const part of fragment.querySelectorAll('[data-style]')) setStyles(part);
  for (const code of fragment.querySelectorAll('pre > code[class^="language-"]'))
    code.parentElement.dataset.language = code.className.slice('language-'.length);
  element.replaceChildren(fragment);
}

function parse(text) {
  try {
    return marked.parse(text);
  } catch {
    return asWritten(text); // a looping reply may be nested deeper than the parser can follow
  }
}

/** Set the styles that the formula's renderer asked for, as far as they only concern its looks. */
function setStyles(part) {
  for (const declaration of part.dataset.style.split(';')) {
    const [name, value] = declaration.split(':').map((side) => side.trim());
    if (value && FORMULA_STYLES.test(name) && PLAIN_STYLE.test(value)) part.style.setProperty(name, value);
  }
  delete part.dataset.style;
}
