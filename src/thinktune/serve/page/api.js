// Client of the OpenAI-compatible API: models, and a reply as a stream of events.

export const UNREACHABLE = 'unreachable'; // the status of an error where no server answered
const MODELS_TIMEOUT_MS = 10_000; // a server that is there has them at hand
const KEY = 'thinktune.key';

export class ApiError extends Error {
  constructor(status, message) {
    super(message);
    this.status = status;
  }
}

/** Keep the API key until the tab is closed. */
export function useKey(key) {
  sessionStorage.setItem(KEY, key);
}

/** Say that no server answers: at the address that this page has, or inside of the studio's screen, which starts it again. */
export const describeOutage = (words) => (parent === window ? words.unreachable(serverAddress()) : words.unreachableInFrame);

/** Return the address below which this page's server is, as a person would write it. */
const serverAddress = () => new URL('.', document.baseURI).href.replace(/\/$/, '');

/** List the models, each with its defaults. */
export async function listModels() {
  return (await (await call('v1/models', { signal: AbortSignal.timeout(MODELS_TIMEOUT_MS) })).json()).data;
}

/** Read what the server says about feedback: the run that keeps it, and held-out questions. */
export async function readFeedbackOffer() {
  return (await call('v1/feedback')).json();
}

/** Send a thumb or a correction (`rows`), or a vote (`votes`). */
export async function sendFeedback(kind, body) {
  const options = { method: 'POST', body: JSON.stringify(body), headers: { 'content-type': 'application/json' } };
  return (await call(`v1/feedback/${kind}`, options)).json();
}

/** Yield the parts of a reply as they come: {delta}, {finish}, {usage}. */
export async function* streamReply(request, signal) {
  const options = { include_usage: true, allow_moved: true };
  const response = await call('v1/chat/completions', {
    method: 'POST',
    body: JSON.stringify({ ...request, stream: true, stream_options: options }),
    headers: { 'content-type': 'application/json' },
    signal,
  });
  let text = '';
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  for (;;) {
    const { value, done } = await reader.read().catch(unreached);
    if (done) return;
    text += value;
    const events = text.split('\n\n');
    text = events.pop();
    for (const event of events) {
      const data = event.slice('data: '.length);
      if (data !== '[DONE]') yield* read(JSON.parse(data));
    }
  }
}

function* read(body) {
  if (body.error) throw new ApiError(0, body.error.message);
  if (body.usage) yield { usage: body.usage };
  for (const choice of body.choices) {
    yield { delta: choice.delta };
    if (choice.finish_reason) yield { finish: choice.finish_reason };
  }
}

async function call(path, options = {}) {
  const key = sessionStorage.getItem(KEY);
  const headers = { ...options.headers, ...(key ? { authorization: `Bearer ${key}` } : {}) };
  // Below the page's own address, wherever a proxy has put it.
  const response = await fetch(new URL(path, document.baseURI), { ...options, headers }).catch(unreached);
  if (response.ok) return response;
  const body = await response.json().catch(() => null);
  if (!body && [502, 503, 504].includes(response.status)) unreached(new Error(`HTTP ${response.status}`)); // says a proxy
  throw new ApiError(response.status, body?.error?.message ?? `HTTP ${response.status}`);
}

/** Throw an error of the connection as such; one that was stopped by the user stays as it is. */
function unreached(error) {
  throw error.name === 'AbortError' ? error : new ApiError(UNREACHABLE, error.message);
}
