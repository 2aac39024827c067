"use strict";
// Charts: SVG drawn for the width at hand. One cursor for all of them: pointing at a step in one shows that step in each.

const CHARTS = [];
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

class Chart {
  constructor(spec) {
    this.spec = spec;
    this.series = spec.series.map(({ name, label }, i) => ({
      label,
      values: DATA.curves.values[name],
      broken: DATA.curves.broken[name] || [],
      tone: spec.draw === "stack" ? ROOMS[label] : `var(--c${(i % 8) + 1})`,
    }));
    this.points = spec.evaluations ? DATA.evaluations.filter((e) => e.unit === spec.evaluations) : [];
    this.now = make("span", { class: "now" });
    this.keys = make("ul", { class: "keys" });
    this.plot = make("div", { class: "plot" });
    const head = make("div", { class: "chart-head" }, make("h3", {}, spec.title), this.now);
    this.node = make(
      "article",
      { class: "card chart" },
      head,
      spec.meaning ? make("p", { class: "meaning" }, spec.meaning) : null,
      this.keys,
      this.plot,
    );
    this.many = this.series.length + (this.points.length ? 1 : 0) > 1;
    CHARTS.push(this);
  }

  draw() {
    const width = Math.max(220, this.plot.clientWidth),
      height = this.spec.small ? 130 : 190;
    const { low, high, ticks, step } = this.range();
    const labels = ticks.map((t) => tickLabel(t, step, this.spec.unit));
    const left = Math.max(46, 12 + 6.4 * Math.max(...labels.map((l) => l.length))),
      right = width - 10,
      top = 8,
      bottom = height - 24;
    const steps = DATA.curves.steps,
      ends = [...steps, ...DATA.evaluations.map((e) => e.step)];
    const first = Math.min(...ends),
      last = Math.max(...ends);
    const inset = this.spec.draw === "stack" ? Math.min(17, (0.4 * (right - left)) / Math.max(1, steps.length)) : 0;
    this.x = (s) =>
      last > first ? left + inset + ((s - first) / (last - first)) * (right - left - 2 * inset) : (left + right) / 2;
    this.y = (v) => bottom - ((v - low) / (high - low)) * (bottom - top);
    this.area = { left, right, top, bottom, first, last };
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
    const at = stepTicks(first, last, right - left);
    for (const tick of at)
      root.append(
        svg(
          "text",
          { x: this.x(tick), y: height - 6, "text-anchor": "middle" },
          tick === at[0] ? `step ${tick}` : tick,
        ),
      );
    if (this.spec.draw === "stack") this.stack(root);
    else this.series.forEach((s) => this.line(root, s));
    this.evaluations(root);
    this.cursor = svg("line", { class: "cursor", y1: top, y2: bottom, visibility: "hidden" });
    root.append(this.cursor);
    this.dots =
      this.spec.draw === "stack"
        ? []
        : this.series.map((s) =>
            root.appendChild(svg("circle", { r: 3.6, style: `fill: ${s.tone}`, visibility: "hidden" })),
          );
    root.addEventListener("pointermove", (event) =>
      point(this.nearest(event.clientX - root.getBoundingClientRect().left, width / root.clientWidth)),
    );
    root.addEventListener("pointerleave", () => point(null));
    root.addEventListener("blur", () => point(null));
    root.addEventListener("keydown", (event) => {
      const move = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
      if (move) {
        event.preventDefault();
        point(Math.min(steps.length - 1, Math.max(0, (CURSOR ?? steps.length - 1) + move)));
      }
    });
    this.plot.replaceChildren(root);
    this.show(null);
  }

  range() {
    const { spec } = this;
    let all;
    if (spec.draw === "stack")
      all = [0, ...DATA.curves.steps.map((_, i) => this.series.reduce((sum, s) => sum + (s.values[i] || 0), 0))];
    else
      all = this.series
        .flatMap((s) => s.values)
        .concat(this.points.flatMap((p) => [p.low, p.high]))
        .filter((v) => v !== null && v !== undefined);
    if (!all.length) all = [0, 1];
    let low = Math.min(...all, spec.floor ?? Infinity),
      high = Math.max(...all, spec.ceiling ?? -Infinity);
    const found = axis(low, high, spec.small ? 3 : 4);
    if (spec.ceiling !== null) found.ticks = found.ticks.filter((t) => t <= spec.ceiling + 1e-9);
    found.high = spec.ceiling !== null ? Math.max(spec.ceiling, found.ticks.at(-1)) : found.high;
    return found;
  }

  line(root, s) {
    const steps = DATA.curves.steps,
      path = (values) => {
        let text = "",
          open = false;
        values.forEach((v, i) => {
          if (v === null) open = false;
          else {
            text += `${open ? "L" : "M"}${this.x(steps[i]).toFixed(1)},${this.y(v).toFixed(1)}`;
            open = true;
          }
        });
        return text;
      };
    const long = steps.length > 60;
    root.append(svg("path", { class: long ? "line raw" : "line", style: `stroke: ${s.tone}`, d: path(s.values) }));
    if (long) root.append(svg("path", { class: "line", style: `stroke: ${s.tone}`, d: path(smooth(s.values)) }));
    s.values.forEach((v, i) => {
      const alone = (i === 0 || s.values[i - 1] === null) && (i === s.values.length - 1 || s.values[i + 1] === null);
      if (v !== null && (alone || steps.length <= 25))
        root.append(
          svg("circle", { cx: this.x(steps[i]), cy: this.y(v), r: alone ? 3.2 : 2.2, style: `fill: ${s.tone}` }),
        );
    });
    for (const step of s.broken) {
      const x = this.x(step),
        y = this.area.bottom;
      const mark = root.appendChild(svg("path", { class: "bad", d: `M${x},${y - 7}l4,7h-8z` }));
      mark.append(svg("title", {}, `not a finite number at step ${step}`));
    }
  }

  stack(root) {
    const steps = DATA.curves.steps,
      base = steps.map(() => 0),
      { left, right } = this.area;
    const bars = steps.length <= 60,
      wide = Math.min(34, 0.78 * (steps.length > 1 ? this.x(steps[1]) - this.x(steps[0]) : right - left));
    for (const s of this.series) {
      const from = base.slice();
      s.values.forEach((v, i) => {
        base[i] += v || 0;
      });
      if (bars)
        steps.forEach((step, i) => {
          const tall = this.y(from[i]) - this.y(base[i]);
          if (tall > 0.1)
            root.append(
              svg("rect", {
                x: this.x(step) - wide / 2,
                width: wide,
                y: this.y(base[i]),
                height: tall,
                style: `fill: ${s.tone}`,
              }),
            );
        });
      else {
        const upper = steps.map((step, i) => `${this.x(step).toFixed(1)},${this.y(base[i]).toFixed(1)}`);
        const lower = steps.map((step, i) => `${this.x(step).toFixed(1)},${this.y(from[i]).toFixed(1)}`).reverse();
        root.append(svg("polygon", { points: [...upper, ...lower].join(" "), style: `fill: ${s.tone}` }));
      }
    }
  }

  evaluations(root) {
    if (!this.points.length) return;
    const tone = "var(--c2)";
    if (this.points.length > 2)
      root.append(
        svg("path", {
          class: "link",
          style: `stroke: ${tone}`,
          d: this.points.map((p, i) => `${i ? "L" : "M"}${this.x(p.step)},${this.y(p.score)}`).join(""),
        }),
      );
    for (const p of this.points) {
      const x = this.x(p.step),
        mark = svg("g", { style: `stroke: ${tone}` });
      mark.append(
        svg(
          "title",
          {},
          `${p.label}: ${number(p.score, this.spec.unit)} (${number(p.low, this.spec.unit)} to ${number(p.high, this.spec.unit)}), n = ${p.n}`,
        ),
      );
      mark.append(svg("line", { class: "whisker", x1: x, x2: x, y1: this.y(p.low), y2: this.y(p.high) }));
      for (const end of [p.low, p.high])
        mark.append(svg("line", { class: "whisker", x1: x - 4, x2: x + 4, y1: this.y(end), y2: this.y(end) }));
      mark.append(
        svg("circle", {
          cx: x,
          cy: this.y(p.score),
          r: 4.2,
          style: `fill: ${tone}; stroke: var(--card); stroke-width: 1.5`,
        }),
      );
      root.append(mark);
    }
  }

  nearest(position, scale) {
    const x = position * scale,
      steps = DATA.curves.steps;
    return steps.reduce(
      (best, step, i) => (Math.abs(this.x(step) - x) < Math.abs(this.x(steps[best]) - x) ? i : best),
      0,
    );
  }

  lastValue(values) {
    return values.findLast((v) => v !== null) ?? null;
  }

  summary() {
    return (
      `${this.spec.title}: ` +
      this.series
        .map(
          (s) =>
            `${s.label} from ${number(s.values.find((v) => v !== null) ?? null, this.spec.unit)} to ${number(this.lastValue(s.values), this.spec.unit)}`,
        )
        .join("; ")
    );
  }

  show(i) {
    const steps = DATA.curves.steps,
      { spec } = this,
      value = (s) => (i === null ? this.lastValue(s.values) : s.values[i]);
    const when = i === null ? null : make("small", {}, `step ${+steps[i].toFixed(1)}`);
    const total =
      spec.draw === "stack"
        ? this.series.reduce((sum, s) => sum + (value(s) || 0), 0)
        : this.many || !this.series.length
          ? null
          : value(this.series[0]);
    this.now.replaceChildren(...[when, total === null ? null : number(total, spec.unit)].filter((x) => x !== null));
    if (this.many) {
      const seen = this.points.findLast((p) => i === null || p.step <= steps[i]);
      const held = this.points.length
        ? [
            make(
              "li",
              { tone: "var(--c2)" },
              "held-out, greedy",
              make("b", {}, seen ? number(seen.score, spec.unit) : "–"),
            ),
          ]
        : [];
      this.keys.replaceChildren(
        ...held,
        ...this.series.map((s) => make("li", { tone: s.tone }, s.label, make("b", {}, number(value(s), spec.unit)))),
      );
    }
    this.cursor.setAttribute("visibility", i === null ? "hidden" : "visible");
    if (i !== null) {
      this.cursor.setAttribute("x1", this.x(steps[i]));
      this.cursor.setAttribute("x2", this.x(steps[i]));
    }
    this.dots.forEach((dot, k) => {
      const v = i === null ? null : this.series[k].values[i];
      dot.setAttribute("visibility", v === null ? "hidden" : "visible");
      if (v !== null) {
        dot.setAttribute("cx", this.x(steps[i]));
        dot.setAttribute("cy", this.y(v));
      }
    });
  }
}

let CURSOR = null;
function point(i) {
  if (i !== CURSOR) {
    CURSOR = i;
    for (const chart of CHARTS) if (chart.cursor) chart.show(i);
  }
}

for (const holder of document.querySelectorAll("[data-charts]")) {
  for (const spec of DATA.sections[+holder.dataset.charts].charts)
    holder.append(new Chart({ ...spec, small: holder.classList.contains("small") }).node);
}
function redraw() {
  for (const chart of CHARTS) {
    const width = chart.plot.clientWidth;
    if (width && width !== chart.width) {
      chart.width = width;
      chart.draw();
    }
  }
}
redraw();
addEventListener("resize", redraw);
for (const fold of document.querySelectorAll("details")) fold.addEventListener("toggle", redraw);
