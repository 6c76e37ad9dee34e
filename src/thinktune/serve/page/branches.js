// The versions of a chat. Its turns form a tree: each names the one before it (`parent`, null for the first). A question
// that was asked again (`again`: the turn that had it first) or edited (`edited`: that turn, too) stands beside its former
// version, under the same parent. `shown` says which is shown: of each parent's children, and of each question's replies.

const repliesOf = (first) => `replies ${first}`;
const firstOf = (turn) => turn.again ?? turn.id;

/** Return the turns that are shown, from the first question to the newest. */
export function shownTurns(chat) {
  const children = new Map();
  for (const turn of chat.turns) children.set(turn.parent, [...(children.get(turn.parent) ?? []), turn]);
  const turns = [];
  let parent = null;
  for (let among = children.get(null); among; among = children.get(parent)) {
    const turn = among.find(({ id }) => id === chat.shown[parent ?? '']) ?? among.at(-1);
    turns.push(turn);
    parent = turn.id;
  }
  return turns;
}

/** Show a turn, and of those after it what was shown last. */
export function showTurn(chat, turn) {
  chat.shown[turn.parent ?? ''] = turn.id;
  chat.shown[repliesOf(firstOf(turn))] = turn.id;
}

/** Return a turn and those before it, the first one first: the conversation that its replies answer. */
export function pathTo(chat, turn) {
  const turns = new Map(chat.turns.map((one) => [one.id, one]));
  const path = [];
  for (let one = turn; one; one = turns.get(one.parent)) path.unshift(one);
  return path;
}

/** Show a turn and all before it. */
export function showPath(chat, turn) {
  for (const one of pathTo(chat, turn)) showTurn(chat, one);
}

/** Add a turn after the last one that is shown. */
export function addTurn(chat, turn) {
  chat.turns.push(place(turn, shownTurns(chat).at(-1)));
}

/** Add a turn beside another one, as a version of it, and show it: its question asked again, or an edited one. */
export function addVersion(chat, turn, former) {
  const first = firstOf(former);
  turn[turn.question === former.question ? 'again' : 'edited'] = first;
  chat.turns.push(place(turn, chat.turns.find(({ id }) => id === former.parent)));
  chat.shown[repliesOf(first)] ??= former.id; // to come back to these replies
  showTurn(chat, turn);
}

/** List the versions of a turn's question, each with the replies that were shown last, and of its replies. */
export function versionsOf(chat, turn) {
  const siblings = chat.turns.filter(({ parent }) => parent === turn.parent);
  const replies = siblings.filter((other) => firstOf(other) === firstOf(turn));
  const questions = [...new Set(siblings.map(firstOf))].map((first) => {
    if (first === firstOf(turn)) return turn;
    const among = siblings.filter((other) => firstOf(other) === first);
    return among.find(({ id }) => id === chat.shown[repliesOf(first)]) ?? among.at(-1);
  });
  return { questions, replies };
}

/**
 * Bring the turns of a chat that was read or merged into the order in which they were asked. Those of earlier versions
 * follow each other, and so do two questions that two tabs asked at the same time.
 */
export function arrange(chat) {
  chat.shown ??= {};
  chat.turns.sort((one, other) => (one.asked ?? 0) - (other.asked ?? 0) || (one.asked && (one.id < other.id ? -1 : 1)) || 0);
  const read = new Set();
  const next = new Map(); // of each turn, the one that was asked after it, which is no other version
  let before = null;
  for (const turn of chat.turns) {
    if (turn.parent === undefined || (turn.parent !== null && !read.has(turn.parent))) turn.parent = before;
    if (!turn.again && !turn.edited) {
      while (next.has(turn.parent)) turn.parent = next.get(turn.parent);
      next.set(turn.parent, turn.id);
    }
    read.add(turn.id);
    before = turn.id;
  }
}

function place(turn, parent) {
  turn.parent = parent?.id ?? null;
  turn.asked = Math.max(Date.now(), (parent?.asked ?? 0) + 1); // after its parent, whatever the clock says
  return turn;
}
