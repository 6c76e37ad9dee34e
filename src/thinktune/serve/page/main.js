// The page's controls and state. Conversations are in chat.js, their display in view.js.

import { describeOutage, listModels, UNREACHABLE, useKey } from './api.js';
import { addTurn, addVersion, pathTo, showPath, showTurn, shownTurns, versionsOf } from './branches.js';
import * as chats from './chat.js';
import { keepChoice } from './choices.js';
import { hideNames, loadFeedback, nameOf, rowsAsJsonLines, sampleQuestions } from './feedback.js';
import { isHere, showHistory } from './history.js';
import * as store from './store.js';
import { composing, fit, make, turnView } from './view.js';
import { showWords, switchLanguage, words } from './words.js';

const NUMBERS = ['temperature', 'top_p', 'top_k', 'max_tokens', 'reasoning_budget', 'seed'];
const KEEP_EVERY_MS = 2000; // while a reply streams in
const byId = (id) => document.getElementById(id);
let models = [];
let run = null; // the identity of what is served, as the last answer of the server said
let settings = store.readSettings();
let chat = chats.newChat();
const forgotten = new Set(); // ids of deleted chats, whose replies may still be streaming in
let undo = null; // brings back what was last replaced or deleted
let views = [];
let running = null; // the AbortController of the replies in progress

const actions = {
  fold: () => settings.fold ?? '',
  chat: () => chat,
  isHere: () => isHere(chat, run),
  keep: (rated) => keep(rated),
  rememberFold: (fold) => changeSettings({ fold }),
  versions: (turn) => versionsOf(chat, turn),
  show: (id) => {
    const turn = turnOf(id);
    showTurn(chat, turn);
    keep(chat);
    showChat();
    const { questions, replies } = versionsOf(chat, turn);
    const among = replies.length > 1 ? replies : questions;
    byId('status').textContent = words.version(among.indexOf(turn) + 1, among.length);
    return views.find((view) => view.turn.id === id);
  },
  edit: ({ id }, question) =>
    whenServed(() => {
      const former = turnOf(id);
      if (!former) return; // tried again in another chat
      offerUndo('replaced');
      const turn = chats.newTurn(question);
      addVersion(chat, turn, former);
      answer(turn, chosenModels());
    }),
  regenerate: ({ id }) =>
    whenServed(() => {
      const former = turnOf(id);
      if (!former) return;
      const names = former.replies.map((one) => one.model);
      if (chats.isEmpty(former) && former === shownTurns(chat).at(-1)) return answer(former, names);
      offerUndo('replaced');
      const turn = chats.newTurn(former.question);
      addVersion(chat, turn, former);
      answer(turn, names);
    }),
};

const turnOf = (id) => chat.turns.find((turn) => turn.id === id);

/** Offer to show this chat again as it is now, until something else is replaced or deleted. */
function offerUndo(what, from = chat) {
  const last = shownTurns(from).at(-1);
  undo = () => {
    if (from === chat) stop();
    forgotten.delete(from.id);
    showPath(from, last);
    chats.stopReplies(from);
    keep(from);
    open(from);
    showUndo('');
  };
  showUndo(what);
}

function showUndo(what) {
  if (!what) undo = null;
  byId('undo').hidden = !what;
  byId('undo-text').dataset.text = what;
  byId('undo-text').textContent = words[what] ?? '';
}

function changeSettings(changes) {
  settings = Object.fromEntries(Object.entries({ ...settings, ...changes }).filter(([, value]) => value !== null && value !== ''));
  warnIfFull(store.keepSettings(settings));
}

/** Let `work` ask the server as soon as it is sure that it is there, and of which run it is; the page is busy meanwhile. */
async function whenServed(work) {
  stop();
  const controller = (running = new AbortController());
  setBusy(true);
  const isThere = await refresh(() => whenServed(work));
  if (running !== controller) return; // the user stopped it, or opened another chat
  setBusy(false);
  if (!isThere || !models.length) return;
  if (isHere(chat, run)) chat.run ??= run;
  else chat = chats.copyFor(run, chat);
  store.keepOpen(chat.id);
  work();
}

function ask(question) {
  const turn = chats.newTurn(question);
  chat.title ||= chats.titleOf(question);
  addTurn(chat, turn);
  answer(turn, chosenModels());
}

function chosenModels() {
  const model = byId('model').value;
  const other = byId('compare').value;
  return other && other !== model ? [other, model] : [model];
}

/** Let each of the models answer the last turn, side by side; a reply in progress is stopped. */
async function answer(turn, names) {
  stop();
  const controller = (running = new AbortController());
  const asked = chat; // the user may open another one meanwhile
  const keepNow = once((work) => setTimeout(work, KEEP_EVERY_MS), () => running === controller && warnIfFull(store.keepChat(asked)));
  turn.replies = names.map(chats.newReply);
  hideNames(turn.replies);
  const requests = turn.replies.map((reply) => chats.requestFor(reply.model, pathTo(asked, turn), settings));
  showChat();
  toEnd();
  setBusy(true);
  keep(asked);
  await Promise.all(
    turn.replies.map((reply, number) => {
      const update = once(requestAnimationFrame, () => {
        const wasNearEnd = nearEnd();
        views.find((view) => view.turn === turn)?.replies.children[number].update(); // another version may be shown
        if (wasNearEnd) toEnd();
        keepNow();
      });
      return chats.streamInto(reply, requests[number], controller.signal, update).then(() => {
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
  if (!running) showChat(); // other tabs asked, too
  showList();
}

function showProblem(text) {
  byId('problem').hidden = !text;
  byId('problem').textContent = text;
}

const warnIfFull = (kept) => showProblem(kept ? '' : words.full);

function open(opened) {
  stop();
  chat = opened;
  store.keepOpen(chat.id);
  showChat();
  toEnd();
  showList();
  openMenu(false);
  writeQuestion(store.takeDraft(chat, byId('question').value));
  byId('question').focus();
}

/** Show the versions of the chat that are chosen; the elements of turns that are shown already stay. */
function showChat() {
  const turns = shownTurns(chat);
  let same = 0;
  while (turns[same] && views[same]?.turn === turns[same] && views[same].written === turns[same].replies) same += 1;
  for (const view of views.splice(same)) view.element.remove();
  if (!same) byId('log').replaceChildren();
  views.push(...turns.slice(same).map((turn) => turnView(turn, actions)));
  byId('log').append(...views.slice(same).map((view) => view.element));
  for (const view of views) view.update();
  if (!views.length) byId('log').append(make('p', { className: 'empty', textContent: words.empty }), sampleQuestions());
  for (const id of ['export-markdown', 'export-json']) byId(id).disabled = !views.length;
  byId('elsewhere').hidden = isHere(chat, run);
  byId('elsewhere').textContent = isHere(chat, run) ? '' : words.ofOtherRun(chat.run.name, run.name);
}

const showList = () => showHistory(store.readChats(), chat, run, {
  open,
  remove: (kept) => {
    offerUndo('deleted', kept.id === chat.id ? chat : kept);
    forgotten.add(kept.id);
    store.forgetChat(kept);
    if (kept.id === chat.id) open(chats.newChat());
    else showList();
  },
  rename: (kept, title) => {
    const renamed = kept.id === chat.id ? chat : kept;
    renamed.title = title || chats.titleOf(shownTurns(renamed)[0].question);
    keep(renamed);
  },
});

/** Open or close the list of chats where a small window hides it. */
function openMenu(isOpen) {
  byId('chats').classList.toggle('open', isOpen);
  byId('menu').ariaExpanded = String(isOpen);
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

/** Ask the server what it serves now; where it does not answer that is said, with `retry`, and the result is false. */
async function refresh(retry) {
  let listed = [];
  const retried = document.activeElement?.closest('#unreachable');
  try {
    listed = await listModels();
    byId('unreachable')?.remove();
  } catch (error) {
    byId('unreachable')?.remove();
    if (error.status === 401) askKey();
    else showUnreachable(error, retry, retried);
    return false;
  }
  if (JSON.stringify(listed) !== JSON.stringify(models)) takeModels(listed);
  return true;
}

function showUnreachable(error, retry, focused) {
  const why = error.status === UNREACHABLE ? describeOutage(words) : words.failed(error.message);
  const button = make('button', { textContent: words.retry, onclick: retry });
  byId('problem').before(make('p', { id: 'unreachable', role: 'alert' }, `${why} `, button));
  if (focused) button.focus();
}

function takeModels(listed) {
  const chosen = byId('model').value;
  models = listed;
  const former = run;
  run = models[0]?.served_from ?? null;
  if (isHere(chat, former) !== isHere(chat, run)) for (const view of views.splice(0)) view.element.remove(); // other tools now
  const option = (model) => make('option', { value: model.id, textContent: model.id });
  byId('model').replaceChildren(...models.map(option));
  if (models.some((model) => model.id === chosen)) byId('model').value = chosen;
  byId('compare').replaceChildren(make('option', { value: '', textContent: words.noOther }), ...models.map(option));
  byId('compare').value = models.some((model) => model.id === settings.beside) ? settings.beside : '';
  byId('compare-label').hidden = models.length < 2;
  byId('blind').checked = settings.blind === true;
  const notice = models.map((model) => model.thinktune?.notice).find(Boolean);
  byId('notice').hidden = !notice;
  byId('notice').textContent = notice ?? '';
  showChat();
  showList();
  loadFeedback();
}

const start = () => refresh(start);

function askKey() {
  byId('key').returnValue = '';
  if (!byId('key').open) byId('key').showModal();
}

function addListeners() {
  byId('ask').onsubmit = (event) => {
    event.preventDefault();
    const question = byId('question').value;
    if (!question.trim() || running) return;
    whenServed(() => {
      showUndo('');
      if (byId('question').value === question) writeQuestion(''); // else the user writes the next one already
      ask(question);
    });
  };
  byId('question').oninput = () => writeQuestion(byId('question').value);
  byId('question').onkeydown = (event) => {
    if (event.key !== 'Enter' || event.shiftKey || composing(event)) return; // Enter picks Chinese characters
    event.preventDefault();
    byId('ask').requestSubmit();
  };
  document.addEventListener('keydown', (event) => {
    if (event.key !== 'Escape' || document.querySelector('dialog[open]')) return;
    if (byId('menu').ariaExpanded === 'true') openMenu(false);
    else stop();
  });
  byId('search').oninput = showList;
  byId('search').onkeydown = (event) => {
    if (event.key !== 'Escape') return;
    event.stopPropagation(); // it stops no reply here
    byId('search').value = '';
    showList();
  };
  byId('theme').value = document.documentElement.dataset.theme;
  byId('theme').onchange = () => keepChoice('theme', (document.documentElement.dataset.theme = byId('theme').value));
  byId('language').onclick = () => {
    switchLanguage();
    showTexts();
  };
  byId('stop').onclick = stop;
  byId('new').onclick = () => open(chats.newChat());
  byId('menu').onclick = () => openMenu(byId('menu').ariaExpanded !== 'true');
  document.addEventListener('pointerdown', (event) => event.target.closest('#chats, #menu') || openMenu(false));
  byId('compare').onchange = () => changeSettings({ beside: byId('compare').value }); // browsers have this name stored
  byId('blind').onchange = () => changeSettings({ blind: byId('blind').checked || null });
  byId('export-rows').onclick = () =>
    rowsAsJsonLines().then(
      (lines) => download('rows-from-chat.jsonl', 'application/jsonl', lines),
      (error) => showProblem(words.failed(error.message)),
    );
  byId('settings-open').onclick = showSettings;
  byId('settings').onclose = takeSettings;
  byId('set-reset').onclick = clearSettings;
  byId('undo-button').onclick = () => undo?.();
  byId('key').onclose = () => {
    if (byId('key').returnValue !== 'done') return;
    useKey(byId('key-text').value);
    start();
  };
  byId('export-markdown').onclick = () => download(chats.fileName(chat, 'md'), 'text/markdown', chats.asMarkdown(chat, words));
  byId('export-json').onclick = () => download(chats.fileName(chat, 'json'), 'application/json', chats.asJson(chat, settings));
  window.onpagehide = () => {
    if (!running) return; // all is stored; another tab may have deleted it
    chats.stopReplies(chat);
    stop();
    keep(chat);
  };
  window.onresize = () => fit(byId('question'));
  store.watchChats((id) => {
    if (id === chat.id && !running) {
      const wasNearEnd = nearEnd();
      store.takeOver(chat);
      showChat();
      if (wasNearEnd) toEnd();
    }
    showList();
  });
}

/** Show what this tab had open before it was loaded again, or in a new chat the question that the address offers. */
function restoreTab() {
  const offered = new URLSearchParams(location.hash.slice(1)).get('question'); // #question=…, from the studio
  if (offered) {
    history.replaceState(history.state, '', location.pathname + location.search);
    store.takeOffer(offered);
  }
  const { open: id, draft } = store.readTab();
  writeQuestion(offered || draft);
  open((!offered && store.readChat(id)) || chats.newChat());
}

/** Put a question into its box, which grows with it, and keep it over a reload. */
function writeQuestion(text) {
  if (byId('question').value !== text) byId('question').value = text;
  store.keepDraft(text);
  fit(byId('question'));
}

/** Write all texts in the chosen language. */
function showTexts() {
  showWords();
  byId('language').lang = words.otherLanguage === 'English' ? 'en' : 'zh';
  const [none] = byId('compare').options;
  if (none) none.textContent = words.noOther;
  for (const view of views.splice(0)) view.element.remove();
  showChat();
  showList();
}

showTexts();
addListeners();
dropRefusedSettings();
restoreTab();
await start();
if (document.activeElement === document.body) byId('question').focus(); // nobody has gone elsewhere meanwhile
