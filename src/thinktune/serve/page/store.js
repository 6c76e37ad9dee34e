// The browser's storage: settings, and chats, each under its own key. A chat may be open in several tabs: before one
// stores it, what others have stored meanwhile is merged in, so that no tab overwrites another's.

import { arrange, showPath, shownTurns } from './branches.js';
import { stopReplies } from './chat.js';

const CHAT = 'thinktune.chat.';
const SETTINGS = 'thinktune.settings';
const OPEN = 'thinktune.open';
const DRAFT = 'thinktune.draft';
const OFFER = 'thinktune.offer';
const ASIDE = 'thinktune.aside';
const known = new WeakMap(); // of each chat, what was last read or stored: its turns (id to JSON), its title, what is shown

/** Read all chats that hold a turn, newest first. */
export function readChats() {
  const keys = attempt(() => Object.keys(localStorage)) ?? [];
  const chats = keys.filter((key) => key.startsWith(CHAT)).map((key) => readChat(key.slice(CHAT.length)));
  return chats.filter(Boolean).sort((one, other) => other.changed - one.changed);
}

/** Read one chat; null if it is not there, holds no turn or cannot be read. */
export function readChat(id) {
  const chat = read('localStorage', CHAT + id);
  if (!Array.isArray(chat?.turns) || !chat.turns.length || !chat.turns.every(isTurn)) return null;
  chat.turns.forEach((turn, number) => (turn.id ??= `old-${number}`)); // chats of earlier versions
  arrange(chat);
  stopReplies(chat);
  remember(chat);
  return chat;
}

const isTurn = (turn) => typeof turn?.question === 'string' && Array.isArray(turn.replies);

const isWritten = (turn) => turn.replies.some((reply) => !reply.finish);

/** Store a chat, with the turns that other tabs stored; returns false if the browser's storage is full. */
export function keepChat(chat) {
  merge(chat, readChat(chat.id));
  const before = known.get(chat)?.turns;
  if (before?.size !== chat.turns.length || chat.turns.some((turn) => before.get(turn.id) !== JSON.stringify(turn))) chat.changed = Date.now();
  if (!write('localStorage', CHAT + chat.id, chat)) return false;
  remember(chat);
  return true;
}

/** Take over what another tab stored of a chat; stored again only if that tab had not seen all that is here. */
export function takeOver(chat) {
  const stored = readChat(chat.id);
  merge(chat, stored);
  if (stored && JSON.stringify(chat.turns) !== JSON.stringify(stored.turns)) keepChat(chat);
}

/**
 * Merge the stored chat into this one: the turns of both, and of each turn, of the title and of what is shown the version
 * that differs from what both tabs knew before. A reply that is being written stays shown.
 */
function merge(chat, stored) {
  if (!stored) return;
  const before = known.get(chat) ?? { turns: new Map(), title: '', shown: {} };
  const writing = shownTurns(chat).find(isWritten);
  const numbers = new Map(chat.turns.map((turn, number) => [turn.id, number]));
  for (const theirs of stored.turns) {
    const number = numbers.get(theirs.id);
    const mine = chat.turns[number];
    const text = JSON.stringify(mine);
    if (!mine) chat.turns.push(theirs);
    else if (!isWritten(mine) && before.turns.get(mine.id) === text && text !== JSON.stringify(theirs)) chat.turns[number] = theirs;
  }
  if (!chat.title || chat.title === before.title) chat.title = stored.title;
  for (const key of Object.keys(stored.shown)) if (chat.shown[key] === before.shown[key]) chat.shown[key] = stored.shown[key];
  chat.run ??= stored.run;
  arrange(chat);
  if (writing && !shownTurns(chat).includes(writing)) showPath(chat, writing);
  known.set(chat, known.get(stored));
}

export function forgetChat(chat) {
  attempt(() => localStorage.removeItem(CHAT + chat.id));
}

/** Call `changed` with the id of a chat when another tab stores or deletes it. */
export function watchChats(changed) {
  window.addEventListener('storage', ({ key }) => key?.startsWith(CHAT) && changed(key.slice(CHAT.length)));
}

export function readSettings() {
  return read('localStorage', SETTINGS) ?? {};
}

/** Store the settings; returns false if the browser's storage is full. */
export function keepSettings(settings) {
  return write('localStorage', SETTINGS, settings);
}

/** Read what this tab had open before it was loaded again: a chat's id, and a question not yet sent. */
export function readTab() {
  return { open: read('sessionStorage', OPEN), draft: read('sessionStorage', DRAFT) ?? '' };
}

export function keepOpen(id) {
  write('sessionStorage', OPEN, id);
}

export function keepDraft(text) {
  write('sessionStorage', DRAFT, text);
}

/** Make an offered question the draft; what stood there is kept for the chat that was open, unless it was an offer as well. */
export function takeOffer(question) {
  const { open, draft } = readTab();
  const aside = read('sessionStorage', ASIDE) ?? {};
  if (draft.trim() && draft !== read('sessionStorage', OFFER)) write('sessionStorage', ASIDE, { ...aside, [open]: [aside[open], draft].filter(Boolean).join('\n\n') });
  write('sessionStorage', OFFER, question);
  keepDraft(question);
}

/** Return what stands in the box when a chat is opened: what is `typed` there already, else the draft kept for this chat. */
export function takeDraft(chat, typed) {
  const isOffer = typed === read('sessionStorage', OFFER) && chat.turns.length; // which has a chat of its own
  if (typed.trim() && !isOffer) return typed;
  const aside = read('sessionStorage', ASIDE) ?? {};
  const mine = Object.keys(aside).filter((id) => id === chat.id || (!chat.turns.length && !readChat(id))); // a new one takes those of none
  if (!mine.length) return typed;
  const draft = mine.map((id) => aside[id]).join('\n\n');
  for (const id of mine) delete aside[id];
  write('sessionStorage', ASIDE, aside);
  return draft;
}

function remember(chat) {
  const turns = new Map(chat.turns.map((turn) => [turn.id, JSON.stringify(turn)]));
  known.set(chat, { turns, title: chat.title, shown: { ...chat.shown } });
}

function read(storage, key) {
  return attempt(() => JSON.parse(window[storage].getItem(key)));
}

function write(storage, key, value) {
  return attempt(() => (window[storage].setItem(key, JSON.stringify(value)), true)) ?? false;
}

/** Return what `work` returns, or null if it throws: storage may be full or forbidden, and its texts damaged. */
function attempt(work) {
  try {
    return work();
  } catch {
    return null;
  }
}
