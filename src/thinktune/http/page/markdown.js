// Markdown of a stranger (a reply, a card) to elements: sanitised, readable in any direction, and each part that is too
// wide scrolls alone. HTML in it is shown as text. Formulas are drawn where the page has loaded Temml.

import { copyButton } from './copy.js';
import { blocksOf, htmlOf } from './dialect.js';
import './libraries/purify.min.js';
import { sharedWords } from './shared-words.js';

const LINK = /^(?:https?|mailto):/i;
const FORMULA_STYLES = /^(?:border|padding|margin|width|height|min-width|text-align|vertical-align|color|background-color)(?:-[a-z]+)*$/;
const PLAIN_STYLE = /^(?!.*url)[-\w#%.,() ]*$/i;
const RIGHT_TO_LEFT = /[\p{sc=Arab}\p{sc=Hebr}\p{sc=Syrc}\p{sc=Thaa}\p{sc=Nkoo}]/u;
const LONG_FORMULA = 24; // in a line, by letters; browsers break no formula, and a phone is less wide
const LEVEL_ABOVE = 3; // of the heading that a reply stands below, for screen readers

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

const shown = new WeakMap(); // by element: its text's blocks as written, and the nodes of each

/**
 * Show a text as Markdown inside an element. Of a text that grows, only the blocks that changed are drawn again: what a
 * user has selected, focused or scrolled in the others stays so. `levelAbove` is that of the heading above the element.
 */
export function showMarkdown(text, element, levelAbove = LEVEL_ABOVE) {
  const blocks = blocksOf(text);
  const links = JSON.stringify(blocks.links ?? {}); // a definition below changes what is above it
  const before = shown.get(element);
  const drawn = before?.links === links ? before.drawn : [];
  let same = 0;
  while (same < blocks.length && drawn[same]?.raw === blocks[same].raw && drawn[same].type === blocks[same].type) same++;
  if (same === 0) element.replaceChildren();
  for (const { nodes } of drawn.splice(same)) for (const node of nodes) node.remove();
  const added = blocks.slice(same);
  const frames = elementsOf(added).children;
  for (const [at, { raw, type }] of added.entries()) drawn.push({ raw, type, nodes: [...frames[at].children] });
  for (const { nodes } of drawn.slice(same)) element.append(...nodes);
  shown.set(element, { links, drawn });
  setLevels(element, levelAbove);
}

/** Rank the headings of a text below the one above it, without a gap: a model may begin with ### and go on with #####. */
function setLevels(element, levelAbove) {
  const above = []; // the written ranks of the headings around this one
  for (const heading of element.querySelectorAll('h1, h2, h3, h4, h5, h6')) {
    const rank = Number(heading.localName[1]);
    while (above.length && above.at(-1) >= rank) above.pop();
    above.push(rank);
    heading.ariaLevel = String(levelAbove + above.length);
  }
}

/** Convert blocks to elements, those of each in a frame of their own: the sanitiser takes its time for every call. */
function elementsOf(blocks) {
  const words = sharedWords();
  const html = blocks.map((block) => `<div>${htmlOf(block)}</div>`).join('');
  const part = window.DOMPurify.sanitize(html, SANITISED);
  for (const link of part.querySelectorAll('a')) {
    link.target = '_blank';
    link.rel = 'noopener noreferrer';
  }
  for (const head of part.querySelectorAll('th')) if (!head.textContent.trim()) head.replaceWith(document.createElement('td')); // it heads nothing
  for (const table of part.querySelectorAll('table')) {
    table.dir = RIGHT_TO_LEFT.test(/\p{L}/u.exec(table.textContent)?.[0] ?? '') ? 'rtl' : 'ltr'; // the order of its columns
    frame(table, 'table', words.table);
  }
  for (const formula of part.querySelectorAll('math[display="block"]')) frame(formula, 'formula', words.formula);
  for (const formula of part.querySelectorAll('math:not([display])')) if (formula.textContent.length > LONG_FORMULA) frame(formula, 'formula within', words.formula);
  for (const pre of part.querySelectorAll('pre')) frameCode(pre);
  for (const block of part.querySelectorAll('p, li, blockquote, td, th, h1, h2, h3, h4, h5, h6'))
    if (!block.parentElement?.closest('blockquote') && !(block.localName === 'p' && block.closest('li'))) block.dir = 'auto';
  for (const code of part.querySelectorAll('code')) code.dir = 'ltr'; // and has no say in the direction of its line
  for (const styled of part.querySelectorAll('[data-style]')) setStyles(styled);
  return part;
}

/** Put an element that may be wide into a frame in which it scrolls, by the keyboard, too. */
function frame(wide, kind, label) {
  const around = document.createElement(kind === 'table' ? 'div' : 'span'); // a formula may stand within a line
  around.className = kind;
  around.tabIndex = 0;
  around.role = 'group';
  around.ariaLabel = label;
  wide.replaceWith(around);
  around.append(wide);
}

/** Put a head over code: its language, and a button that copies it. */
function frameCode(pre) {
  const words = sharedWords();
  const language = pre.firstElementChild.textContent; // no attribute: the sanitiser drops those in which a comment ends
  pre.firstElementChild.remove();
  pre.tabIndex = 0;
  pre.dir = 'ltr';
  pre.role = 'group';
  pre.ariaLabel = words.code(language);
  const head = document.createElement('div');
  head.className = 'code-head';
  const name = document.createElement('span');
  name.textContent = language;
  head.append(name, copyButton(words.copy, pre.textContent.replace(/\n$/, ''), words.copyCode));
  const around = document.createElement('div');
  around.className = 'code';
  pre.replaceWith(around);
  around.append(head, pre);
}

/** Set the styles that the formula's renderer asked for, as far as they only concern its looks. */
function setStyles(part) {
  for (const declaration of part.dataset.style.split(';')) {
    const [name, value] = declaration.split(':').map((side) => side.trim());
    if (value && FORMULA_STYLES.test(name) && PLAIN_STYLE.test(value)) part.style.setProperty(name, value);
  }
  delete part.dataset.style;
}
