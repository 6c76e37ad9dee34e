// The page of doubts: what is chosen becomes the text of each file of decisions, to save or to copy.
document.addEventListener("DOMContentLoaded", () => {
  const fields = [...document.querySelectorAll("fieldset.choices")];
  const key = "doubts " + location.pathname;
  const storage = (() => { try { return localStorage; } catch { return {}; } })();
  const remembered = (() => { try { return JSON.parse(storage[key] || "{}"); } catch { return {}; } })();
  const chosen = (field) => (field.querySelector("input:checked") || {}).value || "";
  const id = (field) => [field.dataset.rows + field.dataset.place, field.dataset.digest, field.dataset.fault].join(" ");
  for (const field of fields) {
    const before = [...field.querySelectorAll("input")].find((input) => input.value && input.value === remembered[id(field)]);
    if (before) before.checked = true;
  }
  const collect = (board) => {
    const file = JSON.parse(board.dataset.decisions);
    const rows = new Map(file.decisions.map((each) => [each.row, each]));
    for (const field of fields.filter((each) => each.dataset.rows === board.dataset.rows && chosen(each))) {
      const row = board.dataset.prefix + field.dataset.place;
      const known = rows.get(row);
      const same = known && known.digest === field.dataset.digest;
      const policies = { ...(same ? known.policies : {}), [field.dataset.fault]: chosen(field) };
      rows.set(row, { row, digest: field.dataset.digest, policies });
    }
    return JSON.stringify({ ...file, decisions: [...rows.values()] }, null, 2) + "\n";
  };
  const boards = [...document.querySelectorAll(".decisions")];
  const update = () => {
    for (const board of boards) {
      const text = collect(board);
      board.querySelector("textarea").value = text;
      const link = board.querySelector(".save");
      if (link.href.startsWith("blob:")) URL.revokeObjectURL(link.href);
      link.href = URL.createObjectURL(new Blob([text], { type: "application/json" }));
      link.download = board.dataset.name;
    }
    try { storage[key] = JSON.stringify(Object.fromEntries(fields.map((field) => [id(field), chosen(field)]))); } catch { /* full, or forbidden */ }
  };
  document.addEventListener("change", update);
  for (const board of boards) {
    board.querySelector(".copy").addEventListener("click", () => {
      const area = board.querySelector("textarea");
      area.select();
      let copied = false;
      try { copied = document.execCommand("copy"); } catch { /* the text is selected, and can be copied by hand */ }
      board.querySelector(".state").textContent = copied ? "✓" : "";
    });
  }
  update();
});
