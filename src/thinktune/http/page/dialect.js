// How the page reads Markdown: as GitHub's, but where that would drop or change characters that are no markup in a
// model's answer (ranges, products, comparisons, list numbers, footnotes), they stay; and with formulas.

import { Marked, Tokenizer } from './libraries/marked.esm.js';

const LINK = /^(?:https?|mailto):/i;
const CJK = /[\p{sc=Han}\p{sc=Hira}\p{sc=Kana}\p{sc=Hang}\u3000-\u303f\uff00-\uffef]/u;
const MARK = /^[\p{P}\p{S}]$/u;
const END_OF_LINK = /[，。、；：！？（）【】《》「」『』“”‘’…]/; // a sentence goes on here, where GitHub's link would swallow it

// A dollar that a digit, a capital or a brace follows is money or a shell's variable, and closes no formula.
const WITHIN = /^(?:\$\$([^]+?)\$\$|\\\[([^]+?)\\\])/;
const INNER = /^(?:\$(?![\s$])((?:\\.|[^$\\\n])+?)(?<!\s)\$(?![\dA-Z{])|\\\(([^]+?)\\\))/;
const ENVIRONMENT = /^(\\begin\{((?:align|alignat|aligned|gather|gathered|equation|multline|split|cases|array|[bBpvV]?matrix)\*?)\}[^]+?\\end\{\2\}) *(?:\n|$)/;
const FORMULAS = new RegExp(`${WITHIN.source.slice(1)}|${INNER.source.slice(1)}`, 'g');

/** Escape a text for HTML. */
const escaped = (text) =>
  text.replace(/[&<>"']/g, (found) => ({ '&': '&amp;', '<': '&lt;', '>': '&gt;', '"': '&quot;', "'": '&#39;' })[found]);
const asWritten = (text) => `<p class="written">${escaped(text.replace(/\n+$/, ''))}</p>\n`;

const formula = ({ raw, tex }, displayMode) => {
  try {
    const drawn = window.temml.renderToString(tex, { displayMode, throwOnError: true, annotate: false });
    // The page's policy forbids inline styles; those of a formula (boxes, colours, columns) are set by script later.
    return drawn.replace(/<[^>]*>/g, (tag) => tag.replace(/ style="/g, ' data-style="'));
  } catch {
    return `<code>${escaped(raw.trim())}</code>`;
  }
};

// Markdown asks of every paragraph where the next formula starts: to look through all that follows would take the square.
const paragraphOf = (source) => source.slice(0, source.match(/\n[ \t]*\n/)?.index);

const mathRule = (name, level, start, rule, displayMode) => ({
  name,
  level,
  start: (source) => paragraphOf(source).match(start)?.index,
  tokenizer: (source) => {
    const found = rule.exec(source);
    return found ? { type: name, raw: found[0], tex: (found[1] ?? found[2]).trim() } : undefined;
  },
  renderer: (token) => formula(token, displayMode),
});

const marked = new Marked({ gfm: true, breaks: true, async: false });
marked.use({
  extensions: [
    mathRule('shown', 'block', /^(\$\$|\\\[)/m, new RegExp(`${WITHIN.source} *(?:\\n|$)`), true),
    mathRule('environment', 'block', /^\\begin\{/m, ENVIRONMENT, true),
    mathRule('within', 'inline', /\$\$|\\\[/, WITHIN, true),
    mathRule('inner', 'inline', /\$|\\\(/, INNER, false),
  ],
  hooks: { emStrongMask: maskOf },
  // A tokenizer that returns undefined leaves the characters as text; false means: as Markdown does.
  tokenizer: {
    del(source, mask, before = '') {
      if (!source.startsWith('~~')) return undefined; // "3~5 days, 7~10 days" is two ranges
      return Tokenizer.prototype.del.call(this, source, mask, opensInCjk(source, before) ? '' : before);
    },
    emStrong(source, mask, before = '') {
      const [raw] = /^__\w+?__(?!_)/.exec(source) ?? operator(source, before) ?? []; // as in Python: __init__, 2**3
      if (raw) return { type: 'text', raw, text: raw };
      return Tokenizer.prototype.emStrong.call(this, source, mask, opensInCjk(source, before) ? '' : before);
    },
    blockquote: (source) => (/^ {0,3}>(?:=| ?[-+−]?[\d.])/.test(source) ? undefined : false), // "> 65 years" compares
    lheading(source) {
      const found = Tokenizer.prototype.lheading.call(this, source);
      return found && /\n {0,3}(?:--?|==?) *\n*$/.test(found.raw) ? undefined : found; // a list or an equation
    },
    url(source) {
      const end = /^(?:(?:https?|ftp):\/\/|www\.)/i.test(source) ? source.search(END_OF_LINK) : -1;
      return end < 0 ? false : Tokenizer.prototype.url.call(this, source.slice(0, end));
    },
  },
  renderer: {
    html: (token) => (token.block ? asWritten(token.raw) : escaped(token.raw)),
    image: (token) => escaped(token.raw), // an image would be fetched from another site
    link: (token) => (LINK.test(token.href) ? false : escaped(token.raw)), // a footnote, an index, a path: leads nowhere
    def: (token) => asWritten(token.raw), // "[Answer]: B" is one for Markdown, which would show nothing
    checkbox: ({ checked }) => (checked ? '☑ ' : '☐ '),
    code: ({ text, lang }) => `<pre><samp>${escaped(lang ?? '')}</samp><code>${escaped(text.replace(/\n$/, ''))}\n</code></pre>\n`,
    table(token) {
      const longer = token.raw.trim().split('\n').some((line) => cellsOf(line) > token.header.length);
      return longer ? asWritten(token.raw) : false; // Markdown would drop the cells that have no head
    },
    tablecell(token) {
      breakLines(token.tokens);
      return false;
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
  if (/[0-9)\]）]/.test(before)) return /^\*{1,2}(?=[0-9(（])|^\*(?=[A-Za-z])/.exec(source);
  return /[A-Za-z]/.test(before) ? /^\*(?=[A-Za-z0-9(（])/.exec(source) : null;
}

/**
 * Change the copy of a text in which marks of emphasis find their partners: those of formulas and products are none, and
 * those beside Chinese, Japanese or Korean, which put no space around emphasis, open and close beside brackets and stops.
 */
function maskOf(text) {
  if (!/[*_~]/.test(text)) return text;
  const hidden = text.replace(FORMULAS, (found) => 'a'.repeat(found.length)).replace(/(?<=[0-9)\]])\*{1,2}(?=[0-9(])/g, (found) => 'a'.repeat(found.length));
  if (!CJK.test(hidden)) return hidden;
  let mask = hidden;
  for (const { 0: run, index } of hidden.matchAll(/\*{2,}|~~/g)) {
    const before = /[^*~]$/u.exec(hidden.slice(Math.max(0, index - 2), index))?.[0] ?? '';
    const after = /^[^*~]/u.exec(hidden.slice(index + run.length, index + run.length + 2))?.[0] ?? '';
    if (!CJK.test(before + after)) continue;
    const [left, right] = [before, after].map((mark) => (MARK.test(mark) ? 'a'.repeat(mark.length) : mark));
    const start = index - left.length;
    mask = `${mask.slice(0, start)}${left}${run}${right}${mask.slice(start + left.length + run.length + right.length)}`;
  }
  return mask;
}

function opensInCjk(source, before) {
  const [run] = /^(?:\*{2,}|~~)/.exec(source) ?? [];
  return run !== undefined && before.trim() !== '' && CJK.test(`${before}${String.fromCodePoint(source.codePointAt(run.length) ?? 32)}`);
}

/** Take <br> in the cell of a table for what it is: there is no other way to break a line in one. */
function breakLines(tokens = []) {
  for (const token of tokens) {
    if (token.type === 'html' && /^<br *\/?>$/i.test(token.raw)) token.type = 'br';
    breakLines(token.tokens);
  }
}

const cellsOf = (line) => line.trim().replace(/^\||(?<!\\)\|$/g, '').split(/(?<!\\)\|/).length;

/** Read a text as blocks, which `htmlOf` turns into HTML one by one; `raw` is what each was written as. */
export function blocksOf(text) {
  try {
    return marked.lexer(text);
  } catch {
    return [{ type: 'html', block: true, raw: text }]; // a looping reply may be nested deeper than the parser can follow
  }
}

/** Convert a block to HTML in which nothing of the text is markup that Markdown does not know. */
export function htmlOf(block) {
  try {
    return marked.parser([block]);
  } catch {
    return asWritten(block.raw);
  }
}
