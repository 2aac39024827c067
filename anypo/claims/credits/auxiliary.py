"""Claims of `anypo.systems.credits.auxiliary`."""

from __future__ import annotations

import json

import numpy as np

from anypo.claims.base import ClaimRun, Outcome, claim, compare, learns
from anypo.claims.beds.words import TextTask, greedy, question, run_on, warm
from anypo.data.records import Tokens, Trajectory
from anypo.generate.groups.auxiliary import SelfJudging
from anypo.generate.groups.execution import Executed, asked
from anypo.systems import find
from anypo.tasks.base import Problem
from anypo.tasks.code.straight import grade_prediction, trace


@claim("spark", published="+9.7 % on reasoning, +12.1 % on reward benchmarks over the bases (7B)", seconds=120, seeds=3,
       stand_in="a character model on sums modulo ten, judging in words")  # fmt: skip
def spark(run: ClaimRun) -> Outcome:
    """The policy judges its own answers: accuracy of its verdicts on answers to unseen sums (half of them wrong) after 40 steps,
    against GRPO alone for as many steps. Both start from a model that knows the form of a verdict, not the verdict. What is neither
    yes nor no counts as a coin flip, so that keeping the form alone is worth nothing. Notes: accuracy of the sums, share of
    readable verdicts."""
    pairs = run.each(lambda seed: _judge(seed, run.steps(40), run.steps(150)))
    sums, readable = ([np.mean([p[i][k] for p in pairs]) for i in (0, 1)] for k in (1, 2))
    run.note(f"accuracy of sums: {sums[0]:.3f} (grpo), {sums[1]:.3f} (spark).")
    run.note(f"readable verdicts: {readable[0]:.2f} (grpo), {readable[1]:.2f} (spark).")
    solved = [p[0][1] for p in pairs]
    return compare(
        [p[0][0] for p in pairs], [p[1][0] for p in pairs], "accuracy of verdicts", run, least=0.05,
        premise=learns([0.1] * len(solved), solved, 0.95, what="the base solves more sums than chance by 0.05, and below 0.95"),
    )  # fmt: skip


def _judge(seed: int, steps: int, warm_up: int) -> list[tuple[float, float, float]]:
    """Accuracy of verdicts and of sums, and share of readable verdicts, under GRPO and under SPARK."""
    rng = np.random.default_rng(seed)
    pairs = rng.permutation([(a, b) for a in range(20) for b in range(20)])
    task = TextTask(
        tuple(question(f"{a}+{b}", str((a + b) % 10)) for a, b in pairs),
        lambda p, text: float(text.strip() == p.answer),
    )
    examples = [(p.messages[0]["content"], p.answer) for p in task.problems[: len(task)]]
    judge = SelfJudging()
    for opening, _ in list(examples):
        shown = str(rng.integers(10))
        examples.append((_asked(judge, opening, shown), str(rng.choice(["yes", "no"]))))
        both = f"{opening}\nAnswer 1: {shown}\nAnswer 2: {rng.integers(10)}\nWhich is better? 1 or 2:"
        examples.append((both, str(rng.integers(1, 3))))
    copy = warm(examples, warm_up, seed)
    unseen = [task.heldout(i) for i in range(task.n_heldout)]
    asked, truth = [], []
    for p in unseen:
        for shown in (p.answer, str((int(p.answer) + int(rng.integers(1, 10))) % 10)):
            asked.append(_asked(judge, p.messages[0]["content"], shown))
            truth.append("yes" if shown == p.answer else "no")
    sizes = {"control.prompts": 16, "control.samples": 8, "generate.max_new": 4, "update.optimiser.lr": 1e-3}
    found = []
    for system in ("grpo", "spark"):
        policy = copy()
        run_on(find(system).algorithm().set(sizes), task, policy, steps, seed)
        verdicts = [v.strip() for v in greedy(policy, asked, 4)]
        answers = greedy(policy, [p.messages[0]["content"] for p in unseen], 4)
        right = float(np.mean([a.strip() == p.answer for a, p in zip(answers, unseen)]))
        known = [v in ("yes", "no") for v in verdicts]
        score = [float(v == t) if k else 0.5 for v, t, k in zip(verdicts, truth, known)]
        found.append((float(np.mean(score)), right, float(np.mean(known))))
    return found


def _asked(judge: SelfJudging, opening: str, shown: str) -> str:
    """The pointwise question about an answer."""
    member = Trajectory(0, Tokens(np.zeros(0), np.zeros(0)), np.zeros(0), np.zeros(0), text=shown)
    return judge._point(opening, member, judge.yes).text


@claim("coderl-plus", published="+4.6 % relative pass@1; +15.5 % on code reasoning and +4.4 % on test-output generation", seconds=180,
       seeds=3, stand_in="a character model writing three-line programs")  # fmt: skip
def coderl_plus(run: ClaimRun) -> Outcome:
    """Programs of three lines that must print a wanted number, with and without questions about what failed programs do: share of
    right values in predicted executions of unseen programs after 30 steps. Notes: pass@1 on unseen problems."""
    pairs = run.each(lambda seed: _code(seed, run.steps(30), run.steps(120)))
    solved = [np.mean([p[i][1] for p in pairs]) for i in (0, 1)]
    run.note(f"pass@1 of programs: {solved[0]:.3f} (code only), {solved[1]:.3f} (with executions).")
    passed = [p[0][1] for p in pairs]
    return compare(
        [p[0][0] for p in pairs], [p[1][0] for p in pairs], "share of right values in predicted executions", run, least=0.05,
        premise=learns([CHANCE] * len(passed), passed, 0.95, what="the base writes right programs more often than the start by 0.05"),
    )  # fmt: skip


CHANCE = 1 / 3
"""How often a program with the right numbers and one of three operations is right: what the start was shown."""


def _code(seed: int, steps: int, warm_up: int) -> list[tuple[float, float]]:
    """Share of right values in predictions and pass@1, without and with the auxiliary task."""
    rng = np.random.default_rng(seed)
    combos = rng.permutation([(a, b, o) for a in range(1, 9) for b in range(1, 9) for o in range(3)])

    def program(a: int, b: int, o: int) -> str:
        return f"a={a}\nb={b}\nprint(a{'+-*'[o]}b)"

    def grade(problem: Problem, text: str) -> float:
        ran = trace(text)
        return float(ran is not None and ran[0] == problem.metadata["want"])

    problems = []
    for a, b, o in combos.tolist():
        want = (a + b, a - b, a * b)[o]
        problems.append(question(f"{a},{b}->{want}", program(a, b, o), want=want, code=program(a, b, o)))
    task = TextTask(tuple(problems), grade)
    examples = []
    for p in task.problems[: len(task)]:
        a, b = (int(x) for x in p.messages[0]["content"].split("->")[0].split(","))
        examples.append((p.messages[0]["content"], program(a, b, int(rng.integers(3)))))
        code = program(a, b, int(rng.integers(3)))
        output, first, second = rng.integers(1, 9, 3).tolist()
        guess = json.dumps({"final_output": output, "variables": {"a": first, "b": second}})
        examples.append((asked(Executed(code, "", *trace(code))).text, guess))  # type: ignore[misc]
    copy = warm(examples, warm_up, seed)
    unseen = [task.heldout(i) for i in range(min(48, task.n_heldout))]
    runs = [ran for ran in (trace(p.metadata["code"]) for p in unseen) if ran is not None]
    shown = [asked(Executed(p.metadata["code"], "", *ran)).text for p, ran in zip(unseen, runs)]
    sizes = {"control.prompts": 8, "control.samples": 8, "generate.max_new": 56, "update.optimiser.lr": 1e-3}
    found = []
    for share in (0.0, 1.0):
        policy = copy()
        run_on(find("coderl-plus").algorithm().set(sizes | {"generate.share": share}), task, policy, steps, seed)
        graded = [
            max(0.0, (grade_prediction(text, *ran) - 0.1) / 0.9) for text, ran in zip(greedy(policy, shown, 56), runs)
        ]
        written = greedy(policy, [p.messages[0]["content"] for p in unseen], 24)
        solved = float(np.mean([grade(p, text) for p, text in zip(unseen, written)]))
        found.append((float(np.mean(graded)), solved))
    return found
