// The newest act of a verb about a recipe or a run, so that a page that is opened anew shows what goes on, or how it failed.

import { html } from '../libraries/preact.js';
import { refreshAll, useServer } from '../server.js';
import { Act, isAlive } from './act.js';

const REFRESH_MS = 4000;

/** Return the newest act of a verb about a name: `about` is 'recipe' or 'run'. */
export function useNewestAct(verb, about, name) {
  const { value } = useServer('studio/acts', REFRESH_MS);
  return value?.acts.find((act) => act.verb === verb && act.about[about] === name);
}

/** Show an act that lives, or that ended otherwise than well; one that ended well only if it was started here. */
export function NewestAct({ act, started, title }) {
  const id = act && (isAlive(act) || act.state !== 'finished') ? act.id : started;
  return id ? html`<section class="card"><h2>${title}</h2><${Act} id=${id} key=${id} onEnd=${refreshAll} /></section>` : null;
}
