// The clipboard, also where the browser offers none.

/** Copy a text. */
export async function copyText(text) {
  if (navigator.clipboard) return navigator.clipboard.writeText(text);
  const field = document.createElement('textarea'); // without https there is no other way
  field.value = text;
  field.className = 'away';
  document.body.append(field);
  field.select();
  document.execCommand('copy');
  field.remove();
}
