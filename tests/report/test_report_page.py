"""The page: complete, safe, the same every time, and right in a browser."""

import json
import re
import shutil

import numpy as np
import pytest
import typer
from browser import CHROMIUM, examine
from synthetic_run import configuration, make_run, rollout
from typer.testing import CliRunner

from anypo.cli.runs import report as command
from anypo.data.records import Group, prompt_id
from anypo.errors import UserError
from anypo.report import write_report
from anypo.run.disk.folder import RunFolder
from anypo.tasks.base import Problem

EVIL = "</script><script>document.title = 'broken'</script><img src=x onerror=alert(1)> & \u2028 <!-- <b>"


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return make_run(tmp_path_factory.mktemp("report") / "run")


@pytest.fixture(scope="module")
def evil(tmp_path_factory):
    """A run in which everything that can be text is hostile."""
    config = configuration() | {"task": EVIL, "model": EVIL, "system": EVIL}
    asked = Problem(prompt_id(EVIL), ({"role": "user", "content": EVIL},), EVIL)
    made = rollout(asked.__class__(1, asked.messages, "7"), 1.0, 0, np.random.default_rng(0), 0)
    path = tmp_path_factory.mktemp("report") / "evil"
    manifest = {"command": EVIL, "supplied": {EVIL: EVIL}, "task": {"outcome": EVIL}}
    with RunFolder.create(path, config, manifest) as folder:
        folder.append_metrics({"step": 1, "reward/mean": 1.0, f"reward/{EVIL}": 1.0, "reward/b": 1.0, EVIL: 1.0})
        folder.write_rollouts(
            1, [Group(1, (made.replace(text=EVIL, guidance=EVIL),), asked, 1)], None, lambda t: EVIL * len(t)
        )
        folder.finish("failed", EVIL)
    return path


def page(run) -> str:
    return write_report(run).read_text(encoding="utf-8")


def data(text: str) -> dict:
    return json.loads(re.search(r'<script type="application/json" id="data">(.*?)</script>', text, re.S)[1])


def test_the_report_is_one_file_that_asks_nothing_of_the_network(run):
    text = page(run)
    assert len(text) < 1_500_000
    assert "default-src 'none'" in text
    assert not re.findall(r'(?:src|href|action)\s*=\s*"(?!#)[^"]*"', text)
    assert not re.findall(r"@import|url\(|<link|fetch\(|XMLHttpRequest|import\(", text)
    assert set(re.findall(r"https?://[^\s\"'`)]+", text)) == {"http://www.w3.org/2000/svg"}  # a name, not an address


def test_the_same_run_gives_the_same_report(run, tmp_path):
    first = page(run)
    shutil.copytree(run, tmp_path / "copy")
    assert page(run) == first == page(tmp_path / "copy")


def test_the_report_says_what_was_reached(run):
    text, folder = page(run), RunFolder.read(run)
    before, after = folder.evaluations()
    assert f"{100 * before['accuracy']:.1f}<small>" in text and f"{100 * after['accuracy']:.1f}<small>" in text
    found = data(text)
    counts = found["answers"]["counts"]
    assert f"{counts['fixed']} fixed, {counts['broken']} broken" in text
    assert counts["fixed"] - counts["broken"] == round(200 * (after["accuracy"] - before["accuracy"]))
    assert found["curves"]["values"]["reward/mean"] == [m["reward/mean"] for m in folder.metrics()]
    assert "near zero whether or not it learns" in text
    for title in ("What was run", "Is it learning?", "Rollouts", "Held-out answers", "Provenance"):
        assert f"<h2>{title}</h2>" in text
    assert 'class="state finished"' in text and "banner" not in text.split("</style>")[1]


def test_runs_with_missing_pieces_still_give_a_report(tmp_path):
    one = page(make_run(tmp_path / "one", steps=1, evaluate=False))
    assert "The only step" in one and "Held-out answers" not in one and "→</span>" not in one
    killed = page(make_run(tmp_path / "killed", steps=5, state="running", nan_at=3))
    assert "The run was killed after 5 steps" in killed and "Evaluated once (before)" in killed
    assert "Not a finite number at step 3: update/grad_norm, update/loss" in killed
    failed = page(
        make_run(tmp_path / "failed", steps=2, state="failed", reason="the disk was full", keep_rollouts=False)
    )
    assert "The run failed after 2 steps: the disk was full" in failed and 'id="rollout-list"' not in failed
    with RunFolder.create(tmp_path / "nothing", {"system": "grpo"}) as folder:
        nothing = page(folder.path)
    assert "No step was completed" in nothing and 'class="state running"' in nothing
    assert "anypo resume" in page(make_run(tmp_path / "stopped", steps=2, state="interrupted"))


def test_a_damaged_rollout_file_does_not_cost_the_report(tmp_path):
    run = make_run(tmp_path / "run", steps=3)
    (run / "rollouts" / "step-000002.parquet").write_bytes(b"PAR1")
    assert {r["step"] for r in data(page(run))["rollouts"]} == {1, 3}


def test_text_from_a_run_cannot_become_markup(evil):
    text = page(evil)
    assert text.count("<script") == text.count("</script>") == 2
    assert "<img" not in text and "<!-- " not in text and "onerror=alert(1)>" not in text
    assert data(text)["rollouts"][0]["text"] == EVIL


def test_the_command_writes_where_it_is_told_and_refuses_what_is_no_run(run, tmp_path):
    app = typer.Typer()
    command.register(app)
    app.command()(lambda: None)
    done = CliRunner().invoke(app, ["report", str(run), "--output", str(tmp_path / "sub" / "r.html")])
    assert done.exit_code == 0 and done.output.strip() == str(tmp_path / "sub" / "r.html")
    assert (tmp_path / "sub" / "r.html").read_text() == page(run)
    assert isinstance(CliRunner().invoke(app, ["report", str(tmp_path)]).exception, UserError)


# -- in a browser -------------------------------------------------------------------------------------------------------------

LOOK = """{
  charts: document.querySelectorAll(".charts:not(.small) .plot svg").length,
  lines: document.querySelectorAll(".charts:not(.small) .plot path.line").length,
  bars: document.querySelectorAll(".plot rect").length,
  whiskers: document.querySelectorAll(".plot g title").length,
  overflow: document.documentElement.scrollWidth - document.documentElement.clientWidth,
  wide: [...document.querySelectorAll("main *")].filter(e => !e.closest(".plot, pre, nav, .tokens")
    && e.getBoundingClientRect().right > document.documentElement.clientWidth + 1).length,
  clipped: [...document.querySelectorAll(".plot text")].filter(e => { const t = e.getBoundingClientRect(),
    s = e.ownerSVGElement.getBoundingClientRect(); return t.left < s.left - 12 || t.right > s.right + 14; }).length,
  rollouts: document.querySelectorAll(".rollout").length,
  tokens: document.querySelectorAll(".tokens .t").length,
  rows: document.querySelectorAll(".answers tbody tr").length,
  title: document.title,
}"""

browser = pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium")


@browser
@pytest.mark.parametrize("width", [1280, 390])
def test_everything_is_drawn_and_fits(run, width):
    text = page(run)
    seen, said = examine(text, LOOK, width)
    assert said == []
    specified = [chart for group in data(text)["sections"] if not group["folded"] for chart in group["charts"]]
    assert seen["charts"] == len(specified)
    assert seen["lines"] == sum(len(chart["series"]) for chart in specified if chart["draw"] == "lines")
    assert seen["bars"] >= 17 * 3 and seen["whiskers"] == 2
    assert seen["overflow"] <= 0 and seen["wide"] == 0 and seen["clipped"] == 0
    assert seen["rollouts"] == 24 and seen["tokens"] > 100 and seen["rows"] == 10


ACT = """(() => {
  const all = selector => [...document.querySelectorAll(selector)];
  const press = value => document.querySelector(`[data-value="${value}"]`).click();
  const colour = () => all(".tokens .t")[3].style.backgroundColor;
  const choose = (name, value) => {
    const menu = document.querySelector(`select[aria-label="${name}"]`);
    menu.value = value;
    menu.dispatchEvent(new Event("change"));
  };
  const rewards = () => all(".rollout .reward").map(e => +e.textContent.replace("reward ", ""));
  const out = {advantage: colour()};
  press("logp"); out.logp = colour();
  press("none"); out.none = colour();
  all(".tokens .t")[3].dispatchEvent(new PointerEvent("pointerover", {bubbles: true}));
  out.tip = document.querySelector(".tip").textContent;
  choose("step", "9");
  choose("sort", "low"); out.low = rewards();
  choose("sort", "high"); out.high = rewards();
  out.steps = [...new Set(all(".asked small").map(e => e.textContent.split(",")[0]))];
  press("fixed"); out.verdicts = all(".answers tbody .verdict").map(e => e.textContent).join("");
  all(".more")[1].click(); out.rows = all(".answers tbody tr").length;
  point(4); out.now = all(".now")[0].textContent;
  return out;
})()"""


@browser
def test_rollouts_answers_and_curves_can_be_explored(run):
    text = page(run)
    seen, said = examine(text, ACT)
    found = data(text)
    assert said == []
    assert (
        "rgba(" in seen["advantage"]
        and "rgba(" in seen["logp"]
        and seen["advantage"] != seen["logp"]
        and not seen["none"]
    )
    assert re.fullmatch(
        r'".+"\nprobability [\d.e-]+ % \(log [-−][\d.]+\)\nentropy [\d.]+ nats\nadvantage [+−][\d.]+', seen["tip"]
    )
    assert seen["low"] == sorted(seen["low"]) and seen["high"] == sorted(seen["high"], reverse=True)
    assert seen["low"][0] < seen["high"][0] and seen["steps"] == ["step 9"]
    assert seen["verdicts"] == "✗✓" * 10 and seen["rows"] == 20
    assert seen["now"] == f"step 5{found['curves']['values']['reward/mean'][4]:.3f}"


@browser
def test_broken_and_hostile_runs_are_drawn_too(evil, tmp_path):
    seen, said = examine(page(evil), LOOK, 390)
    assert said == [] and seen["title"] == f"{EVIL} on {EVIL} · anypo"
    assert seen["overflow"] <= 0 and seen["rollouts"] == 1
    killed = make_run(tmp_path / "killed", steps=5, state="running", nan_at=3)
    marks, said = examine(page(killed), "document.querySelectorAll('.plot .bad').length")
    assert said == [] and marks >= 1
    long = make_run(tmp_path / "long", steps=70, keep_rollouts=False, eval_every=20, samples=2)
    seen, said = examine(page(long), LOOK)
    assert said == [] and seen["bars"] == 0 and seen["whiskers"] == 5 and seen["clipped"] == 0
