// Elements for turns and replies: built once, then updated while a reply streams in.

import { describeOutage, UNREACHABLE } from './api.js';
import { copyButton } from './copy.js';
import { isHidden, nameOf, ratingTools, voteBar } from './feedback.js';
import { showMarkdown } from './markdown.js';
import { words } from './words.js';

const LONG_CHARACTERS = 1500;
const LONG_LINES = 15;

/** Make an element with properties (`on…` listeners, attributes with a dash) and children. */
export function make(tag, properties = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(properties)) {
    if (name.includes('-')) element.setAttribute(name, value);
    else element[name] = value;
  }
  element.append(...children);
  return element;
}

/** Build a question with its replies; `actions` holds the handlers of its buttons. */
export function turnView(turn, actions) {
  const text = make('div', { className: 'text', dir: 'auto', textContent: turn.question });
  if (turn.question.length > LONG_CHARACTERS || turn.question.split('\n').length > LONG_LINES) text.tabIndex = 0; // it scrolls
  const edit = make('button', { className: 'quiet', textContent: words.edit, onclick: () => editQuestion(question, edit, turn, actions) });
  const versions = {
    questions: make('span', { className: 'versions', role: 'group', ariaLabel: words.questionVersions }),
    replies: make('div', { className: 'versions', role: 'group', ariaLabel: words.replyVersions }),
  };
  const question = make('div', { className: 'question' }, text, edit, versions.questions);
  const replies = make('div', { className: 'replies' });
  const element = make('div', { className: 'turn' }, make('h2', { className: 'away', textContent: words.you }), question, replies, versions.replies);
  replies.append(...turn.replies.map((reply) => replyView(reply, turn, actions)));
  const update = () => {
    const all = actions.versions(turn);
    for (const kind of ['questions', 'replies']) showVersions(kind, versions[kind], all[kind], turn, actions);
  };
  if (turn.replies[0]?.blind) element.append(voteBar(turn, [...replies.children], actions));
  return { turn, written: turn.replies, element, replies, versions, update };
}

/** Show ‹ 2/3 ›, the way to the other versions of a question or of its replies; nothing where there is only one. */
function showVersions(kind, place, versions, turn, actions) {
  const ids = versions.map(({ id }) => id).join();
  if (place.dataset.ids === ids) return; // what has the focus keeps it
  const number = versions.indexOf(turn);
  const step = (side, textContent, ariaLabel) => {
    const other = versions[number + (side ? 1 : -1)];
    const go = () => {
      const buttons = actions.show(other.id).versions[kind].querySelectorAll('button');
      (buttons[side].disabled ? buttons[1 - side] : buttons[side]).focus();
    };
    return make('button', { className: 'quiet', textContent, ariaLabel, disabled: !other, onclick: go });
  };
  place.dataset.ids = ids;
  place.hidden = versions.length < 2;
  const count = make('span', { textContent: `${number + 1}/${versions.length}` });
  place.replaceChildren(...(place.hidden ? [] : [step(0, '‹', words.formerVersion), count, step(1, '›', words.nextVersion)]));
}

/** Let a field be as high as its text, as far as the page's style allows. */
export function fit(field) {
  field.style.height = 'auto';
  field.style.height = `${field.scrollHeight + field.offsetHeight - field.clientHeight}px`;
}

/** Return true if a key only picks characters: Safari says so by the key code alone, in the event after the composition. */
export const composing = (event) => event.isComposing || event.keyCode === 229;

function editQuestion(question, edit, turn, actions) {
  const before = [...question.childNodes];
  const field = make('textarea', { value: turn.question, rows: 3, dir: 'auto', ariaLabel: words.question });
  const leave = () => {
    question.replaceChildren(...before);
    edit.focus();
  };
  const resend = () => field.value.trim() && actions.edit(turn, field.value.trim());
  field.onkeydown = (event) => {
    if (event.key === 'Escape') leave();
    if (event.key === 'Enter' && !event.shiftKey && !composing(event)) {
      event.preventDefault();
      resend();
    }
    event.stopPropagation();
  };
  field.oninput = () => fit(field);
  question.replaceChildren(
    field,
    make('button', { className: 'strong', textContent: words.resend, onclick: resend }),
    make('button', { textContent: words.cancel, onclick: leave }),
  );
  fit(field);
  field.focus();
}

/** Build the element of a reply; its `update` shows the reply's present state. */
export function replyView(reply, turn, actions) {
  const summary = make('summary');
  const thoughts = make('div', { className: 'thoughts markdown' });
  const reasoning = make('details', { className: 'reasoning', open: actions.fold() !== 'closed' && !reply.finish }, summary, thoughts);
  const answer = make('div', { className: 'answer markdown' });
  const mark = make('p', { className: 'mark' });
  const facts = make('p', { className: 'facts small' });
  const tools = make('div', { className: 'tools' });
  const name = make('h3', { className: turn.replies.length > 1 || reply.run ? '' : 'away' });
  const element = make('article', { className: 'reply' }, name, reasoning, answer, mark, facts, tools);
  summary.onclick = () => actions.rememberFold(reasoning.open ? 'closed' : 'open'); // the click toggles it right after this
  if (actions.fold() === 'open') reasoning.open = true;
  const showReasoning = drawn(thoughts);
  const showAnswer = drawn(answer);
  let folded = Boolean(reply.finish);
  element.update = () => {
    name.textContent = element.ariaLabel = nameOf(reply);
    element.dataset.model = isHidden(reply) ? nameOf(reply) : reply.model;
    reasoning.hidden = !reply.reasoning;
    summary.textContent = reply.thought === null ? (reply.finish ? words.thoughts : words.thinkingNow) : words.thought(seconds(reply.thought));
    showReasoning(reply.reasoning, reply.finish || reply.thought !== null);
    if (reply.thought !== null && !folded) {
      folded = true;
      if (!actions.fold()) reasoning.open = false;
    }
    showAnswer(reply.answer, reply.finish);
    const waiting = !reply.finish && !reply.reasoning && !reply.answer;
    mark.textContent = waiting ? words.wait : markOf(reply);
    mark.hidden = !mark.textContent;
    mark.classList.toggle('failed', reply.finish === 'failed');
    facts.textContent = reply.usage && !isHidden(reply) ? words.facts(reply.usage.tokens, reply.usage.reasoning, reply.speed?.toFixed(1) ?? '–') : '';
    element.ariaBusy = String(!reply.finish);
    if (reply.finish && !tools.childNodes.length) tools.append(...toolsOf(reply, turn, actions));
  };
  element.update();
  return element;
}

/** Return a function that draws a growing text, for at most a quarter of the time until the text is whole. */
function drawn(element) {
  let shown = '';
  let free = 0; // a long reply takes longer to read than a frame lasts
  let later = 0;
  const draw = (text) => {
    if (text === shown) return;
    const began = performance.now();
    showMarkdown((shown = text), element);
    free = began + 4 * (performance.now() - began);
  };
  return (text, whole) => {
    clearTimeout(later);
    const wait = whole ? 0 : free - performance.now();
    if (wait > 0) later = setTimeout(draw, wait, text);
    else draw(text);
  };
}

function seconds(value) {
  return value < 10 ? value.toFixed(1) : Math.round(value);
}

function markOf(reply) {
  if (reply.finish === 'length') return words.cut;
  if (reply.finish === 'stopped') return words.stopped;
  if (reply.status === UNREACHABLE) return describeOutage(words);
  return reply.finish === 'failed' ? words.failed(reply.error) : '';
}

function toolsOf(reply, turn, actions) {
  const tools = [];
  if (reply.answer) tools.push(copyButton(words.copyAnswer, reply.answer));
  if (reply.reasoning) tools.push(copyButton(words.copyReasoning, reply.reasoning));
  if (reply.answer && reply.reasoning) tools.push(copyButton(words.copyBoth, `${reply.reasoning}\n\n${reply.answer}`));
  const again = reply.finish === 'failed' ? words.retry : words.regenerate;
  tools.push(make('button', { className: 'quiet regenerate', textContent: again, onclick: () => actions.regenerate(turn) }));
  return [...tools, ...ratingTools(reply, turn, actions)];
}
