// The page: its parts wired together. What is asked and answered lives in chat.js, how it looks in view.js.

import { listModels, useKey } from './api.js';
import { asMarkdown, grow, newChat, newReply, requestFor } from './chat.js';
import { forgetChat, keepChat, keepSettings, readChats, readSettings } from './store.js';
import { make, turnView } from './view.js';
import { speak, words } from './words.js';

const NUMBERS = ['temperature', 'top_p', 'top_k', 'max_tokens', 'reasoning_budget', 'seed'];
const at = (id) => document.getElementById(id);
let models = [];
let settings = readSettings();
let chat = newChat();
let views = [];
let running = null; // what stops the replies that are being written

const actions = {
  fold: () => settings.fold ?? '',
  rememberFold: (fold) => changeSettings({ fold }),
  edit: (turn, question) => {
    chat.turns.length = chat.turns.indexOf(turn);
    ask(question);
  },
  regenerate: (reply) => {
    const number = chat.turns.findIndex((turn) => turn.replies.includes(reply));
    chat.turns.length = number + 1; // what followed answered to the former reply
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
  const beside = at('beside').value;
  answer(turn, beside && beside !== at('model').value ? [beside, at('model').value] : [at('model').value]);
}

/** Let each of the models answer a turn, side by side. */
async function answer(turn, names) {
  stop();
  const mine = (running = new AbortController());
  const of = chat;
  turn.replies = names.map(newReply);
  const asked = turn.replies.map((reply) => requestFor(reply.model, of, of.turns.indexOf(turn), settings));
  showChat();
  busy(true);
  keep(of);
  const view = views.at(-1);
  await Promise.all(
    turn.replies.map((reply, number) => {
      const element = view.replies.children[number];
      const update = onceAFrame(() => {
        const low = nearEnd();
        element.update();
        if (low) toEnd();
      });
      return grow(reply, asked[number], mine.signal, update).then(() => {
        at('status').textContent = words.finished(reply.model);
        if (reply.status === 401) askKey();
      });
    }),
  );
  keep(of);
  if (running === mine) busy(false);
}

function onceAFrame(work) {
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
  busy(false);
}

function busy(writing) {
  if (!writing) running = null;
  const focused = [at('send'), at('stop')].includes(document.activeElement);
  at('send').hidden = writing;
  at('stop').hidden = !writing;
  if (focused) at('question').focus();
}

function keep(which) {
  if (which.turns.length && !keepChat(which)) at('status').textContent = words.full;
  showHistory();
}

function open(which) {
  stop();
  chat = which;
  showChat();
  showHistory();
  at('chats').classList.remove('open');
  at('menu').ariaExpanded = 'false';
  at('question').focus();
}

function showChat() {
  views = chat.turns.map((turn) => turnView(turn, actions));
  at('log').replaceChildren(...views.map((view) => view.element));
  if (!views.length) at('log').append(make('p', { className: 'empty', textContent: words.empty }));
  for (const id of ['export-markdown', 'export-json']) at(id).disabled = !views.length;
  toEnd();
}

function showHistory() {
  at('history').replaceChildren(
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

const nearEnd = () => at('log').scrollHeight - at('log').scrollTop - at('log').clientHeight < 80;
const toEnd = () => (at('log').scrollTop = at('log').scrollHeight);

function download(name, kind, text) {
  const link = make('a', { href: URL.createObjectURL(new Blob([text], { type: kind })), download: name });
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 1000);
}

function showSettings() {
  const usual = models.find((model) => model.id === at('model').value)?.thinktune ?? {};
  at('set-system').value = settings.system ?? usual.system ?? '';
  for (const name of NUMBERS) {
    at(`set-${name}`).value = settings[name] ?? '';
    at(`set-${name}`).placeholder = usual[name] ?? '';
  }
  at('set-thinking').checked = settings.thinking !== false;
  at('set-fold').value = settings.fold ?? '';
  at('settings').showModal();
}

function takeSettings() {
  const usual = models.find((model) => model.id === at('model').value)?.thinktune ?? {};
  const changes = { thinking: at('set-thinking').checked ? null : false, fold: at('set-fold').value };
  for (const name of NUMBERS) changes[name] = at(`set-${name}`).value === '' ? null : at(`set-${name}`).valueAsNumber;
  const system = at('set-system').value.trim();
  changeSettings(changes);
  delete settings.system;
  if (system !== (usual.system ?? '')) settings.system = system; // an empty one is a choice, too
  keepSettings(settings);
}

async function start() {
  try {
    models = await listModels();
  } catch (error) {
    if (error.status === 401) askKey();
    else at('log').append(make('p', { className: 'mark failed', textContent: words.failed(error.message) }));
    return;
  }
  const option = (model) => make('option', { value: model.id, textContent: model.id });
  at('model').replaceChildren(...models.map(option));
  at('beside').replaceChildren(make('option', { value: '', textContent: words.nobody }), ...models.map(option));
  at('beside').value = models.some((model) => model.id === settings.beside) ? settings.beside : '';
  at('beside-label').hidden = models.length < 2;
  const notice = models.map((model) => model.thinktune?.notice).find(Boolean);
  at('notice').hidden = !notice;
  at('notice').textContent = notice ?? '';
}

function askKey() {
  at('key').showModal();
}

function wire() {
  at('ask').onsubmit = (event) => {
    event.preventDefault();
    const question = at('question').value;
    if (!question.trim() || running) return;
    at('question').value = '';
    ask(question);
  };
  at('question').onkeydown = (event) => {
    if (event.key !== 'Enter' || event.shiftKey || event.isComposing) return; // composing: Enter picks Chinese characters
    event.preventDefault();
    at('ask').requestSubmit();
  };
  document.addEventListener('keydown', (event) => {
    if (event.key === 'Escape' && !document.querySelector('dialog[open]')) stop();
  });
  at('stop').onclick = stop;
  at('new').onclick = () => open(newChat());
  at('menu').onclick = () => (at('menu').ariaExpanded = String(at('chats').classList.toggle('open')));
  at('beside').onchange = () => changeSettings({ beside: at('beside').value });
  at('settings-open').onclick = showSettings;
  at('settings').onclose = takeSettings;
  at('set-reset').onclick = () => {
    settings = settings.beside ? { beside: settings.beside } : {};
    showSettingsAgain();
  };
  at('key').onclose = () => {
    useKey(at('key-text').value);
    start();
  };
  at('export-markdown').onclick = () => download('chat.md', 'text/markdown', asMarkdown(chat, words));
  at('export-json').onclick = () => download('chat.json', 'application/json', JSON.stringify({ ...chat, settings }, null, 2));
  at('export-markdown').ariaLabel = words.exportMarkdownLong;
  at('export-json').ariaLabel = words.exportJsonLong;
  window.onpagehide = () => keepChat(chat);
}

function showSettingsAgain() {
  at('settings').onclose = null;
  at('settings').close();
  showSettings();
  setTimeout(() => (at('settings').onclose = takeSettings)); // the close event of the former one comes first
}

speak();
wire();
showChat();
showHistory();
await start();
at('question').focus();
