"use strict";
// Rollouts coloured token by token, and held-out answers before and after. Text only ever enters the page as text.

const POINTER = make("div", { class: "tip", hidden: "" });
document.body.append(POINTER);

function choice(options, initial, changed) {
  const node = make("span", { class: "choice", role: "group" });
  const press = (value) => {
    for (const button of node.children) button.setAttribute("aria-pressed", button.dataset.value === value);
  };
  for (const [value, label] of options) {
    const button = make("button", { type: "button", "data-value": value }, label);
    button.addEventListener("click", () => {
      press(value);
      changed(value);
    });
    node.append(button);
  }
  press(initial);
  return node;
}

function labelled(text, node) {
  return make("label", { class: "control" }, text, node);
}

function pages(list, more, items, size, render) {
  let shown = 0;
  const next = () => {
    list.append(...items.slice(shown, shown + size).map(render));
    shown = Math.min(items.length, shown + size);
    more.hidden = shown >= items.length;
    more.textContent = `Show ${Math.min(size, items.length - shown)} more of ${items.length - shown}`;
  };
  list.replaceChildren();
  more.onclick = next;
  next();
}

// -- colours ----------------------------------------------------------------------------------------------------------------

const signed = (value) => (value === 0 ? "0" : (value > 0 ? "+" : "−") + Math.abs(value).toFixed(2));
const COLOURS = {
  advantage: {
    label: "advantage",
    explain: "blue: made more likely, orange: made less likely",
    limit: Math.max(
      1e-6,
      ...DATA.rollouts
        .flatMap((r) => (r.advantages.length ? r.advantages : [r.advantage]))
        .filter((v) => v !== null)
        .map(Math.abs),
    ),
    at: (r, i) => (r.advantages.length ? r.advantages[r.advantages.length === 1 ? 0 : i] : r.advantage),
    paint(v) {
      return `rgba(var(${v >= 0 ? "--plus" : "--minus"}), ${(0.62 * Math.min(1, Math.abs(v) / this.limit)).toFixed(3)})`;
    },
    ends() {
      return [`−${this.limit.toFixed(1)}`, `+${this.limit.toFixed(1)}`];
    },
    ramp: "linear-gradient(to right, rgba(var(--minus), .62), transparent, rgba(var(--plus), .62))",
  },
  logp: {
    label: "log-probability",
    explain: "the darker, the less likely the token was when it was sampled",
    limit: 3,
    at: (r, i) => r.logp[i] ?? null,
    paint(v) {
      return `rgba(var(--surprise), ${(0.7 * Math.min(1, -v / this.limit)).toFixed(3)})`;
    },
    ends: () => ["0 (certain)", "−3 (5 %) and below"],
    ramp: "linear-gradient(to right, transparent, rgba(var(--surprise), .7))",
  },
  entropy: {
    label: "entropy",
    explain: "the darker, the more undecided the policy was before the token",
    limit: Math.max(0.5, ...DATA.rollouts.flatMap((r) => r.entropy).filter((v) => v !== null)),
    at: (r, i) => r.entropy[i] ?? null,
    paint(v) {
      return `rgba(var(--unsure), ${(0.62 * Math.min(1, v / this.limit)).toFixed(3)})`;
    },
    ends() {
      return ["0", `${this.limit.toFixed(1)} nats`];
    },
    ramp: "linear-gradient(to right, transparent, rgba(var(--unsure), .62))",
  },
};

// -- one rollout --------------------------------------------------------------------------------------------------------------

function tokenTip(r, i) {
  const lines = [JSON.stringify(r.pieces[i])];
  const add = (name, value, text) => {
    if (value !== null && value !== undefined) lines.push(`${name} ${text(value)}`);
  };
  add("probability", r.logp[i], (v) => `${(100 * Math.exp(v)).toPrecision(3)} % (log ${v.toFixed(2)})`);
  add("entropy", r.entropy[i], (v) => `${v.toFixed(2)} nats`);
  add("advantage", COLOURS.advantage.at(r, i), signed);
  return lines.join("\n");
}

function tokens(r, colour) {
  const node = make("div", { class: "tokens" });
  if (!r.pieces.length) {
    node.textContent = r.text || "(no text)";
    return node;
  }
  const given = new Set(r.given),
    by = COLOURS[colour];
  r.pieces.forEach((piece, i) => {
    if (r.cut[1] && i === r.cut[0]) node.append(make("span", { class: "mark" }, ` … ${r.cut[1]} tokens … `));
    if (given.has(i)) {
      if (piece) node.append(make("span", { class: "given" }, piece));
      return;
    }
    const last = i === r.pieces.length - 1;
    const span = make(
      "span",
      { class: piece ? "t" : "t mark" },
      piece ? piece.replace(/\n/g, "↵\n") : last && r.finish === "stop" ? "end" : "·",
    );
    const value = by ? by.at(r, i) : null;
    if (value !== null) span.style.backgroundColor = by.paint(value);
    span.dataset.i = i;
    node.append(span);
  });
  const show = (event) => {
    const span = event.target.closest(".t");
    if (!span || span.parentNode !== node) {
      POINTER.hidden = true;
      return;
    }
    POINTER.textContent = tokenTip(r, +span.dataset.i);
    POINTER.hidden = false;
    const box = span.getBoundingClientRect(),
      wide = POINTER.offsetWidth;
    POINTER.style.left = `${Math.max(8, Math.min(box.left + scrollX, scrollX + document.documentElement.clientWidth - wide - 8))}px`;
    POINTER.style.top = `${box.bottom + scrollY + 6}px`;
  };
  node.addEventListener("pointerover", show);
  node.addEventListener("click", show);
  node.addEventListener("pointerleave", () => {
    POINTER.hidden = true;
  });
  return node;
}

function rollout(r, colour) {
  const parts = Object.entries(r.rewards),
    head = make("div", { class: "rollout-head" });
  const say = (text, kind = "") => head.append(make("span", kind ? { class: kind } : {}, text));
  say(`reward ${plain(r.reward ?? 0)}`, "reward");
  say(r.advantage === null ? "not trained on" : `advantage ${signed(r.advantage)}`);
  say(`${r.length} tokens`);
  if (parts.length > 1) for (const [name, value] of parts) say(`${name} ${value === null ? "–" : plain(value)}`);
  if (r.finish === "length") say("cut off by the limit", "warn");
  else if (r.finish !== "stop") say(r.failed ? `${r.finish}: ${r.failed}` : r.finish, "warn");
  if (r.parent >= 0) say(`forked at ${r.fork} from ${r.parent + 1}`);
  if (r.guidance) say(`guided by ${r.guidance}`);
  return make("div", { class: "rollout" }, head, tokens(r, colour));
}

function card(members, colour) {
  const [first] = members,
    asked = make("p", { class: "asked" }, first.problem, " ");
  if (first.answer) asked.append(make("span", { class: "expected" }, "expected ", make("b", {}, first.answer)));
  asked.append(make("small", {}, `step ${first.step}, group ${first.group + 1}`));
  return make("article", { class: "card rollouts" }, asked, ...members.map((r) => rollout(r, colour)));
}

function grouped(chosen) {
  const groups = new Map();
  for (const r of chosen) {
    const key = `${r.step}/${r.group}`;
    groups.set(key, [...(groups.get(key) || []), r]);
  }
  return [...groups.values()];
}

function rollouts() {
  const home = document.getElementById("rollout-list");
  if (!home) return;
  const steps = [...new Set(DATA.rollouts.map((r) => r.step))];
  const state = { step: String(steps.at(-1)), sort: "group", colour: "advantage", only: "all" };
  const list = make("div", { class: "list" }),
    more = make("button", { class: "more", type: "button" }),
    scale = make("div", { class: "scale" });
  const orders = {
    high: (a, b) => b.reward - a.reward,
    low: (a, b) => a.reward - b.reward,
    advantage: (a, b) => Math.abs(b.advantage) - Math.abs(a.advantage),
    long: (a, b) => b.length - a.length,
  };
  const tests = {
    all: () => true,
    cut: (r) => r.finish === "length",
    failed: (r) => r.failed || r.finish === "failed",
    untrained: (r) => r.advantage === null,
    guided: (r) => r.guidance,
  };
  const update = () => {
    const chosen = DATA.rollouts.filter(
      (r) => (state.step === "all" || r.step === +state.step) && tests[state.only](r),
    );
    const cards = state.sort === "group" ? grouped(chosen) : chosen.sort(orders[state.sort]).map((r) => [r]);
    if (cards.length)
      pages(list, more, cards, state.sort === "group" ? 3 : 8, (members) => card(members, state.colour));
    else {
      list.replaceChildren(make("p", { class: "empty" }, "No rollout in this sample matches."));
      more.hidden = true;
    }
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
  };
  const menu = (name, options) => {
    const node = make(
      "select",
      { "aria-label": name },
      ...options.map(([value, label]) =>
        make("option", value === state[name] ? { value, selected: "" } : { value }, label),
      ),
    );
    node.addEventListener("change", () => {
      state[name] = node.value;
      update();
    });
    return node;
  };
  const kinds = [
    ["all", "all"],
    ["cut", "cut off"],
    ["failed", "failed"],
    ["untrained", "not trained on"],
    ["guided", "guided"],
  ].filter(([kind]) => DATA.rollouts.some(tests[kind]));
  const colours = choice(
    [
      ["advantage", "advantage"],
      ["logp", "log-prob"],
      ["entropy", "entropy"],
      ["none", "off"],
    ],
    "advantage",
    (value) => {
      state.colour = value;
      update();
    },
  );
  home.append(
    make(
      "div",
      { class: "card controls" },
      labelled("Step", menu("step", [["all", "all"], ...steps.map((s) => [String(s), String(s)])])),
      labelled(
        "Sort",
        menu("sort", [
          ["group", "by group"],
          ["high", "reward, high to low"],
          ["low", "reward, low to high"],
          ["advantage", "size of advantage"],
          ["long", "length"],
        ]),
      ),
      kinds.length > 1 ? labelled("Show", menu("only", kinds)) : null,
      make("div", { class: "control" }, "Colour by", colours),
      scale,
    ),
    list,
    more,
  );
  update();
}

// -- held-out answers -----------------------------------------------------------------------------------------------------------

function answers() {
  const home = document.getElementById("answer-list");
  if (!home) return;
  const kinds = {
    fixed: (r) => !r.right[0] && r.right[1],
    broken: (r) => r.right[0] && !r.right[1],
    "still wrong": (r) => !r.right[0] && !r.right[1],
    "still right": (r) => r.right[0] && r.right[1],
  };
  const body = make("tbody"),
    more = make("button", { class: "more", type: "button" });
  const cell = (text, name, right) =>
    make(
      "td",
      { "data-name": name },
      right === undefined
        ? text
        : make(
            "div",
            { class: "clipped" },
            make("span", { class: `verdict ${right ? "yes" : "no"}` }, right ? "✓" : "✗"),
            text || "(empty)",
          ),
    );
  const row = (r) =>
    make(
      "tr",
      {},
      cell(r.problem, "Problem"),
      cell(r.answer, "Expected"),
      cell(r.before, DATA.answers.labels[0], r.right[0]),
      cell(r.after, DATA.answers.labels[1], r.right[1]),
    );
  const update = (kind) => {
    const chosen = DATA.answers.rows.filter(kinds[kind] || (() => true));
    if (chosen.length) pages(body, more, chosen, 10, row);
    else {
      body.replaceChildren(make("tr", {}, make("td", { colspan: 4 }, "None.")));
      more.hidden = true;
    }
  };
  const head = make(
    "thead",
    {},
    make(
      "tr",
      {},
      ...["Problem", "Expected", ...DATA.answers.labels].map((name) => make("th", { scope: "col" }, name)),
    ),
  );
  home.append(
    choice(
      [
        ["all", `all ${DATA.answers.total}`],
        ...Object.keys(kinds).map((kind) => [kind, `${kind} ${DATA.answers.counts[kind]}`]),
      ],
      "all",
      update,
    ),
    make("div", { class: "card answers" }, make("table", {}, head, body)),
    more,
  );
  update("all");
}

rollouts();
answers();
