// The talk screen: the chat page of a run's server in a frame, and what was said of the replies.

import { Act, ActButton } from '../components/act.js';
import { Command } from '../components/command.js';
import { useNewestAct } from '../components/newest-act.js';
import { Problem } from '../components/problem.js';
import { VerbCommand } from '../components/verb-command.js';
import { useLanguage, useWords } from '../language.js';
import { html, useState } from '../libraries/preact.js';
import { formatNumber } from '../numbers.js';
import { offeredQuestion, replaceQuery, root } from '../router.js';
import { inPath, useServer } from '../server.js';
import * as file from '../words/talk.js';

const SOON_MS = 1000; // while the model is being loaded
const LATER_MS = 5000;

/** Show the chat page of a run; its server is an act that lives without this page. */
export function Talk({ name }) {
  const words = useWords(file);
  const act = useNewestAct('serve', 'run', name); // whose fault is shown if it failed
  const [waits, setWaits] = useState(false);
  const [question, setQuestion] = useState(offeredQuestion); // of a row of the proof
  const { value: talk, error } = useServer(`studio/talk/${inPath(name)}`, waits ? SOON_MS : LATER_MS);
  const served = talk?.served[0];
  const loading = Boolean(served && !served.ready);
  if (loading !== waits) setWaits(loading);
  const taken = () => {
    setQuestion(null);
    replaceQuery({});
  };
  const verb = { verb: 'serve', run: name };
  const watched = served?.id ?? (['failed', 'died'].includes(act?.state) ? act.id : null);
  return html`<h1>${words.title}</h1>
    <p class="lead">${words.lead}</p>
    <${Problem} error=${error} />
    ${talk && !served && html`<div class="card">
      <${ActButton} verb=${verb} label=${words.start}  />
      <p class="hint">${words.startHint}</p>
      <${VerbCommand} verb=${verb} />
    </div>`}
    ${question && talk && !served && html`<p>${words.asks}</p><p class="as-written" lang="">${question}</p>`}
    ${loading && html`<p role="status">${words.loading}</p>`}
    ${served?.ready && html`<${Chat} id=${served.id} question=${question} onTaken=${taken} />`}
    ${watched && html`<details class="fold" open=${!served?.ready}><summary>${words.server}</summary><${Act} id=${watched} key=${watched} /></details>`}
    ${talk && html`<${Said} talk=${talk} />`}`;
}

function Chat({ id, question, onTaken }) {
  const words = useWords(file);
  const language = useLanguage(); // which the chat page reads when it is loaded; it keeps its chat and its draft
  const address = `${root}chat/${id}/`;
  return html`<${ChatFrame} key=${language} address=${address} question=${question} onTaken=${onTaken} />
    <p class="small"><a href=${address} target="_blank" rel="noopener">${words.alone}</a></p>`;
}

/** Load the chat page; a question is offered to it once, and is then the chat page's to keep. */
function ChatFrame({ address, question, onTaken }) {
  const words = useWords(file);
  const [source] = useState(question ? `${address}#question=${encodeURIComponent(question)}` : address);
  const see = ({ target }) => {
    if (!question || !target.contentDocument) return;
    const { pathname, hash } = target.contentWindow.location;
    if (pathname === address && !hash) onTaken(); // else no chat page came
  };
  return html`<iframe class="chat-frame" src=${source} title=${words.frame} allow="clipboard-write" onLoad=${see}></iframe>`;
}

/** Show how many rows and votes came of the talks, and the line that trains on the rows. */
function Said({ talk }) {
  const words = useWords(file);
  const language = useLanguage();
  const rows = Object.entries(talk.rows);
  return html`<h2>${words.said}</h2>
    ${rows.length ? html`<ul class="fact-list">${rows.map(([rating, count]) => html`<li><b>${formatNumber(count, language)}</b> ${words.rows[rating]}</li>`)}</ul>`
      : html`<p class="small">${words.noRows}</p>`}
    ${talk.command && html`<p>${words.trainOn}</p><${Command} line=${talk.command} />`}
    <h2>${words.votes}</h2>
    ${talk.votes ? html`<${Votes} votes=${talk.votes} />` : html`<p class="small">${words.noVotes}</p>`}`;
}

/** Show the counts of blind votes, and how sure the preference is. */
export function Votes({ votes }) {
  const words = useWords(file);
  const per = (share) => (100 * share).toFixed(1);
  const { share } = votes;
  return html`<p>${share ? words.preferred(votes.tuned, votes.tuned + votes.base, per(share.value), per(share.low), per(share.high)) : words.undecided}</p>
    <ul class="fact-list">${Object.entries(words.counts).map(([key, text]) => votes[key] ? html`<li><b>${votes[key]}</b> ${text}</li>` : null)}</ul>`;
}
