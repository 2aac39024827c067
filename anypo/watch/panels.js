// What is shown about the chosen runs: curves, rollouts, diagnosis, evaluations, configuration. Each panel has a node and
// `update(runs)`, called whenever something may have changed; runs[0] is the run in focus. Text enters the page as text only.

function para(kind, text) {
  return make("p", { class: kind }, text);
}

// Calls `work` only when the words that describe the situation differ from the last call's.
function whenChanged(work) {
  let last = null;
  return (...words) => {
    const now = JSON.stringify(words);
    if (now === last) return;
    last = now;
    work(...words);
  };
}

// -- curves -------------------------------------------------------------------------------------------------------------------

function curvesPanel() {
  const node = make("div"),
    empty = para("empty", "No step is complete yet."),
    units = choice(Object.entries(UNITS), WATCH.unit, (unit) => {
      WATCH.unit = unit;
      remember();
      update(WATCH.shown);
    });
  const axisChoice = make("div", { class: "control axis" }, "Horizontal axis", units);
  const sections = DATA.sections.map((group) => {
    const plots = group.charts.map((spec) => new Plot(spec)),
      part = make("section", {}, make("h2", {}, group.title), para("about", group.about));
    part.append(make("div", { class: "charts" }, ...plots.map((p) => p.node)));
    return { part, plots };
  });
  const known = new Set([
      "time/step",
      ...DATA.sections.flatMap((g) => g.charts.flatMap((c) => c.series.map(([name]) => name))),
    ]),
    others = make("div", { class: "charts small" }),
    title = make("summary"),
    fold = make("details", {}, title, others),
    rest = make("section", {}, fold),
    extra = new Map();
  fold.addEventListener("toggle", () => update(WATCH.shown));
  node.append(axisChoice, empty, ...sections.map((s) => s.part), rest);

  function addOthers(runs) {
    const names = [...new Set(runs.flatMap((r) => Object.keys(r.curves.values)))].filter((n) => !known.has(n)).sort();
    for (const [name, plot] of extra) {
      if (names.includes(name)) continue;
      plot.node.remove();
      extra.delete(name);
    }
    for (const name of names) {
      if (extra.has(name)) continue;
      const series = [[name, name.split("/").at(-1)]],
        plain = { title: name, meaning: DATA.meanings[name] ?? "", series, unit: "", floor: null, ceiling: null };
      extra.set(name, new Plot({ ...plain, draw: "lines", evaluations: "", alarm: false, small: true }));
    }
    others.append(...names.map((name) => extra.get(name).node));
    title.textContent = `Every other metric (${names.length})`;
    rest.hidden = !names.length;
  }

  function update(runs) {
    const some = runs.some((r) => r.curves.steps.length || r.evaluations.length);
    empty.hidden = some;
    axisChoice.hidden = !some;
    const ends = runs.flatMap((r) => {
      const xs = r.curves.along(WATCH.unit);
      return [...xs.slice(0, 1), ...xs.slice(-1), ...r.evaluations.map((e) => r.curves.at(e.step, WATCH.unit))];
    });
    const span = ends.length ? [Math.min(...ends), Math.max(...ends)] : [0, 1];
    addOthers(runs);
    PLOTS = [...sections.flatMap((s) => s.plots), ...extra.values()];
    for (const { part, plots } of sections) {
      part.hidden = false; // a chart in a hidden section has no width to be drawn for
      for (const plot of plots) plot.update(runs, WATCH.unit, span);
      part.hidden = plots.every((plot) => plot.node.hidden);
    }
    for (const plot of extra.values()) plot.update(runs, WATCH.unit, span);
  }
  return { node, update };
}

// -- rollouts -----------------------------------------------------------------------------------------------------------------

function rolloutsPanel() {
  const state = { step: null, sort: "group", colour: "advantage", found: null, steps: [] },
    node = make("div", { class: "panel" }),
    list = make("div", { class: "list" }),
    more = make("button", { class: "more", type: "button", hidden: "" }),
    scale = make("div", { class: "scale" }),
    said = make("b", { class: "at" }),
    slider = make("input", { type: "range", min: 0, max: 0, step: 1, "aria-label": "step" }),
    follow = make("button", { type: "button", class: "small", "aria-pressed": "true" }, "follow newest");
  const orders = {
    group: null,
    high: (a, b) => b.reward - a.reward,
    low: (a, b) => a.reward - b.reward,
    advantage: (a, b) => Math.abs(b.advantage) - Math.abs(a.advantage),
    long: (a, b) => b.length - a.length,
  };
  const names = {
    group: "by group",
    high: "reward, high to low",
    low: "reward, low to high",
    advantage: "size of advantage",
    long: "length",
  };
  const sort = make(
    "select",
    { "aria-label": "sort" },
    ...Object.entries(names).map(([value, text]) => make("option", { value }, text)),
  );
  const colours = choice(
    [
      ["advantage", "advantage"],
      ["logp", "log-prob"],
      ["entropy", "entropy"],
      ["none", "off"],
    ],
    state.colour,
    (value) => {
      state.colour = value;
      draw();
    },
  );
  sort.addEventListener("change", () => {
    state.sort = sort.value;
    draw();
  });
  slider.addEventListener("input", () => {
    state.step = state.steps[+slider.value];
    load(WATCH.shown[0].id, state.step, 0);
  });
  follow.addEventListener("click", () => {
    state.step = state.step === null ? (state.found?.step ?? null) : null;
    update(WATCH.shown);
  });
  const choose = make("div", { class: "control steps" }, "Step", slider, said, follow);
  const controls = make(
    "div",
    { class: "card controls" },
    choose,
    labelled("Sort", sort),
    make("div", { class: "control" }, "Colour by", colours),
    scale,
  );
  node.append(controls, list, more);

  const load = whenChanged(async (id, step) => {
    try {
      const found = await get(`/api/run/${id}/rollouts${step === null ? "" : `?step=${step}`}`);
      if (id !== WATCH.shown[0]?.id || (state.step !== null && state.step !== found.step)) return; // the user has moved on
      state.found = found;
      draw();
    } catch (error) {
      state.found = null;
      list.replaceChildren(para("empty", error.message));
      more.hidden = true;
    }
  });

  function draw() {
    const rollouts = state.found?.rollouts ?? [];
    slider.value = Math.max(0, state.steps.indexOf(state.found?.step));
    said.textContent = state.found?.step ?? "–";
    controls.hidden = !rollouts.length;
    const advantages = rollouts
      .flatMap((r) => (r.advantages.length ? r.advantages : [r.advantage]))
      .filter((v) => v !== null);
    COLOURS.advantage.limit = advantages.reduce((a, v) => Math.max(a, Math.abs(v)), 1e-6);
    COLOURS.entropy.limit = rollouts.flatMap((r) => r.entropy).reduce((a, v) => Math.max(a, v ?? 0), 0.5);
    const by = COLOURS[state.colour];
    scale.hidden = !by;
    if (by) {
      const bar = make("i");
      bar.style.background = by.ramp;
      scale.replaceChildren(
        make("span", {}, by.ends()[0]),
        bar,
        make("span", {}, by.ends()[1]),
        make("span", {}, by.explain),
      );
    }
    if (!rollouts.length) {
      list.replaceChildren(para("empty", "No rollouts are kept yet."));
      more.hidden = true;
      return;
    }
    const order = orders[state.sort],
      cards = order ? [...rollouts].sort(order).map((r) => [r]) : grouped(rollouts);
    pages(list, more, cards, order ? 12 : 4, (members) => card(members, state.colour));
  }

  let shown = null;
  function update([run]) {
    if (run.id !== shown) {
      Object.assign(state, { step: null, found: null });
      shown = run.id;
      list.replaceChildren();
    }
    state.steps = run.detail?.rollouts ?? [];
    slider.max = Math.max(0, state.steps.length - 1);
    follow.setAttribute("aria-pressed", state.step === null);
    load(run.id, state.step, state.step === null ? `${run.summary.generation}/${state.steps.at(-1)}` : 0);
  }
  return { node, update };
}

// -- diagnosis ----------------------------------------------------------------------------------------------------------------

function diagnosisPanel() {
  const node = make("div", { class: "panel" });
  const copy = (text) => {
    const button = make("button", { type: "button", class: "small" }, "copy");
    button.addEventListener("click", async () => {
      await navigator.clipboard.writeText(text);
      button.textContent = "copied";
    });
    return button;
  };
  const lever = ({ why, command }) =>
    make("li", { class: "lever" }, make("span", {}, why), make("code", {}, command), copy(command));
  const quoted = (r) =>
    make(
      "li",
      {},
      make("span", { class: "soft" }, `step ${r.step}, group ${r.group_id + 1}, reward ${number(r.reward)}`),
      make("q", {}, r.text),
    );
  const finding = (f) =>
    make(
      "article",
      { class: `card finding ${f.severity}` },
      make("h3", {}, make("span", { class: "severity" }, f.severity), f.title),
      para("evidence", f.evidence),
      f.why ? para("soft", f.why) : null,
      f.rollouts.length ? make("ul", { class: "quotes" }, ...f.rollouts.map(quoted)) : null,
      f.levers.length ? make("ul", { class: "levers" }, ...f.levers.map(lever)) : null,
    );
  const line = (f) => make("li", {}, make("b", {}, f.title), " ", make("span", { class: "soft" }, f.evidence));
  const folded = (title, found) =>
    found.length
      ? make(
          "details",
          { class: "card" },
          make("summary", {}, `${title} (${found.length})`),
          make("ul", { class: "lines" }, ...found.map(line)),
        )
      : null;
  const load = whenChanged(async (id) => {
    try {
      const { known, findings } = await get(`/api/run/${id}/diagnosis`);
      if (id !== WATCH.shown[0]?.id) return;
      const of = (...kinds) => findings.filter((f) => kinds.includes(f.severity)),
        sick = of("severe", "warning");
      const nothing = known
        ? "Nothing unhealthy was found in what is recorded so far."
        : "The diagnosis is not part of this installation.";
      node.replaceChildren(
        ...[
          ...(sick.length ? sick.map(finding) : [para("empty", nothing)]),
          folded("Healthy", of("healthy")),
          folded("Not measured", of("not measured")),
        ].filter((part) => part !== null),
      );
    } catch (error) {
      node.replaceChildren(para("empty", error.message));
    }
  });
  // while a run goes on, a fresh look every tenth step is enough
  const moment = ({ done, state }) => (LIVE.includes(state) && done > 20 ? Math.floor(done / 10) : done);
  return {
    node,
    update([run]) {
      if (!node.children.length) node.append(para("empty", "Looking …"));
      load(run.id, run.summary.generation, moment(run.summary), run.summary.state);
    },
  };
}

// -- evaluations --------------------------------------------------------------------------------------------------------------

function evaluationsPanel() {
  const node = make("div", { class: "panel" }),
    table = make("div", { class: "card scores" }),
    list = make("div", { id: "answer-list" }),
    heading = make("h2", {}, "Held-out answers");
  const part = make(
    "section",
    {},
    heading,
    para("about", "The same held-out problems, answered in the first and the last evaluation."),
    list,
  );
  node.append(table, part);

  function interval(e, tone, ends) {
    const track = make("div", { class: "track", tone }),
      bar = track.appendChild(make("span", { class: "bar" })),
      dot = track.appendChild(make("span", { class: "dot" })),
      at = (v) => 100 * Math.min(1, Math.max(0, (v - ends[0]) / (ends[1] - ends[0] || 1)));
    bar.style.left = `${at(e.low).toFixed(2)}%`;
    bar.style.width = `${(at(e.high) - at(e.low)).toFixed(2)}%`;
    dot.style.left = `${at(e.score).toFixed(2)}%`;
    return track;
  }

  const drawTable = whenChanged((scores) => {
    if (!scores.some((s) => s.evaluations.length)) {
      table.replaceChildren(para("empty", "No held-out evaluation has been made."));
      return;
    }
    const every = scores.flatMap((s) => s.evaluations),
      units = [...new Set(every.map((e) => e.unit))],
      shares = units.every((unit) => unit === "accuracy"),
      ends = shares ? [0, 1] : [Math.min(...every.map((e) => e.low)), Math.max(...every.map((e) => e.high))],
      said = shares ? (v) => percent(v, 1) : plain;
    const rows = scores.flatMap(({ name, tone, evaluations }) => [
      ...(scores.length > 1 ? [make("p", { class: "owner", tone }, name)] : []),
      ...evaluations.map((e) =>
        make(
          "div",
          { class: "score" },
          make("b", {}, e.label),
          make("span", { class: "value" }, shares ? number(e.score, "share") : plain(e.score)),
          interval(e, tone, ends),
          make("span", { class: "soft" }, `${said(e.low)} to ${said(e.high)}`),
          make("span", { class: "soft" }, `n = ${e.n}, ${number(e.length)} ${shares ? "tokens" : "decisions"}`),
        ),
      ),
    ]);
    table.replaceChildren(...rows, para("about", shares ? "Accuracy with its 95 % interval (Wilson)." : `Mean ${units.join(" and ")} with its 95 % interval.`));
  });

  const load = whenChanged(async (id) => {
    part.hidden = true;
    const found = await get(`/api/run/${id}/answers`).catch(() => ({}));
    if (id !== WATCH.shown[0]?.id || !found.rows) return;
    DATA.answers = found;
    list.replaceChildren();
    answers();
    part.hidden = false;
  });

  return {
    node,
    update(runs) {
      drawTable(runs.map(({ name, tone, evaluations }) => ({ name, tone, evaluations })));
      load(runs[0].id, runs[0].evaluations.length);
    },
  };
}

// -- configuration ------------------------------------------------------------------------------------------------------------

function configurationPanel() {
  const node = make("div", { class: "panel provenance" });
  const draw = whenChanged((detail) => {
    if (!detail) return;
    const rows = [
      ["Folder", detail.path],
      ["Command", detail.command],
      ["Sessions", (detail.status?.sessions ?? []).map((s) => `${s.began} – ${s.ended ?? "…"}`).join("\n")],
      ["Checkpoints", (detail.checkpoints ?? []).map((s) => `step ${s}`).join(", ")],
      ...Object.entries(detail.supplied).map(([name, value]) => [name[0].toUpperCase() + name.slice(1), String(value)]),
    ];
    const body = rows
      .filter(([, text]) => text)
      .map(([name, text]) => make("tr", {}, make("th", { scope: "row" }, name), make("td", {}, text)));
    const fold = (title, text, open) =>
      text
        ? make(
            "details",
            open ? { class: "card", open: "" } : { class: "card" },
            make("summary", {}, title),
            make("pre", {}, text),
          )
        : null;
    node.replaceChildren(
      ...[
        ...detail.problems.map((text) => para("card banner", text)),
        make("div", { class: "card who" }, make("table", {}, make("tbody", {}, ...body))),
        fold("Configuration (config.yaml)", detail.config, true),
        fold("Manifest (manifest.json)", detail.manifest, false),
      ].filter((part) => part !== null),
    );
  });
  return { node, update: ([run]) => draw(run.detail) };
}
