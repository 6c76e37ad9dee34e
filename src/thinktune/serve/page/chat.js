// A conversation: its turns (a question and one reply per model), requests for replies, and replies that stream in.

import { ApiError, streamReply, UNREACHABLE } from './api.js';
import { shownTurns } from './branches.js';
import { nameOf } from './feedback.js';

export const newId = () => Array.from(crypto.getRandomValues(new Uint8Array(12)), (byte) => byte.toString(16).padStart(2, '0')).join('');

export function newChat() {
  return { id: newId(), changed: Date.now(), title: '', run: null, turns: [], shown: {} };
}

/** Copy a chat of one run to go on with it at another one; its replies keep the name of the run that wrote them. */
export function copyFor(run, chat) {
  const copy = { ...structuredClone(chat), id: newId(), changed: Date.now(), run };
  for (const turn of copy.turns) for (const reply of turn.replies) {
    reply.run ??= chat.run.name;
    delete reply.feedback; // its row is that run's
  }
  return copy;
}

export function newTurn(question) {
  return { id: newId(), question, replies: [] };
}

/** Return the title of a chat that has no name yet: how its first question begins. */
export const titleOf = (question) => [...question.trim().split('\n')[0]].slice(0, 60).join('');

export function newReply(model) {
  return { model, reasoning: '', answer: '', thought: null, finish: null, usage: null, speed: null, error: null };
}

/** Build the request for a model: the settings, and the turns up to the one to answer, as that model has seen them. */
export function requestFor(model, turns, settings) {
  const messages = [];
  if (settings.system != null) messages.push({ role: 'system', content: settings.system });
  for (const turn of turns.slice(0, -1)) {
    messages.push({ role: 'user', content: turn.question });
    const reply = turn.replies.find((one) => one.model === model) ?? turn.replies[0];
    if (reply && (reply.answer || reply.reasoning))
      messages.push({ role: 'assistant', content: reply.answer, reasoning_content: reply.reasoning });
  }
  messages.push({ role: 'user', content: turns.at(-1).question });
  const request = { model, messages, chat_template_kwargs: { enable_thinking: settings.thinking !== false } };
  for (const name of ['temperature', 'top_p', 'top_k', 'max_tokens', 'reasoning_budget', 'seed'])
    if (settings[name] != null) request[name] = settings[name];
  return request;
}

/** Stream a reply until it ends, fails or is stopped; calls `changed` after every step. */
export async function streamInto(reply, request, signal, changed) {
  let thinkingSince = null;
  let first = null;
  reply.asked = askedOf(request);
  try {
    for await (const { delta, finish, usage } of streamReply(request, signal)) {
      const now = performance.now();
      const reasoning = delta?.reasoning_content ?? delta?.reasoning;
      if (first === null && (reasoning || delta?.content)) first = now;
      if (reasoning) {
        thinkingSince ??= now;
        reply.reasoning += reasoning;
      }
      if (delta?.moved) {
        reply.reasoning = reply.answer; // it was reasoning; the model left its opening tag out
        reply.answer = '';
        thinkingSince = first;
      }
      if (delta?.content) {
        if (reply.reasoning) reply.thought ??= (now - thinkingSince) / 1000;
        reply.answer += delta.content;
      }
      if (finish) {
        reply.finish = finish;
        if (reply.reasoning) reply.thought ??= (now - thinkingSince) / 1000;
      }
      if (usage) {
        reply.usage = { prompt: usage.prompt_tokens, tokens: usage.completion_tokens, reasoning: usage.completion_tokens_details.reasoning_tokens };
        const seconds = (now - first) / 1000;
        reply.speed = seconds > 0.1 ? (usage.completion_tokens - 1) / seconds : null; // too short to measure
      }
      changed();
    }
    if (!reply.finish) throw new ApiError(UNREACHABLE, ''); // the server, or a proxy before it, broke off
  } catch (error) {
    reply.finish ??= error.name === 'AbortError' ? 'stopped' : 'failed'; // a page that goes has marked it already
    if (reply.finish === 'failed') reply.error = error.message;
    reply.status = error.status;
  }
  changed();
}

/** Return what a row made of the reply must say of its request, beside the conversation. */
function askedOf({ messages, chat_template_kwargs: options }) {
  return { system: messages[0].role === 'system' ? messages[0].content : undefined, thinking: options.enable_thinking };
}

/** Mark the replies that nothing writes any more as stopped: what came is kept when the page goes or is loaded again. */
export function stopReplies(chat) {
  for (const turn of chat.turns) for (const reply of turn.replies) reply.finish ??= 'stopped';
}

/** Return true if nothing of a turn's replies has come, so that nothing is lost if they are asked for again. */
export const isEmpty = (turn) => !turn.replies.some((reply) => reply.reasoning || reply.answer || reply.feedback?.rating);

/** Convert the shown versions of a chat to Markdown, the reasoning as a quotation. */
export function asMarkdown(chat, words) {
  const lines = [`# ${chat.title}`];
  if (chat.run) lines.push(`*${chat.run.name}*`);
  for (const turn of shownTurns(chat)) {
    lines.push(`## ${turn.question}`);
    for (const reply of turn.replies) {
      if (turn.replies.length > 1) lines.push(`### ${nameOf(reply)}`);
      if (reply.reasoning) lines.push(`> **${words.thoughts}**\n>\n${reply.reasoning.replace(/^/gm, '> ')}`);
      if (reply.answer) lines.push(reply.answer);
      if (reply.finish === 'length') lines.push(`*${words.cut}*`);
      if (reply.finish === 'stopped') lines.push(`*${words.stopped}*`);
    }
  }
  return lines.join('\n\n') + '\n';
}

/** Convert a chat to JSON, with all versions; `shown` lists the turns that are shown. */
export function asJson(chat, settings) {
  return JSON.stringify({ ...chat, shown: shownTurns(chat).map((turn) => turn.id), settings }, null, 2);
}

/** Return a chat's title as the name of a file, on any system. */
export function fileName(chat, ending) {
  const name = chat.title.replace(/[\p{C}\s\\/:*?"<>|~%#]+/gu, ' ').replace(/^[ .]+/, '');
  const short = [...name].slice(0, 60).join('').replace(/[ .]+$/, '');
  return `${short || 'chat'}.${ending}`;
}
