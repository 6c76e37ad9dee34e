// What the studio's screens use of Preact and htm, as one module; web/bring bundles it.

import { h } from 'preact';
import htm from 'htm';

export { Component, Fragment, createContext, render } from 'preact';
export { useCallback, useContext, useEffect, useId, useLayoutEffect, useMemo, useReducer, useRef, useState } from 'preact/hooks';
/** Make elements of a template, as in html`<p class="small">${text}</p>`. */
export const html = htm.bind(h);
