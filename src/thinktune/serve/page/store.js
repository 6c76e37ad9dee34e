// The browser's storage: settings, and chats, each under its own key so that two tabs do not overwrite each other.

const CHAT = 'thinktune.chat.';
const SETTINGS = 'thinktune.settings';

/** Read all chats, newest first. */
export function readChats() {
  const chats = [];
  for (let at = 0; at < localStorage.length; at++) {
    const key = localStorage.key(at);
    if (key.startsWith(CHAT)) chats.push(parse(localStorage.getItem(key)));
  }
  return chats.filter(Boolean).sort((one, other) => other.changed - one.changed);
}

/** Store a chat; returns false if the browser's storage is full. */
export function keepChat(chat) {
  chat.changed = Date.now();
  return keep(CHAT + chat.id, chat);
}

export function forgetChat(chat) {
  localStorage.removeItem(CHAT + chat.id);
}

export function readSettings() {
  return parse(localStorage.getItem(SETTINGS)) ?? {};
}

export function keepSettings(settings) {
  keep(SETTINGS, settings);
}

function keep(key, value) {
  try {
    localStorage.setItem(key, JSON.stringify(value));
    return true;
  } catch {
    return false;
  }
}

function parse(text) {
  try {
    return JSON.parse(text);
  } catch {
    return null;
  }
}
