// The page itself: which runs there are, which are chosen, and what came since the last look.

const SOON = 1500,
  LATER = 5000;
const LIVE = ["running", "paused"];
const WATCH = {
  runs: [],
  chosen: [],
  shown: [],
  tab: "curves",
  unit: "step",
  seen: new Map(),
  tones: new Map(),
  asked: "",
};
const TOKEN = new URLSearchParams(location.search).get("token") ?? "";
const by = (id) => document.getElementById(id);

async function call(path, options = {}) {
  const answer = await fetch(path, { ...options, headers: { "X-Token": TOKEN }, cache: "no-store" });
  const value = await answer.json();
  if (!answer.ok) throw new Error(value.error);
  return value;
}

const get = (path) => call(path);

// -- what is known of a run ---------------------------------------------------------------------------------------------------

function known(id) {
  if (!WATCH.seen.has(id)) WATCH.seen.set(id, { curves: new Curves(), detail: null, evaluations: [], sign: "" });
  return WATCH.seen.get(id);
}

async function follow(summary) {
  const run = known(summary.id);
  let changed = false,
    answer;
  do {
    const { last, generation } = run.curves;
    answer = await get(
      `/api/run/${summary.id}/metrics?after=${last}${generation < 0 ? "" : `&generation=${generation}`}`,
    );
    changed = run.curves.add(answer) || changed;
  } while (answer.more);
  const sign = JSON.stringify([summary.state, summary.done, summary.evaluations, summary.generation, summary.pausing]);
  const behind = LIVE.includes(summary.state) && (run.detail?.rollouts?.at(-1) ?? 0) < summary.done; // written after the metrics
  if (sign !== run.sign || behind) {
    run.detail = await get(`/api/run/${summary.id}`);
    run.evaluations = run.detail.evaluations ?? [];
    run.sign = sign;
    changed = true;
  }
  return changed;
}

function toned() {
  for (const id of WATCH.tones.keys()) if (!WATCH.chosen.includes(id)) WATCH.tones.delete(id);
  const palette = [1, 2, 3, 4, 6, 7, 5].map((n) => `var(--c${n})`);
  WATCH.chosen.forEach((id, i) => {
    const used = new Set(WATCH.tones.values());
    if (!WATCH.tones.has(id))
      WATCH.tones.set(id, palette.find((tone) => !used.has(tone)) ?? palette[i % palette.length]);
  });
}

// -- the list of runs -----------------------------------------------------------------------------------------------------------

const drawRuns = whenChanged((runs, chosen, tones, filter, notes) => {
  const active = document.activeElement?.dataset?.key;
  const words = filter.toLowerCase().split(/\s+/).filter(Boolean);
  const fits = (r) =>
    words.every((w) => `${r.name} ${r.system} ${r.model} ${r.task} ${r.state}`.toLowerCase().includes(w));
  by("runs").replaceChildren(...runs.filter(fits).map((r) => runCard(r, chosen, tones)));
  by("notes").replaceChildren(...notes.map((text) => para("note", text)));
  if (!runs.length && !notes.length)
    by("notes").append(para("note", "No runs yet. A run appears here as soon as it starts."));
  by("filter").hidden = runs.length < 8;
  by("hint").hidden = runs.length < 2;
  if (active) document.querySelector(`[data-key="${CSS.escape(active)}"]`)?.focus();
});

function runCard(r, chosen, tones) {
  const on = chosen.includes(r.id),
    box = make("input", { type: "checkbox", "aria-label": `show the curves of ${r.name}`, "data-key": `box ${r.id}` }),
    pick = make("button", {
      type: "button",
      class: "pick",
      "data-key": `run ${r.id}`,
      "aria-current": r.id === chosen[0],
    });
  box.checked = on;
  box.addEventListener("change", () =>
    choose(box.checked ? [...WATCH.chosen, r.id] : WATCH.chosen.filter((id) => id !== r.id)),
  );
  pick.addEventListener("click", () =>
    choose(on && WATCH.chosen.length > 1 ? [r.id, ...WATCH.chosen.filter((id) => id !== r.id)] : [r.id]),
  );
  const facts = [r.system, r.model && r.model.split("/").at(-1), r.task && r.task.split("/").at(-1)]
    .filter(Boolean)
    .join(" · ");
  const numbers = [
    r.steps ? `${r.done}/${r.steps}` : `${r.done} steps`,
    r.reward === null ? "" : `reward ${number(r.reward)}`,
    r.score === null ? "" : `eval ${number(r.score, r.unit === "accuracy" ? "share" : "")}`,
  ].filter(Boolean);
  const progress = make("i", { class: "progress" }, make("i"));
  progress.firstChild.style.width = `${r.steps ? Math.min(100, (100 * r.done) / r.steps) : 0}%`;
  pick.append(
    make("span", { class: "run-name", title: r.path }, r.name),
    make("span", { class: `state ${r.state}` }, stateOf(r)),
    make("span", { class: "run-facts" }, r.state === "unreadable" ? r.problem : facts),
    make("span", { class: "run-facts numbers" }, numbers.join(" · ")),
    progress,
  );
  return make("li", { class: "run", tone: tones[r.id] ?? "var(--line)" }, make("label", { class: "tick" }, box), pick);
}

function stateOf(r) {
  if (r.state === "running" && r.pausing) return "pausing";
  return r.state === "paused" && !r.pausing ? "resuming" : r.state;
}

// -- the run in focus -----------------------------------------------------------------------------------------------------------

const drawHead = whenChanged((r, several, asked) => {
  const head = by("head");
  if (!r) {
    head.replaceChildren();
    return;
  }
  const facts = [
    make("span", {}, make("span", { class: `state ${r.state}` }, stateOf(r))),
    ...[r.model, r.task, r.steps ? `${r.done} of ${r.steps} steps` : `${r.done} steps`, `seed ${r.seed ?? "–"}`]
      .filter(Boolean)
      .map((t) => make("span", {}, String(t))),
    several ? make("span", {}, `with ${several} more`) : null,
    make(
      "span",
      {},
      make(
        "a",
        { href: `/report/${r.id}?token=${encodeURIComponent(TOKEN)}`, target: "_blank", rel: "noreferrer" },
        "report",
      ),
    ),
  ].filter((fact) => fact !== null);
  const problem = [r.state === "failed" ? `The run failed: ${r.reason || "no reason was recorded"}` : "", r.problem]
    .filter(Boolean)
    .join(" ");
  const parts = [make("h1", {}, r.name), make("p", { class: "facts" }, ...facts)];
  if (problem) parts.push(para("card banner", problem));
  if (DATA.control && LIVE.includes(r.state)) parts.push(levers(r, asked));
  head.replaceChildren(...parts);
});

function levers(r, asked) {
  const button = (action, text) => {
    const node = make("button", { type: "button", "data-action": action }, text);
    node.addEventListener("click", () => ask(r, action));
    return node;
  };
  const stop = make("button", { type: "button", class: "stop", "data-action": "stop" }, "Stop");
  stop.addEventListener("click", () => {
    if (stop.dataset.sure) ask(r, "stop");
    stop.dataset.sure = "yes";
    stop.textContent = "Stop this run?";
  });
  const waits = r.pausing ? button("resume", "Resume") : button("pause", "Pause");
  return make(
    "div",
    { class: "levers-bar" },
    waits,
    button("checkpoint", "Save a checkpoint"),
    stop,
    make("span", { class: "soft", role: "status" }, asked),
  );
}

async function ask(r, action) {
  const will = {
    pause: "pauses after this step",
    resume: "goes on",
    checkpoint: "saves after this step",
    stop: "saves and stops after this step",
  };
  try {
    await call(`/api/run/${r.id}/request`, { method: "POST", body: JSON.stringify({ action }) });
    WATCH.asked = will[action];
  } catch (error) {
    WATCH.asked = error.message;
  }
  setTimeout(() => {
    WATCH.asked = "";
  }, 6000);
  tick();
}

// -- what is shown ----------------------------------------------------------------------------------------------------------------

const PANELS = {
  curves: ["Curves", curvesPanel],
  rollouts: ["Rollouts", rolloutsPanel],
  diagnosis: ["Diagnosis", diagnosisPanel],
  evaluations: ["Evaluations", evaluationsPanel],
  configuration: ["Configuration", configurationPanel],
};
let PANEL = null;

function openTab(tab) {
  WATCH.tab = tab;
  for (const button of by("tabs").children) button.setAttribute("aria-current", button.dataset.tab === tab);
  document.querySelector(`[data-tab=${tab}]`).scrollIntoView({ block: "nearest", inline: "nearest" });
  CURSOR = null;
  PLOTS = [];
  PANEL = PANELS[tab][1]();
  by("view").replaceChildren(PANEL.node);
  remember();
  draw(true);
}

function draw(changed) {
  const there = WATCH.chosen.map((id) => WATCH.runs.find((r) => r.id === id)).filter(Boolean);
  WATCH.shown = there.map((r) => ({ id: r.id, name: r.name, tone: WATCH.tones.get(r.id), summary: r, ...known(r.id) }));
  drawRuns(WATCH.runs, WATCH.chosen, Object.fromEntries(WATCH.tones), by("filter").value, WATCH.notes ?? []);
  drawHead(WATCH.shown[0]?.summary ?? null, WATCH.shown.length - 1, WATCH.asked);
  by("tabs").hidden = by("view").hidden = !WATCH.shown.length;
  if (PANEL && WATCH.shown.length && changed) PANEL.update(WATCH.shown);
}

function choose(ids) {
  WATCH.chosen = ids;
  toned();
  remember();
  CURSOR = null;
  WATCH.asked = "";
  draw(true);
  tick();
}

// The choice is kept in the address, so that reloading the page shows the same.
function remember() {
  const words = new URLSearchParams({ runs: WATCH.chosen.join(","), tab: WATCH.tab, axis: WATCH.unit });
  history.replaceState(null, "", `#${words}`);
}

function recall() {
  const words = new URLSearchParams(location.hash.slice(1));
  WATCH.chosen = (words.get("runs") ?? "").split(",").filter(Boolean);
  if (words.get("tab") in PANELS) WATCH.tab = words.get("tab");
  if (words.get("axis") in UNITS) WATCH.unit = words.get("axis");
}

// -- looking again and again --------------------------------------------------------------------------------------------------------

let timer = null,
  busy = false,
  again = false;

async function tick() {
  if (busy) {
    again = true;
    return;
  }
  busy = true;
  clearTimeout(timer);
  try {
    await look();
    by("offline").hidden = true;
  } catch (error) {
    by("offline").textContent =
      error instanceof TypeError
        ? "anypo watch does not answer. Is it still running? This page goes on trying."
        : error.message;
    by("offline").hidden = false;
  }
  busy = false;
  const delay = again ? 0 : WATCH.runs.some((r) => LIVE.includes(r.state)) ? SOON : LATER;
  again = false;
  timer = setTimeout(tick, delay);
}

async function look() {
  const { runs, notes } = await get("/api/runs");
  Object.assign(WATCH, { runs, notes });
  const there = (id) => runs.find((r) => r.id === id);
  WATCH.chosen = WATCH.chosen.filter(there);
  for (const id of [...WATCH.seen.keys()]) if (!there(id)) WATCH.seen.delete(id);
  if (!WATCH.chosen.length && runs.length) WATCH.chosen = [(runs.find((r) => LIVE.includes(r.state)) ?? runs[0]).id];
  toned();
  const chosen = WATCH.chosen.map(there);
  const gone = (error) => {
    if (error instanceof TypeError) throw error;
    return true; // the run has just disappeared: the next look will not list it
  };
  const changes = await Promise.all(chosen.map((summary) => follow(summary).catch(gone)));
  WATCH.chosen = WATCH.chosen.filter(there);
  draw(changes.some(Boolean) || WATCH.shown.length !== WATCH.chosen.length);
}

for (const [tab, [title]] of Object.entries(PANELS)) {
  const button = make("button", { type: "button", "data-tab": tab }, title);
  button.addEventListener("click", () => openTab(tab));
  by("tabs").append(button);
}
by("mode").textContent = DATA.control ? "control" : "read-only";
by("filter").addEventListener("input", () => draw(false));
document.addEventListener("visibilitychange", () => {
  if (!document.hidden) tick();
});
addEventListener("resize", () => {
  if (WATCH.tab === "curves") draw(true);
});
recall();
openTab(WATCH.tab);
tick();
