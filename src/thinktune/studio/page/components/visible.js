// Text of strangers as it is shown: every character that nobody could see has a sign or its code.

const SIGNS = { '\t': '→\t', '\r': '␍', '\u2028': '⏎', '\u2029': '¶', '\u00a0': '⍽' };
const UNSEEN = /[\u0000-\u0008\u000b-\u001f\u007f-\u009f\u00ad\u061c\u180e\u200b-\u200f\u202a-\u202e\u2060-\u2069\ufeff\ufff9-\ufffb\t\u2028\u2029]/g;

const spell = (letter) => {
  if (letter in SIGNS) return SIGNS[letter];
  const code = letter.charCodeAt(0);
  return code < 0x20 ? String.fromCharCode(0x2400 + code) : `⟨U+${code.toString(16).toUpperCase().padStart(4, '0')}⟩`;
};

/** Return a text in which control and invisible characters show; line breaks stay, or become ⏎ where `lines` is false. */
export function visible(text, lines = false) {
  const shown = text.replace(UNSEEN, spell);
  return lines ? shown : shown.replaceAll('\n', ' ⏎ ');
}
