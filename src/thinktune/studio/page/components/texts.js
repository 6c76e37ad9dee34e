// Texts and drawings that the server sends: texts in both languages, figures with their interval, SVG of the report.

import { useLanguage } from '../language.js';
import { html } from '../libraries/preact.js';

/** Return a function that picks the reader's language of `{en, zh}`; a plain string is the same in both. */
export function useText() {
  const language = useLanguage();
  return (text) => (text && typeof text === 'object' ? text[language] : (text ?? ''));
}

/** Show an SVG of the report as it is: the server made and escaped it. */
export const Drawing = ({ svg }) => (svg ? html`<div class="drawing" dangerouslySetInnerHTML=${{ __html: svg }}></div>` : null);

/** Show a figure with its interval below it. */
export function Figure({ pair, verdict = '' }) {
  const text = useText();
  if (!pair) return null;
  return html`<span class=${`figure ${verdict}`}>${text(pair[0])}</span> <span class="interval-text">${text(pair[1])}</span>`;
}
