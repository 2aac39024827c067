"""Claims that need words: a character model of a few ten thousand parameters, warmed up by supervised training."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from anypo.algorithm import Algorithm
from anypo.claims.base import ClaimRun, Outcome, claim, compare, identity
from anypo.data.batch import Batch
from anypo.data.records import ACTION, CONTEXT, Tokens, Trajectory, prompt_id
from anypo.engine.base import Request, Sampling
from anypo.engine.config import Local
from anypo.generate.base import World
from anypo.generate.groups.auxiliary import SelfJudging, _execution_question
from anypo.generate.guided.demonstrations import demonstration
from anypo.run.trainer import Trainer
from anypo.systems import find
from anypo.tasks.base import Environment, Problem, Reply
from anypo.tasks.programs import grade_prediction, trace
from anypo.update.sft import SFT, train

SMALL = {"model": "tiny", "layers": 2, "hidden": 64, "intermediate": 192, "context": 320}


@dataclass(frozen=True)
class TextTask:
    """Questions and answers as text. `problems`: training and held-out ones together, the last quarter held out."""

    problems: tuple[Problem, ...]
    grade: Callable[[Problem, str], float]
    name: str = "text"
    outcome: str = "correct"

    @property
    def weights(self) -> Mapping[str, float]:
        return {"correct": 1.0}

    def __len__(self) -> int:
        return len(self.problems) * 3 // 4

    @property
    def n_heldout(self) -> int:
        return len(self.problems) - len(self)

    def train(self, index: int) -> Problem:
        return self.problems[index]

    def heldout(self, index: int) -> Problem:
        return self.problems[len(self) + index]

    def environment(self, problem: Problem) -> Environment:
        return Graded(self, problem)

    def describe(self) -> dict[str, Any]:
        return {"name": self.name, "problems": len(self.problems)}


@dataclass(frozen=True)
class Graded:
    """One question of a `TextTask`."""

    task: TextTask
    problem: Problem

    def reset(self) -> tuple[Mapping[str, str], ...]:
        return self.problem.messages

    def step(self, text: str, *size: int) -> Reply:
        return Reply({"correct": self.task.grade(self.problem, text)})


def question(text: str, answer: str, **metadata: Any) -> Problem:
    """A problem with one user message; the answer is also its worked solution."""
    return Problem(prompt_id(text), ({"role": "user", "content": text},), answer, answer, metadata)


def warm(examples: Sequence[tuple[str, str]], steps: int, seed: int) -> Callable[[], Any]:
    """Copies of one small character model after supervised steps on (question, answer) texts."""
    from anypo.policies.loading import load

    policy = load(SMALL, seed=seed)
    pairs = [(policy.encode(({"role": "user", "content": q},)), policy.answer(a)) for q, a in examples]
    train(policy, pairs, SFT(steps=steps, lr=3e-3, seed=seed, examples=32))
    weights = {name: value.clone() for name, value in policy.state_dict().items()}

    def copy() -> Any:
        fresh = load(SMALL, seed=seed)
        fresh.load_state_dict(weights)
        return fresh

    return copy


def run_on(algorithm: Algorithm, task: Any, policy: Any, steps: int, seed: int) -> Trainer:
    """Train `policy` in place."""
    trainer = Trainer(algorithm, World(task, policy, Local().sampler(policy)), seed, steps)
    for _ in range(steps):
        trainer.step()
    return trainer


def greedy(policy: Any, questions: Sequence[str], most: int) -> list[str]:
    """The policy's greedy answers."""
    sampler = Local().sampler(policy)
    prompts = [policy.encode(({"role": "user", "content": q},)) for q in questions]
    found = sampler.generate([Request(p, Sampling(most, 0.0), (i,)) for i, p in enumerate(prompts)])
    return [policy.decode(c.tokens) for c in found]


@claim("prefix-grouper", published="identical outputs and gradients to repeated prompts, with large savings for long prefixes",
       seconds=40, seeds=3, stand_in="a two-layer character model in float64")  # fmt: skip
def prefix_grouper(run: ClaimRun) -> Outcome:
    """Gradients of a group of eight ragged answers through the packed prefix against one ordinary pass per answer, float64: largest
    difference relative to the largest gradient. Notes: time saved against the ratio of tokens."""
    errors, other = [], []
    for seed in run.seeds:
        policy, batch, weight = _shared(seed, prefix=40, answers=(3, 17, 1, 9, 12, 5, 20, 8), double=True)
        packed = _packed(policy, [batch], [weight])
        alone = [batch.select(torch.tensor([i])) for i in range(batch.n_sequences)]
        apart = _packed(policy, alone, list(weight.split(batch.sequences["length"].tolist())))
        errors.append(_difference(packed, apart))
        other.append(_difference(packed, _repeated(policy, batch, weight)))
    run.note(f"against transformers' own pass, whose norms are in float32: {max(other):.0e}.")
    for prefix, length in ((4, 16), (16, 16), (128, 16), (256, 8)):
        work = _shared(0, prefix, (length,) * 8, double=False)
        ratio = 8 * (prefix + length) / (prefix + 8 * length)
        plain, packed_time = _fastest(_repeated, work), _fastest(_one_pass, work)
        run.note(
            f"prompt {prefix}, answers {length}: {plain / packed_time:.1f} times faster, {ratio:.1f} times fewer tokens."
        )
    return identity(max(errors), 1e-10, "largest relative difference of gradients", run)


def _packed(policy: Any, batches: Sequence[Batch], weights: Sequence[torch.Tensor]) -> list[torch.Tensor]:
    """Gradient of the weighted log-probabilities, one packed pass per batch."""
    policy.model.zero_grad(set_to_none=True)
    for batch, weight in zip(batches, weights):
        policy.backward(batch, {"logp": weight}, 100_000)
    return [p.grad.clone() for p in policy.parameters()]


def _one_pass(policy: Any, batch: Batch, weight: torch.Tensor) -> list[torch.Tensor]:
    return _packed(policy, [batch], [weight])


def _difference(a: Sequence[torch.Tensor], b: Sequence[torch.Tensor]) -> float:
    """Largest difference, relative to the largest entry of `b`."""
    return max(float((x - y).abs().max()) for x, y in zip(a, b)) / max(float(y.abs().max()) for y in b)


def _shared(seed: int, prefix: int, answers: Sequence[int], double: bool) -> tuple[Any, Batch, torch.Tensor]:
    """A model, a group of answers to one prompt, and random coefficients of their log-probabilities."""
    from anypo.policies.loading import load

    policy = load(SMALL, seed=seed)
    if double:
        policy.model.double()
    rng = np.random.default_rng(seed)
    prompt = rng.integers(0, 90, prefix)
    members = []
    for sample, n in enumerate(answers):
        tokens = np.concatenate([prompt, rng.integers(0, 90, n)]).astype(np.int32)
        roles = np.array([CONTEXT] * prefix + [ACTION] * n, dtype=np.int8)
        members.append(Trajectory(0, Tokens(tokens, roles), np.zeros(n), np.zeros(n, np.int64), sample=sample))
    kind = torch.float64 if double else torch.float32
    batch = Batch.of(members, [0] * len(members), 1, kind)
    return policy, batch, torch.as_tensor(rng.normal(size=len(batch)), dtype=kind)


def _repeated(policy: Any, batch: Batch, weight: torch.Tensor) -> list[torch.Tensor]:
    """The same gradient with the prompt repeated for every answer, one padded pass."""
    policy.model.zero_grad(set_to_none=True)
    rows = [torch.from_numpy(t.content.tokens).long() for t in batch.trajectories]  # type: ignore[union-attr]
    ids = torch.nn.utils.rnn.pad_sequence(rows, batch_first=True)
    mask = torch.nn.utils.rnn.pad_sequence([torch.ones(len(r), dtype=torch.long) for r in rows], batch_first=True)
    logp = policy.model(input_ids=ids, attention_mask=mask, use_cache=False).logits.log_softmax(-1)
    taken = [
        logp[i, torch.from_numpy(t.content.actions - 1), r[torch.from_numpy(t.content.actions)]]  # type: ignore[union-attr]
        for i, (t, r) in enumerate(zip(batch.trajectories, rows))
    ]
    (torch.cat(taken) * weight).sum().backward()
    found = [p.grad.clone() for p in policy.parameters()]
    policy.model.zero_grad(set_to_none=True)
    return found


def _fastest(work: Callable[..., Any], arguments: Sequence[Any], times: int = 3) -> float:
    """Seconds of the fastest of several runs."""
    found = []
    for _ in range(times):
        began = time.perf_counter()
        work(*arguments)
        found.append(time.perf_counter() - began)
    return min(found)


# -- auxiliary tasks -----------------------------------------------------------------------------------------------------------


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
    return compare([p[0][0] for p in pairs], [p[1][0] for p in pairs], "accuracy of verdicts", run)


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
    return compare(
        [p[0][0] for p in pairs], [p[1][0] for p in pairs], "share of right values in predicted executions", run
    )


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
        examples.append((_execution_question(code, *trace(code)).text, guess))  # type: ignore[misc]
    copy = warm(examples, warm_up, seed)
    unseen = [task.heldout(i) for i in range(min(48, task.n_heldout))]
    runs = [ran for ran in (trace(p.metadata["code"]) for p in unseen) if ran is not None]
    asked = [_execution_question(p.metadata["code"], *ran).text for p, ran in zip(unseen, runs)]
    sizes = {"control.prompts": 8, "control.samples": 8, "generate.max_new": 56, "update.optimiser.lr": 1e-3}
    found = []
    for share in (0.0, 1.0):
        policy = copy()
        run_on(find("coderl-plus").algorithm().set(sizes | {"generate.share": share}), task, policy, steps, seed)
        graded = [
            max(0.0, (grade_prediction(text, *ran) - 0.1) / 0.9) for text, ran in zip(greedy(policy, asked, 56), runs)
        ]
        written = greedy(policy, [p.messages[0]["content"] for p in unseen], 24)
        solved = float(np.mean([grade(p, text) for p, text in zip(unseen, written)]))
        found.append((float(np.mean(graded)), solved))
    return found


@claim("refine", base="sft", published="multi-key retrieval +8.8 % over supervised mid-training (1.3B)",
       seconds=120, seeds=3, stand_in="a character model on texts of keys, values and repeated queries")  # fmt: skip
def refine(run: ClaimRun) -> Outcome:
    """Next-sequence rewards beside next-token training, from the same checkpoint for the same 40 steps: exact recall of values on
    unseen texts. Notes: loss per token of unseen texts."""
    pairs = run.each(lambda seed: _recall(seed, run.steps(40), run.steps(400)))
    loss = [np.mean([p[i][1] for p in pairs]) for i in (0, 1)]
    run.note(f"loss per token of unseen texts: {loss[0]:.3f} (next token only), {loss[1]:.3f} (with next sequences).")
    return compare([p[0][0] for p in pairs], [p[1][0] for p in pairs], "exact recall", run)


def _recall(seed: int, steps: int, warm_up: int) -> list[tuple[float, float]]:
    """Exact recall and loss per token, without and with next-sequence rewards."""
    rng = np.random.default_rng(seed)

    def text() -> str:
        keys = rng.choice(list("abcdefgh"), 4, replace=False)
        values = {k: f"{rng.integers(10, 100)}" for k in keys}
        stored = "".join(f"{k}{values[k]} " for k in keys)
        return stored + "".join(f"?{k}{values[k]}" for k in rng.permutation(keys))

    problems = [Problem(i, ({"role": "user", "content": ""},), solution=text()) for i in range(1200)]
    task: Any = TextTask(tuple(problems), lambda p, said: 0.0)
    copy = warm([("", p.solution) for p in problems[:900]], warm_up, seed)
    method = (
        find("refine")
        .algorithm()
        .set({"control.prompts": 16, "generate.chunks": 6, "generate.length": 3, "generate.text": 64})
    )
    found = []
    for mixing in ({"part": "stages", "share": 1.0}, {"part": "sum", "coefficient": 5.0}):
        policy = copy()
        algorithm = method.set({"objective.mixing": mixing, "update.optimiser.lr": 1e-3})
        run_on(algorithm, task, policy, steps, seed)
        found.append(_recalled(policy, task, [task.heldout(i) for i in range(100)]))
    return found


def _recalled(policy: Any, task: Any, unseen: Sequence[Problem]) -> tuple[float, float]:
    """Share of queried values that greedy decoding recalls, and loss per token, on unseen texts."""
    prompt = policy.encode(({"role": "user", "content": ""},))
    requests: list[Request] = []
    wanted = []
    for line in (p.solution for p in unseen):
        for at in (i for i, c in enumerate(line) if c == "?"):
            said = np.asarray(policy.answer(line[: at + 2]))[:-1]
            requests.append(Request(np.concatenate([prompt, said]), Sampling(2, 0.0), (len(requests),)))
            wanted.append(line[at + 2 : at + 4])
    sampler = Local().sampler(policy)
    found = [policy.decode(c.tokens) for c in sampler.generate(requests)]
    world = World(task, policy, sampler)
    demos = [demonstration(p, policy.answer(p.solution), world) for p in unseen[:50]]
    loss = -policy.fill(Batch.of(demos, [0] * len(demos), 1), ["logp"], grad=False)["logp"].mean()
    return float(np.mean([f == w for f, w in zip(found, wanted)])), float(loss)
