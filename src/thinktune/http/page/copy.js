// Buttons that copy a text, and say that they did.

import { copyText } from './clipboard.js';
import { sharedWords } from './shared-words.js';

const SAYS_SO_MS = 1500;

/** Make a button that copies a text; `name` is what a screen reader calls it, if its label alone does not say it. */
export function copyButton(label, text, name = '') {
  const button = document.createElement('button');
  button.type = 'button';
  button.className = 'quiet copy';
  button.textContent = label;
  if (name) button.ariaLabel = name;
  button.onclick = async () => {
    await copyText(text);
    const { copied } = sharedWords();
    button.textContent = copied;
    if (name) button.ariaLabel = copied;
    setTimeout(() => {
      button.textContent = label;
      if (name) button.ariaLabel = name;
    }, SAYS_SO_MS);
  };
  return button;
}
