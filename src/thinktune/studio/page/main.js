// The frame of every screen: its navigation, the language, the theme and the key; the address decides what is inside.

import { Navigation } from './components/navigation.js';
import { firstLanguage, Language, setLanguage, useWords } from './language.js';
import { html, render, useEffect, useRef, useState } from './libraries/preact.js';
import { Place, readPlace } from './router.js';
import { Home } from './screens/home.js';
import { Plan } from './screens/plan.js';
import { Proof } from './screens/proof.js';
import { Rows } from './screens/rows.js';
import { TakeHome } from './screens/take-home.js';
import { Talk } from './screens/talk.js';
import { Think } from './screens/think.js';
import { Train } from './screens/train.js';
import { useKeyFromNowOn } from './server.js';
import * as file from './words/common.js';

const SCREENS = { '': Home, rows: Rows, plan: Plan, train: Train, proof: Proof, talk: Talk, 'take-home': TakeHome, think: Think };

function Studio() {
  const [language, choose] = useState(firstLanguage);
  const [place, setPlace] = useState(readPlace);
  useEffect(() => setLanguage(language), [language]);
  useEffect(() => {
    const move = () => setPlace(readPlace());
    addEventListener('popstate', move);
    return () => removeEventListener('popstate', move);
  }, []);
  return html`<${Language.Provider} value=${language}><${Place.Provider} value=${place}>
    <${Frame} place=${place} onLanguage=${() => choose(language === 'zh' ? 'en' : 'zh')} />
  <//><//>`;
}

function Frame({ place, onLanguage }) {
  const words = useWords(file);
  const main = useRef(null);
  const Screen = SCREENS[place.screen];
  const where = place.name ? `${place.name} · ` : '';
  useEffect(() => {
    document.title = `${where}${words.screens[place.screen] ?? words.home} · thinktune`;
  }, [place, words]);
  return html`<a class="skip" href="#main" onClick=${(event) => (event.preventDefault(), main.current.focus())}>${words.skip}</a>
    <${Navigation} place=${place} onLanguage=${onLanguage} />
    <main id="main" ref=${main} tabindex="-1">
      ${Screen ? html`<${Screen} key=${`${place.screen}/${place.name}`} name=${place.name} />` : html`<p class="problem" role="alert">${words.notFound}</p>`}
    </main>
    <${KeyDialog} />`;
}

function KeyDialog() {
  const words = useWords(file);
  const dialog = useRef(null);
  const field = useRef(null);
  useEffect(() => {
    const ask = () => dialog.current.open || dialog.current.showModal();
    addEventListener('studio-locked', ask);
    return () => removeEventListener('studio-locked', ask);
  }, []);
  return html`<dialog ref=${dialog} aria-labelledby="key-title" onClose=${() => field.current.value && useKeyFromNowOn(field.current.value)}>
    <form method="dialog">
      <h2 id="key-title">${words.keyTitle}</h2>
      <label class="wide">${words.keyAsk}<input ref=${field} type="password" autocomplete="off" /></label>
      <p class="wide actions"><button class="strong" value="done">${words.done}</button></p>
    </form>
  </dialog>`;
}

render(html`<${Studio} />`, document.getElementById('studio'));
