// The page's controls and state. Conversations are in chat.js, their display in view.js.

import { listModels, useKey } from './api.js';
import { asMarkdown, newChat, newReply, requestFor, streamInto } from './chat.js';
import { forgetChat, keepChat, keepSettings, readChats, readSettings } from './store.js';
import { make, turnView } from './view.js';
import { showWords, words } from './words.js';

const NUMBERS = ['temperature', 'top_p', 'top_k', 'max_tokens', 'reasoning_budget', 'seed'];
const byId = (id) => document.getElementById(id);
let models = [];
let settings = readSettings();
let chat = newChat();
let views = [];
let running = null; // the AbortController of the replies in progress

const actions = {
  fold: () => settings.fold ?? '',
  rememberFold: (fold) => changeSettings({ fold }),
  edit: (turn, question) => {
    chat.turns.length = chat.turns.indexOf(turn);
    ask(question);
  },
  regenerate: (reply) => {
    const number = chat.turns.findIndex((turn) => turn.replies.includes(reply));
    chat.turns.length = number + 1; // the turns after it answered the former reply
    answer(chat.turns[number], chat.turns[number].replies.map((one) => one.model));
  },
};

function changeSettings(changes) {
  settings = Object.fromEntries(Object.entries({ ...settings, ...changes }).filter(([, value]) => value !== null && value !== ''));
  keepSettings(settings);
}

function ask(question) {
  if (!models.length || !question.trim()) return;
  const turn = { question, replies: [] };
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
  turn.replies = names.map(newReply);
  const requests = turn.replies.map((reply) => requestFor(reply.model, asked, asked.turns.indexOf(turn), settings));
  showChat();
  setBusy(true);
  keep(asked);
  const view = views.at(-1);
  await Promise.all(
    turn.replies.map((reply, number) => {
      const element = view.replies.children[number];
      const update = oncePerFrame(() => {
        const wasNearEnd = nearEnd();
        element.update();
        if (wasNearEnd) toEnd();
      });
      return streamInto(reply, requests[number], controller.signal, update).then(() => {
        byId('status').textContent = words.finished(reply.model);
        if (reply.status === 401) askKey();
      });
    }),
  );
  keep(asked);
  if (running === controller) setBusy(false);
}

/** Wrap `work` so that it runs at most once per animation frame. */
function oncePerFrame(work) {
  let due = false;
  return () => {
    if (due) return;
    due = true;
    requestAnimationFrame(() => {
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
  if (saved.turns.length && !keepChat(saved)) byId('status').textContent = words.full;
  showHistory();
}

function open(opened) {
  stop();
  chat = opened;
  showChat();
  showHistory();
  byId('chats').classList.remove('open');
  byId('menu').ariaExpanded = 'false';
  byId('question').focus();
}

function showChat() {
  views = chat.turns.map((turn) => turnView(turn, actions));
  byId('log').replaceChildren(...views.map((view) => view.element));
  if (!views.length) byId('log').append(make('p', { className: 'empty', textContent: words.empty }));
  for (const id of ['export-markdown', 'export-json']) byId(id).disabled = !views.length;
  toEnd();
}

function showHistory() {
  byId('history').replaceChildren(
    ...readChats().map((kept) => {
      const title = make('button', { className: 'title', textContent: kept.title, onclick: () => open(kept) });
      if (kept.id === chat.id) title.ariaCurrent = 'true';
      const remove = make('button', { className: 'quiet', textContent: '×', ariaLabel: words.remove(kept.title) });
      remove.onclick = () => {
        forgetChat(kept);
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
  byId('settings').showModal();
}

function takeSettings() {
  const defaults = modelDefaults();
  const changes = { thinking: byId('set-thinking').checked ? null : false, fold: byId('set-fold').value };
  for (const name of NUMBERS) changes[name] = byId(`set-${name}`).value === '' ? null : byId(`set-${name}`).valueAsNumber;
  const system = byId('set-system').value.trim();
  changeSettings(changes);
  delete settings.system;
  if (system !== (defaults.system ?? '')) settings.system = system; // an empty one is a choice, too
  keepSettings(settings);
}

async function start() {
  try {
    models = await listModels();
  } catch (error) {
    if (error.status === 401) askKey();
    else byId('log').append(make('p', { className: 'mark failed', textContent: words.failed(error.message) }));
    return;
  }
  const option = (model) => make('option', { value: model.id, textContent: model.id });
  byId('model').replaceChildren(...models.map(option));
  byId('compare').replaceChildren(make('option', { value: '', textContent: words.noOther }), ...models.map(option));
  byId('compare').value = models.some((model) => model.id === settings.beside) ? settings.beside : '';
  byId('compare-label').hidden = models.length < 2;
  const notice = models.map((model) => model.thinktune?.notice).find(Boolean);
  byId('notice').hidden = !notice;
  byId('notice').textContent = notice ?? '';
}

function askKey() {
  byId('key').showModal();
}

function addListeners() {
  byId('ask').onsubmit = (event) => {
    event.preventDefault();
    const question = byId('question').value;
    if (!question.trim() || running) return;
    byId('question').value = '';
    ask(question);
  };
  byId('question').onkeydown = (event) => {
    if (event.key !== 'Enter' || event.shiftKey || event.isComposing) return; // composing: Enter picks Chinese characters
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
  byId('settings-open').onclick = showSettings;
  byId('settings').onclose = takeSettings;
  byId('set-reset').onclick = () => {
    settings = settings.beside ? { beside: settings.beside } : {};
    showSettingsAgain();
  };
  byId('key').onclose = () => {
    useKey(byId('key-text').value);
    start();
  };
  byId('export-markdown').onclick = () => download('chat.md', 'text/markdown', asMarkdown(chat, words));
  byId('export-json').onclick = () => download('chat.json', 'application/json', JSON.stringify({ ...chat, settings }, null, 2));
  byId('export-markdown').ariaLabel = words.exportMarkdownLong;
  byId('export-json').ariaLabel = words.exportJsonLong;
  window.onpagehide = () => keepChat(chat);
}

function showSettingsAgain() {
  byId('settings').onclose = null;
  byId('settings').close();
  showSettings();
  setTimeout(() => (byId('settings').onclose = takeSettings)); // the close event of the first dialog comes before this
}

showWords();
addListeners();
showChat();
showHistory();
await start();
byId('question').focus();
