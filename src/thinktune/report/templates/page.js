// The only script of a page: its language follows the reader's, and while a run goes on the page reads itself anew.
(() => {
  const page = document.documentElement;
  const kept = (() => { try { return sessionStorage; } catch { return {}; } })();
  const speak = (language) => { page.lang = language; kept.language = language; };
  const reader = (navigator.languages || [navigator.language])[0] || "en";
  speak(kept.language || (reader.startsWith("zh") ? "zh" : "en"));
  document.addEventListener("DOMContentLoaded", () => {
    const button = document.getElementById("language");
    button.hidden = false;
    button.addEventListener("click", () => speak(page.lang === "zh" ? "en" : "zh"));
    const folds = [...document.querySelectorAll("details")];
    const place = "view " + location.pathname;
    try {
      const view = JSON.parse(kept[place] || "null");
      if (view) {
        for (const [name, open] of Object.entries(view.folds)) { const fold = document.getElementById(name); if (fold) fold.open = open; }
        scrollTo(0, view.top);
        delete kept[place];
      }
    } catch { /* what is kept is of no use */ }
    const seconds = Number(page.dataset.refresh || 0);
    if (seconds) setInterval(() => {
      if (document.hidden || String(getSelection())) return; // nobody looks, or somebody copies
      const open = Object.fromEntries(folds.filter((fold) => fold.id).map((fold) => [fold.id, fold.open]));
      kept[place] = JSON.stringify({ folds: open, top: scrollY });
      location.reload();
    }, 1000 * seconds);
  });
})();
