// Rows of an evaluation: search, order, and a few at a time. Without it all rows are shown, and the filters are CSS.
document.addEventListener("DOMContentLoaded", () => {
  const PAGE = matchMedia("(max-width: 560px)").matches ? 8 : 20;
  for (const reader of document.querySelectorAll(".reader")) {
    const rows = [...reader.querySelectorAll(".read")], tools = reader.querySelector(".row-tools"), more = reader.querySelector(".more-rows");
    if (!rows.length || !tools) continue;
    const search = tools.querySelector("input"), order = tools.querySelector("select"), found = tools.querySelector(".found");
    const texts = new Map(rows.map((row) => [row, row.textContent.toLowerCase()]));
    const number = (row, key) => Number(row.dataset[key] || 0);
    const orders = {
      given: () => 0,
      longer: (one, other) => number(other, "change") - number(one, "change"),
      longest: (one, other) => number(other, "length") - number(one, "length"),
      row: (one, other) => one.dataset.row.localeCompare(other.dataset.row, "en", { numeric: true }),
    };
    let limit = PAGE;
    const show = () => {
      const wanted = search.value.trim().toLowerCase().split(/\s+/).filter(Boolean);
      const only = reader.querySelector(".filters input:checked")?.className.replace("only-", "became-");
      const matching = [...rows].sort(orders[order.value]).filter((row) =>
        (only === "became-all" || row.classList.contains(only)) && wanted.every((word) => texts.get(row).includes(word)));
      for (const row of rows) row.hidden = true;
      for (const row of matching.slice(0, limit)) { row.hidden = false; more.before(row); }
      more.hidden = matching.length <= limit;
      for (const count of more.querySelectorAll(".left")) count.textContent = matching.length - limit;
      found.textContent = matching.length;
    };
    const restart = () => { limit = PAGE; show(); };
    search.addEventListener("input", restart);
    order.addEventListener("change", restart);
    reader.querySelector(".filters").addEventListener("change", restart);
    more.querySelector("button").addEventListener("click", () => {
      const first = limit;
      limit += 5 * PAGE;
      show();
      [...reader.querySelectorAll(".read:not([hidden])")][first]?.querySelector("summary").focus();
    });
    tools.hidden = false;
    show();
  }
});
