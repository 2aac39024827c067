"""What the golden runs run: every registered system in the smallest world that makes its parts act, and a few compositions
that lean on the machine. Only entry points that a refactoring keeps are used; where a name moves, `take` still finds it.

A system that is not in `RUNS` gets the enumerable language policy with two epochs of two minibatches.
"""

from __future__ import annotations

import importlib
import json
import pkgutil
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch

import anypo


def take(name: str, home: str) -> Any:
    """`home.name`, or the first public object of that name anywhere in the package: other trees keep it elsewhere."""
    try:
        return getattr(importlib.import_module(home), name)
    except (ImportError, AttributeError):
        for module in pkgutil.walk_packages(anypo.__path__, "anypo.", onerror=lambda _: None):
            try:
                found = getattr(importlib.import_module(module.name), name, None)
            except ImportError:
                continue
            if found is not None:
                return found
        raise ImportError(f"no module of anypo has '{name}' (once in {home})") from None


SYSTEMS = take("SYSTEMS", "anypo.systems")
Trainer = take("Trainer", "anypo.run.trainer")
World = take("World", "anypo.generate.base")
Problem, Reply = take("Problem", "anypo.tasks.base"), take("Reply", "anypo.tasks.base")
prompt_id = take("prompt_id", "anypo.data.records")
rule_task = take("rule_task", "anypo.claims.beds.worlds")
Testbed = take("Testbed", "anypo.claims.beds.exact")
ControlBed = take("ControlBed", "anypo.claims.beds.control")
EnumerablePolicy, EnumerableSampler = take("EnumerablePolicy", "anypo.exact"), take("EnumerableSampler", "anypo.exact")

SEED = 5
Changes = Mapping[str, Any]


@dataclass(frozen=True)
class Run:
    """One golden run: a system (its own name when empty), the world it is made in, the world's fields, settings on top."""

    world: Callable[[Any, Changes], tuple[Any, Any]]
    bed: Changes = field(default_factory=dict)
    set: Changes = field(default_factory=dict)
    system: str = ""

    def trainer(self, name: str, total: int) -> Any:
        """The run at its start."""
        torch.manual_seed(0)  # whatever ran before in this process
        algorithm, world = self.world(SYSTEMS[self.system or name].algorithm(), self.bed)
        return Trainer(algorithm.set(self.set), world, SEED, total)


ELSEWHERE = {"dpo": "learns from a file of pairs: tests/objective and anypo/claims/baselines/preference.py"}
"""Methods that no golden world can feed, and where they are held to their numbers."""


def runs() -> dict[str, Run]:
    """Every golden run by name: the registered methods (systems of other kinds have no training loop), then `EXTRAS`."""
    methods = [
        name
        for name, system in SYSTEMS.items()
        if getattr(system, "kind", "method") == "method"
        and getattr(system, "bed", "tokens") == "tokens"
        and name not in ELSEWHERE
    ]
    return {name: RUNS.get(name, Run(exact)) for name in methods} | EXTRAS


# -- worlds: (algorithm, fields) -> (algorithm that fits, world) --------------------------------------------------------------


def lively(algorithm: Any) -> Any:
    """Several optimiser steps per batch, so that ratios leave 1, and small micro-batches, unless published otherwise."""
    wanted = {"epochs": 2, "minibatches_per_epoch": 2}
    more = {f"update.{name}": n for name, n in wanted.items() if getattr(algorithm.update, name, n) == 1}
    return algorithm.set({**more, "engine.token_budget": 48})


def exact(algorithm: Any, fields: Changes) -> tuple[Any, Any]:
    """The enumerable policy with shared features, float64; `fields` are those of `Testbed`."""
    bed = Testbed(**{"kind": "linear", "prompts": 6, "batch": 6, "group": 6, "lr": 0.02, "critic_lr": 0.1, **fields})
    return lively(bed.adapt(algorithm)), bed.world(SEED)


def strategies(algorithm: Any, fields: Changes) -> tuple[Any, Any]:
    """A frozen policy that reads lessons, and a program that writes them; `fields` are those of `Strategies`."""
    bed = take("Strategies", "anypo.claims.beds.strategies")(**fields)
    sizes = {"control.prompts": 4, "generate.max_new": 1, "generate.temperature": 1.0}
    algorithm = algorithm.set({**sizes, "models.0.model": "anypo.claims.beds.strategies:contraster"})
    return algorithm, bed.world(algorithm, SEED)


class Digits(EnumerablePolicy):  # type: ignore[misc]
    """An enumerable policy that writes numbers: token v stands for v - 1."""

    def decode(self, tokens: np.ndarray) -> str:
        return " ".join(str(t - 1) for t in np.asarray(tokens).tolist() if t > 0)


REPAIRED = {
    "generate.delimiter": "",
    "generate.faults.question": "{question} {steps}",
    "models": [
        {"role": "prm", "model": "anypo.claims.beds.repairs:judge"},
        {"role": "teacher", "model": "anypo.claims.beds.repairs:teacher"},
    ],
}


def repaired(algorithm: Any, fields: Changes) -> tuple[Any, Any]:
    """The enumerable policy beside a program that judges its steps and one that goes on from them."""
    algorithm, world = exact(algorithm.set(REPAIRED), fields)
    world.models = take("cast", "anypo.roles")(algorithm.models, world.policy, world.sampler, SEED)
    return algorithm, world


def walks(algorithm: Any, fields: Changes) -> tuple[Any, Any]:
    """Episodes of five turns beside a program that looks back on them; the sampler says a letter a turn."""
    home = "anypo.claims.beds.repairs"
    cast = [{"role": "reflector", "model": f"{home}:reflector"}]
    bed = take("WALKS", home).replace(**{"group": 6, **fields})
    algorithm, world = lively(bed.adapt(algorithm).set({**take("REPORTED", home), "models": cast})), bed.world(SEED)
    world.models = take("cast", "anypo.roles")(algorithm.models, world.policy, world.sampler, SEED)
    return algorithm, world


def items(algorithm: Any, fields: Changes) -> tuple[Any, Any]:
    """Prompts of many difficulties, and a policy that can put them into other words."""
    bed = take("Items", "anypo.claims.beds.items")(**{"count": 60, "prompts": 4, "simpler": 2, "hard": 1.0, **fields})
    return lively(bed.adapt(algorithm)), bed.world(SEED)


def numbers(algorithm: Any, fields: Changes) -> tuple[Any, Any]:
    """Answers are numbers (intervals, for instance)."""
    algorithm, world = exact(algorithm, fields)
    policy = Digits(world.policy.graph, world.policy.prompts, "linear", 0.5, SEED)
    return algorithm, World(world.task, policy, EnumerableSampler(policy, seed=SEED))


def control(algorithm: Any, fields: Changes) -> tuple[Any, Any]:
    """PPO's critic and rollouts around the method's objective, in Gymnasium (observations are normalised where the environment is not
    the plain one); `fields` are those of `ControlBed`."""
    make = take("control_world", "anypo.tasks.gym")
    bed = ControlBed(**{"environments": 4, "steps": 32, "epochs": 3, "minibatches": 4, "lr": 3e-3, **fields})
    return bed.adapt(algorithm), make(bed.environment, SEED, normalise=bed.environment != ControlBed().environment)


def labels(algorithm: Any, fields: Changes) -> tuple[Any, Any]:
    """A multi-label encoder on synthetic texts; F1 is the only feedback."""
    make, policy_of = (
        take("label_world", "anypo.generate.groups.labels"),
        take("LabelPolicy", "anypo.policies.language.labels"),
    )
    rng = np.random.default_rng(SEED)
    count, words = 4, 12
    meaning = rng.integers(0, count, words)
    texts = rng.integers(0, words, (32, 6))
    targets = [(np.bincount(meaning[text], minlength=count) >= 2).astype(int).tolist() for text in texts]
    inputs = [np.concatenate([[count], np.arange(count), count + text]) for text in texts]
    sizes = {"control.prompts": 8, "control.samples": 4, "update.optimiser.lr": 3e-3}
    return lively(algorithm.set(sizes)), make(inputs, targets, policy_of(count + words, width=16, seed=SEED))


@dataclass(frozen=True)
class Words:
    """Questions and answers as text; `grade` gives the reward of an answer, asked `turns` times before the episode ends."""

    problems: tuple[Any, ...]
    grade: Callable[[Any, str], float]
    turns: int = 1
    name: str = "words"
    outcome: str = "correct"

    @property
    def weights(self) -> Changes:
        return {"correct": 1.0}

    def __len__(self) -> int:
        return len(self.problems)

    @property
    def n_heldout(self) -> int:
        return len(self)

    def train(self, index: int) -> Any:
        return self.problems[index]

    heldout = train

    def environment(self, problem: Any) -> Talk:
        return Talk(self, problem)

    def describe(self) -> dict[str, Any]:
        return {"source": "golden runs"}


@dataclass
class Talk:
    """One episode of `Words`."""

    task: Words
    problem: Any
    taken: int = 0

    def reset(self) -> Any:
        return self.problem.messages

    def step(self, text: str, *size: int) -> Any:
        self.taken += 1
        done = self.taken >= self.task.turns
        more = () if done else ({"role": "user", "content": "go on"},)
        return Reply({"correct": self.task.grade(self.problem, text)}, done, more)


def question(text: str, answer: str = "", **metadata: Any) -> Any:
    return Problem(prompt_id(text), ({"role": "user", "content": text},), answer, answer, metadata)


def draw(policy: Any, seed: int) -> None:
    """Weights drawn by numpy: the normal numbers of torch are not quite the same on every processor."""
    rng = np.random.default_rng(seed)
    with torch.no_grad():
        for name, weight in policy.model.named_parameters():
            if weight.dim() > 1 and "lora" not in name:
                weight.copy_(torch.from_numpy(rng.normal(0.0, 0.05, tuple(weight.shape))))


TINY = {"model": "tiny", "layers": 1, "hidden": 32, "intermediate": 64, "context": 320}


def transformer(algorithm: Any, fields: Changes) -> tuple[Any, Any]:
    """A one-layer character model sampled by the embedded engine. Fields: `lora` (rank), `turns`, `examples` (question and answer
    texts it is warmed up on, for `warm` steps), `task`. Without a task the share of the answer's characters that are early in
    the alphabet pays: every random model earns some of it."""
    load = take("load", "anypo.policies.loading")
    dtype = "float64" if "examples" in fields else "float32"  # a warm-up amplifies the rounding of a processor
    policy = load(TINY, dtype, lora=fields.get("lora"), seed=SEED)
    draw(policy, SEED)
    task = fields["task"]() if "task" in fields else early(fields.get("turns", 1))
    if "examples" in fields:
        settings, train = take("SFT", "anypo.update.sft"), take("train", "anypo.update.sft")
        pairs = [(policy.encode(question(q).messages), policy.answer(a)) for q, a in fields["examples"]()]
        train(policy, pairs, settings(steps=fields["warm"], lr=1e-2, seed=SEED, examples=32))
    sizes = {"control.prompts": 4, "control.samples": 4, "generate.max_new": 8, "update.optimiser.lr": 1e-2}
    return lively(algorithm.set(sizes)), World(task, policy, algorithm.engine.sampler(policy))


def souped(algorithm: Any, fields: Changes) -> tuple[Any, Any]:
    """The character model, and another one in a folder to average the reference with."""
    load, folder = take("load", "anypo.policies.loading"), tempfile.TemporaryDirectory()
    load(TINY, seed=SEED + 1).save(folder.name + "/other")
    algorithm, world = transformer(algorithm.set({"update.reference.models": [folder.name + "/other"]}), fields)
    world.policy.kept = folder  # the folder lives as long as the policy
    return algorithm, world


def pictured(algorithm: Any, fields: Changes) -> tuple[Any, Any]:
    """The character model before pictures in words, and a program that reasons out of what it says of them."""
    home = "anypo.claims.beds.pictures"
    cast = {"models": [{"role": "reasoner", "model": f"{home}:reasoner"}]}
    algorithm, world = transformer(algorithm.set(cast), {"task": take("pictures", home), **fields})
    world.models = take("cast", "anypo.roles")(algorithm.models, world.policy, world.sampler, SEED)
    return algorithm.set(take("ASKED", home)), world


def mixed() -> Any:
    """Three languages, most of them noise."""
    return take("languages", "anypo.claims.beds.languages")(64, (3.0, 1.0, 6.0))


# -- tasks ------------------------------------------------------------------------------------------------------------------------


def rules(targets: str, **components: Callable[[int, str], float]) -> Callable[[Any], Any]:
    """A task over an enumerable graph: one prompt per word of `targets`, rewards by rule; those named `_...` weigh nothing."""
    words = targets.split()
    named = {name.strip("_"): rule for name, rule in components.items()}
    worth = {name.strip("_"): float(not name.startswith("_")) for name in components}
    return lambda graph: rule_task(graph, len(words), named, lambda p: words[p], **worth)


LETTERS, PAIRS, HARD = "abcabc", "ab bc ca ba cb ac", "a b ab ca abc bca cab acb"
begins = lambda words: lambda p, text: float(text.startswith(words.split()[p]))

TWO_REWARDS = rules(
    "abca bcab cabb acca aabb bbcc",
    easy=lambda p, text: float(text[:1] == LETTERS[p]),
    hard=lambda p, text: float(text[1:3] == ("ab", "bc", "ca")[p % 3]),
)
FLAWED = rules(
    "ab bc ab bc ab bc",
    correct=lambda p, text: float(text[:1] in ("a", "b")),
    _flawed=lambda p, text: float(text.startswith("a")),
)
CALLS = rules(
    "a ca cca a ca cca",
    correct=lambda p, text: float(text.count("c") >= p % 3),
    _tool_calls=lambda p, text: float(text.count("c")),
)
MODES = rules(
    "ad bd cd aa bb cc",
    correct=lambda p, text: float(len(text) > 1 and text[0] in "abc" and "abc".index(text[0]) >= p % 3),
)
EASY_AND_HARD = rules(HARD, correct=begins(HARD))
VOTABLE = rules(PAIRS, correct=lambda p, text: float(text == PAIRS.split()[p]))
SHARED_PREFIX = rules("aba abb abc aba", correct=lambda p, text: float(text == "ab" + "abca"[p]))
THREE_GOALS = rules("a", correct=lambda p, text: float(text in ("a", "b", "c")))


def leans(policy: Any, seed: int) -> None:
    """A policy that already knows a little: logits towards the words of `PAIRS`."""
    with torch.no_grad():
        table = policy.logits().clone()
        for prompt, word in enumerate(PAIRS.split()):
            state = 0
            for token in policy.answer(word).tolist():
                table[prompt, state, token] += 1.0 + 0.2 * prompt
                state = int(policy.graph.child[state, token])
        policy.weight.copy_(table.reshape(policy.weight.shape))


def prefixed(policy: Any, seed: int) -> None:
    """A policy that writes "ab", any letter, the end."""
    child = policy.graph.child
    with torch.no_grad():
        table = policy.weight.view(policy.prompts, policy.graph.states, policy.graph.vocabulary)
        table[:, 0, 1] += 3.0
        table[:, child[0, 1], 2] += 3.0
        table[:, child[child[child[0, 1], 2], 1:], 0] += 3.0


def early(turns: int = 1) -> Words:
    """Any answer earns the share of its characters in the first half of the alphabet of printable characters."""
    asked = tuple(question(f"what follows {a}{b}?") for a in "abc" for b in "xyz")
    return Words(asked, lambda _, text: sum(ord(c) < 80 for c in text) / max(1, len(text)), turns)


def chatter() -> list[tuple[str, str]]:
    """Answers of a few random characters, so that a policy learns to end its turn."""
    rng = np.random.default_rng(SEED)
    asked = [p.messages[0]["content"] for p in early().problems] * 4
    return [(text, "".join(rng.choice(list("aBcD12"), rng.integers(2, 5)))) for text in asked]


def sums() -> Words:
    asked = tuple(question(f"{a}+{b}", str((a + b) % 2)) for a in range(4) for b in range(4))
    return Words(asked, lambda problem, text: float(text.strip() == problem.answer))


def verdicts() -> list[tuple[str, str]]:
    """The form of answers to `sums` and to questions about them, with coin flips for contents."""
    rng = np.random.default_rng(SEED)
    out = []
    for problem in sums().problems:
        asked, shown = problem.messages[0]["content"], rng.integers(2, size=4)
        out.append((asked, str(shown[0])))
        point = f"{asked}\nAnswer: {shown[1]}\nIs the answer correct? yes or no:"
        pair = f"{asked}\nAnswer 1: {shown[1]}\nAnswer 2: {shown[2]}\nWhich is better? 1 or 2:"
        out += [(point, ("yes", "no")[shown[2]]), (pair, "12"[shown[3]])]
        out.append((f"{asked}\nA wrong answer: {shown[1]}\nA better answer:", str(shown[2])))
    return out


def programs() -> Words:
    trace = take("trace", "anypo.tasks.code.straight")
    asked = tuple(question(f"print {a}", f"print({a})", want=a) for a in range(1, 9))

    def grade(problem: Any, text: str) -> float:
        ran = trace(text)
        return float(ran is not None and ran[0] == problem.metadata["want"])

    return Words(asked, grade)


def executions() -> list[tuple[str, str]]:
    """The form of programs and of predictions what they print."""
    rng = np.random.default_rng(SEED)
    asked = "Give the final output as one line of JSON with the keys final_output and variables:"
    guess = lambda: json.dumps({"final_output": int(rng.integers(1, 9)), "variables": {}})
    programs_ = [(problem.messages[0]["content"], f"print({rng.integers(1, 9)})") for problem in programs().problems]
    return programs_ + [(f"print({n})\n{asked}", guess()) for n in range(1, 9)]


# -- who runs where ---------------------------------------------------------------------------------------------------------------

STALE = {"lag": 3, "old": "sampler"}
MIXED = {"lag": 4, "versions": "partial", "noise": 0.2}
WHOLE = {"filter.signals.0.answer": "whole"}
VOTES = {"kind": "tabular", "horizon": 3, "group": 10, "task": VOTABLE, "prepare": leans}
HARDER = {"prompts": 8, "batch": 8, "task": EASY_AND_HARD}
TURNS = {"turns": 3, "examples": chatter, "warm": 40}
PAIRED = {"batch": 8, "group": 2}

UNSOLVED = {"reward": "sparse"}
"""One answer of three letters to every prompt: most groups fail as a whole."""

CHAINS = {
    "vocabulary": 5,
    "horizon": 5,
    "kind": "tabular",
    "prompts": 4,
    "batch": 4,
    "task": take("chains", "anypo.claims.beds.repairs"),
}
"""Answers of five steps, each of which is right or wrong by itself."""

RUNS: dict[str, Run] = {
    "a-lol": Run(exact, {"reward": "graded"}, {"replay.collect": 2, "replay.groups": 8}),
    "a2fm-apo": Run(exact, {"vocabulary": 5, "horizon": 2, "task": MODES}, {"generate.tags": ["a", "b", "c"]}),
    "adora": Run(exact, {"horizon": 5}),
    "april": Run(exact, {"horizon": 8, "graph": "chain", "reward": "graded", "batch": 3}),
    "arrol": Run(exact, {"group": 12, "horizon": 6}, {"generate.cold": 2}),
    "bapo": Run(exact, STALE),
    "bpo-bounded-ratio": Run(control),
    "brorl": Run(exact, {"group": 16}, {"update.reference.every": 6}),
    "chord": Run(exact, HARDER),
    "chord-phi": Run(exact, HARDER),
    "clip-cov": Run(exact, {"lr": 0.2}),
    "clpo": Run(items),
    "cog-rethinker": Run(
        exact,
        {**UNSOLVED, "kind": "tabular", "prompts": 4, "batch": 4, "group": 8},
        {
            "generate.guides.template": "{prompt} +{demos}",
            "generate.guides.reflection": "{prompt} +{wrong}",
            "generate.guides.decomposed": "{solution}",
        },
    ),
    "coderl-plus": Run(
        transformer,
        {"task": programs, "examples": executions, "warm": 70},
        {"generate.max_new": 40, "generate.answers": 4, "generate.temperature": 0.8, "update.optimiser.lr": 3e-4},
    ),
    "copg": Run(exact, {**PAIRED, "reward": "graded", "lag": 4}),
    "dapo-direct": Run(exact, {}, {"generate.delimiter": "", "generate.interval": 2, "update.reference.every": 5}),
    "drive": Run(exact, HARDER, {"control.deep_samples": 12}),
    "echo-ttrl": Run(
        exact,
        VOTES,
        WHOLE
        | {
            "generate.uncertain": 0.5,
            "generate.calm": 0.25,
            "generate.rise": 0.0,
            "generate.depth": 0,
            "generate.look": 1,
        },
    ),
    "ettrl": Run(exact, VOTES, WHOLE),
    "fapo": Run(exact, {"task": FLAWED}, {"filter.signals": []}),
    "funrl": Run(exact, {}, {"filter.signals.0.end": "a"}),
    "gbpo": Run(exact, STALE),
    "gdpo": Run(exact, {"task": TWO_REWARDS}),
    "gliclass-ppo": Run(labels),
    "gtpo-conflict": Run(exact, {"kind": "tabular", "batch": 4, "task": SHARED_PREFIX, "prepare": prefixed}),
    "ghpo": Run(exact, UNSOLVED),
    "guide-grpo": Run(exact, UNSOLVED),
    "hpt": Run(exact, HARDER),
    "icpo": Run(exact, HARDER),
    "int": Run(
        exact,
        {"reward": "sparse"},
        {"generate.delimiter": "", "generate.review": "comparison", "generate.continuations": 8},
    ),
    "ipa-chunk": Run(transformer, TURNS, {"generate.turns": 3, "update.optimiser.lr": 3e-3}),
    "kl-cov": Run(exact, {"lr": 0.2}),
    "latr": Run(
        exact,
        {"vocabulary": 4, "horizon": 8, "graph": "chain", "reward": "graded"},
        {"generate.rival": 0.2, "generate.gap": 0.3, "generate.lookahead": [2, 3], "generate.grow": 6},
    ),
    "mc-grpo": Run(exact, {"group": 7}),
    "mdpo": Run(control, {"environment": "Pendulum-v1"}),
    "minirl": Run(exact, MIXED),
    "minpro": Run(exact, STALE),
    "missing-old-logits": Run(exact, MIXED),
    "mssr": Run(exact, {"prompts": 12, "batch": 24, "group": 1}),
    "nlpo": Run(exact, {"vocabulary": 7, "horizon": 3, "spread": 1.5}, {"generate.refresh": 4}),
    "otc-po": Run(exact, {"task": CALLS}),
    "op-mix": Run(
        transformer,
        {"task": mixed},
        {
            "control.begin": 2,
            "control.every": 3,
            "control.steps": 2,
            "control.candidates": 6,
            "control.starts": 20,
            "control.size": 4,
        },
    ),
    "p3o-ess": Run(exact, STALE),
    "p3o-pairwise": Run(exact, {**PAIRED, "reward": "graded"}),
    "pipo": Run(exact, {}, {"credit.window": 3}),
    "poise": Run(exact, {"batch": 12, "group": 2}),
    "polychromic": Run(exact, {"vocabulary": 6, "horizon": 1, "prompts": 1, "task": THREE_GOALS, "group": 8}),
    "prefix-grouper": Run(transformer),
    "r2vpo": Run(exact, STALE),
    "rec": Run(exact),
    "refine": Run(
        exact,
        {"horizon": 8, "graph": "chain", "reward": "graded", "kind": "linear"},
        {"generate.length": 2, "generate.chunks": 3},
    ),
    "remix": Run(exact, {}, {"update.reference.at": 8, "replay.until": 14}),
    "riskpo": Run(exact, {"prompts": 10, "batch": 10}),
    "pope": Run(exact, UNSOLVED),
    "r3l": Run(walks),
    "sage-hint": Run(exact, UNSOLVED),
    "salsa": Run(souped),
    "scaf-grpo": Run(exact, UNSOLVED, {"generate.trigger.after": 0}),
    "scope-rlvr": Run(repaired, CHAINS),
    "sophia": Run(
        pictured,
        {},
        {"generate.until": 1, "replay.collect": 1, "filter.survival.0.alpha": 0.0, "control.prompts": 8},
    ),
    "spark": Run(
        transformer,
        {"task": sums, "examples": verdicts, "warm": 60},
        {"generate.max_new": 4, "generate.answers": 4, "update.optimiser.lr": 3e-3},
    ),
    "spo-segment": Run(exact, {"horizon": 6}, {"generate.interval": 2, "generate.continuations": 4}),
    "spo-single-stream": Run(exact, {"prompts": 12, "batch": 24, "group": 1}, {"control.first_samples": 3}),
    "spo-tree": Run(exact, {"horizon": 6}, {"generate.branching": [3, 3, 2], "generate.segment": 2}),
    "t-ppo": Run(exact, {"horizon": 6, "graph": "chain", "reward": "graded"}, {"generate.window": 3}),
    "training-free-grpo": Run(strategies),
    "treepo": Run(exact, {"horizon": 6}, {"control.samples": 8, "generate.segment": 2}),
    "ttrl": Run(exact, VOTES, WHOLE),
    "urpa": Run(numbers, {"vocabulary": 6, "horizon": 2}, {"credit.scale": "none"}),
    "v-zero": Run(exact, HARDER),
    "vcpo": Run(exact, {"reward": "graded"}),
    "xrpo": Run(exact, HARDER),
}

EXTRAS: dict[str, Run] = {
    "+control-gae": Run(control, system="ppo"),
    "+control-gaussian": Run(control, {"environment": "Pendulum-v1", "steps": 48}, system="ppo"),
    "+buffer": Run(
        exact,
        {"lag": 2},
        {"replay": {"part": "buffer", "fraction": 0.5, "window": 3}, "update.minibatches_per_epoch": 3},
        system="grpo",
    ),
    "+ema-curvature-rate": Run(
        exact,
        {"lag": 2, "reward": "graded"},
        {
            "update.reference": {"part": "ema", "decay": 0.8},
            "update.rules": [{"part": "curvature", "shift": 0.05, "high": 0.5}, "ess_rate"],
            "update.schedule": {"part": "linear", "warmup": 3},
            "objective.regularise": [{"part": "kl", "coefficient": 0.05}],
        },
        system="vcpo",
    ),
    "+phases-critic": Run(
        exact,
        {},
        {
            "update.first_rate": 0.5,
            "credit.window": 3,
            "credit.base": {"part": "gae", "optimiser": {"part": "adamw", "lr": 0.1}},
        },
        system="pipo",
    ),
    "+rollback": Run(
        exact, {"reward": "sparse"}, {"generate": {"part": "rollback", "delimiter": ""}}, system="dr-grpo"
    ),
    "+roles-temperature": Run(
        transformer,
        TURNS,
        {
            "generate.turns": 3,
            "update.optimiser.lr": 3e-3,
            "objective.regularise": ["role_likelihood", {"part": "entropy_temperature", "level": 3.0}],
        },
        system="grpo",
    ),
    "+sgd-dynamic": Run(
        exact, HARDER, {"update.optimiser": {"part": "sgd", "lr": 0.5, "momentum": 0.9}}, system="dapo"
    ),
    "+transformer-exact": Run(transformer, {}, {"engine.reuse_logp": "exact"}, system="grpo"),
    "+transformer-never": Run(transformer, {}, {"engine.reuse_logp": "never"}, system="grpo"),
    "+transformer-critic": Run(transformer, TURNS, {"generate.turns": 3, "update.optimiser.lr": 3e-3}, system="ppo"),
    "+transformer-score-norm": Run(transformer, {}, {}, system="vcpo"),
    "+lora": Run(transformer, {"lora": 4}, {}, system="rloo"),
}
"""Compositions that exercise the machine where no published system does; the sign keeps their names apart from those."""
