// What people say of replies: thumbs and corrections become rows of the run, and votes of a blind comparison are kept.

import { readFeedbackOffer, sendFeedback } from './api.js';
import { pathTo } from './branches.js';
import { newId, requestFor } from './chat.js';
import { readChats } from './store.js';
import { composing, make } from './view.js';
import { words } from './words.js';

const SIDES = ['base', 'tuned']; // an even seed puts them on left and right in this order, as the server expects
const VOTES = ['left', 'right', 'tie', 'neither'];
const byId = (id) => document.getElementById(id);
let offer = { run: null, questions: [] };
let asked = Promise.resolve(); // until the server has said it: a vote before that would stay in this browser
let waiting = Promise.resolve(); // what is said is sent in its order, or a withdrawal could overtake its thumb

/** Ask the server where feedback is kept and what could be asked, and show both. */
export async function loadFeedback() {
  asked = readFeedbackOffer().then(
    (said) => (offer = said),
    () => {}, // another server that knows none of this
  );
  await asked;
  document.querySelector('.samples')?.replaceWith(sampleQuestions());
  for (const button of document.querySelectorAll('[class*=rate-]')) button.title = whereKept(); // of a chat that was open
  showRowsButton();
}

/** Build the questions of an empty page: held-out rows of the run, asked by a click. */
export function sampleQuestions() {
  const ask = (question) => {
    byId('question').value = question;
    byId('ask').requestSubmit();
  };
  const buttons = offer.questions.map((question) => make('button', { dir: 'auto', textContent: question, onclick: () => ask(question) }));
  const list = make('ul', {}, ...buttons.map((button) => make('li', {}, button)));
  return make('section', { className: 'samples', hidden: !buttons.length, ariaLabel: words.samples }, make('p', { className: 'small', textContent: words.samples }), list);
}

/** Shuffle the sides of a comparison by a new seed and hide its names, where the reader wants that. */
export function hideNames(replies) {
  if (!byId('blind').checked || replies.length !== 2) return;
  const [seed] = crypto.getRandomValues(new Uint32Array(1));
  replies.sort((one, other) => (one.model < other.model ? -1 : 1));
  if (seed % 2) replies.reverse();
  const id = newId();
  replies.forEach((reply, number) => (reply.blind = { id, seed, side: ['left', 'right'][number], vote: null, shown: false }));
}

export const isHidden = (reply) => Boolean(reply.blind && !reply.blind.shown);

/** Return the name of a reply's model, or its side while the name is hidden. */
export function nameOf(reply) {
  if (isHidden(reply)) return words[reply.blind.side];
  return reply.run ? `${reply.model} · ${reply.run}` : reply.model; // of a reply that another run wrote
}

const whereKept = () => (offer.run ? words.rateInRun : words.rateHere);

/** Build the buttons of a reply: two thumbs, and a correction that opens below them. */
export function ratingTools(reply, turn, actions) {
  if (reply.run || !actions.isHere()) return []; // this server's run did not write it
  const done = make('span', { className: 'small', role: 'status' });
  const button = (rating, label) => make('button', { className: `quiet rate-${rating}`, textContent: label, title: whereKept() });
  const good = button('good', words.good);
  const bad = button('bad', words.bad);
  const correct = button('corrected', words.correct);
  good.hidden = reply.finish !== 'stop' || !reply.answer; // what was cut off is no example
  bad.hidden = !reply.answer && !reply.reasoning;
  const show = () => {
    for (const [element, rating] of [[good, 'good'], [bad, 'bad'], [correct, 'corrected']])
      element.ariaPressed = String(reply.feedback?.rating === rating);
    correct.ariaExpanded = String(Boolean(correct.editor));
    showRowsButton();
  };
  const say = async (feedback) => {
    if (!actions.isHere()) return false; // the server is another run's by now
    try {
      const { file } = await rate(reply, turn, feedback, actions);
      done.textContent = feedback.rating ? (file ? words.keptAsRow(file) : words.keptHere) : words.takenBack;
      done.classList.remove('failed');
    } catch (error) {
      done.textContent = words.failed(error.message);
      done.classList.add('failed');
      return false;
    } finally {
      show();
    }
    return true;
  };
  const toggle = (rating) => () => say({ rating: reply.feedback?.rating === rating ? null : rating });
  good.onclick = toggle('good');
  bad.onclick = toggle('bad');
  correct.onclick = () => (correct.editor ? correct.editor.leave() : openEditor(reply, correct, say, show));
  show();
  return [good, bad, correct, done];
}

/** Open the fields of a correction below a reply, filled with what was said before. */
function openEditor(reply, button, say, show) {
  const said = reply.feedback?.rating === 'corrected' ? reply.feedback : reply;
  const field = (label, value, rows) => make('textarea', { value, rows, dir: 'auto', ariaLabel: label });
  const reasoning = field(words.thoughts, said.reasoning, 4);
  const answer = field(words.answer, said.answer, 6);
  const label = (text, child) => make('label', {}, make('span', { textContent: text }), child);
  const editor = make('form', { className: 'correction' });
  const leave = () => {
    editor.remove();
    button.editor = null;
    show();
    button.focus();
  };
  const keep = async () => {
    if (!answer.value.trim()) return answer.focus();
    if (await say({ rating: 'corrected', reasoning: reasoning.value, answer: answer.value })) leave();
  };
  const takeBack = make('button', { type: 'button', textContent: words.takeBack, hidden: reply.feedback?.rating !== 'corrected' });
  takeBack.onclick = async () => (await say({ rating: null })) && leave();
  editor.onsubmit = (event) => {
    event.preventDefault();
    keep();
  };
  editor.onkeydown = (event) => {
    if (event.key === 'Escape') leave();
    if (event.key === 'Enter' && (event.ctrlKey || event.metaKey) && !composing(event)) keep();
    event.stopPropagation();
  };
  editor.append(
    ...(reply.asked?.thinking === false ? [] : [label(words.thoughts, reasoning)]),
    label(words.answer, answer),
    make('p', { className: 'actions' }, make('button', { className: 'strong', textContent: words.saveRow }), takeBack, make('button', { type: 'button', textContent: words.cancel, onclick: leave })),
  );
  button.editor = { leave };
  button.closest('.reply').append(editor);
  show();
  answer.focus();
}

/** Send a rating, and note it in the chat once the server has it. */
async function rate(reply, turn, feedback, actions) {
  const id = reply.feedback?.id ?? newId();
  const chat = actions.chat(); // another one may be opened meanwhile
  const kept = await send('rows', rowRequest(chat, turn, reply, { ...feedback, id }));
  reply.feedback = { ...feedback, id };
  actions.keep(chat);
  return kept;
}

/** Build what the server makes a row of: the conversation as the model saw it, and the reply or its correction. */
function rowRequest(chat, turn, reply, { id, rating, reasoning, answer }) {
  if (!rating) return { id, rating };
  const said = (one) => one.id === turn.id || one.replies.some((other) => other.answer || other.reasoning);
  const { messages } = requestFor(reply.model, pathTo(chat, turn).filter(said), { system: reply.asked?.system });
  return {
    ...{ id, rating, messages, model: reply.model, finish: reply.finish, thinking: reply.asked?.thinking !== false },
    ...{ reasoning: reasoning ?? reply.reasoning, answer: answer ?? reply.answer },
  };
}

function send(kind, body) {
  const sent = waiting.then(() => sendFeedback(kind, body));
  waiting = sent.catch(() => null);
  return sent;
}

/** Build the vote below a blind comparison; it can be changed until the names are shown, then only taken back. */
export function voteBar(turn, elements, actions) {
  const bar = make('div', { className: 'vote', role: 'group', ariaLabel: words.vote });
  if (!turn.replies[0]?.blind) return bar;
  const [first, second] = turn.replies;
  const done = make('span', { className: 'small', role: 'status' });
  const buttons = VOTES.map((vote) => make('button', { textContent: words.votes[vote], onclick: () => choose(vote) }));
  const reveal = make('button', { className: 'quiet', textContent: words.showNames, onclick: () => note({ shown: true }) });
  const ask = make('span', { textContent: words.vote });
  const isHere = () => !first.run && actions.isHere();
  bar.append(ask, ...buttons, reveal, done);
  const show = () => {
    bar.hidden = !turn.replies.every((reply) => reply.finish);
    const failed = turn.replies.some((reply) => reply.finish === 'failed'); // there is nothing to compare
    const { vote, shown } = first.blind;
    ask.hidden = failed;
    buttons.forEach((button, number) => {
      button.ariaPressed = String(vote === VOTES[number]);
      button.hidden = failed;
      // Whoever knows the names votes no more, and no vote is of another run than the one that is served.
      button.disabled = !isHere() || (shown && vote !== VOTES[number]);
    });
    reveal.hidden = shown || !(vote || failed);
  };
  const note = (changes, chat = actions.chat()) => {
    for (const reply of turn.replies) Object.assign(reply.blind, changes);
    actions.keep(chat);
    for (const element of elements) element.update();
  };
  const choose = async (pressed) => {
    if (!isHere()) return;
    const vote = first.blind.vote === pressed ? null : pressed;
    const chat = actions.chat(); // another one may be opened meanwhile
    try {
      await asked;
      const counted = offer.run && [first, second].every((reply) => SIDES.includes(reply.model));
      if (counted) await send('votes', voteRequest(turn, vote));
      done.textContent = !counted ? words.keptHere : vote ? words.voted : words.takenBack;
      done.classList.remove('failed');
    } catch (error) {
      done.textContent = words.failed(error.message);
      done.classList.add('failed');
      return;
    }
    note({ vote }, chat);
  };
  for (const element of elements) {
    const update = element.update;
    element.update = () => {
      update();
      show();
    };
  }
  show();
  return bar;
}

function voteRequest(turn, vote) {
  const [left, right] = turn.replies;
  if (!vote) return { id: left.blind.id, vote };
  const shown = ({ model, reasoning, answer }) => ({ model, reasoning, answer });
  return { id: left.blind.id, vote, seed: left.blind.seed, question: turn.question, left: shown(left), right: shown(right) };
}

/** Offer the rows as a file where no run keeps them, once there is one. */
function showRowsButton() {
  byId('export-rows').hidden = Boolean(offer.run) || !ratedReplies().length;
}

function ratedReplies() {
  return readChats().flatMap((chat) => chat.turns.flatMap((turn) => turn.replies.filter((reply) => reply.feedback?.rating && !reply.run).map((reply) => ({ chat, turn, reply }))));
}

/** Return the rows of all rated replies in this browser as lines of JSON; the server makes them, as it does for a run. */
export async function rowsAsJsonLines() {
  const lines = [];
  for (const { chat, turn, reply } of ratedReplies())
    lines.push(JSON.stringify((await send('rows', rowRequest(chat, turn, reply, reply.feedback))).row));
  return lines.join('\n') + '\n';
}
