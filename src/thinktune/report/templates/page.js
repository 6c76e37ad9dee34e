// The script of every page: language and theme follow the reader's, commands can be copied, and the page reloads itself
// while the run goes on.
(() => {
  const page = document.documentElement;
  const storage = (() => { try { return sessionStorage; } catch { return {}; } })();
  const nameOptions = () => { for (const option of document.querySelectorAll("option[data-zh]")) option.textContent = option.dataset[page.lang]; };
  const setLanguage = (language) => { page.lang = language; storage.language = language; nameOptions(); };
  const reader = (navigator.languages || [navigator.language])[0] || "en";
  setLanguage(storage.language || (reader.startsWith("zh") ? "zh" : "en"));
  const kept = (() => { try { return localStorage; } catch { return {}; } })();
  const setTheme = (theme) => { if (theme) page.dataset.theme = theme; else delete page.dataset.theme; };
  setTheme(kept["thinktune.theme"]);
  page.classList.add("scripted");
  document.addEventListener("DOMContentLoaded", () => {
    nameOptions();
    const button = document.getElementById("language");
    button.hidden = false;
    button.addEventListener("click", () => setLanguage(page.lang === "zh" ? "en" : "zh"));
    const dark = () => (page.dataset.theme || (matchMedia("(prefers-color-scheme: dark)").matches ? "dark" : "light")) === "dark";
    const themes = document.getElementById("theme");
    themes.hidden = false;
    themes.addEventListener("click", () => {
      setTheme(dark() ? "light" : "dark");
      try { kept["thinktune.theme"] = page.dataset.theme; } catch { /* full, or forbidden */ }
    });
    for (const command of document.querySelectorAll(".copyable")) {
      const copy = command.querySelector("button");
      copy.hidden = false;
      copy.addEventListener("click", async () => {
        const text = command.querySelector("code").textContent;
        let copied = true;
        // A page from a file may not have the clipboard: then the text is selected, and the older way is tried.
        try { await navigator.clipboard.writeText(text); } catch {
          getSelection().selectAllChildren(command.querySelector("code"));
          try { copied = document.execCommand("copy"); } catch { copied = false; }
        }
        if (copied) { copy.classList.add("done"); setTimeout(() => copy.classList.remove("done"), 1500); }
      });
    }
    for (const time of document.querySelectorAll("time[datetime]")) time.textContent = new Date(time.dateTime).toLocaleString([], { dateStyle: "medium", timeStyle: "short" });
    // On a wide screen everything is open; on a phone the long parts wait.
    const wide = matchMedia("(min-width: 861px)");
    const openFolds = () => { for (const fold of document.querySelectorAll("details.phone-fold")) fold.open = true; };
    const openIfWide = () => { if (wide.matches) openFolds(); };
    wide.addEventListener("change", openIfWide);
    addEventListener("beforeprint", openFolds);
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
    openIfWide();
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
