// The page's controls and state. Conversations are in chat.js, their display in view.js.

import { listModels, useKey } from './api.js';
import { asMarkdown, newChat, newReply, newTurn, requestFor, stopReplies, streamInto } from './chat.js';
import { hideNames, loadFeedback, nameOf, rowsAsJsonLines, sampleQuestions } from './feedback.js';
import * as store from './store.js';
import { composing, make, turnView } from './view.js';
import { showWords, words } from './words.js';

const NUMBERS = ['temperature', 'top_p', 'top_k', 'max_tokens', 'reasoning_budget', 'seed'];
const KEEP_EVERY_MS = 2000; // while a reply streams in
const byId = (id) => document.getElementById(id);
let models = [];
let settings = store.readSettings();
let chat = newChat();
const forgotten = new Set(); // ids of deleted chats, whose replies may still be streaming in
let undo = null; // brings back what was last replaced or deleted
let views = [];
let running = null; // the AbortController of the replies in progress

const actions = {
  fold: () => settings.fold ?? '',
  chat: () => chat,
  keep: () => keep(chat),
  rememberFold: (fold) => changeSettings({ fold }),
  edit: ({ id }, question) => {
    const number = chat.turns.findIndex((turn) => turn.id === id);
    if (number < 0 || !models.length) return;
    offerUndo(words.replaced);
    chat.turns.length = number;
    ask(question);
  },
  regenerate: ({ id }) => {
    const number = chat.turns.findIndex((turn) => turn.id === id);
    if (number < 0) return;
    offerUndo(words.replaced);
    chat.turns.length = number + 1; // the turns after it answered the former reply
    answer(chat.turns[number], chat.turns[number].replies.map((one) => one.model));
  },
};

/** Offer to bring this chat back as it is now, until something else is replaced or deleted. */
function offerUndo(text, from = chat) {
  const turns = structuredClone(from.turns);
  undo = () => {
    if (from === chat) stop();
    forgotten.delete(from.id);
    from.turns = turns;
    stopReplies(from);
    keep(from);
    open(from);
    showUndo('');
  };
  showUndo(text);
}

function showUndo(text) {
  if (!text) undo = null;
  byId('undo').hidden = !text;
  byId('undo-text').textContent = text;
}

function changeSettings(changes) {
  settings = Object.fromEntries(Object.entries({ ...settings, ...changes }).filter(([, value]) => value !== null && value !== ''));
  warnIfFull(store.keepSettings(settings));
}

function ask(question) {
  if (!models.length || !question.trim()) return;
  const turn = newTurn(question);
  chat.title ||= question.split('\n')[0].slice(0, 60);
  chat.turns.push(turn);
  const model = byId('model').value;
  const other = byId('compare').value;
  answer(turn, other && other !== model ? [other, model] : [model]);
}

/** Let each of the models answer a turn, side by side; a reply in progress is stopped. */
async function answer(turn, names) {
  stop();
  const controller = (running = new AbortController());
  const asked = chat; // the user may open another one meanwhile
  const keepNow = once((run) => setTimeout(run, KEEP_EVERY_MS), () => running === controller && warnIfFull(store.keepChat(asked)));
  turn.replies = names.map(newReply);
  hideNames(turn.replies);
  const requests = turn.replies.map((reply) => requestFor(reply.model, asked, asked.turns.indexOf(turn), settings));
  showChat();
  setBusy(true);
  keep(asked);
  const view = views[asked.turns.indexOf(turn)];
  await Promise.all(
    turn.replies.map((reply, number) => {
      const element = view.replies.children[number];
      const update = once(requestAnimationFrame, () => {
        const wasNearEnd = nearEnd();
        element.update();
        if (wasNearEnd) toEnd();
        keepNow();
      });
      return streamInto(reply, requests[number], controller.signal, update).then(() => {
        byId('status').textContent = words.finished(nameOf(reply));
        if (reply.status === 401) askKey();
      });
    }),
  );
  if (running === controller) setBusy(false);
  keep(asked);
}

/** Wrap `work` so that it waits for `later`, once for all calls in the meantime. */
function once(later, work) {
  let due = false;
  return () => {
    if (due) return;
    due = true;
    later(() => {
      due = false;
      work();
    });
  };
}

function stop() {
  running?.abort();
  setBusy(false);
}

function setBusy(busy) {
  if (!busy) running = null;
  const focused = [byId('send'), byId('stop')].includes(document.activeElement);
  byId('send').hidden = busy;
  byId('stop').hidden = !busy;
  if (focused) byId('question').focus();
}

function keep(saved) {
  if (saved.turns.length && !forgotten.has(saved.id)) warnIfFull(store.keepChat(saved));
  if (!running && chat.turns.some((turn, number) => turn !== views[number]?.turn)) showChat(); // other tabs asked, too
  showHistory();
}

function warnIfFull(kept) {
  byId('problem').hidden = kept;
  byId('problem').textContent = kept ? '' : words.full;
}

function open(opened) {
  stop();
  chat = opened;
  store.keepOpen(chat.id);
  showChat();
  showHistory();
  byId('chats').classList.remove('open');
  byId('menu').ariaExpanded = 'false';
  byId('question').focus();
}

function showChat() {
  views = chat.turns.map((turn) => turnView(turn, actions));
  byId('log').replaceChildren(...views.map((view) => view.element));
  if (!views.length) byId('log').append(make('p', { className: 'empty', textContent: words.empty }), sampleQuestions());
  for (const id of ['export-markdown', 'export-json']) byId(id).disabled = !views.length;
  toEnd();
}

function showHistory() {
  byId('history').replaceChildren(
    ...store.readChats().map((kept) => {
      const title = make('button', { className: 'title', dir: 'auto', textContent: kept.title || words.untitled, onclick: () => open(kept) });
      if (kept.id === chat.id) title.ariaCurrent = 'true';
      const remove = make('button', { className: 'quiet', textContent: '×', ariaLabel: words.remove(kept.title) });
      remove.onclick = () => {
        const deleted = kept.id === chat.id ? chat : kept;
        offerUndo(words.deleted, deleted);
        forgotten.add(kept.id);
        store.forgetChat(kept);
        if (kept.id === chat.id) open(newChat());
        else showHistory();
      };
      return make('li', {}, title, remove);
    }),
  );
}

const nearEnd = () => byId('log').scrollHeight - byId('log').scrollTop - byId('log').clientHeight < 80;
const toEnd = () => (byId('log').scrollTop = byId('log').scrollHeight);

function download(name, kind, text) {
  const link = make('a', { href: URL.createObjectURL(new Blob([text], { type: kind })), download: name });
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 1000);
}

/** Return the values that the chosen model uses where a setting is empty. */
function modelDefaults() {
  return models.find((model) => model.id === byId('model').value)?.thinktune ?? {};
}

function showSettings() {
  const defaults = modelDefaults();
  byId('set-system').value = settings.system ?? defaults.system ?? '';
  for (const name of NUMBERS) {
    byId(`set-${name}`).value = settings[name] ?? '';
    byId(`set-${name}`).placeholder = defaults[name] ?? '';
  }
  byId('set-thinking').checked = settings.thinking !== false;
  byId('set-fold').value = settings.fold ?? '';
  byId('settings').returnValue = '';
  byId('settings').showModal();
}

/** Empty the fields; nothing is kept until Done. */
function clearSettings() {
  byId('set-system').value = modelDefaults().system ?? '';
  for (const name of NUMBERS) byId(`set-${name}`).value = '';
  byId('set-thinking').checked = true;
  byId('set-fold').value = '';
}

/** Forget settings that the dialog would not take: another version may have stored them. */
function dropRefusedSettings() {
  for (const name of NUMBERS) {
    const field = byId(`set-${name}`);
    field.value = settings[name] ?? '';
    if (settings[name] != null && (field.value === '' || !field.validity.valid)) delete settings[name];
  }
}

function takeSettings() {
  if (byId('settings').returnValue !== 'done') return; // Esc leaves everything as it was
  const defaults = modelDefaults();
  const changes = { thinking: byId('set-thinking').checked ? null : false, fold: byId('set-fold').value };
  for (const name of NUMBERS) changes[name] = byId(`set-${name}`).value === '' ? null : byId(`set-${name}`).valueAsNumber;
  const system = byId('set-system').value.trim();
  changeSettings(changes);
  delete settings.system;
  if (system !== (defaults.system ?? '')) settings.system = system; // an empty one is a choice, too
  warnIfFull(store.keepSettings(settings));
}

async function start() {
  byId('unreachable')?.remove();
  try {
    models = await listModels();
  } catch (error) {
    if (error.status === 401) askKey();
    else byId('log').append(make('p', { id: 'unreachable', className: 'mark failed', textContent: words.failed(error.message) }));
    return;
  }
  const option = (model) => make('option', { value: model.id, textContent: model.id });
  byId('model').replaceChildren(...models.map(option));
  byId('compare').replaceChildren(make('option', { value: '', textContent: words.noOther }), ...models.map(option));
  byId('compare').value = models.some((model) => model.id === settings.beside) ? settings.beside : '';
  byId('compare-label').hidden = models.length < 2;
  byId('blind').checked = settings.blind === true;
  const notice = models.map((model) => model.thinktune?.notice).find(Boolean);
  byId('notice').hidden = !notice;
  byId('notice').textContent = notice ?? '';
  loadFeedback();
}

function askKey() {
  byId('key').returnValue = '';
  if (!byId('key').open) byId('key').showModal();
}

function addListeners() {
  byId('ask').onsubmit = async (event) => {
    event.preventDefault();
    const question = byId('question').value;
    if (!question.trim() || running) return;
    if (!models.length) await start(); // the server was away
    if (!models.length || running) return; // the question stays in its box
    showUndo('');
    byId('question').value = '';
    store.keepDraft('');
    ask(question);
  };
  byId('question').oninput = () => store.keepDraft(byId('question').value);
  byId('question').onkeydown = (event) => {
    if (event.key !== 'Enter' || event.shiftKey || composing(event)) return; // Enter picks Chinese characters
    event.preventDefault();
    byId('ask').requestSubmit();
  };
  document.addEventListener('keydown', (event) => {
    if (event.key === 'Escape' && !document.querySelector('dialog[open]')) stop();
  });
  byId('stop').onclick = stop;
  byId('new').onclick = () => open(newChat());
  byId('menu').onclick = () => (byId('menu').ariaExpanded = String(byId('chats').classList.toggle('open')));
  byId('compare').onchange = () => changeSettings({ beside: byId('compare').value }); // browsers have this name stored
  byId('blind').onchange = () => changeSettings({ blind: byId('blind').checked || null });
  byId('export-rows').onclick = async () => download('rows-from-chat.jsonl', 'application/jsonl', await rowsAsJsonLines());
  byId('settings-open').onclick = showSettings;
  byId('settings').onclose = takeSettings;
  byId('set-reset').onclick = clearSettings;
  byId('undo-button').onclick = () => undo?.();
  byId('key').onclose = () => {
    if (byId('key').returnValue !== 'done') return;
    useKey(byId('key-text').value);
    start();
  };
  byId('export-markdown').onclick = () => download('chat.md', 'text/markdown', asMarkdown(chat, words));
  byId('export-json').onclick = () => download('chat.json', 'application/json', JSON.stringify({ ...chat, settings }, null, 2));
  byId('export-markdown').ariaLabel = words.exportMarkdownLong;
  byId('export-json').ariaLabel = words.exportJsonLong;
  window.onpagehide = () => {
    stopReplies(chat);
    stop();
    keep(chat);
  };
  store.watchChats((id) => {
    if (id === chat.id && !running) {
      store.takeOver(chat);
      showChat();
    }
    showHistory();
  });
}

/** Show what this tab had open before it was loaded again. */
function restoreTab() {
  const { open: id, draft } = store.readTab();
  open(store.readChat(id) ?? newChat());
  byId('question').value = draft;
}

showWords();
addListeners();
dropRefusedSettings();
restoreTab();
await start();
if (document.activeElement === document.body) byId('question').focus(); // nobody has gone elsewhere meanwhile
