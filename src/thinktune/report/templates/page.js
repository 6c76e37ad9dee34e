// The only script of a page: its language follows the reader's, and the page reloads itself while the run goes on.
(() => {
  const page = document.documentElement;
  const storage = (() => { try { return sessionStorage; } catch { return {}; } })();
  const setLanguage = (language) => { page.lang = language; storage.language = language; };
  const reader = (navigator.languages || [navigator.language])[0] || "en";
  setLanguage(storage.language || (reader.startsWith("zh") ? "zh" : "en"));
  document.addEventListener("DOMContentLoaded", () => {
    const button = document.getElementById("language");
    button.hidden = false;
    button.addEventListener("click", () => setLanguage(page.lang === "zh" ? "en" : "zh"));
    const folds = [...document.querySelectorAll("details")];
    const viewKey = "view " + location.pathname;
    try {
      const view = JSON.parse(storage[viewKey] || "null");
      if (view) {
        for (const [name, open] of Object.entries(view.folds)) { const fold = document.getElementById(name); if (fold) fold.open = open; }
        scrollTo(0, view.top);
        delete storage[viewKey];
      }
    } catch { /* the stored view is unusable */ }
    const seconds = Number(page.dataset.refresh || 0);
    // Nobody rewrites the page of a run that was killed: then it says so, and asks no more.
    if (seconds && Date.now() > Number(page.dataset.staleAfter)) document.getElementById("stale").hidden = false;
    else if (seconds) setInterval(() => {
      if (document.hidden || String(getSelection())) return; // the page is hidden, or text is selected
      const open = Object.fromEntries(folds.filter((fold) => fold.id).map((fold) => [fold.id, fold.open]));
      storage[viewKey] = JSON.stringify({ folds: open, top: scrollY });
      location.reload();
    }, 1000 * seconds);
  });
})();
