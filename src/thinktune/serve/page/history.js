// The list of chats: those of the run that is served, and apart from them those of other runs; searched and renamed.

import { composing, make } from './view.js';
import { words } from './words.js';

const MAX_TITLE_CHARACTERS = 100;
const byId = (id) => document.getElementById(id);
const plain = (text) => text.normalize('NFKC').toLowerCase();

/** Return true if a chat is of the run that is served, or not yet of any. */
export const isHere = (chat, run) => !run || !chat.run || chat.run.id === run.id;

/** Show the chats; `current` is the open one, `run` what is served, and `actions` the handlers of the buttons. */
export function showHistory(chats, current, run, actions) {
  if (document.activeElement?.closest('#chats li input')) return; // a name is being written; shown again when it is done
  const wanted = plain(byId('search').value).split(/\s+/).filter(Boolean);
  const found = wanted.length ? chats.filter((chat) => wanted.every((word) => textOf(chat).includes(word))) : chats;
  const focused = document.activeElement?.closest('#chats li button');
  const item = (chat) => itemOf(chat, chat.id === current.id, actions);
  byId('history').replaceChildren(...found.filter((chat) => isHere(chat, run)).map(item));
  const groups = new Map(); // of other runs, by identity: two may have the same name
  for (const chat of found) if (!isHere(chat, run)) groups.set(chat.run.id, [...(groups.get(chat.run.id) ?? []), chat]);
  byId('others').hidden = !groups.size;
  byId('others-toggle').textContent = words.otherRuns(found.filter((chat) => !isHere(chat, run)).length);
  byId('others-list').replaceChildren(
    ...[...groups.values()].flatMap((group) => [
      make('p', { className: 'run', dir: 'auto', textContent: group[0].run.name }),
      make('ul', { ariaLabel: group[0].run.name }, ...group.map(item)),
    ]),
  );
  byId('others-toggle').onclick = () => expandOthers(byId('others-list').hidden);
  if (wanted.length && groups.size) expandOthers(true);
  byId('found').hidden = !wanted.length;
  byId('found').textContent = wanted.length ? words.found(found.length) : '';
  if (focused) focusIn(focused.parentElement.dataset.id, [...focused.classList].at(-1));
}

function expandOthers(expanded) {
  byId('others-list').hidden = !expanded;
  byId('others-toggle').ariaExpanded = String(expanded);
}

function focusIn(id, button) {
  [...document.querySelectorAll('#chats li')].find((item) => item.dataset.id === id)?.querySelector(`.${button}`)?.focus();
}

function textOf(chat) {
  const texts = chat.turns.flatMap((turn) => [turn.question, ...turn.replies.map((reply) => reply.answer)]);
  return plain([chat.title, ...texts].join('\n'));
}

function itemOf(chat, isCurrent, actions) {
  const name = chat.title || words.untitled;
  const title = make('button', { className: 'title', dir: 'auto', textContent: name, title: name, onclick: () => actions.open(chat) });
  if (isCurrent) title.ariaCurrent = 'true';
  const rename = make('button', { className: 'quiet rename', textContent: '✎', ariaLabel: words.rename(name), title: words.renameShort });
  const remove = make('button', { className: 'quiet remove', textContent: '×', ariaLabel: words.remove(name), title: words.removeShort });
  remove.onclick = () => actions.remove(chat);
  const item = make('li', {}, title, rename, remove);
  item.dataset.id = chat.id;
  rename.onclick = () => writeName(item, chat, actions);
  return item;
}

/** Let the user write another name in place of the buttons: Enter or leaving the field keeps it, Esc does not. */
function writeName(item, chat, actions) {
  const field = make('input', { value: chat.title, dir: 'auto', maxLength: MAX_TITLE_CHARACTERS, ariaLabel: words.rename(chat.title) });
  let done = false;
  const leave = (title, again) => {
    if (done) return;
    done = true;
    field.remove();
    actions.rename(chat, title);
    if (again) focusIn(chat.id, 'rename');
  };
  field.onkeydown = (event) => {
    event.stopPropagation(); // Esc stops no reply here
    if (!['Enter', 'Escape'].includes(event.key) || composing(event)) return;
    event.preventDefault(); // the key would press the button that gets the focus
    leave(event.key === 'Enter' ? field.value.trim() : chat.title, true);
  };
  field.onblur = () => leave(field.value.trim(), false);
  item.replaceChildren(field);
  field.select();
}
