// The command that a screen or an act stands for, ready to paste in a terminal.

import { copyText } from '../clipboard.js';
import { useWords } from '../language.js';
import { html, useState } from '../libraries/preact.js';
import * as file from '../words/common.js';

const SAYS_SO_MS = 1500;

/** Button that copies a text and says so; `label` says what is copied, to those who do not see it, `what` to all. */
export function CopyButton({ text, label, what = null }) {
  const words = useWords(file);
  const [copied, setCopied] = useState(false);
  const copy = async () => {
    await copyText(text);
    setCopied(true);
    setTimeout(() => setCopied(false), SAYS_SO_MS);
  };
  return html`<button type="button" class=${what ? '' : 'quiet'} aria-label=${copied ? words.copied : label} onClick=${copy}>
    ${copied ? words.copied : (what ?? words.copy)}
  </button>`;
}

/** Show a command's line with a button that copies it. */
export function Command({ line }) {
  const words = useWords(file);
  return html`<div class="command">
    <code tabindex="0" role="group" aria-label=${words.command}>${line}</code>
    <${CopyButton} text=${line} label=${words.copyCommand} />
  </div>`;
}
