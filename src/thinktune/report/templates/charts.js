// Charts: values under the pointer, finger or arrow keys; x by step, epoch, time or tokens; log axis, smoothing, zoom; files.
// What it draws has the same elements and classes as the drawing that came with the page (svg_charts.py).
// A page's charts are made live when it is loaded. The studio calls this for those that it fetches; what is returned takes
// the same charts with newer values, and keeps what the reader has chosen: it says whether it could.
globalThis.makeChartsLive = (page) => {
  const LEFT = 62, RIGHT = 14, TOP = 26, BOTTOM = 34;
  const tools = page.querySelector(".chart-tools");
  const clockOf = (form) => JSON.parse((form && form.dataset.clock) || "{}");
  const view = { over: "step", log: null, smoothing: null };
  const chartsOf = (place) => [...place.querySelectorAll(".chart[data-chart]")].map((box) => ({ box, facts: JSON.parse(box.dataset.chart), zoom: null }));
  const charts = chartsOf(page);
  let clock = clockOf(tools);
  if (!charts.length) return () => false;
  let cursor = null; // the x that is read, in the chart's own unit, and the chart it is read in

  const element = (name, attributes, ...children) => {
    const made = document.createElementNS(charts[0].box.querySelector("svg.plot").namespaceURI, name);
    for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
    made.append(...children);
    return made;
  };
  const inBoth = (names, tag) => names[0] === names[1] ? [names[0]] : names.map((text, index) => {
    const made = tag === "tspan" ? element("tspan", {}) : document.createElement("span");
    made.setAttribute("class", index ? "zh" : "en");
    if (index) made.setAttribute("lang", "zh");
    made.textContent = text;
    return made;
  });
  const named = (names) => names[document.documentElement.lang.startsWith("zh") ? 1 : 0];

  // --- numbers
  const least = (values) => values.reduce((one, other) => Math.min(one, other), Infinity);
  const most = (values) => values.reduce((one, other) => Math.max(one, other), -Infinity);
  const niceSteps = (wanted, steps) => steps.find((step) => step >= wanted);
  const spacing = (low, high, count, over) => {
    const wanted = (high - low) / count;
    if (over === "seconds") {
      const found = niceSteps(wanted, [1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 900, 1800, 3600, 7200, 14400, 21600, 43200, 86400]);
      if (found) return found;
    }
    const power = 10 ** Math.floor(Math.log10(wanted));
    const step = power * (niceSteps(wanted / power - 1e-9, [1, 2, 5]) || 10);
    return over === "step" ? Math.max(1, step) : step; // between two whole numbers there is no step
  };
  const linearTicks = (low, high, count, over) => {
    const step = spacing(low, high, count, over);
    const first = Math.floor(low / step + 1e-9), last = Math.ceil(high / step - 1e-9);
    return Array.from({ length: last - first + 1 }, (_, index) => Number(((first + index) * step).toPrecision(12)));
  };
  const logTicks = (low, high) => {
    const factors = high / low <= 100 ? [1, 2, 5] : [1], rungs = [];
    for (let power = Math.floor(Math.log10(low)) - 1; power <= Math.ceil(Math.log10(high)) + 1; power++)
      for (const factor of factors) rungs.push(Number((factor * 10 ** power).toPrecision(6)));
    const first = Math.max(...rungs.filter((rung) => rung <= low * (1 + 1e-9)));
    const last = Math.min(...rungs.filter((rung) => rung >= high * (1 - 1e-9)));
    return rungs.filter((rung) => rung >= first && rung <= last);
  };
  const tickText = (value, step) => {
    if (!value) return "0";
    if (step < 1e-3 || step >= 1e6) return value.toExponential(3).replace(/\.?0*e\+?/, "e");
    return value.toLocaleString("en-US", { minimumFractionDigits: Math.max(0, -Math.floor(Math.log10(step) + 1e-9)), maximumFractionDigits: 9 });
  };
  const duration = (seconds) => {
    const whole = Math.round(seconds), pad = (value) => String(value).padStart(2, "0");
    const hours = Math.floor(whole / 3600), minutes = Math.floor(whole / 60) % 60;
    return hours ? `${hours}:${pad(minutes)}:${pad(whole % 60)}` : `${minutes}:${pad(whole % 60)}`;
  };
  const amount = (value) => Math.abs(value) >= 1000 ? value.toLocaleString("en-US", { maximumFractionDigits: 0 })
    : Math.abs(value) < 1e-3 && value ? value.toExponential(3) : String(Number(value.toPrecision(4)));
  const xTick = (value, over, step) => over === "seconds" ? duration(value)
    : over === "tokens" && value >= 1e6 ? `${Number((value / 1e6).toPrecision(4))}M` : tickText(value, step);

  // --- what is shown: step by the page's clock, smoothed lines
  const between = (from, to, value) => {
    const xs = clock[from], ys = clock[to], last = xs.length - 1;
    let low = 0, high = last;
    while (high - low > 1) { const middle = (low + high) >> 1; if (xs[middle] <= value) low = middle; else high = middle; }
    const width = xs[high] - xs[low];
    return width ? ys[low] + (value - xs[low]) / width * (ys[high] - ys[low]) : ys[high];
  };
  const overOf = (chart) => chart.facts.over === "step" && clock[view.over] ? view.over : chart.facts.over;
  const shownX = (chart, x) => overOf(chart) === chart.facts.over ? x : between("step", overOf(chart), x);
  const smooth = (points, share) => {
    const reach = Math.round(share * points.length / 2), sums = [0];
    for (const [, y] of points) sums.push(sums[sums.length - 1] + y);
    return points.map(([x], index) => {
      const first = Math.max(0, index - reach), last = Math.min(points.length, index + reach + 1);
      return [x, (sums[last] - sums[first]) / (last - first)];
    });
  };
  const linesOf = (chart) => chart.facts.lines.map((line) => ({
    ...line, points: line.unsmoothed && view.smoothing !== null ? smooth(line.unsmoothed, view.smoothing) : line.points,
  }));

  // --- drawing
  const frameOf = (chart) => {
    const lines = linesOf(chart), over = overOf(chart), [width, height] = chart.facts.size;
    const xs = [...lines.flatMap((line) => line.points.map(([x]) => x)), ...(chart.facts.end === null ? [] : [chart.facts.end])].map((x) => shownX(chart, x));
    let [left, right] = chart.zoom ? chart.zoom.map((x) => shownX(chart, x)) : [least(xs), most(xs)];
    if (!(right > left)) { const pad = Math.abs(left) * 0.1 || 1; left -= pad; right += pad; }
    const inside = lines.flatMap((line) => line.points.filter(([x]) => { const at = shownX(chart, x); return at >= left && at <= right; }).map(([, y]) => y));
    const ys = inside.length ? inside : lines.flatMap((line) => line.points.map(([, y]) => y));
    let low = Math.min(least(ys), chart.facts.zero ? 0 : Infinity), high = Math.max(most(ys), chart.facts.zero ? 0 : -Infinity);
    const log = chart.facts.mayBeLog && low > 1e-12 && (view.log === null ? chart.facts.log : view.log);
    if (!(high - low > 1e-9 * Math.abs(high))) { const pad = Math.abs(high) * 0.1 || 1; low -= pad; high += pad; }
    const yTicks = log ? logTicks(low, high) : linearTicks(low, high, Math.floor(height / 60));
    const scale = (value) => log ? Math.log10(value) : value;
    const bottom = scale(yTicks[0]), top = scale(yTicks[yTicks.length - 1]);
    return {
      lines, over, width, height, left, right, log, yTicks,
      x: (x) => LEFT + (shownX(chart, x) - left) / (right - left) * (width - LEFT - RIGHT),
      y: (y) => height - BOTTOM - (scale(y) - bottom) / ((top - bottom) || 1) * (height - TOP - BOTTOM),
      atShown: (shown) => LEFT + (shown - left) / (right - left) * (width - LEFT - RIGHT),
    };
  };
  const OVER_NAMES = { epoch: ["epoch", "轮"], seconds: ["time", "时间"], tokens: ["tokens", "token"] };
  const draw = (chart) => {
    const frame = chart.frame = frameOf(chart), svg = chart.svg, { width, height } = frame, floor = height - BOTTOM;
    const parts = [], put = (name, attributes, ...children) => parts.push(element(name, attributes, ...children));
    const step = frame.yTicks[1] - frame.yTicks[0];
    for (const value of frame.yTicks) {
      const y = frame.y(value);
      put("line", { class: "grid", x1: LEFT, x2: width - RIGHT, y1: y, y2: y });
      put("text", { class: "tick y", x: LEFT - 8, y }, tickText(value, frame.log ? value : step));
    }
    const count = Math.floor(width / 90), xStep = spacing(frame.left, frame.right, count, frame.over);
    for (const value of linearTicks(frame.left, frame.right, count, frame.over)) {
      if (value < frame.left - 1e-9 || value > frame.right + 1e-9) continue;
      put("text", { class: "tick x", x: frame.atShown(value), y: floor + 10 }, xTick(value, frame.over, xStep));
    }
    put("text", { class: "tick name", x: LEFT - 16, y: floor + 10 }, ...inBoth(OVER_NAMES[frame.over] && frame.over !== chart.facts.over ? OVER_NAMES[frame.over] : chart.facts.x, "tspan"));
    const inView = (x) => { const at = frame.x(x); return at >= LEFT - 0.5 && at <= width - RIGHT + 0.5; };
    for (const [x, names] of chart.facts.marks.filter(([x]) => inView(x))) {
      const at = frame.x(x);
      put("line", { class: "vertical", x1: at, x2: at, y1: TOP - 14, y2: floor });
      put("text", { class: "tick vertical-name", x: at - 5, y: TOP - 10 }, ...inBoth(names, "tspan"));
    }
    // A drawing inside the drawing cuts off what is outside the zoom.
    const inner = { x: LEFT - 6, y: 0, width: width - LEFT - RIGHT + 12, height };
    const drawing = chart.zoom ? element("svg", { ...inner, viewBox: Object.values(inner).join(" ") }) : element("g", {});
    for (const line of frame.lines.filter((one) => one.points.length)) {
      const places = line.points.map(([x, y]) => `${frame.x(x).toFixed(1)} ${frame.y(y).toFixed(1)}`);
      drawing.append(element("path", { class: `line ${line.style}`, d: "M" + (places.length > 1 ? places : [places[0], places[0]]).join(" L") }));
    }
    for (const line of frame.lines.filter((one) => one.markers))
      for (const [x, y] of line.points.filter(([x]) => inView(x))) drawing.append(element("circle", { class: `marker ${line.style}`, cx: frame.x(x), cy: frame.y(y), r: 4 }));
    parts.push(drawing);
    const ring = chart.facts.ring;
    if (ring && inView(ring[0])) {
      const x = frame.x(ring[0]), y = frame.y(ring[1]), share = (x - LEFT) / (width - LEFT - RIGHT);
      put("circle", { class: "ring", cx: x, cy: y, r: 9 });
      put("text", { class: `ring-name ${share < 0.1 ? "start" : share > 0.9 ? "end" : "middle"}`, x, y: Math.max(TOP + 4, y - 16) }, ...inBoth(["best", "最好"], "tspan"), ` ${amount(ring[1])}`);
    }
    chart.cross = element("g", { class: "cross" });
    svg.replaceChildren(...parts, chart.cross);
    read(chart);
  };

  // --- reading values
  const nearest = (points, x) => {
    if (!points.length) return null;
    let low = 0, high = points.length - 1;
    while (high - low > 1) { const middle = (low + high) >> 1; if (points[middle][0] <= x) low = middle; else high = middle; }
    return Math.abs(points[low][0] - x) <= Math.abs(points[high][0] - x) ? points[low] : points[high];
  };
  const xsOf = (chart) => chart.xs ||= [...new Set(chart.facts.lines.flatMap((line) => line.points.map(([x]) => x)))].sort((one, other) => one - other);
  const read = (chart) => {
    const shown = cursor && cursor.over === chart.facts.over ? cursor.x : null;
    chart.cross.replaceChildren();
    chart.readout.replaceChildren();
    if (shown === null) { chart.readout.append(...inBoth(chart.hint, "span")); return; }
    const at = chart.frame.x(shown), frame = chart.frame;
    if (at < LEFT - 1 || at > frame.width - RIGHT + 1) { chart.readout.append(...inBoth(["outside the zoom", "在放大范围之外"], "span")); return; }
    chart.cross.append(element("line", { class: "cursor", x1: at, x2: at, y1: TOP - 6, y2: frame.height - BOTTOM }));
    const items = [];
    const where = document.createElement("b");
    where.append(...inBoth(chart.facts.x, "span"), ` ${amount(shown)}`);
    items.push(where);
    if (chart.facts.over === "step") for (const key of ["epoch", "seconds", "tokens"]) if (clock[key]) {
      const part = document.createElement("span"), value = between("step", key, shown);
      part.append(...inBoth(OVER_NAMES[key], "span"), ` ${key === "seconds" ? duration(value) : key === "epoch" ? value.toFixed(2) : amount(Math.round(value))}`);
      items.push(part);
    }
    for (const line of chart.frame.lines) {
      const point = nearest(line.points, shown);
      // A line that was recorded far from here has no value here.
      if (!point || Math.abs(frame.x(point[0]) - at) > 40) continue;
      const item = document.createElement("span"), dot = document.createElement("i");
      dot.setAttribute("class", `key-dot ${line.style}`);
      item.append(dot, ...inBoth(line.name, "span"), ` ${amount(point[1])}`);
      if (point[0] !== shown && line.markers) item.append(` (${amount(point[0])})`);
      items.push(item);
      chart.cross.append(element("circle", { class: `marker ${line.style}`, cx: frame.x(point[0]), cy: frame.y(point[1]), r: 3.5 }));
    }
    chart.readout.append(...items);
  };
  const setCursor = (next) => { cursor = next; for (const chart of charts) read(chart); };
  const pointed = (chart, event) => {
    const box = chart.svg.getBoundingClientRect(), frame = chart.frame;
    const at = (event.clientX - box.left) / box.width * frame.width;
    const wanted = frame.left + (at - LEFT) / (frame.width - LEFT - RIGHT) * (frame.right - frame.left);
    let best = null, distance = Infinity;
    for (const x of xsOf(chart)) { const away = Math.abs(shownX(chart, x) - wanted); if (away < distance) { best = x; distance = away; } }
    return best;
  };
  const zoomTo = (chart, range) => {
    for (const one of charts) if (one.facts.over === chart.facts.over) { one.zoom = range; draw(one); }
    for (const button of page.querySelectorAll(".chart-whole")) button.hidden = !charts.some((one) => one.zoom);
  };
  const zoomBy = (chart, factor) => {
    const xs = xsOf(chart), [low, high] = chart.zoom || [xs[0], xs[xs.length - 1]];
    const middle = cursor && cursor.over === chart.facts.over ? cursor.x : (low + high) / 2, width = (high - low) * factor;
    const first = Math.max(xs[0], middle - width * (middle - low) / (high - low || 1)), last = Math.min(xs[xs.length - 1], first + width);
    zoomTo(chart, last - first >= xs[xs.length - 1] - xs[0] ? null : [first, last]);
  };
  const listen = (chart) => {
    let from = null, band = null;
    chart.svg.addEventListener("pointermove", (event) => {
      const x = pointed(chart, event);
      setCursor({ x, over: chart.facts.over });
      if (from === null || event.pointerType === "touch") return;
      band?.remove();
      const [one, other] = [chart.frame.x(from), chart.frame.x(x)].sort((a, b) => a - b);
      band = element("rect", { class: "band", x: one, y: TOP - 6, width: other - one, height: chart.frame.height - BOTTOM - TOP + 6 });
      chart.cross.append(band);
    });
    chart.svg.addEventListener("pointerdown", (event) => {
      const x = pointed(chart, event);
      setCursor({ x, over: chart.facts.over });
      if (event.pointerType !== "touch") { from = x; chart.svg.setPointerCapture(event.pointerId); }
    });
    chart.svg.addEventListener("pointerup", (event) => {
      const to = from === null ? null : pointed(chart, event);
      const range = to === null || to === from ? null : [Math.min(from, to), Math.max(from, to)];
      from = null;
      band?.remove();
      if (range && Math.abs(chart.frame.x(range[0]) - chart.frame.x(range[1])) > 12) zoomTo(chart, range);
    });
    chart.svg.addEventListener("pointerleave", (event) => { if (event.pointerType !== "touch" && from === null && document.activeElement !== chart.svg) setCursor(null); });
    chart.svg.addEventListener("dblclick", () => zoomTo(chart, null));
    chart.svg.addEventListener("blur", () => setCursor(null));
    chart.svg.addEventListener("keydown", (event) => {
      const xs = xsOf(chart), here = cursor && cursor.over === chart.facts.over ? xs.indexOf(cursor.x) : -1;
      const moves = { ArrowLeft: here < 0 ? xs.length - 1 : here - 1, ArrowRight: here + 1, PageUp: here - 10, PageDown: here + 10, Home: 0, End: xs.length - 1 };
      if (event.key in moves) setCursor({ x: xs[Math.min(xs.length - 1, Math.max(0, moves[event.key]))], over: chart.facts.over });
      else if (event.key === "+" || event.key === "=") zoomBy(chart, 0.5);
      else if (event.key === "-") zoomBy(chart, 2);
      else if (event.key === "Escape") { setCursor(null); zoomTo(chart, null); }
      else return;
      event.preventDefault();
    });
  };

  // --- files
  const save = (name, blob) => {
    const link = document.createElement("a");
    link.href = URL.createObjectURL(blob);
    link.download = name;
    link.click();
    setTimeout(() => URL.revokeObjectURL(link.href), 10_000);
  };
  const fileName = (chart, kind) => `${(document.title.split(" · thinktune")[0] + " " + chart.facts.title[0]).replace(/[^\p{L}\p{N}]+/gu, "-")}.${kind}`;
  const cell = (text) => /[",\n\r]/.test(text) ? `"${text.replaceAll('"', '""')}"` : text;
  const csvOf = (chart) => {
    const lines = chart.facts.lines.map((line) => ({ name: named(line.name), values: new Map(line.unsmoothed || line.points) }));
    const keys = chart.facts.over === "step" ? ["epoch", "seconds", "tokens"].filter((key) => clock[key]) : [];
    const head = [named(chart.facts.x), ...keys, ...lines.map((line) => line.name || named(chart.facts.title))];
    const xs = [...new Set(lines.flatMap((line) => [...line.values.keys()]))].sort((one, other) => one - other);
    const rows = xs.map((x) => [x, ...keys.map((key) => Number(between("step", key, x).toPrecision(8))), ...lines.map((line) => line.values.get(x) ?? "")]);
    return [head, ...rows].map((row) => row.map((value) => cell(String(value))).join(",")).join("\r\n") + "\r\n";
  };
  // The drawing is painted on a canvas by its elements: a picture made of the SVG itself would need a looser policy.
  const pngOf = (chart, done) => {
    const scale = 2, [width, height] = chart.facts.size, head = 30, canvas = document.createElement("canvas");
    canvas.width = scale * width; canvas.height = scale * (height + head);
    const pen = canvas.getContext("2d"), page = getComputedStyle(document.documentElement);
    pen.scale(scale, scale);
    pen.fillStyle = page.backgroundColor;
    pen.fillRect(0, 0, width, height + head);
    pen.fillStyle = page.color;
    pen.font = `600 14px ${page.fontFamily}`;
    pen.fillText(`${named(chart.facts.title)} · ${document.title.split(" · thinktune")[0]}`, 12, 20);
    pen.translate(0, head);
    const cross = chart.cross;
    for (const part of chart.svg.querySelectorAll("line, path, circle, text")) {
      if (cross.contains(part)) continue;
      const style = getComputedStyle(part), number = (name) => Number(part.getAttribute(name));
      pen.save();
      if (part.parentNode.tagName === "svg" && part.parentNode !== chart.svg) { pen.beginPath(); pen.rect(LEFT - 6, 0, width - LEFT - RIGHT + 12, height); pen.clip(); }
      pen.globalAlpha = Number(style.opacity);
      pen.strokeStyle = style.stroke; pen.fillStyle = style.fill; pen.lineWidth = parseFloat(style.strokeWidth);
      pen.setLineDash(style.strokeDasharray === "none" ? [] : style.strokeDasharray.split(/[ ,]+/).map(parseFloat));
      pen.lineCap = style.strokeLinecap; pen.lineJoin = style.strokeLinejoin;
      if (part.tagName === "text") {
        pen.font = `${style.fontWeight} 11px ${page.fontFamily}`;
        pen.textAlign = style.textAnchor === "middle" ? "center" : style.textAnchor;
        pen.textBaseline = { middle: "middle", hanging: "hanging" }[style.dominantBaseline] || "alphabetic";
        pen.fillText([...part.childNodes].filter((node) => node.nodeType === 3 || getComputedStyle(node).display !== "none").map((node) => node.textContent).join(""), number("x"), number("y"));
        pen.restore();
        continue;
      }
      const path = new Path2D(part.tagName === "path" ? part.getAttribute("d") : undefined);
      if (part.tagName === "line") { path.moveTo(number("x1"), number("y1")); path.lineTo(number("x2"), number("y2")); }
      if (part.tagName === "circle") path.arc(number("cx"), number("cy"), number("r"), 0, 7);
      if (style.fill !== "none" && part.tagName === "circle") pen.fill(path);
      if (style.stroke !== "none") pen.stroke(path);
      pen.restore();
    }
    canvas.toBlob(done, "image/png");
  };
  const button = (text, act) => {
    const made = document.createElement("button");
    made.type = "button";
    made.append(...inBoth(text, "span"));
    made.addEventListener("click", act);
    return made;
  };

  // --- start
  for (const chart of charts) {
    chart.svg = chart.box.querySelector("svg.plot");
    chart.hint = chart !== charts[0] ? ["\u00a0", "\u00a0"] : ["point, touch, or use ← → to read values; drag or + to zoom", "移动指针、触摸或按 ← → 读数；拖动或按 + 放大"];
    chart.readout = document.createElement("p");
    chart.readout.className = "readout";
    chart.readout.setAttribute("role", "status");
    chart.svg.before(chart.readout);
    chart.svg.setAttribute("tabindex", "0");
    const files = document.createElement("p");
    files.className = "chart-files";
    files.append(button(["CSV", "CSV"], () => save(fileName(chart, "csv"), new Blob(["\ufeff", csvOf(chart)], { type: "text/csv" }))),
      button(["PNG", "PNG"], () => pngOf(chart, (blob) => save(fileName(chart, "png"), blob))));
    chart.svg.after(files);
    listen(chart);
    draw(chart);
  }
  const update = (newer) => {
    const found = chartsOf(newer);
    if (found.length !== charts.length || found.some((one, number) => one.facts.title[0] !== charts[number].facts.title[0])) return false;
    clock = clockOf(newer.querySelector(".chart-tools"));
    found.forEach(({ box, facts }, number) => {
      const chart = charts[number], legend = chart.box.querySelector(".legend"), next = box.querySelector(".legend");
      Object.assign(chart, { facts, xs: null });
      if (legend && next) legend.replaceWith(next);
      else if (next) chart.readout.before(next);
      draw(chart);
    });
    return true;
  };
  if (!tools) return update;
  tools.hidden = false;
  const over = tools.querySelector("[name=over]"), log = tools.querySelector("[name=log]"), smoothing = tools.querySelector("[name=smoothing]");
  const redraw = () => charts.forEach(draw);
  for (const option of [...over.options]) if (option.value !== "step" && !clock[option.value]) option.remove();
  const losses = charts.filter((chart) => chart.facts.mayBeLog);
  log.checked = losses.some((chart) => chart.facts.log);
  log.closest("label").hidden = !losses.length;
  smoothing.closest("label").hidden = !charts.some((chart) => chart.facts.lines.some((line) => line.unsmoothed));
  if (over.options.length < 2) over.closest("label").hidden = true;
  const nameOptions = () => { for (const option of over.options) option.textContent = named([option.dataset.en, option.dataset.zh]); };
  nameOptions();
  new MutationObserver(nameOptions).observe(document.documentElement, { attributeFilter: ["lang"] });
  over.addEventListener("change", () => { view.over = over.value; redraw(); });
  log.addEventListener("change", () => { view.log = log.checked; redraw(); });
  smoothing.addEventListener("input", () => { view.smoothing = Number(smoothing.value) / 100; redraw(); });
  tools.querySelector(".chart-whole").addEventListener("click", () => charts.forEach((chart) => { chart.zoom = null; draw(chart); tools.querySelector(".chart-whole").hidden = true; }));
  tools.querySelector(".run-json")?.addEventListener("click", () => {
    const facts = { answer: JSON.parse(tools.dataset.answer || "null"), clock, charts: charts.map((chart) => chart.facts) };
    save(`${document.title.split(" · thinktune")[0]}.json`, new Blob([JSON.stringify(facts, null, 1)], { type: "application/json" }));
  });
  return update;
};
document.addEventListener("DOMContentLoaded", () => makeChartsLive(document));
