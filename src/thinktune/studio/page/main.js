// The frame of every screen: its navigation, the language, the theme and the key; the address decides what is inside.

import { Navigation } from './components/navigation.js';
import { Problem, SERVER_IS_BACK } from './components/problem.js';
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
import { refreshAll, UNREACHABLE, useKeyFromNowOn, useServer } from './server.js';
import * as file from './words/common.js';

const NAVIGATION_MS = 4000;
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
  const { value: navigation, error } = useServer(place.name ? `studio/navigation?name=${encodeURIComponent(place.name)}` : null, NAVIGATION_MS);
  const outage = error?.status === UNREACHABLE ? error : null;
  const Screen = SCREENS[place.screen];
  const where = place.name ? `${place.name} · ` : '';
  useEffect(() => {
    document.title = `${where}${words.screens[place.screen] ?? words.home} · thinktune`;
  }, [place, words]);
  const wasOut = useRef(false);
  useEffect(() => {
    if (wasOut.current && navigation && !error) { // what was asked meanwhile is asked again
      dispatchEvent(new Event(SERVER_IS_BACK));
      refreshAll();
    }
    wasOut.current = Boolean(outage);
  }, [navigation, error]);
  return html`<a class="skip" href="#main" onClick=${(event) => (event.preventDefault(), main.current.focus())}>${words.skip}</a>
    <${Navigation} place=${place} found=${navigation} onLanguage=${onLanguage} />
    <main id="main" ref=${main} tabindex="-1">
      ${outage && html`<div class="outage"><${Problem} error=${outage} /></div>`}
      ${Screen ? html`<${Screen} key=${`${place.screen}/${place.name}`} name=${place.name} />` : html`<p class="problem" role="alert">${words.notFound}</p>`}
    </main>
    <${KeyDialog} />`;
}

/** Ask for the key: once by itself, then only as a person wishes or where the given key is wrong. */
function KeyDialog() {
  const words = useWords(file);
  const dialog = useRef(null);
  const field = useRef(null);
  const wasLeft = useRef(false);
  const [state, setState] = useState({ locked: false, wrong: false });
  const open = () => dialog.current.open || dialog.current.showModal();
  useEffect(() => {
    const ask = ({ detail }) => {
      setState((before) => ({ locked: true, wrong: before.wrong || detail.wasWrong }));
      if (detail.wasWrong || !wasLeft.current) open();
    };
    const take = () => setState({ locked: false, wrong: false });
    addEventListener('studio-locked', ask);
    addEventListener('studio-key', take);
    return () => {
      removeEventListener('studio-locked', ask);
      removeEventListener('studio-key', take);
    };
  }, []);
  const close = () => {
    const key = dialog.current.returnValue === 'done' ? field.current.value : '';
    dialog.current.returnValue = '';
    field.current.value = '';
    wasLeft.current = !key;
    if (key) useKeyFromNowOn(key);
  };
  return html`${state.locked && html`<aside class="key-missing" aria-label=${words.keyTitle}><button type="button" class="strong" onClick=${open}>${words.giveKey}</button></aside>`}
    <dialog ref=${dialog} aria-labelledby="key-title" onClose=${close}>
    <form method="dialog">
      <h2 id="key-title">${words.keyTitle}</h2>
      ${state.wrong && html`<p class="problem wide" role="alert">${words.wrongKey}</p>`}
      <label class="wide">${words.keyAsk}<input ref=${field} type="password" autocomplete="off" /></label>
      <p class="wide actions"><button class="strong" value="done">${words.done}</button>
        <button type="button" onClick=${() => dialog.current.close('')}>${words.later}</button></p>
    </form>
  </dialog>`;
}

render(html`<${Studio} />`, document.getElementById('studio'));
