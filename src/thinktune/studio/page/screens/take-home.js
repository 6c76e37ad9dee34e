// The take-home screen: the final model, its other forms, its card, and its way to a hub.

import { ActButton, isAlive } from '../components/act.js';
import { Command } from '../components/command.js';
import { Markdown } from '../components/markdown.js';
import { NewestAct, useNewestAct } from '../components/newest-act.js';
import { Problem } from '../components/problem.js';
import { useText } from '../components/texts.js';
import { VerbCommand } from '../components/verb-command.js';
import { useLanguage, useWords } from '../language.js';
import { html, useEffect, useState } from '../libraries/preact.js';
import { formatBytes, formatWritten } from '../numbers.js';
import { get, inPath, useServer } from '../server.js';
import * as file from '../words/take-home.js';

const NAME = /^[A-Za-z0-9][\w.-]*\/[A-Za-z0-9][\w.-]*$/; // OWNER/NAME, as the verb takes it

const PUSHED = /^pushed: (https?:\/\/\S+)$/m;
const SCRIPTS = ['vllm', 'sglang', 'mlx']; // forms without weights of their own

/** Show a run's final model and all that can be made of it. */
export function TakeHome({ name }) {
  const words = useWords(file);
  const { value: shown, error } = useServer(`studio/take-home/${inPath(name)}`);
  return html`<h1>${words.title}</h1>
    <p class="lead">${words.lead}</p>
    <${Problem} error=${error} />
    ${shown?.damages.map((damage) => html`<p class="problem" role="alert">${damage}</p>`)}
    ${shown && !shown.final && html`<p>${words.none}</p>`}
    ${shown?.final && html`<${Model} shown=${shown} />
      <${Exports} name=${name} targets=${shown.targets} />
      <${Push} name=${name} hubs=${shown.hubs} />
      ${shown.card && html`<${Card} card=${shown.card} path=${shown.final.card} />`}`}`;
}

function Model({ shown }) {
  const words = useWords(file);
  const text = useText();
  return html`<h2>${words.model}</h2>
    <p class="mono">${words.size(shown.final.path, formatBytes(shown.final.bytes))}</p>
    ${shown.commands.map((command, number) => html`<details class="fold" open=${number === 0}><summary>${text(command.title)}</summary>
      ${command.language === 'sh' ? command.text.split('\n').map((line) => html`<${Command} line=${line} />`) : html`<${Command} line=${command.text} />`}
    </details>`)}`;
}

/** Show each form: what it is for, whether it was written and how it answered; chosen ones are written by one act. */
function Exports({ name, targets }) {
  const words = useWords(file);
  const act = useNewestAct('export', 'run', name);
  const [chosen, setChosen] = useState([]);
  const [started, setStarted] = useState(null);
  const toggle = (target) => setChosen(chosen.includes(target) ? chosen.filter((one) => one !== target) : [...chosen, target]);
  const verb = { verb: 'export', run: name, targets: chosen };
  return html`<h2>${words.exports}</h2>
    <div class="target-cards" role="group" aria-label=${words.choose}>
      ${targets.map((target) => html`<${Target} key=${target.name} target=${target} isChosen=${chosen.includes(target.name)} onToggle=${() => toggle(target.name)} />`)}
    </div>
    ${!isAlive(act) && chosen.length > 0 && html`<${VerbCommand} verb=${verb} />`}
    ${!isAlive(act) && html`<${ActButton} verb=${verb} label=${words.start} disabled=${!chosen.length} onStart=${({ id }) => (setStarted(id), setChosen([]))} />`}
    <${NewestAct} act=${act} started=${started} title=${words.running} />`;
}

function Target({ target, isChosen, onToggle }) {
  const words = useWords(file);
  const [title, purpose] = words.targets[target.name] ?? [target.name, ''];
  return html`<div class="card">
    <h3><label class="choice"><input type="checkbox" checked=${isChosen} onChange=${onToggle} /> ${title}</label> <code class="small">${target.name}</code></h3>
    <p class="small">${purpose}</p>
    ${target.missing && html`<p class="small warning">${words.missing(target.missing)}</p>`}
    ${target.made && html`<${Made} made=${target.made} isScript=${SCRIPTS.includes(target.name)} />`}
  </div>`;
}

function Made({ made, isScript }) {
  const words = useWords(file);
  const language = useLanguage();
  const { check } = made;
  return html`<p class="small better">✓ ${words.made(formatWritten(made.made, language), formatBytes(made.bytes))}</p>
    ${check ? html`<p class="small">${words.checked(check.equal, check.questions, made.engine)}</p>` : html`<p class=${`small ${isScript ? '' : 'warning'}`}>${isScript ? words.script : words.unchecked(made.unchecked)}</p>`}
    ${made.notes.map((note) => html`<p class="small">${words.note}: ${note}</p>`)}
    <${Command} line=${made.command} />`;
}

/** Push to a hub: where, under which name, and who may see it; the token stays in the server's environment. */
function Push({ name, hubs }) {
  const words = useWords(file);
  const act = useNewestAct('push', 'run', name);
  const [hub, setHub] = useState((hubs.find((one) => one.has_token) ?? hubs[0]).name);
  const [repository, setRepository] = useState('');
  const [isPublic, setPublic] = useState(false);
  const [started, setStarted] = useState(null);
  const { token_variable: variable, has_token: hasToken } = hubs.find((one) => one.name === hub);
  const isNamed = NAME.test(repository.trim());
  const verb = { verb: 'push', run: name, hub, name: repository.trim(), public: isPublic };
  return html`<h2>${words.push}</h2>
    <p class="small">${words.pushHint}</p>
    <div class="form-grid">
      <label>${words.hub}<select value=${hub} onChange=${(event) => setHub(event.target.value)}>
        ${hubs.map((one) => html`<option value=${one.name}>${words.hubs[one.name]}</option>`)}
      </select></label>
      <label>${words.repository}<input type="text" autocomplete="off" spellcheck=${false} placeholder="clinic/heart-qwen3" value=${repository} onInput=${(event) => setRepository(event.target.value)} /></label>
    </div>
    <p class="ticks"><label><input type="checkbox" checked=${isPublic} onChange=${(event) => setPublic(event.target.checked)} /><span>${words.public}</span></label></p>
    <p class=${`small ${hasToken ? '' : 'warning'}`}>${hasToken ? words.token(variable) : words.noToken(variable)}</p>
    ${!isAlive(act) && isNamed && html`<${VerbCommand} verb=${verb} />`}
    ${!isAlive(act) && html`<${ActButton} verb=${verb} label=${words.pushStart} disabled=${!isNamed || !hasToken} onStart=${({ id }) => setStarted(id)} />`}
    <${NewestAct} act=${act} started=${started} title=${words.pushing} />
    ${act?.state === 'finished' && html`<${Pushed} key=${act.id} id=${act.id} />`}`;
}

/** The address of what the newest push has made, as the verb printed it. */
function Pushed({ id }) {
  const words = useWords(file);
  const [address, setAddress] = useState(null);
  useEffect(() => {
    get(`studio/acts/${id}/log?name=stdout&from=0`).then(({ text }) => setAddress(PUSHED.exec(text)?.[1]), () => {});
  }, [id]);
  return address && html`<p class="better" role="status">✓ ${words.pushed} <a href=${address} target="_blank" rel="noopener">${address}</a></p>`;
}

function Card({ card, path }) {
  const words = useWords(file);
  const text = useText();
  return html`<h2>${words.card}</h2>
    <p class="small">${words.cardHint(path)} ${card.edited ? words.cardEdited : ''}</p>
    <div class="card card-text"><${Markdown} text=${text(card.text)} label=${words.card} /></div>`;
}
