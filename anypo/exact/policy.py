"""A language policy small enough to enumerate, in float64."""

from __future__ import annotations

import copy
from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from typing import Literal

import numpy as np
import torch
from torch import Tensor, nn

from anypo.data.batch import Batch
from anypo.data.records import ACTION, Tokens, Trajectory
from anypo.data.tokens import ROLE_COLUMNS, charged, kept_here, kept_tokens, to_rows, unlisted_mass
from anypo.errors import UserError
from anypo.exact.graph import EOS, StateGraph
from anypo.policies.divergences import Comparisons

LETTERS = "abcdefghijklmnopqrstuvwxyz"
Kind = Literal["tabular", "linear"]


class EnumerablePolicy(nn.Module):
    """pi(token | prompt, state) for `prompts` prompts over the states of a `StateGraph`.

    tabular: one logit per (prompt, state, token). linear: logits = features @ weight with features one-hot in prompt x position,
    previous token and position x previous token, so that states and prompts share parameters.

    Tokens 0 (EOS) and 1..V-1 (the letters a, b, ...) are the vocabulary; token V + j stands for prompt j. `spread` is the standard
    deviation of the initial logits (tabular) or weights (linear). Satisfies `anypo.policies.base.Policy`.

    It can be shown a solution (the prompt ``p0 =ab``), which it copies as far as it trusts it: the logit of the letter that the
    solution has at this position, of EOS behind its end, is larger by `copying`, whatever was written before. That is no parameter:
    how to read a solution is known, what it says is not. Of one that breaks off (a hint, ``p0 +ab``) it knows as much, and nothing
    of what follows. Prompt and solution are one token, V + j + prompts code.
    """

    inputs: Tensor
    columns = frozenset({"logp", "entropy", *ROLE_COLUMNS})
    features = frozenset({"hidden", "state"})

    def __init__(
        self,
        graph: StateGraph,
        prompts: int,
        kind: Kind = "tabular",
        spread: float = 0.5,
        seed: int = 0,
        copying: float = 3.0,
    ) -> None:
        super().__init__()
        self.copying, self.compared = copying, Comparisons()
        self.graph, self.prompts, self.kind, self.version = graph, prompts, kind, 0
        generator = torch.Generator().manual_seed(seed)
        inputs = _features(graph, prompts) if kind == "linear" else torch.zeros(0, dtype=torch.float64)
        self.register_buffer("inputs", inputs, persistent=False)
        shape = (inputs.shape[1] if kind == "linear" else prompts * graph.states, graph.vocabulary)
        self.weight = nn.Parameter(spread * torch.randn(shape, generator=generator, dtype=torch.float64))

    # -- the distribution ---------------------------------------------------------------------------------------------------

    def logits(self) -> Tensor:
        """[prompts, states, V], connected to the parameters."""
        flat = self.weight if self.kind == "tabular" else self.inputs @ self.weight
        return flat.reshape(self.prompts, self.graph.states, self.graph.vocabulary)

    def log_table(self, temperature: float = 1.0) -> Tensor:
        """log pi of every token in every state, [prompts, states, V]."""
        return (self.logits() / temperature).log_softmax(-1)

    # -- a learner ------------------------------------------------------------------------------------------------------------

    def fill(self, batch: Batch, names: Collection[str], grad: bool) -> dict[str, Tensor]:
        """`logp`, `entropy` [N] (at each sequence's sampling temperature, renormalised over the tokens that truncation kept),
        `logp_context` and `logp_observation` [N] (see `anypo.data.tokens`); without gradient `hidden` [N, F], the input of the last
        layer, and `state` [N, V], the logits; all of these in every view, too (``logp@privileged``). Divergences by full name
        (``jsd@privileged_ref``) [N], against the column ``state@privileged_ref``, as `compared` defines them."""
        divergences = {name: column for name in sorted(names) if (column := self.compared.column(name))}
        views = sorted({name.partition("@")[2] for name in names if "@" in name and name not in divergences})
        plain = [name for name in names if "@" not in name]
        with torch.set_grad_enabled(grad):
            out = self._fill(batch, plain) if plain else {}
            for name, column in divergences.items():
                given = batch[str(replace(column, stat="state"))]
                out[name] = self.compared.statistics[column.stat].value(self._logs(batch), self._heated(batch, given))
            for view in views:
                asked = {name: name.partition("@")[0] for name in names if name.partition("@")[2] == view}
                found = self._fill(batch.seen(view), sorted(asked.values()))
                out |= {name: found[stat] for name, stat in asked.items()}
        return out

    def _fill(self, batch: Batch, names: Collection[str]) -> dict[str, Tensor]:
        """Columns of `batch` as it is, no view."""
        out: dict[str, Tensor] = {}
        if {"logp", "entropy"} & set(names):
            logp = self._logs(batch)
            if "logp" in names:
                token = self.rows(batch)[1]
                out["logp"] = logp.gather(1, token[:, None]).squeeze(1) - self._mass(batch, logp)
            if "entropy" in names:
                out["entropy"] = -(logp.exp() * logp).sum(-1)
        for name in sorted(ROLE_COLUMNS.keys() & set(names)):
            out[name] = self._other(batch, ROLE_COLUMNS[name])
        if "hidden" in names:
            where = self.rows(batch)[0]
            known = self.inputs[where] if self.kind == "linear" else nn.functional.one_hot(where, len(self.weight))
            out["hidden"] = known.float()
        if "state" in names:
            out["state"] = self._logits(batch).detach()
        return out

    def _logits(self, batch: Batch) -> Tensor:
        """Logits of every decision, [N, V], what was shown included."""
        where = self.rows(batch)[0]
        return self.logits().reshape(-1, self.graph.vocabulary)[where] + self._copied(batch, where)

    def _logs(self, batch: Batch) -> Tensor:
        """Log-probabilities of the whole vocabulary at every decision, at its sequence's temperature, [N, V]."""
        return self._heated(batch, self._logits(batch))

    def _heated(self, batch: Batch, logits: Tensor) -> Tensor:
        heat = batch.spread(batch.sequences["temperature"]).double()
        return (logits / heat.clamp(min=1e-6)[:, None]).log_softmax(-1)

    def _mass(self, batch: Batch, logs: Tensor) -> Tensor:
        """The log mass that `logs` [N, V] give to what truncation kept, [N]."""
        if all(kept_here(t) is None for t in batch.trajectories):
            return unlisted_mass(batch).double()
        ids, rows = kept_tokens(batch)
        inside = torch.full_like(logs, -torch.inf).index_put((rows, ids), logs[rows, ids])
        listed = torch.zeros(len(batch), dtype=torch.bool).index_fill(0, rows, True)
        inside = torch.where(listed[:, None], inside, logs)  # of a row without a set: the whole, whose mass is 1
        return inside.logsumexp(-1) + unlisted_mass(batch).double()

    def _copied(self, batch: Batch, where: Tensor) -> Tensor:
        """What shown solutions add to the logits, [N, V] (or a zero)."""
        first = [int(t.content.tokens[0]) if isinstance(t.content, Tokens) else 0 for t in batch.trajectories]
        codes = [max(0, token - self.graph.vocabulary) // self.prompts for token in first]
        if not any(codes):
            return torch.zeros((), dtype=torch.float64)
        return torch.from_numpy(self.copied(np.array(codes)))[
            batch.sequence, self.graph.depth()[where % self.graph.states]
        ]

    def copied(self, codes: np.ndarray) -> np.ndarray:
        """What solutions, shown by code (0: none), add to the logits at every position, [S, horizon, V]."""
        size = self.graph.vocabulary
        digits = [
            [code // (size + 1) ** place % (size + 1) for place in range(self.graph.horizon)] for code in codes.tolist()
        ]
        return np.eye(size + 1)[np.array(digits, dtype=np.int64)][:, :, 1:] * self.copying

    def offers(self, name: str) -> bool:
        """Its columns in every view of the batch, and divergences from the sources it is compared with."""
        return self.compared.offers(name, self.columns)

    def reads(self, name: str) -> frozenset[str]:
        """The fixed columns that must be filled before the column `name`."""
        column = self.compared.column(name)
        return frozenset({str(replace(column, stat="state"))} if column else ())

    def _other(self, batch: Batch, role: int) -> Tensor:
        """log pi of the tokens of a role, summed into the decisions they are charged to, [N]."""
        acting = [trajectory for trajectory in batch.trajectories if len(trajectory)]
        states, tokens = (torch.from_numpy(column) for column in locate(self.graph, acting, role, self.prompts))
        logp = self.log_table().reshape(-1, self.graph.vocabulary)[states].gather(1, tokens[:, None]).squeeze(1)
        return to_rows(batch, logp, charged(batch.trajectories, role)[1])

    @torch.no_grad()
    def next_logits(self, batch: Batch) -> Tensor:
        """Logits from which every decision of `batch` is drawn, [N, V]."""
        return self.logits().reshape(-1, self.graph.vocabulary)[self.rows(batch)[0]]

    def rows(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """Flat (prompt, state) index and token of every decision, both [N]; read from the columns ``state`` and ``token``
        where the batch has them."""
        if "state" in batch.rows and "token" in batch.rows:
            return batch["state"], batch["token"]
        states, tokens = locate(self.graph, batch.trajectories, prompts=self.prompts)
        return torch.from_numpy(states), torch.from_numpy(tokens)

    def frozen(self) -> EnumerablePolicy:
        twin = copy.deepcopy(self)
        return twin.requires_grad_(False)

    def blend(self, policy: EnumerablePolicy, decay: float) -> None:
        """weights <- decay * weights + (1 - decay) * those of `policy`."""
        with torch.no_grad():
            self.weight.mul_(decay).add_(policy.weight, alpha=1.0 - decay)

    def critic(self, seed: int = 0) -> TableCritic:
        """A value function over the same inputs, 0 everywhere."""
        return TableCritic(self)

    def last_layer(self) -> tuple[nn.Parameter, bool]:
        """The weights of logits = hidden @ weight, and that they are stored as [hidden, V]."""
        return self.weight, True

    # -- language -------------------------------------------------------------------------------------------------------------

    @property
    def context(self) -> int:
        """Most tokens of prompt and answer together."""
        return self.graph.horizon + 2

    def encode(self, messages: Sequence[Mapping[str, str]]) -> np.ndarray:
        """The prompt token of the word ``p<j>`` and the letters of every other word (a shown prefix), in order. A word ``=ab`` behind
        the prompt's shows it the solution ``ab``, a word ``+ab`` one that begins like this; the last such word counts."""
        words = " ".join(message["content"] for message in messages).split()
        tokens = [self._word(word) for word in words if word[0] not in "=+"]
        shown = [word for word in words if word[0] in "=+"]
        if shown:
            tokens[0] = [tokens[0][0] + self.prompts * self._code(shown[-1][1:], whole=shown[-1][0] == "=")]
        return np.array([token for piece in tokens for token in piece], dtype=np.int64)

    def _word(self, word: str) -> list[int]:
        if word[0] == "p" and word[1:].isdigit():
            return [self.graph.vocabulary + int(word[1:])]
        letters = [LETTERS.find(letter) + 1 for letter in word]
        if not all(0 < token < self.graph.vocabulary for token in letters):
            known = LETTERS[: self.graph.vocabulary - 1]
            raise UserError(
                f"the enumerable policy cannot read '{word}'; it knows p0, p1, ... and words over '{known}'"
            )
        return letters

    def _code(self, solution: str, whole: bool) -> int:
        """A number for the letters of a solution, and the end of a `whole` one, as far as the horizon goes; 0 says nothing."""
        letters = self._word(solution)[: self.graph.horizon] if solution else []
        said = [*letters, *[EOS] * (self.graph.horizon - len(letters) if whole else 0)]
        code = sum((token + 1) * (self.graph.vocabulary + 1) ** place for place, token in enumerate(said))
        if self.prompts * (code + 1) >= 2**31 - self.graph.vocabulary:
            raise UserError(
                f"the enumerable policy cannot be shown a solution of {len(letters)} letters; it is too long"
            )
        return code

    def decode(self, tokens: np.ndarray) -> str:
        """Letters; EOS is silent."""
        return "".join(LETTERS[t - 1] for t in np.asarray(tokens).tolist() if t != EOS)

    def answer(self, text: str) -> np.ndarray:
        """Tokens of the answer `text` (spaces ignored), EOS included unless the horizon ends the answer."""
        letters = [token for word in text.split() for token in self._word(word)]
        return np.array([*letters, EOS][: max(len(letters), self.graph.horizon)], dtype=np.int64)

    def continue_with(
        self, messages: Sequence[Mapping[str, str]], ended: bool = True, history: Sequence[Mapping[str, str]] = ()
    ) -> np.ndarray:
        raise UserError("the enumerable policy plays one turn; set generate.turns to 1")


class TableCritic(nn.Module):
    """Column ``value`` [N]: V(prompt, state), linear in the policy's inputs (one number per state when it is tabular)."""

    columns = frozenset({"value"})

    def __init__(self, policy: EnumerablePolicy) -> None:
        super().__init__()
        self.rows, self.inputs = policy.rows, policy.inputs
        self.linear = policy.kind == "linear"
        self.weight = nn.Parameter(torch.zeros(len(policy.weight), dtype=torch.float64))

    def fill(self, batch: Batch, names: Collection[str], grad: bool) -> dict[str, Tensor]:
        if not names:
            return {}
        where, _ = self.rows(batch)
        with torch.set_grad_enabled(grad):
            return {"value": self.inputs[where] @ self.weight if self.linear else self.weight[where]}


def locate(
    graph: StateGraph, trajectories: Sequence[Trajectory], role: int = ACTION, prompts: int = 0
) -> tuple[np.ndarray, np.ndarray]:
    """Flat (prompt, state) index and token of every decision of `trajectories` (or of every token of another role behind the
    prompt's), both [N]. prompts: how many there are, where solutions may have been shown."""
    contents = [t.content for t in trajectories if isinstance(t.content, Tokens)]
    if not contents:
        return np.zeros(0, np.int64), np.zeros(0, np.int64)
    lengths = np.array([len(content.tokens) for content in contents])
    filled = np.arange(lengths.max()) < lengths[:, None]
    tokens = np.full(filled.shape, -1, dtype=np.int64)
    tokens[filled] = np.concatenate([content.tokens for content in contents])
    acted = np.zeros_like(filled)
    acted[filled] = np.concatenate([content.roles for content in contents]) == role
    acted[:, 0] = False
    prompt = tokens[:, :1] - graph.vocabulary
    if prompts:
        prompt = prompt % prompts
    states = np.concatenate([prompt, graph.walk(tokens[:, 1:])], 1)
    return (prompt * graph.states + states)[acted], tokens[acted]


def _features(graph: StateGraph, prompts: int) -> Tensor:
    """Shared features of every (prompt, state): one-hot prompt x position, previous token, position x previous token."""
    depth = graph.depth()
    previous = torch.zeros(graph.states, dtype=torch.int64)
    inner = graph.child >= 0
    previous[graph.child[inner]] = inner.nonzero()[:, 1]
    own = [
        nn.functional.one_hot(previous, graph.vocabulary),
        nn.functional.one_hot(depth * graph.vocabulary + previous, graph.horizon * graph.vocabulary),
    ]
    shared = torch.cat(own, 1).repeat(prompts, 1)
    place = (torch.arange(prompts)[:, None] * graph.horizon + depth).flatten()
    return torch.cat([nn.functional.one_hot(place, prompts * graph.horizon), shared], 1).double()
