// The navigation: home, then the screens of the chosen recipe or run, each with the word of its state.

import { keepChoice, readChoice } from '../choices.js';
import { useWords } from '../language.js';
import { html } from '../libraries/preact.js';
import { addressOf, Link } from '../router.js';
import * as file from '../words/common.js';
import { StateWord } from './act.js';

const SCREENS = ['rows', 'plan', 'train', 'proof', 'talk', 'take-home', 'think'];

/** Show the screens of a recipe or a run as the server tells them (`found`); `place` is where the reader is. */
export function Navigation({ place, found, onLanguage }) {
  const words = useWords(file);
  const current = (screen) => (screen === place.screen ? 'page' : null);
  return html`<nav id="navigation" aria-label=${words.navigation}>
    <ul>
      <li><${Link} to=${addressOf('')} aria-current=${current('')}>${words.home}<//></li>
      ${place.name && SCREENS.map((screen) => {
        const name = found?.screens[screen].name ?? (screen === place.screen ? place.name : null);
        const state = found?.screens[screen].state;
        return html`<li key=${screen}>${name
          ? html`<${Link} to=${addressOf(screen, name)} aria-current=${current(screen)}>${words.screens[screen]}<//>`
          : html`<span class="off">${words.screens[screen]}</span>`} ${state && html`<${StateWord} state=${state} />`}</li>`;
      })}
    </ul>
    <${Looks} onLanguage=${onLanguage} />
  </nav>`;
}

/** Theme and language, at the end of the navigation. */
function Looks({ onLanguage }) {
  const words = useWords(file);
  const choose = (event) => keepChoice('theme', (document.documentElement.dataset.theme = event.target.value));
  const themes = { '': words.themeAuto, light: words.themeLight, dark: words.themeDark };
  return html`<div class="looks">
    <label class="small">${words.theme} <select value=${readChoice('theme') ?? ''} onChange=${choose}>
      ${Object.entries(themes).map(([value, text]) => html`<option value=${value}>${text}</option>`)}
    </select></label>
    <button type="button" class="quiet" onClick=${onLanguage}>${words.otherLanguage}</button>
  </div>`;
}
