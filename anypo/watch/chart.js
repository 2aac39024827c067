"use strict";
// Curves of one or several runs while they grow: data that is appended to, and SVG drawn for the width at hand.

const MOST_POINTS = 400;
const ROOMS = {
  control: "var(--c7)",
  generate: "var(--c1)",
  filter: "var(--c6)",
  replay: "var(--c2)",
  columns: "var(--c4)",
  credit: "var(--c5)",
  update: "var(--c3)",
  other: "var(--c8)",
};
const UNITS = { step: "steps", tokens: "tokens generated", time: "training time" };
const SPENT = { tokens: "tokens/generated", time: "time/step" };

// The metrics of one run: values[name][i] belongs to steps[i], null where it is absent.
class Curves {
  constructor() {
    this.clear(-1);
  }

  clear(generation) {
    Object.assign(this, { generation, steps: [], values: {}, broken: {}, sums: {} });
  }

  get last() {
    return this.steps.at(-1) ?? 0;
  }

  add(answer) {
    if (answer.reset) this.clear(answer.generation);
    const before = this.steps.length;
    this.steps.push(...answer.steps);
    for (const name of new Set([...Object.keys(this.values), ...Object.keys(answer.values)])) {
      this.values[name] ??= new Array(before).fill(null);
      this.values[name].push(...(answer.values[name] ?? new Array(answer.steps.length).fill(null)));
    }
    for (const [name, steps] of Object.entries(answer.broken)) (this.broken[name] ??= []).push(...steps);
    return answer.reset || answer.steps.length > 0;
  }

  // Where each step lies on the horizontal axis: its number, or what was spent up to and including it.
  along(unit) {
    if (unit === "step") return this.steps;
    const known = (this.sums[unit] ??= []),
      spent = this.values[SPENT[unit]] ?? [];
    while (known.length < this.steps.length) known.push((known.at(-1) ?? 0) + (spent[known.length] ?? 0));
    return known;
  }

  at(step, unit) {
    if (unit === "step") return step;
    const i = this.steps.findLastIndex((s) => s <= step);
    return i < 0 ? 0 : this.along(unit)[i];
  }
}

function thin(xs, values) {
  const size = Math.ceil(xs.length / MOST_POINTS);
  if (size <= 1) return { xs, values };
  const out = { xs: [], values: [] };
  for (let i = 0; i < xs.length; i += size) {
    const some = values.slice(i, i + size).filter((v) => v !== null),
      places = xs.slice(i, i + size);
    out.xs.push(places.reduce((a, b) => a + b, 0) / places.length);
    out.values.push(some.length ? some.reduce((a, b) => a + b, 0) / some.length : null);
  }
  return out;
}

function nearestIndex(xs, x) {
  let low = 0,
    high = xs.length - 1;
  while (low < high) {
    const middle = (low + high) >> 1;
    if (xs[middle] < x) low = middle + 1;
    else high = middle;
  }
  return low > 0 && x - xs[low - 1] <= xs[low] - x ? low - 1 : low;
}

function place(x, unit) {
  if (unit === "step") return `step ${+x.toFixed(1)}`;
  if (unit === "tokens") return `${plain(Math.round(x))} tokens`;
  return x < 180 ? `${Math.round(x)} s` : x < 10800 ? `${(x / 60).toFixed(1)} min` : `${(x / 3600).toFixed(1)} h`;
}

function placeTicks(first, last, width, unit) {
  if (unit === "step") return stepTicks(first, last, width).map((x) => [x, String(x)]);
  const scale = unit === "time" ? (last < 180 ? 1 : last < 10800 ? 60 : 3600) : 1,
    word = unit === "time" ? { 1: " s", 60: " min", 3600: " h" }[scale] : "";
  const short = (v) =>
    v >= 1e6 ? `${+(v / 1e6).toFixed(2)}M` : v >= 1e3 ? `${+(v / 1e3).toFixed(2)}k` : String(+v.toFixed(2));
  const { ticks } = axis(first / scale, last / scale, Math.max(2, Math.floor(width / 90)));
  return ticks.filter((t) => t * scale <= last * 1.001 && t * scale >= first).map((t) => [t * scale, short(t) + word]);
}

// -- one chart ----------------------------------------------------------------------------------------------------------------

let CURSOR = null;
let PLOTS = [];

function pointAt(x) {
  if (x === CURSOR) return;
  CURSOR = x;
  for (const plot of PLOTS) plot.show();
}

class Plot {
  constructor(spec) {
    this.spec = spec;
    this.now = make("span", { class: "now" });
    this.keys = make("ul", { class: "keys" });
    this.plot = make("div", { class: "plot" });
    const head = make("div", { class: "chart-head" }, make("h3", {}, spec.title), this.now);
    const meaning = spec.meaning ? make("p", { class: "meaning" }, spec.meaning) : null;
    this.node = make("article", { class: "card chart" }, head, meaning, this.keys, this.plot);
    this.lines = [];
    this.points = [];
  }

  // runs: [{ name, tone, curves, evaluations }], the first one in focus
  update(runs, unit, span) {
    const stack = this.spec.draw === "stack",
      shown = stack ? runs.slice(0, 1) : runs,
      several = runs.length > 1;
    Object.assign(this, { unit, span, stacked: stack, several });
    this.lines = shown.flatMap((run) =>
      this.spec.series
        .filter(([name]) => run.curves.values[name])
        .map(([name, label], i, all) => ({
          ...thin(run.curves.along(unit), run.curves.values[name]),
          broken: (run.curves.broken[name] || []).map((step) => run.curves.at(step, unit)),
          label: stack || !several ? label : all.length > 1 ? `${run.name} · ${label}` : run.name,
          tone: stack ? ROOMS[label] : several ? run.tone : `var(--c${i + 1})`,
          dash: several && i ? `${2 + 3 * i} 4` : "",
        })),
    );
    this.points = this.spec.evaluations
      ? shown
          .filter((run) => run.evaluations.some((e) => e.unit === this.spec.evaluations))
          .map((run) => ({
            label: several ? `${run.name} · held-out` : "held-out, greedy",
            tone: several ? run.tone : "var(--c2)",
            marks: run.evaluations.filter((e) => e.unit === this.spec.evaluations).map((e) => ({ ...e, x: run.curves.at(e.step, unit) })),
          }))
      : [];
    const named = stack && several ? `${runs[0].name} · ` : "";
    this.owner = named;
    const wanted = this.spec.alarm
      ? this.lines.some((l) => l.values.some((v) => v))
      : this.lines.length + this.points.length;
    this.node.hidden = !wanted;
    if (wanted) this.draw();
  }

  draw() {
    const width = this.plot.clientWidth,
      { spec, unit } = this;
    if (!width) return;
    const height = spec.small ? 130 : 180,
      { low, high, ticks, step } = this.range(),
      labels = ticks.map((t) => tickLabel(t, step, spec.unit)),
      left = Math.max(46, 12 + 6.4 * Math.max(...labels.map((l) => l.length))),
      right = width - 12,
      top = 8,
      bottom = height - 24,
      [first, last] = this.span;
    const count = this.lines[0]?.xs.length ?? 1,
      inset = this.stacked && count <= 60 ? Math.min(17, (0.4 * (right - left)) / Math.max(1, count)) : 0;
    this.x = (x) =>
      last > first ? left + inset + ((x - first) / (last - first)) * (right - left - 2 * inset) : (left + right) / 2;
    this.y = (v) => bottom - ((v - low) / (high - low)) * (bottom - top);
    const root = svg("svg", {
      viewBox: `0 0 ${width} ${height}`,
      height,
      role: "img",
      tabindex: 0,
      "aria-label": this.summary(),
    });
    ticks.forEach((tick, i) => {
      root.append(svg("line", { class: "gridline", x1: left, x2: right, y1: this.y(tick), y2: this.y(tick) }));
      root.append(svg("text", { x: left - 7, y: this.y(tick) + 4, "text-anchor": "end" }, labels[i]));
    });
    placeTicks(first, last, right - left, unit).forEach(([x, text], i) => {
      const label = unit === "step" && i === 0 ? `step ${text}` : text,
        half = 3.2 * label.length;
      root.append(svg("text", { x: Math.min(this.x(x), width - half), y: height - 6, "text-anchor": "middle" }, label));
    });
    if (this.stacked) this.stack(root, bottom);
    else for (const line of this.lines) this.line(root, line, bottom);
    for (const points of this.points) this.evaluations(root, points);
    this.cursor = root.appendChild(svg("line", { class: "cursor", y1: top, y2: bottom, visibility: "hidden" }));
    this.dots = this.stacked
      ? []
      : this.lines.map((l) =>
          root.appendChild(svg("circle", { r: 3.6, style: `fill: ${l.tone}`, visibility: "hidden" })),
        );
    const at = (event) => {
      const x = ((event.clientX - root.getBoundingClientRect().left) * width) / root.clientWidth;
      pointAt(this.snap(first + ((x - left - inset) / Math.max(1, right - left - 2 * inset)) * (last - first)));
    };
    root.addEventListener("pointermove", at);
    root.addEventListener("pointerdown", at);
    root.addEventListener("pointerleave", () => pointAt(null));
    root.addEventListener("blur", () => pointAt(null));
    root.addEventListener("keydown", (event) => this.move(event));
    this.plot.replaceChildren(root);
    this.show();
  }

  snap(x) {
    const xs = this.lines[0]?.xs ?? this.points[0]?.marks.map((m) => m.x) ?? [];
    const places = this.lines.map((l) => l.xs[nearestIndex(l.xs, x)]).filter((v) => v !== undefined);
    return places.length
      ? places.reduce((a, b) => (Math.abs(b - x) < Math.abs(a - x) ? b : a))
      : (xs[nearestIndex(xs, x)] ?? null);
  }

  move(event) {
    const way = { ArrowLeft: -1, ArrowRight: 1 }[event.key],
      xs = this.lines[0]?.xs ?? [];
    if (!way || !xs.length) return;
    event.preventDefault();
    const i = CURSOR === null ? xs.length - 1 : nearestIndex(xs, CURSOR) + way;
    pointAt(xs[Math.max(0, Math.min(xs.length - 1, i))]);
  }

  range() {
    const { spec } = this;
    let all = this.stacked
      ? [0, ...(this.lines[0]?.xs ?? []).map((_, i) => this.lines.reduce((sum, l) => sum + (l.values[i] || 0), 0))]
      : [
          ...this.lines.flatMap((l) => l.values),
          ...this.points.flatMap((p) => p.marks.flatMap((m) => [m.low, m.high])),
        ];
    all = all.filter((v) => v !== null && v !== undefined);
    if (!all.length) all = [0, 1];
    const low = all.reduce((a, b) => Math.min(a, b), spec.floor ?? Infinity),
      high = all.reduce((a, b) => Math.max(a, b), spec.ceiling ?? -Infinity),
      found = axis(low, high, spec.small ? 3 : 4);
    if (spec.ceiling !== null) {
      found.ticks = found.ticks.filter((t) => t <= spec.ceiling + 1e-9);
      found.high = Math.max(spec.ceiling, found.ticks.at(-1));
    }
    return found;
  }

  line(root, l, bottom) {
    const trace = (values) => {
      let text = "",
        open = false;
      values.forEach((v, i) => {
        if (v !== null) text += `${open ? "L" : "M"}${this.x(l.xs[i]).toFixed(1)},${this.y(v).toFixed(1)}`;
        open = v !== null;
      });
      return text;
    };
    const long = l.xs.length > 60,
      style = `stroke: ${l.tone}`,
      bold = { class: "line", style, "stroke-dasharray": l.dash };
    if (long) root.append(svg("path", { class: "line raw", style, d: trace(l.values) }));
    root.append(svg("path", { ...bold, d: trace(long ? smooth(l.values) : l.values) }));
    l.values.forEach((v, i) => {
      const alone = (l.values[i - 1] ?? null) === null && (l.values[i + 1] ?? null) === null;
      if (v !== null && (alone || l.xs.length <= 25))
        root.append(
          svg("circle", { cx: this.x(l.xs[i]), cy: this.y(v), r: alone ? 3.2 : 2.2, style: `fill: ${l.tone}` }),
        );
    });
    for (const x of l.broken) {
      const mark = root.appendChild(svg("path", { class: "bad", d: `M${this.x(x)},${bottom - 7}l4,7h-8z` }));
      mark.append(svg("title", {}, `${l.label}: not a finite number at ${place(x, this.unit)}`));
    }
  }

  stack(root) {
    const xs = this.lines[0]?.xs ?? [],
      base = xs.map(() => 0),
      bars = xs.length <= 60;
    const gap = xs.length > 1 ? Math.min(...xs.slice(1).map((x, i) => this.x(x) - this.x(xs[i]))) : 60,
      wide = Math.max(1, Math.min(34, 0.78 * gap));
    for (const l of this.lines) {
      const from = base.slice();
      l.values.forEach((v, i) => {
        base[i] += v || 0;
      });
      if (bars)
        xs.forEach((x, i) => {
          const tall = this.y(from[i]) - this.y(base[i]);
          if (tall > 0.1)
            root.append(
              svg("rect", {
                x: this.x(x) - wide / 2,
                width: wide,
                y: this.y(base[i]),
                height: tall,
                style: `fill: ${l.tone}`,
              }),
            );
        });
      else {
        const edge = (ys) => xs.map((x, i) => `${this.x(x).toFixed(1)},${this.y(ys[i]).toFixed(1)}`);
        root.append(
          svg("polygon", { points: [...edge(base), ...edge(from).reverse()].join(" "), style: `fill: ${l.tone}` }),
        );
      }
    }
  }

  evaluations(root, { marks, tone, label }) {
    if (marks.length > 2)
      root.append(
        svg("path", {
          class: "link",
          style: `stroke: ${tone}`,
          d: marks.map((m, i) => `${i ? "L" : "M"}${this.x(m.x)},${this.y(m.score)}`).join(""),
        }),
      );
    for (const m of marks) {
      const x = this.x(m.x),
        mark = root.appendChild(svg("g", { class: "evaluation", style: `stroke: ${tone}` }));
      const said = `${label}, ${m.label}: ${number(m.score, this.spec.unit)} (${number(m.low, this.spec.unit)} to ${number(m.high, this.spec.unit)}), n = ${m.n}`;
      mark.append(svg("title", {}, said));
      mark.append(svg("line", { class: "whisker", x1: x, x2: x, y1: this.y(m.low), y2: this.y(m.high) }));
      for (const end of [m.low, m.high])
        mark.append(svg("line", { class: "whisker", x1: x - 4, x2: x + 4, y1: this.y(end), y2: this.y(end) }));
      mark.append(
        svg("circle", {
          cx: x,
          cy: this.y(m.score),
          r: 4.2,
          style: `fill: ${tone}; stroke: var(--card); stroke-width: 1.5`,
        }),
      );
    }
  }

  summary() {
    const ends = (l) =>
      `${l.label} from ${number(l.values.find((v) => v !== null) ?? null, this.spec.unit)} to ${number(latest(l), this.spec.unit)}`;
    return `${this.spec.title}: ${this.lines.map(ends).join("; ")}`;
  }

  // the newest values, or those at the cursor
  show() {
    if (this.node.hidden || !this.cursor) return;
    const { spec } = this,
      at = (l) => (CURSOR === null || !l.xs.length ? null : nearestIndex(l.xs, CURSOR)),
      value = (l) => (CURSOR === null ? latest(l) : within(l, CURSOR) ? l.values[at(l)] : null),
      single = this.lines.length === 1 && !this.points.length && !this.several;
    const total = this.stacked
      ? this.lines.reduce((sum, l) => sum + (value(l) || 0), 0)
      : single
        ? value(this.lines[0])
        : null;
    const when = CURSOR === null ? this.owner : `${this.owner}${place(CURSOR, this.unit)}`;
    this.now.replaceChildren(
      ...(when ? [make("small", {}, when)] : []),
      ...(total === null ? [] : [number(total, spec.unit)]),
    );
    const key = (tone, label, text) => make("li", { tone }, make("span", { title: label }, label), make("b", {}, text));
    const seen = (p) => p.marks.findLast((m) => CURSOR === null || m.x <= CURSOR);
    this.keys.replaceChildren(
      ...this.points.map((p) => key(p.tone, p.label, measured(seen(p)))),
      ...(single ? [] : this.lines.map((l) => key(l.tone, l.label, number(value(l), spec.unit)))),
    );
    this.cursor.setAttribute("visibility", CURSOR === null ? "hidden" : "visible");
    if (CURSOR !== null) for (const end of ["x1", "x2"]) this.cursor.setAttribute(end, this.x(CURSOR));
    this.dots.forEach((dot, k) => {
      const l = this.lines[k],
        v = CURSOR === null ? null : value(l);
      dot.setAttribute("visibility", v === null ? "hidden" : "visible");
      if (v !== null) {
        dot.setAttribute("cx", this.x(l.xs[at(l)]));
        dot.setAttribute("cy", this.y(v));
      }
    });
  }
}

function measured(evaluation) {
  if (!evaluation) return "–";
  const { score, low, high, unit } = evaluation;
  if (unit !== "accuracy") return `${plain(score)} (${plain(low)} to ${plain(high)})`;
  return `${number(score, "share")} (${[low, high].map((share) => Math.round(100 * share)).join("–")})`;
}

function latest(line) {
  return line.values.findLast((v) => v !== null) ?? null;
}

// A run has a value at the cursor only where it has been: not beyond its last step.
function within(line, x) {
  const gap = line.xs.length > 1 ? (line.xs.at(-1) - line.xs[0]) / (line.xs.length - 1) : 0;
  return line.xs.length > 0 && x <= line.xs.at(-1) + gap / 2 && x >= line.xs[0] - gap / 2;
}
