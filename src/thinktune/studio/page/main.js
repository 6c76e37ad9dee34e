// The frame of every screen: its navigation, the language, the theme and the key; the address decides what is inside.

import { Navigation } from './components/navigation.js';
import { Problem } from './components/problem.js';
import { firstLanguage, Language, setLanguage, useWords } from './language.js';
import { html, render, useEffect, useRef, useState } from './libraries/preact.js';
import { Place, readPlace } from './router.js';
import { ANSWER_MS, refreshAll, SERVER_IS_BACK, SERVER_IS_OUT, ServerError, UNREACHABLE, useKeyFromNowOn, useServer } from './server.js';
import * as file from './words/common.js';

// Each comes when it is shown, for the first paint, and the others soon after, for a server that ends meanwhile.
const SCREENS = {
  __proto__: null, // 'constructor' is no screen
  '': () => import('./screens/home.js').then(({ Home }) => Home),
  rows: () => import('./screens/rows.js').then(({ Rows }) => Rows),
  plan: () => import('./screens/plan.js').then(({ Plan }) => Plan),
  train: () => import('./screens/train.js').then(({ Train }) => Train),
  proof: () => import('./screens/proof.js').then(({ Proof }) => Proof),
  talk: () => import('./screens/talk.js').then(({ Talk }) => Talk),
  'take-home': () => import('./screens/take-home.js').then(({ TakeHome }) => TakeHome),
  think: () => import('./screens/think.js').then(({ Think }) => Think),
};
const SIGN_OF_LIFE = 'studio/acts?count=1'; // asked for no name
const NAVIGATION_MS = 4000;
const RETRY_MS = 3000;
const OTHERS_MS = 2000;

/** Return the screen of a name, or the error while it does not come. */
function useScreen(name) {
  const [state, setState] = useState({ name: null, Screen: null, error: null });
  useEffect(() => {
    let gone = false;
    let timer = 0;
    const missing = () => gone || setState({ name, Screen: null, error: new ServerError(UNREACHABLE, 'no answer') });
    const load = async () => {
      timer = setTimeout(missing, ANSWER_MS);
      try {
        const Screen = await SCREENS[name]?.();
        if (!gone) setState({ name, Screen, error: null });
        clearTimeout(timer);
      } catch {
        clearTimeout(timer);
        missing();
        if (!gone) timer = setTimeout(load, RETRY_MS);
      }
    };
    load();
    return () => {
      gone = true;
      clearTimeout(timer);
    };
  }, [name]);
  useEffect(() => {
    const timer = setTimeout(() => Object.values(SCREENS).forEach((load) => load().catch(() => {})), OTHERS_MS);
    return () => clearTimeout(timer);
  }, []);
  return state.name === name ? state : { Screen: null, error: null };
}

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
  const { value: navigation, error } = useServer(place.name ? `studio/navigation?name=${encodeURIComponent(place.name)}` : SIGN_OF_LIFE, NAVIGATION_MS);
  const [met, setMet] = useState(null); // by whatever asked first
  const outage = error?.status === UNREACHABLE ? error : met;
  useEffect(() => {
    const tell = ({ detail }) => setMet(detail);
    const forget = () => setMet(null);
    addEventListener(SERVER_IS_OUT, tell);
    addEventListener(SERVER_IS_BACK, forget);
    return () => {
      removeEventListener(SERVER_IS_OUT, tell);
      removeEventListener(SERVER_IS_BACK, forget);
    };
  }, []);
  const { Screen, error: missing } = useScreen(place.screen);
  const where = place.name ? `${place.name} · ` : '';
  useEffect(() => {
    document.title = `${where}${(place.screen in SCREENS && words.screens[place.screen]) || words.home} · thinktune`;
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
    <${Navigation} place=${place} found=${place.name ? navigation : null} onLanguage=${onLanguage} />
    <main id="main" ref=${main} tabindex="-1">
      ${(outage || missing) && html`<div class="outage"><${Problem} error=${outage ?? missing} /></div>`}
      ${Screen && html`<${Screen} key=${`${place.screen}/${place.name}`} name=${place.name} />`}
      ${!(place.screen in SCREENS) && html`<p class="problem" role="alert">${words.notFound}</p>`}
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
