// A conversation: its turns (a question and one reply per model), requests for replies, and replies that stream in.

import { streamReply } from './api.js';
import { nameOf } from './feedback.js';

export const newId = () => Array.from(crypto.getRandomValues(new Uint8Array(12)), (byte) => byte.toString(16).padStart(2, '0')).join('');

export function newChat() {
  return { id: newId(), changed: Date.now(), title: '', turns: [] };
}

export function newTurn(question) {
  return { id: newId(), asked: Date.now(), question, replies: [] };
}

export function newReply(model) {
  return { model, reasoning: '', answer: '', thought: null, finish: null, usage: null, speed: null, error: null };
}

/** Build the request for a model: the settings, and the conversation as that model has seen it. */
export function requestFor(model, chat, upTo, settings) {
  const messages = [];
  if (settings.system != null) messages.push({ role: 'system', content: settings.system });
  for (const turn of chat.turns.slice(0, upTo)) {
    messages.push({ role: 'user', content: turn.question });
    const reply = turn.replies.find((one) => one.model === model) ?? turn.replies[0];
    if (reply && (reply.answer || reply.reasoning))
      messages.push({ role: 'assistant', content: reply.answer, reasoning_content: reply.reasoning });
  }
  messages.push({ role: 'user', content: chat.turns[upTo].question });
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
    reply.finish ??= 'stopped'; // the server is gone
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

/** Convert a chat to Markdown, the reasoning as a quotation. */
export function asMarkdown(chat, words) {
  const lines = [`# ${chat.title}`];
  for (const turn of chat.turns) {
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
