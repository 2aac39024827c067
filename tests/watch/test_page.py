"""The page in a real browser: live, safe, readable, and obedient only when told to be."""

import shutil

import numpy as np
import pytest
from browser import CHROMIUM
from page_driver import Browser
from synthetic_run import configuration, credited, decode, evaluation, make_run, rollout, step_groups, step_metrics

from anypo.data.records import Group, prompt_id
from anypo.run.disk import requests
from anypo.run.disk.folder import RunFolder
from anypo.tasks.base import Problem
from anypo.watch.runs import identity

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium")

EVIL = "</script><script>document.title = 'broken'</script><img src=x onerror=\"document.title='broken'\"> & <b>"


@pytest.fixture(scope="module")
def browser():
    with Browser() as browser:
        yield browser


@pytest.fixture(autouse=True)
def quiet(request):
    """No test leaves an error in the console."""
    if CHROMIUM is None:
        yield
        return
    browser = request.getfixturevalue("browser")
    browser.said.clear()
    yield
    assert browser.said == []


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("page")
    make_run(folder / "grpo-a-run-with-a-rather-long-name-as-they-are", steps=12, eval_every=5)
    make_run(folder / "dapo", steps=9, system="dapo", nan_at=4, state="failed", reason="the disk was full", samples=4)
    return folder


@pytest.fixture(scope="module")
def server(runs, serving):
    with serving(runs) as server:
        yield server


LOOK = """({
  overflow: document.documentElement.scrollWidth - document.documentElement.clientWidth,
  wide: [...document.querySelectorAll("main *, aside *")].filter(e => !e.closest(".plot, pre, nav, .tokens, .clipped, .asked")
    && e.getBoundingClientRect().right > document.documentElement.clientWidth + 1).length,
  clipped: [...document.querySelectorAll(".plot text")].filter(e => { const t = e.getBoundingClientRect(),
    s = e.ownerSVGElement.getBoundingClientRect(); return t.width && (t.left < s.left - 2 || t.right > s.right + 2); }).length,
})"""

READY = {
    "curves": "document.querySelectorAll('.plot path.line').length > 5",
    "rollouts": "document.querySelectorAll('.rollout .tokens .t').length > 50",
    "diagnosis": "document.querySelector('.finding, .panel details, .panel .empty') && !document.body.innerText.includes('Looking …')",
    "evaluations": "document.querySelectorAll('.score').length && document.querySelectorAll('.answers tbody tr').length == 10",
    "configuration": "document.querySelector('.panel pre')",
}


def show(browser, server, tab, *names):
    listed = {run["name"]: run["id"] for run in server.runs.listing()["runs"]}
    chosen = [next(listed[name] for name in listed if name.startswith(start)) for start in names]
    browser.go(f"{server.address}#runs={','.join(chosen)}&tab={tab}")
    browser.until(READY[tab])


def click(browser, selector):
    browser.ask(f"document.querySelector({selector!r}).click()")


@pytest.mark.parametrize("width", [1280, 390])
def test_every_view_fits(browser, server, width):
    browser.size(width)
    for tab in READY:
        show(browser, server, tab, "grpo")
        seen = browser.ask(LOOK)
        assert seen["overflow"] <= 0 and seen["wide"] == 0 and seen["clipped"] == 0, tab


def test_curves_of_one_run(browser, server):
    browser.size(1280)
    show(browser, server, "curves", "grpo")
    titles = browser.ask("[...document.querySelectorAll('.chart:not([hidden]) h3')].map(e => e.textContent)")
    for title in (
        "Reward",
        "Accuracy",
        "KL divergence",
        "Entropy",
        "Clip fraction",
        "Answer length",
        "Gradient norm",
        "Sampling speed",
    ):
        assert title in titles
    assert "Critic" not in titles  # not recorded by this run
    assert browser.ask("document.querySelectorAll('.evaluation').length") == 4  # before, two on the way, after
    assert browser.ask("document.querySelectorAll('.plot rect').length") >= 12 * 3  # time per room
    folder = RunFolder(next(server.runs.places[0].glob("grpo*")))
    reward = f"{folder.metrics()[-1]['reward/mean']:.3f}"
    assert browser.ask("document.querySelector('.now').textContent") == reward


def test_pointing_at_a_step_shows_it_in_every_chart(browser, server):
    browser.size(1280)
    show(browser, server, "curves", "grpo")
    browser.ask("pointAt(5)")
    metrics = RunFolder(next(server.runs.places[0].glob("grpo*"))).metrics()[4]
    assert browser.ask("document.querySelector('.now').textContent") == f"step 5{metrics['reward/mean']:.3f}"
    assert (
        browser.ask("[...document.querySelectorAll('.now')].filter(e => e.textContent.startsWith('step 5')).length") > 8
    )
    box = browser.ask(
        "(() => { const b = document.querySelector('.plot svg').getBoundingClientRect(); return [b.right, b.top + 60]; })()"
    )
    browser.call("Input.dispatchMouseEvent", type="mouseMoved", x=box[0] - 14, y=box[1])
    browser.until("document.querySelector('.now').textContent.startsWith('step 12')")


def test_runs_are_laid_over_one_another(browser, server):
    browser.size(1280)
    show(browser, server, "curves", "grpo")
    alone = browser.ask("document.querySelector('.plot').querySelectorAll('path.line').length")
    click(browser, "#runs input:not(:checked)")
    browser.until(f"document.querySelector('.plot').querySelectorAll('path.line').length == {2 * alone}")
    keys = browser.ask("[...document.querySelector('.keys').querySelectorAll('span')].map(e => e.textContent)")
    assert [key[:4] for key in keys] == ["grpo", "dapo"]
    tones = browser.ask("[...document.querySelector('.plot').querySelectorAll('path.line')].map(e => e.style.stroke)")
    assert len(set(tones)) == 2
    assert browser.ask("document.querySelectorAll('.bad title')[0].textContent").endswith(
        "not a finite number at step 4"
    )
    for unit in ("tokens", "time"):
        click(browser, f"[data-value={unit}]")
        browser.ask("pointAt(PLOTS[0].lines[0].xs[4])")
        assert unit[:3] in browser.ask("document.querySelector('.now').textContent") or unit == "time"
    assert "axis=time" in browser.ask("location.hash")


def test_the_page_follows_a_run(browser, tmp_path, serving):
    browser.size(1280)
    soon = lambda script: browser.until(f"(tick(), {script})")  # without waiting for the page's own next look
    path = make_run(tmp_path / "live", steps=3, evaluate=False, samples=2, state="running")
    with RunFolder.open(path) as folder, serving(tmp_path) as server:
        show(browser, server, "curves", "live")
        browser.until("document.querySelector('#runs .state').textContent == 'running'")
        groups = step_groups(4, 0.5, samples=2)
        line = step_metrics(4, groups, 0.5) | {"reward/mean": 0.777, "mine/new": 1.0}
        folder.append_metrics(line)
        folder.write_rollouts(4, groups, credited(groups), decode)
        browser.until("document.querySelector('.now').textContent == '0.777'")
        assert browser.ask("WATCH.shown[0].curves.steps.join()") == "1,2,3,4"
        assert "Every other metric" in browser.ask("document.querySelector('#view summary').textContent")
        with open(folder.path / "metrics.jsonl", "a") as file:  # half a line is no step
            file.write('{"step": 5, "reward/mean": 0.1')
        click(browser, "[data-tab=rollouts]")
        soon("document.querySelector('.at').textContent == '4'")
        with open(folder.path / "metrics.jsonl", "a") as file:
            file.write("23}\n")
        groups = step_groups(5, 0.9, samples=2)
        folder.write_rollouts(5, groups, credited(groups), decode)
        soon("document.querySelector('.at').textContent == '5'")
        folder.append_evaluation("before", 0, evaluation(0.4), decode)
        soon("document.querySelector('#runs .numbers').textContent.includes('eval')")
        folder.rewind(2)  # resumed from a checkpoint: what came later is forgotten
        click(browser, "[data-tab=curves]")
        soon("WATCH.shown[0].curves.steps.join() == '1,2'")
        make_run(tmp_path / "another", steps=1, evaluate=False, samples=2)
        soon("document.querySelectorAll('#runs .run').length == 2")
        shutil.rmtree(tmp_path / "another")
        soon("document.querySelectorAll('#runs .run').length == 1")
        folder.finish("finished")
        soon("document.querySelector('#head .state').textContent == 'finished'")


def test_rollouts_can_be_browsed(browser, server):
    browser.size(1280)
    show(browser, server, "rollouts", "grpo")
    assert browser.ask("document.querySelector('.at').textContent") == "12"
    coloured = "[...document.querySelectorAll('.tokens .t')].filter(e => e.style.backgroundColor).length"
    assert browser.ask(coloured) > 20
    click(browser, "[data-value=none]")
    assert browser.ask(coloured) == 0
    browser.ask(
        "(() => { const s = document.querySelector('input[type=range]'); s.value = 2; s.dispatchEvent(new Event('input')); })()"
    )
    browser.until(
        "document.querySelector('.at').textContent == '3' && document.querySelector('.asked small').textContent.startsWith('step 3')"
    )
    browser.ask(
        "(() => { const s = document.querySelector('select'); s.value = 'low'; s.dispatchEvent(new Event('change')); })()"
    )
    rewards = browser.ask(
        "[...document.querySelectorAll('.rollout .reward')].map(e => +e.textContent.replace('reward ', ''))"
    )
    assert rewards == sorted(rewards) and len(rewards) == 12
    assert "expected" in browser.ask("document.querySelector('.asked').textContent")


def test_the_report_opens_in_an_origin_of_its_own(browser, server):
    browser.size(1280)
    show(browser, server, "configuration", "grpo")
    browser.go(browser.ask("document.querySelector('.facts a').href"))
    browser.until("document.querySelectorAll('.plot svg').length > 5")
    assert browser.ask("self.origin") == "null"


def test_evaluations_of_several_runs(browser, server):
    browser.size(1280)
    show(browser, server, "evaluations", "grpo", "dapo")
    assert (
        browser.ask("[...document.querySelectorAll('.score b')].map(e => e.textContent).join()")
        == "before,step 5,step 10,after,before"
    )
    assert browser.ask("document.querySelectorAll('.owner').length") == 2


def test_what_a_model_says_is_never_markup(browser, tmp_path, serving):
    browser.size(390)
    asked = Problem(prompt_id(EVIL), ({"role": "user", "content": EVIL},), EVIL)
    made = rollout(Problem(1, asked.messages, "7"), 1.0, 0, np.random.default_rng(0), 0).replace(
        text=EVIL, guidance=EVIL
    )
    manifest = {"command": EVIL, "supplied": {EVIL: EVIL}, "task": {"outcome": EVIL}}
    config = configuration() | {"task": EVIL, "model": EVIL, "system": EVIL}
    with RunFolder.create(tmp_path / "<img src=x onerror=document.title=1>", config, manifest) as folder:
        folder.append_metrics({"step": 1, "reward/mean": 1.0, f"reward/{EVIL}": 1.0, EVIL: 1.0})
        folder.write_rollouts(1, [Group(1, (made,), asked, 1)], None, lambda tokens: EVIL * len(tokens))
        folder.append_evaluation(EVIL.replace("/", ""), 1, evaluation(0.4, 20))
        folder.append_evaluation("after", 1, evaluation(0.5, 20))
        folder.finish("failed", EVIL)
    with serving(tmp_path) as server:
        name = identity(folder.path)
        waits = dict.fromkeys(READY, "document.querySelector('#view').innerText.length > 20") | {
            "rollouts": "document.querySelectorAll('.rollout').length == 1"
        }
        for tab, ready in waits.items():
            browser.go(f"{server.address}#runs={name}&tab={tab}")
            browser.until(f"document.querySelector('#head h1') && {ready}")
            assert browser.ask("document.querySelectorAll('img, #view script, #view b b, .tokens b').length") == 0
            assert browser.ask("document.title") == "anypo watch"
            assert browser.ask(LOOK)["overflow"] <= 0, tab
        browser.go(f"{server.address}#runs={name}&tab=rollouts")
        browser.until("document.querySelector('.tokens')")
        assert EVIL in browser.ask("document.querySelector('.tokens').textContent")
        assert browser.ask("document.querySelector('.asked').textContent").startswith(EVIL)


def test_without_the_token_there_is_no_page(browser, server):
    browser.call("Page.navigate", url=server.address.replace("token=", "token=x"))
    browser.until("document.body && document.body.innerText.includes('token is missing')")
    assert browser.ask("document.querySelector('#runs')") is None
    browser.said.clear()  # the refusal itself


def test_a_read_only_page_has_no_levers(browser, tmp_path, serving):
    path = make_run(tmp_path / "run", steps=1, evaluate=False, samples=2, state="running")
    with RunFolder.open(path), serving(tmp_path) as server:
        show(browser, server, "configuration", "run")
        assert browser.ask("document.querySelector('#head .state').textContent") == "running"
        assert browser.ask("document.querySelectorAll('[data-action]').length") == 0
        assert browser.ask("document.querySelector('#mode').textContent") == "read-only"


def test_with_control_a_run_is_paused_saved_and_stopped(browser, tmp_path, serving):
    browser.size(390)
    path = make_run(tmp_path / "run", steps=1, evaluate=False, samples=2, state="running")
    make_run(tmp_path / "done", steps=1, evaluate=False, samples=2)
    with RunFolder.open(path) as folder, serving(tmp_path, control=True) as server:
        show(browser, server, "configuration", "run")
        assert browser.ask(LOOK)["overflow"] <= 0
        click(browser, "[data-action=pause]")
        browser.until("document.querySelector('#head .state').textContent == 'pausing'")
        assert requests.asked(path, "pause")
        folder.mark("paused")
        browser.until("document.querySelector('#head .state').textContent == 'paused'")
        click(browser, "[data-action=resume]")
        browser.until("document.querySelector('[data-action=pause]')")
        assert not requests.asked(path, "pause")
        click(browser, "[data-action=checkpoint]")
        browser.until("document.querySelector('#head [role=status]').textContent == 'saves after this step'")
        assert requests.take(path, "checkpoint")
        click(browser, "[data-action=stop]")
        assert not requests.asked(path, "stop")  # the first click only asks
        click(browser, "[data-action=stop]")
        browser.until("document.querySelector('#head [role=status]').textContent == 'saves and stops after this step'")
        assert requests.take(path, "stop")
        show(browser, server, "configuration", "done")
        assert browser.ask("document.querySelectorAll('[data-action]').length") == 0  # nobody to ask


def test_a_server_that_is_gone_is_a_sentence(browser, tmp_path, serving):
    make_run(tmp_path / "run", steps=1, evaluate=False, samples=2)
    with serving(tmp_path) as server:
        show(browser, server, "configuration", "run")
    browser.ask("tick()")
    browser.until("!document.querySelector('#offline').hidden")
    assert "Is it still running?" in browser.ask("document.querySelector('#offline').textContent")
    browser.said.clear()  # the refused connection itself
