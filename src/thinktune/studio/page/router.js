// The address decides the screen: /, or /SCREEN/NAME where NAME is a recipe or a run below the folder.

import { createContext, html, useContext } from './libraries/preact.js';

/** The path below which the server is, wherever a proxy has put it; ends with a slash. */
export const root = new URL('..', import.meta.url).pathname;

export const Place = createContext({ screen: '', name: '' });

/** Return the screen and the name of what it shows, as the address says. */
export function readPlace() {
  const [screen, ...parts] = location.pathname.slice(root.length).split('/');
  return { screen, name: parts.filter(Boolean).map(decodeURIComponent).join('/'), query: new URLSearchParams(location.search) };
}

/** Return the address of a screen, for the name of a recipe or a run if one is given; `query` is an object. */
export function addressOf(screen, name = '', query = {}) {
  const parts = [screen, ...name.split('/').map(encodeURIComponent)].filter(Boolean);
  const asked = new URLSearchParams(query).toString();
  return root + parts.join('/') + (asked ? `?${asked}` : '');
}

/** Return the address of the talk screen with a question in its box: in the fragment, where no length is too much. */
export const addressOfTalk = (name, question) => `${addressOf('talk', name)}#question=${encodeURIComponent(question)}`;

/** Return the question that the address of the talk screen offers; null where there is none. */
export const offeredQuestion = () => new URLSearchParams(location.hash.slice(1)).get('question');

/** Go to another screen, as a link would. */
export function go(address) {
  history.pushState(null, '', address);
  dispatchEvent(new PopStateEvent('popstate'));
}

/** Change the query of this screen's address without a new entry in the history. */
export function replaceQuery(query) {
  const { screen, name } = readPlace();
  history.replaceState(null, '', addressOf(screen, name, query));
}

/** Return the screen and the name that are shown. */
export const usePlace = () => useContext(Place);

/** Link to a screen, without loading the page anew; new tabs and copied addresses work as ever. */
export function Link({ to, children, ...others }) {
  const follow = (event) => {
    if (event.button || event.ctrlKey || event.metaKey || event.shiftKey || event.altKey) return;
    event.preventDefault();
    go(to);
  };
  return html`<a href=${to} onClick=${follow} ...${others}>${children}</a>`;
}
