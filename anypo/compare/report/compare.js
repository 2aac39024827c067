"use strict";
// Charts of a comparison. One choice of methods and of a measure for all of them; text enters the page only as text.

const METHODS = DATA.methods.map((m) => m.label);
const TONE = Object.fromEntries(METHODS.map((label, i) => [label, `var(--m${(i % 8) + 1})`]));
const MEASURES = Object.fromEntries(Object.entries({
  tokens: ["generated tokens", ""],
  trained: ["trained tokens", ""],
  seconds: ["seconds of training", "seconds"],
  updates: ["updates", ""],
  rollouts: ["rollouts", ""],
}).filter(([key]) => key in DATA.fronts));
const STATE = {
  measure: DATA.budget.measure,
  chosen: new Set([...METHODS.slice(0, METHODS.length <= 6 ? 6 : 3), DATA.base]),
  hover: null,
};
const DRAWN = [];

// How scores are written: shares of right answers as per cent and their changes in points, other scores as they are.
const SCORE = DATA.unit === "accuracy" ? "share" : "", HUNDRED = SCORE ? 100 : 1;
const NAME = DATA.unit[0].toUpperCase() + DATA.unit.slice(1);
const worth = (value) => (SCORE ? percent(value, 1) : plain(value));

const lit = (label) => STATE.chosen.has(label) || STATE.hover === label;
const sum = (values) => values.reduce((a, b) => a + b, 0);

function compact(value, unit) {
  if (unit === "seconds") return value >= 120 ? `${+(value / 60).toFixed(1)} min` : `${+value.toFixed(1)} s`;
  if (unit === "GiB") return `${value.toFixed(2)} GiB`;
  for (const [suffix, size] of [["M", 1e6], ["k", 1e3]]) if (Math.abs(value) >= size) return `${+(value / size).toPrecision(3)}${suffix}`;
  return `${+value.toPrecision(3)}`;
}

// A chart is a card whose `paint(root, width, height)` is called for the width at hand and whenever a choice changes.
function card(title, meaning, height, paint) {
  const plot = make("div", { class: "plot" });
  const node = make("article", { class: "card chart" }, make("div", { class: "chart-head" }, make("h3", {}, title)), meaning ? make("p", { class: "meaning" }, meaning) : null, plot);
  const chart = { node, plot, head: node.firstChild, paint: () => {
    const width = Math.max(240, plot.clientWidth);
    const tall = typeof height === "function" ? height(width) : height;
    const root = svg("svg", { viewBox: `0 0 ${width} ${tall}`, height: tall, role: "img", "aria-label": title });
    paint(root, width, tall, chart);
    plot.replaceChildren(root);
  } };
  DRAWN.push(chart);
  return chart;
}

function repaint() {
  for (const chart of DRAWN) if (chart.plot.clientWidth) chart.paint();
  for (const button of document.querySelectorAll(".legend button")) button.setAttribute("aria-pressed", String(STATE.chosen.has(button.dataset.method)));
}

// Axes with labels; returns functions from values to positions.
function axes(root, width, height, xs, ys, { xUnit = "", yUnit = SCORE, xName = "", pad = 0.04, right = 14 } = {}) {
  const finite = (values) => values.filter((v) => v !== null && v !== undefined);
  const range = (values) => (values.length ? [Math.min(...values), Math.max(...values)] : [0, 1]);
  const [x0, x1] = range(finite(xs)), [y0, y1] = range(finite(ys));
  const y = axis(y0 - pad * (y1 - y0) * (yUnit === "share" ? 0 : 1), y1, height < 160 ? 3 : 5);
  const labels = y.ticks.map((t) => tickLabel(t, y.step, yUnit));
  const left = Math.max(40, 12 + 6.6 * Math.max(...labels.map((l) => l.length))), top = 10, bottom = height - (xName ? 42 : 26), end = width - right;
  const atY = (v) => bottom - ((v - y.low) / (y.high - y.low)) * (bottom - top);
  const atX = (v) => (x1 > x0 ? left + ((v - x0) / (x1 - x0)) * (end - left) : (left + end) / 2);
  y.ticks.forEach((t, i) => {
    root.append(svg("line", { class: "gridline", x1: left, x2: end, y1: atY(t), y2: atY(t) }));
    root.append(svg("text", { x: left - 7, y: atY(t) + 4, "text-anchor": "end" }, labels[i]));
  });
  const step = niceStep(x1 - x0 || 1, Math.max(2, Math.floor((end - left) / 80)));
  for (let t = Math.ceil(x0 / step - 1e-9) * step; t <= x1 + 1e-9 * step; t += step) root.append(svg("text", { x: atX(t), y: bottom + 17, "text-anchor": atX(t) > end - 14 ? "end" : "middle" }, compact(+t.toPrecision(10), xUnit)));
  if (xName) root.append(svg("text", { class: "axisname", x: (left + end) / 2, y: height - 5, "text-anchor": "middle" }, xName));
  return { atX, atY, left, end, top, bottom };
}

function path(xs, ys, at) {
  let text = "", open = false;
  xs.forEach((x, i) => {
    if (ys[i] === null) { open = false; return; }
    text += `${open ? "L" : "M"}${at.atX(x).toFixed(1)},${at.atY(ys[i]).toFixed(1)}`;
    open = true;
  });
  return text;
}

function band(xs, low, high, at) {
  if (low.some((v) => v === null)) return "";
  const point = (x, y) => `${at.atX(x).toFixed(1)},${at.atY(y).toFixed(1)}`;
  return [...xs.map((x, i) => point(x, high[i])), ...xs.map((x, i) => point(x, low[i])).reverse()].join(" ");
}

// -- score against budget ----------------------------------------------------------------------------------------------

function budgetChart() {
  const said = make("p", { class: "said" });
  const chart = card(`${NAME} as the budget is spent`, "", (w) => (w < 500 ? 280 : 360), (root, width, height) => {
    const [name, unit] = MEASURES[STATE.measure], curves = METHODS.map((label) => [label, DATA.curves[label]]);
    const shown = curves.filter(([label]) => lit(label)), room = Math.min(200, 20 + 7 * Math.max(...METHODS.map((label) => label.length)));
    const ys = curves.flatMap(([, c]) => c.score).concat(shown.flatMap(([, c]) => [...c.low, ...c.high]));
    const at = axes(root, width, height, curves.flatMap(([, c]) => c[STATE.measure]), ys, { xUnit: unit, xName: name, right: width < 500 ? 14 : room });
    for (const [label, c] of curves) if (!lit(label)) root.append(svg("path", { class: "rest", d: path(c[STATE.measure], c.score, at) }));
    for (const [label, c] of shown) if (STATE.hover === null || STATE.hover === label || shown.length < 3) root.append(svg("polygon", { class: "band", points: band(c[STATE.measure], c.low, c.high, at), style: `fill: ${TONE[label]}` }));
    for (const [label, c] of shown) {
      root.append(svg("path", { class: "line", d: path(c[STATE.measure], c.score, at), style: `stroke: ${TONE[label]}; stroke-width: ${STATE.hover === label ? 3 : 2}` }));
      c[STATE.measure].forEach((x, i) => root.append(svg("circle", { cx: at.atX(x), cy: at.atY(c.score[i]), r: 2.4, style: `fill: ${TONE[label]}` })));
    }
    const front = DATA.fronts[STATE.measure];
    let d = "";
    front.forEach((p, i) => { d += i ? `H${at.atX(p.x).toFixed(1)}V${at.atY(p.y).toFixed(1)}` : `M${at.atX(p.x).toFixed(1)},${at.atY(p.y).toFixed(1)}`; });
    root.append(svg("path", { class: "front", d }));
    if (width >= 500) tags(root, shown.map(([label, c]) => ({ label, x: at.end + 8, y: at.atY(c.score.at(-1)) })), at, width - at.end - 12);
    root.addEventListener("pointermove", (event) => {
      const box = root.getBoundingClientRect(), x = ((event.clientX - box.left) * width) / box.width, y = ((event.clientY - box.top) * height) / box.height;
      let best = null;
      for (const [label, c] of curves) c[STATE.measure].forEach((v, i) => {
        const far = Math.hypot(at.atX(v) - x, at.atY(c.score[i]) - y);
        if (!best || far < best.far) best = { far, label, i };
      });
      if (best && best.far < 40) tell(best.label, best.i); else tell(null);
    });
    root.addEventListener("pointerleave", () => tell(null));
    const frontNames = [...new Set(front.map((p) => p.label))];
    function tell(label, i) {
      if (label === null) { said.replaceChildren(make("b", {}, "Pareto front: "), frontNames.join(", ")); return; }
      const c = DATA.curves[label];
      said.replaceChildren(make("b", {}, label), ` ${worth(c.score[i])}`, c.low[i] === null ? "" : ` (${worth(c.low[i])} to ${worth(c.high[i])})`, " after ", Object.keys(MEASURES).map((m) => `${compact(c[m][i], MEASURES[m][1])}${m === "seconds" ? "" : ` ${MEASURES[m][0]}`}`).join(", "));
    }
    tell(null);
  });
  chart.node.append(said);
  return chart.node;
}

// Labels beside the ends of lines, pushed apart where they would overlap.
function tags(root, wanted, at, room) {
  const gap = 14;
  wanted.sort((a, b) => a.y - b.y);
  wanted.forEach((t, i) => { if (i && t.y < wanted[i - 1].y + gap) t.y = wanted[i - 1].y + gap; });
  const over = wanted.length ? Math.max(0, wanted.at(-1).y - at.bottom) : 0;
  for (const t of wanted) root.append(svg("text", { class: "tag", x: t.x, y: t.y - over + 4, style: `fill: ${TONE[t.label]}` }, clip(t.label, room / 6.6)));
}

function clip(text, most) { return text.length > most ? `${text.slice(0, Math.max(1, Math.floor(most) - 1))}…` : text; }

const COSTS = { ...MEASURES, wall: ["seconds of the whole run", "seconds"], peak_gb: ["peak memory", "GiB"] };

function costChart() {
  const state = { cost: DATA.budget.measure === "seconds" ? "tokens" : "seconds" };
  const select = make("select", { "aria-label": "cost" }, ...Object.entries(COSTS).filter(([key]) => DATA.methods.every((m) => cost(m, key) !== null)).map(([key, [name]]) => make("option", key === state.cost ? { value: key, selected: "" } : { value: key }, name)));
  function cost(m, key) { return (key === "peak_gb" ? m.means.peak_gb : m.spent[key]) ?? null; }
  const chart = card(`${NAME} against cost`, "", (w) => (w < 500 ? 280 : 360), (root, width, height) => {
    const [name, unit] = COSTS[state.cost], xs = DATA.methods.map((m) => cost(m, state.cost));
    const spread = Math.max(...xs) - Math.min(...xs), pad = spread ? 0.12 * spread : 0.1 * Math.max(...xs);
    const at = axes(root, width, height, [Math.max(0, Math.min(...xs) - pad), Math.max(...xs) + pad], DATA.methods.flatMap((m) => m.score), { xUnit: unit, xName: name });
    const undominated = (m) => !DATA.methods.some((o) => o !== m && cost(o, state.cost) <= cost(m, state.cost) && o.score[0] >= m.score[0] && (cost(o, state.cost) < cost(m, state.cost) || o.score[0] > m.score[0]));
    const placed = [];
    for (const m of [...DATA.methods].reverse()) {
      const x = at.atX(cost(m, state.cost)), [value, low, high] = m.score, tone = lit(m.label) ? TONE[m.label] : "var(--rest)", y = at.atY(value);
      if (low !== null) root.append(svg("line", { class: "whisker", x1: x, x2: x, y1: at.atY(low), y2: at.atY(high), style: `stroke: ${tone}; opacity: .6` }));
      const dot = root.appendChild(svg("circle", { class: "dotmark", cx: x, cy: y, r: undominated(m) ? 6 : 4.5, style: `fill: ${tone}` }));
      dot.append(svg("title", {}, `${m.label}: ${worth(value)} for ${compact(cost(m, state.cost), unit)}`));
    }
    for (const m of DATA.methods) {
      if (!(lit(m.label) || undominated(m))) continue;
      const x = at.atX(cost(m, state.cost)), wide = 7.8 * clip(m.label, 22).length, left = x + 10 + wide > width, y = at.atY(m.score[0]) + 4;
      const box = { x: left ? x - 10 - wide : x + 10, y, wide };
      if (placed.some((p) => Math.abs(p.y - box.y) < 13 && box.x < p.x + p.wide && p.x < box.x + box.wide)) continue;
      placed.push(box);
      root.append(svg("text", { class: undominated(m) ? "tag" : "tag faded", x: left ? x - 10 : x + 10, y, "text-anchor": left ? "end" : "start" }, clip(m.label, 22)));
    }
  });
  select.addEventListener("change", () => { state.cost = select.value; chart.paint(); });
  chart.head.append(select);
  chart.node.append(make("p", { class: "said" }, "Large points: no other method is at least as good for less. Bars are 95 % intervals."));
  return chart.node;
}

function legend() {
  return make("div", { class: "legend", role: "group", "aria-label": "methods shown" }, ...METHODS.map((label) => {
    const button = make("button", { type: "button", tone: TONE[label], "data-method": label, "aria-pressed": String(STATE.chosen.has(label)) }, label);
    button.addEventListener("click", () => { if (STATE.chosen.has(label)) STATE.chosen.delete(label); else STATE.chosen.add(label); STATE.hover = null; repaint(); });
    button.addEventListener("pointerenter", (event) => { if (event.pointerType === "mouse") { STATE.hover = label; repaint(); } });
    button.addEventListener("pointerleave", () => { if (STATE.hover !== null) { STATE.hover = null; repaint(); } });
    return button;
  }));
}

function measures() {
  const buttons = Object.entries(MEASURES).map(([key, [name]]) => {
    const button = make("button", { type: "button", "aria-pressed": String(key === STATE.measure) }, name);
    button.addEventListener("click", () => { STATE.measure = key; for (const b of buttons) b.setAttribute("aria-pressed", String(b === button)); repaint(); });
    return button;
  });
  return make("div", { class: "bar" }, "Spent, in", make("div", { class: "choice", role: "group", "aria-label": "measure" }, ...buttons));
}

// -- effects, rungs, training ------------------------------------------------------------------------------------------------

function effectChart(effect) {
  const rows = effect.levels, tall = 34 + 30 * rows.length + 26;
  const name = effect.factors.join(" × "), chart = card(name, effect.factors.length > 1 ? "beyond the sum of both" : "", tall, (root, width, height) => {
    const names = rows.map((r) => r.names.join(" × ")), left = Math.min(0.45 * width, 16 + 7.2 * Math.max(...names.map((n) => n.length)));
    const values = rows.flatMap((r) => r.value).filter((v) => v !== null), most = Math.max(...values.map(Math.abs), 0.005);
    const scale = axis(-most, most, 4), end = width - 62, bottom = height - 26;
    const at = (v) => left + ((v - scale.low) / (scale.high - scale.low)) * (end - left);
    for (const t of scale.ticks) {
      root.append(svg("line", { class: t === 0 ? "zero" : "gridline", x1: at(t), x2: at(t), y1: 6, y2: bottom }));
      root.append(svg("text", { x: at(t), y: bottom + 16, "text-anchor": "middle" }, `${t > 0 ? "+" : ""}${+(HUNDRED * t).toFixed(2)}`.replace("-", "−")));
    }
    rows.forEach((r, i) => {
      const y = 22 + 30 * i, [value, low, high] = r.value, clear = low !== null && (low > 0 || high < 0), tone = clear ? (value > 0 ? "var(--green)" : "var(--red)") : "var(--faint)";
      root.append(svg("text", { class: "name", x: left - 12, y: y + 4, "text-anchor": "end" }, clip(names[i], left / 6.6)));
      if (low !== null) root.append(svg("line", { x1: at(low), x2: at(high), y1: y, y2: y, style: `stroke: ${tone}; stroke-width: 7; stroke-linecap: round; opacity: .35` }));
      root.append(svg("circle", { class: "dotmark", cx: at(value), cy: y, r: 5.5, style: `fill: ${tone}` }));
      root.append(svg("text", { x: width - 4, y: y + 4, "text-anchor": "end", style: `fill: ${clear ? tone : "var(--soft)"}` }, `${value > 0 ? "+" : ""}${(HUNDRED * value).toFixed(1)}`.replace("-", "−")));
    });
  });
  if (effect.p !== null) chart.head.append(make("span", { class: effect.p < 0.05 ? "effect-p clear" : "effect-p" }, effect.p < 0.001 ? "p < 0.001" : `p = ${effect.p.toFixed(3)}`));
  return chart.node;
}

function rungChart(home) {
  const plot = make("div", { class: "plot" }), chart = { plot, paint: () => {
    const width = Math.max(240, plot.clientWidth), height = width < 500 ? 300 : 380, root = svg("svg", { viewBox: `0 0 ${width} ${height}`, height, role: "img", "aria-label": "scores by rung" });
    const rungs = DATA.rungs, all = rungs.flatMap((r) => Object.values(r.scores)), final = rungs.at(-1).survivors[0];
    const at = axes(root, width, height, [-0.15, rungs.length - 0.55], all, { right: 10 });
    for (const node of [...root.querySelectorAll("text[text-anchor=middle], text[text-anchor=end]")]) if (+node.getAttribute("y") > at.bottom + 10) node.remove();
    rungs.forEach((r, i) => root.append(svg("text", { x: at.atX(i), y: at.bottom + 18, "text-anchor": "middle" }, width < 500 ? `rung ${i + 1}` : `rung ${i + 1}: ${r.budget} a run`)));
    const placed = [];
    for (const label of Object.keys(rungs[0].scores)) {
      const ys = rungs.map((r) => r.scores[label] ?? null), own = label === final ? "var(--m1)" : label === DATA.searchBase ? "var(--m2)" : null;
      const lasted = ys.filter((y) => y !== null).length;
      root.append(svg("path", { class: own ? "line" : "rest", d: path(rungs.map((_, i) => i), ys, at), style: own ? `stroke: ${own}` : "" }));
      ys.forEach((y, i) => { if (y !== null) { const dot = root.appendChild(svg("circle", { class: "dotmark", cx: at.atX(i), cy: at.atY(y), r: own ? 5 : 3.6, style: `fill: ${own ?? (lasted > i + 1 ? "var(--soft)" : "var(--rest)")}` })); dot.append(svg("title", {}, `${label}: ${worth(y)}`)); } });
      if (own || lasted === rungs.length) placed.push({ label, x: at.atX(lasted - 1) + 9, y: at.atY(ys[lasted - 1]), own });
    }
    placed.sort((a, b) => a.y - b.y).forEach((t, i) => { if (i && t.y < placed[i - 1].y + 14) t.y = placed[i - 1].y + 14; });
    for (const t of placed) root.append(svg("text", { class: "tag", x: t.x, y: t.y + 4, style: t.own ? `fill: ${t.own}` : "" }, clip(t.label, (width - t.x) / 6.6)));
    plot.replaceChildren(root);
  } };
  home.append(plot);
  DRAWN.push(chart);
}

const TRAINING = { reward: ["Reward", "mean of the sampled rollouts", ""], entropy: ["Entropy", "nats a token", ""], length: ["Answer length", "tokens", ""], degenerate: ["Degenerate groups", "all rewards equal", "share"], truncated: ["Truncated", "cut off by the length limit", "share"], grad_norm: ["Gradient norm", "before clipping", ""] };

function trainingChart(name) {
  const [title, meaning, unit] = TRAINING[name];
  return card(title, meaning, 170, (root, width, height) => {
    const found = METHODS.filter((label) => DATA.training[label][name]).map((label) => [label, DATA.training[label]]);
    const at = axes(root, width, height, [0, DATA.budget.amount, ...found.flatMap(([, t]) => t.x)], found.flatMap(([, t]) => t[name]), { xUnit: MEASURES[DATA.budget.measure][1], yUnit: unit });
    for (const [label, t] of [...found].sort((a, b) => lit(a[0]) - lit(b[0]))) root.append(svg("path", lit(label) ? { class: "line", d: path(t.x, t[name], at), style: `stroke: ${TONE[label]}; stroke-width: ${STATE.hover === label ? 3 : 1.8}` } : { class: "rest", d: path(t.x, t[name], at) }));
  }).node;
}

// -- tables -------------------------------------------------------------------------------------------------------------------

for (const table of document.querySelectorAll("table.sortable")) {
  const heads = [...table.tHead.rows[0].cells], body = table.tBodies[0];
  heads.forEach((head, column) => head.querySelector("button").addEventListener("click", () => {
    const down = head.getAttribute("aria-sort") !== "descending", value = (row) => column ? parseFloat(row.cells[column].dataset.value ?? "NaN") : row.dataset.method;
    const rank = (a, b) => (typeof a === "string" ? b.localeCompare(a) : Number.isNaN(a) ? -1 : Number.isNaN(b) ? 1 : a - b);
    for (const other of heads) other.setAttribute("aria-sort", "none");
    head.setAttribute("aria-sort", down ? "descending" : "ascending");
    body.append(...[...body.rows].sort((p, q) => {
      const [a, b] = [value(p), value(q)];
      if (typeof a === "number" && (Number.isNaN(a) || Number.isNaN(b))) return Number.isNaN(a) - Number.isNaN(b);
      return down ? rank(b, a) : rank(a, b);
    }));
  }));
}

for (const row of document.querySelectorAll(".board-row")) row.style.setProperty("--tone", TONE[row.dataset.method]);

const budget = document.getElementById("budget-charts");
if (budget) budget.append(measures(), legend(), make("div", { class: "pair" }, budgetChart(), costChart()));
const effectHome = document.getElementById("effects");
if (effectHome) effectHome.append(...DATA.effects.map(effectChart));
const rungHome = document.getElementById("rungs");
if (rungHome) rungChart(rungHome);
const trainingHome = document.getElementById("training-charts");
if (trainingHome) {
  const names = Object.keys(TRAINING).filter((name) => METHODS.some((label) => DATA.training[label][name]?.some((v) => v !== null)) && !(name === "truncated" && METHODS.every((label) => (DATA.training[label][name] ?? []).every((v) => !v))));
  trainingHome.before(legend());
  trainingHome.append(...names.map(trainingChart));
}

const resized = new ResizeObserver((entries) => {
  for (const { target } of entries) {
    const chart = DRAWN.find((c) => c.plot === target);
    if (chart && target.clientWidth && chart.width !== target.clientWidth) { chart.width = target.clientWidth; chart.paint(); }
  }
});
for (const chart of DRAWN) resized.observe(chart.plot);
