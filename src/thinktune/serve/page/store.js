// The browser's storage: settings, and chats, each under its own key. A chat may be open in several tabs: before one
// stores it, the turns that others have stored meanwhile are merged in, so that no tab overwrites another's.

import { stopReplies } from './chat.js';

const CHAT = 'thinktune.chat.';
const SETTINGS = 'thinktune.settings';
const OPEN = 'thinktune.open';
const DRAFT = 'thinktune.draft';
const known = new WeakMap(); // of each chat, its turns as they were last read or stored: id to JSON

/** Read all chats that hold a turn, newest first. */
export function readChats() {
  const keys = attempt(() => Object.keys(localStorage)) ?? [];
  const chats = keys.filter((key) => key.startsWith(CHAT)).map((key) => readChat(key.slice(CHAT.length)));
  return chats.filter(Boolean).sort((one, other) => other.changed - one.changed);
}

/** Read one chat; null if it is not there, holds no turn or cannot be read. */
export function readChat(id) {
  const chat = read('localStorage', CHAT + id);
  if (!Array.isArray(chat?.turns) || !chat.turns.length) return null;
  chat.turns.forEach((turn, number) => (turn.id ??= `old-${number}`)); // chats of earlier versions
  stopReplies(chat);
  remember(chat);
  return chat;
}

/** Store a chat, with the turns that other tabs stored; returns false if the browser's storage is full. */
export function keepChat(chat) {
  merge(chat, readChat(chat.id));
  chat.changed = Date.now();
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
 * Merge the stored turns into a chat, turn by turn. Of two versions, the one counts that differs from what both tabs knew
 * before: what was asked here stays, what was removed here does not come back, and the rest is as it is stored.
 */
function merge(chat, stored) {
  if (!stored) return;
  const before = known.get(chat) ?? new Map();
  const theirs = new Map(stored.turns.map((turn) => [turn.id, turn]));
  const here = new Set(chat.turns.map((turn) => turn.id));
  const turns = [];
  for (const turn of chat.turns) {
    const text = JSON.stringify(turn);
    const unchanged = before.get(turn.id) === text && turn.replies.every((reply) => reply.finish);
    const other = theirs.get(turn.id);
    if (!unchanged || (other && JSON.stringify(other) === text)) turns.push(turn);
    else if (other) turns.push(other);
  }
  turns.push(...stored.turns.filter((turn) => !here.has(turn.id) && !before.has(turn.id)));
  turns.sort((one, other) => (one.asked ?? 0) - (other.asked ?? 0));
  chat.turns.splice(0, Infinity, ...turns);
  chat.title ||= stored.title;
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

function remember(chat) {
  known.set(chat, new Map(chat.turns.map((turn) => [turn.id, JSON.stringify(turn)])));
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
