// The chosen theme, light or dark, before the page is drawn; without a choice it is the system's.

try {
  document.documentElement.dataset.theme = localStorage.getItem('thinktune.theme') ?? '';
} catch {
  // Storage may be forbidden.
}
