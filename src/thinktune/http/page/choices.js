// Choices of the reader that are a single word, as `theme` (theme.js reads it, too) or `language`; kept for all pages.

/** Read a choice; null if none was made. */
export function readChoice(name) {
  try {
    return localStorage.getItem(`thinktune.${name}`);
  } catch {
    return null; // storage may be forbidden
  }
}

/** Keep a choice where storage is allowed. */
export function keepChoice(name, word) {
  try {
    localStorage.setItem(`thinktune.${name}`, word);
  } catch {
    // It lasts as long as the page.
  }
}
