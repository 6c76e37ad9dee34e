// The reader's language, English or Chinese: at first the browser's, then as chosen; the same choice as the chat page's.

import { keepChoice, readChoice } from './choices.js';
import { createContext, useContext } from './libraries/preact.js';

export const Language = createContext('en');

const known = (language) => (language.toLowerCase().startsWith('zh') ? 'zh' : 'en');

/** Return the language to begin with. */
export const firstLanguage = () => known(readChoice('language') ?? navigator.language);

/** Remember a language and tell the document. */
export function setLanguage(language) {
  keepChoice('language', language);
  document.documentElement.lang = language === 'zh' ? 'zh-CN' : 'en';
}

/** Return the words of a screen's file in the reader's language. */
export const useWords = (file) => file[useContext(Language)];

/** Return 'en' or 'zh', to choose among texts that the server sends in both, and for `Intl`. */
export const useLanguage = () => useContext(Language);
