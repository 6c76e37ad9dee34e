// Elements for turns and replies: built once, then updated while a reply streams in.

import { isHidden, nameOf, ratingTools, voteBar } from './feedback.js';
import { showMarkdown } from './markdown.js';
import { words } from './words.js';

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
  const edit = make('button', { className: 'quiet', textContent: words.edit, onclick: () => editQuestion(question, turn, actions) });
  const question = make('section', { className: 'question', ariaLabel: words.you }, text, edit);
  const replies = make('div', { className: 'replies' });
  const element = make('div', { className: 'turn' }, question, replies);
  replies.append(...turn.replies.map((reply) => replyView(reply, turn, actions)));
  if (turn.replies[0]?.blind) element.append(voteBar(turn, [...replies.children], actions));
  return { turn, element, replies };
}

/** Return true if a key only picks characters: Safari says so by the key code alone, in the event after the composition. */
export const composing = (event) => event.isComposing || event.keyCode === 229;

function editQuestion(question, turn, actions) {
  const before = [...question.childNodes];
  const field = make('textarea', { value: turn.question, rows: 3, dir: 'auto', ariaLabel: words.question });
  const leave = () => {
    question.replaceChildren(...before);
    before.at(-1).focus();
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
  question.replaceChildren(
    field,
    make('button', { className: 'strong', textContent: words.resend, onclick: resend }),
    make('button', { textContent: words.cancel, onclick: leave }),
  );
  field.focus();
}

/** Build the element of a reply; its `update` shows the reply's present state. */
export function replyView(reply, turn, actions) {
  const summary = make('summary');
  const thoughts = make('div', { className: 'thoughts', dir: 'auto' });
  const reasoning = make('details', { className: 'reasoning', open: actions.fold() !== 'closed' && !reply.finish }, summary, thoughts);
  const answer = make('div', { className: 'answer' });
  const mark = make('p', { className: 'mark' });
  const facts = make('p', { className: 'facts small' });
  const tools = make('div', { className: 'tools' });
  const name = make('h3', { hidden: turn.replies.length < 2 });
  const element = make('article', { className: 'reply' }, name, reasoning, answer, mark, facts, tools);
  summary.onclick = () => actions.rememberFold(reasoning.open ? 'closed' : 'open'); // the click toggles it right after this
  if (actions.fold() === 'open') reasoning.open = true;
  let shownAnswer = null;
  let folded = Boolean(reply.finish);
  element.update = () => {
    name.textContent = element.ariaLabel = element.dataset.model = nameOf(reply);
    reasoning.hidden = !reply.reasoning;
    summary.textContent = reply.thought === null ? (reply.finish ? words.thoughts : words.thinkingNow) : words.thought(seconds(reply.thought));
    if (thoughts.textContent !== reply.reasoning) thoughts.textContent = reply.reasoning;
    if (reply.thought !== null && !folded) {
      folded = true;
      if (!actions.fold()) reasoning.open = false;
    }
    if (shownAnswer !== reply.answer) showMarkdown((shownAnswer = reply.answer), answer);
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

function seconds(value) {
  return value < 10 ? value.toFixed(1) : Math.round(value);
}

function markOf(reply) {
  if (reply.finish === 'length') return words.cut;
  if (reply.finish === 'stopped') return words.stopped;
  return reply.finish === 'failed' ? words.failed(reply.error) : '';
}

function toolsOf(reply, turn, actions) {
  const copy = (label, text) => {
    const button = make('button', { className: 'quiet', textContent: label });
    button.onclick = async () => {
      await copyText(text);
      button.textContent = words.copied;
      setTimeout(() => (button.textContent = label), 1500);
    };
    return button;
  };
  const tools = [];
  if (reply.answer) tools.push(copy(words.copyAnswer, reply.answer));
  if (reply.reasoning) tools.push(copy(words.copyReasoning, reply.reasoning));
  if (reply.answer && reply.reasoning) tools.push(copy(words.copyBoth, `${reply.reasoning}\n\n${reply.answer}`));
  tools.push(make('button', { className: 'quiet regenerate', textContent: words.regenerate, onclick: () => actions.regenerate(turn) }));
  return [...tools, ...ratingTools(reply, turn, actions)];
}

async function copyText(text) {
  if (navigator.clipboard) return navigator.clipboard.writeText(text);
  const field = make('textarea', { value: text, className: 'away' }); // without https there is no other way
  document.body.append(field);
  field.select();
  document.execCommand('copy');
  field.remove();
}
