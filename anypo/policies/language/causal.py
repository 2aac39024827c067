"""A language model as a policy: fills columns of a batch, speaks the model's chat format, copies, blends and exports itself.

The weights that sample are the weights that are trained: `model` is one ordinary transformers (or peft) module, in evaluation
mode always, so that no dropout enters any log-probability.
"""

from __future__ import annotations

import copy
import shutil
from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from anypo.column import Column
from anypo.data.batch import Batch
from anypo.data.kept import Kept
from anypo.data.records import Tokens, Trajectory
from anypo.data.tokens import ROLE_COLUMNS, charged, decisions, kept_here, to_rows, unlisted_mass
from anypo.engine.device import together
from anypo.engine.local.engine import end_tokens
from anypo.engine.training import Sample, TrainingForward
from anypo.engine.training.divergences import compare
from anypo.engine.training.head import Head
from anypo.errors import UserError
from anypo.policies.divergences import Comparisons
from anypo.policies.language.adapters import EVERYWHERE, attached, products, sharing
from anypo.policies.language.chat import Chat, Messages
from anypo.policies.language.fitting import check_tokens, fix_frequencies
from anypo.policies.language.folders import replace_folder
from anypo.policies.language.merging import merged, untie
from anypo.policies.language.quiet import quiet
from anypo.policies.precision import low, master, wide, write

FORWARD_TOKENS = 8192
"""Most tokens of one forward pass without gradient."""


class LanguagePolicy:
    """`model` with its `tokenizer`; satisfies `anypo.policies.base.Policy`. chat: arguments of the tokenizer's chat template; in the
    tokenizer's place a `Chat` may be given, which policies of the same tokenizer share.

    What the template ends turns with is noted in the model's generation configuration, so that every engine stops there.

    Columns, one entry per decision (token), at the sampling temperature T of its sequence:
      logp, log softmax(logits / T)[token] renormalised over the tokens that truncation kept at sampling (where these are not known,
      less the ``log_mass`` recorded then);
      entropy of softmax(logits / T), in nats, before truncation;
      logp_observation, logp_context: of the tokens returned by the environment and of the prompt, at temperature 1, each summed into
      the decision it is charged to (`anypo.data.tokens.charged`);
      hidden, the last hidden state the token was predicted from (only without gradient), float32 [N, hidden];
      state, what enters the output head there (only without gradient), float32 or wider [N, hidden];
      divergences, by full name (``jsd@privileged_ref``), as `compared` defines them: this policy's next-token distribution against
      that of a source on a view, whose ``state@privileged_ref`` must be among the batch's columns.
    A greedy rollout (T = 0) is scored at T = 1, since its own distribution has no gradient.

    bfloat16: the weights themselves are bfloat16, their gradients are accumulated in float32, and whatever adds up small changes
    of them, optimisers and averages, keeps float32 masters (`anypo.policies.precision`). LoRA weights are float32 whatever the
    base is.

    Batches come and go as they are (on the CPU); samples and passes are on the weights' `device`.
    """

    columns = frozenset({"logp", "entropy", *ROLE_COLUMNS})
    features = frozenset({"hidden", "state"})
    notes: tuple[str, ...] = ()
    """What loading the weights had to say, in sentences."""

    def __init__(
        self, model: Any, tokenizer: Any, source: str = "", version: int = 0, chat: Mapping[str, Any] | None = None
    ) -> None:
        self.model = model.eval()
        shared = isinstance(tokenizer, Chat)
        self.chat = tokenizer if shared else Chat(tokenizer, chat, end_tokens(model, tokenizer))
        tokenizer = self.chat.tokenizer
        if not self.ends <= end_tokens(model, tokenizer):
            model.generation_config.eos_token_id = sorted(self.ends)
        self.source = source
        self.version = version
        check_tokens(self.causal, self.chat, source)
        fix_frequencies(self.causal, self.context)
        self.forward = TrainingForward(model)
        self.compared = Comparisons()
        for parameter in self.parameters():
            if low(parameter) and hasattr(parameter, "grad_dtype"):
                parameter.grad_dtype = torch.float32

    # -- what it is -----------------------------------------------------------------------------------------------------

    @property
    def tokenizer(self) -> Any:
        return self.chat.tokenizer

    @property
    def ends(self) -> frozenset[int]:
        """Tokens with which the policy ends its turn."""
        return self.chat.ends

    @property
    def opened(self) -> str:
        """What the chat template has written into the policy's turn before it speaks (see `Chat.opened`)."""
        return self.chat.opened

    @property
    def lora(self) -> bool:
        """Whether the trainable weights are adapters on a base that stays as it is."""
        return type(self.model).__module__.startswith("peft.")

    @property
    def causal(self) -> Any:
        """The transformers causal LM (for LoRA: with the adapters inside its layers)."""
        return self.model.get_base_model() if self.lora else self.model

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return self.causal.get_input_embeddings().weight.device  # type: ignore[no-any-return]

    @property
    def context(self) -> int:
        """Most tokens of one sequence."""
        text = self.causal.config.get_text_config()
        limits = [getattr(text, "max_position_embeddings", None), self.tokenizer.model_max_length]
        return min(int(limit) for limit in limits if limit)

    def describe(self) -> dict[str, Any]:
        """Provenance: the source of the weights, the architecture and its size, and what its text becomes."""
        return {
            "weights": self.source,
            "architecture": type(self.causal).__name__,
            "parameters": sum(p.numel() for p in self.causal.parameters()),
            "context": self.context,
            "chat": self.chat.describe(),
        }

    # -- columns --------------------------------------------------------------------------------------------------------

    def fill(self, batch: Batch, names: Collection[str], grad: bool) -> dict[str, Tensor]:
        """The named columns of `batch`, each [N], beside its own; with `grad` connected to the weights (see the class)."""
        divergences = {name: told for name in sorted(names) if (told := self.compared.column(name))}
        if divergences:
            rest = self.fill(batch, set(names) - divergences.keys(), grad)
            with torch.set_grad_enabled(grad):
                return rest | self._diverge(batch, divergences)
        if any("@" in name for name in names):
            found: dict[str, Tensor] = {}
            for view, asked in _by_view(names).items():
                seen = batch.seen(view) if view else batch
                column = self.fill(seen, sorted(asked), grad)
                found |= {full: column[plain] for plain, full in asked.items()}
            return found
        unknown = set(names) - self.columns - self.features
        if unknown or (grad and set(names) & self.features):
            raise KeyError(f"a language policy cannot fill {sorted(unknown or names)} (with gradient: {grad})")
        if not len(batch):
            width = self.causal.get_input_embeddings().embedding_dim
            return {name: torch.zeros((0, width) if name in self.features else 0) for name in names}
        out: dict[str, Tensor] = {}
        if self.columns & set(names):
            reading = _Reading.of(batch, self.columns & set(names))
            with torch.set_grad_enabled(grad):
                out |= reading.columns(self.forward.statistics(reading.samples, "entropy" in names, FORWARD_TOKENS))
        if "hidden" in names:
            with torch.no_grad():
                out["hidden"] = self.hidden(batch).float().to(batch.sequence.device)
        if "state" in names:
            with torch.no_grad():
                states = self._states(batch)
                out["state"] = states.to(torch.promote_types(states.dtype, torch.float32)).to(batch.sequence.device)
        return {name: out[name] for name in names}

    def offers(self, name: str) -> bool:
        """Its columns in every view of the batch (not in a fresh draw, ``new`` or ``next``, which are an actor's), and divergences
        from the sources it is compared with."""
        return self.compared.offers(name, self.columns)

    def reads(self, name: str) -> frozenset[str]:
        """The fixed columns that must be filled before the column `name`."""
        column = self.compared.column(name)
        return frozenset({str(replace(column, stat="state"))} if column else ())

    def output(self) -> Head:
        """What turns the column ``state`` into logits, as it is now: a copy of weights that may still be trained."""
        head = self.forward.network.head
        kept = lambda w: w.detach().clone() if w is not None and w.requires_grad else w
        return Head(kept(head.weight), kept(head.bias), head.dtype)

    def _states(self, batch: Batch) -> Tensor:
        states = self.forward.states(samples(batch), FORWARD_TOKENS)
        return states[decisions(batch).to(states.device)]

    def _diverge(self, batch: Batch, columns: Mapping[str, Column]) -> dict[str, Tensor]:
        """The divergences of one pass over the batch, each [N], on the batch's device."""
        if not len(batch):
            return {name: torch.zeros(0) for name in columns}
        states, home = self._states(batch), batch.sequence.device
        heat = batch.spread(batch.sequences["temperature"]).to(states.device)
        heat = torch.where(heat > 0, heat, torch.ones_like(heat))
        out = {}
        for name, column in columns.items():
            given = batch[str(replace(column, stat="state"))].to(states.device)
            statistic, theirs = self.compared.statistics[column.stat], self.compared.heads[column.source]
            out[name] = compare(statistic, states, self.forward.network.head, given, theirs, heat).to(home)
        return out

    def _push(self, batch: Batch, gradients: Mapping[str, Tensor], token_budget: int) -> dict[str, Tensor]:
        """`backward` for divergences."""
        columns = {name: column for name in gradients if (column := self.compared.column(name))}
        met = {name: torch.zeros(len(batch)) for name in columns}
        for piece in self.forward.cut(samples(batch), token_budget):
            index = torch.as_tensor(np.sort(piece))
            rows = torch.isin(batch.sequence, index)
            with torch.enable_grad():
                found = self._diverge(batch.select(index), columns)
            torch.autograd.backward([found[n] for n in columns], [gradients[n][rows].to(found[n]) for n in columns])
            met = {n: met[n].to(found[n].dtype).masked_scatter(rows, found[n].detach()) for n in columns}
        return met

    def hidden(self, batch: Batch) -> Tensor:
        """The last hidden state each decision is predicted from, [N, hidden], in the model's type, where the weights are;
        differentiable."""
        states = self.forward.hidden(samples(batch), FORWARD_TOKENS)
        return states[decisions(batch).to(states.device)]

    def backward(self, batch: Batch, gradients: Mapping[str, Tensor], token_budget: int) -> dict[str, Tensor]:
        """Add the gradient of sum over rows and columns of gradient * column to the weights' ``.grad``, in pieces of at most
        `token_budget` tokens; each of `gradients` is [N]. Returns the columns met on the way, without gradient."""
        if not len(batch):
            return {name: torch.zeros(0) for name in gradients}
        divergences = {name: g for name, g in gradients.items() if self.compared.column(name)}
        if divergences:
            rest = {name: g for name, g in gradients.items() if name not in divergences}
            met = self._push(batch, divergences, token_budget)
            return met | (self.backward(batch, rest, token_budget) if rest else {})
        if any("@" in name for name in gradients):
            met = {}
            for view, asked in _by_view(gradients).items():
                seen = batch.seen(view) if view else batch
                column = self.backward(seen, {plain: gradients[full] for plain, full in asked.items()}, token_budget)
                met |= {full: column[plain] for plain, full in asked.items()}
            return met
        reading = _Reading.of(batch, gradients)
        found = self.forward.backward(reading.samples, reading.coefficients(gradients), token_budget)
        return reading.columns(found)

    def recompute(self, wanted: bool) -> None:
        """Whether backward passes are to find only the inputs of layers and compute the rest again (activation checkpointing)."""
        if wanted != self.forward.checkpointing:
            self.forward = TrainingForward(self.model, wanted)

    # -- weights --------------------------------------------------------------------------------------------------------

    def parameters(self) -> list[nn.Parameter]:
        """Trainable parameters, tied ones once."""
        return [parameter for parameter in self.model.parameters() if parameter.requires_grad]

    def matrices(self) -> list[nn.Parameter]:
        """The trainable matrices of the layers: neither embeddings nor the head."""
        head = self.causal.get_output_embeddings()
        outside = [
            *(m for m in self.causal.modules() if isinstance(m, nn.Embedding)),
            *([head] if head is not None else []),
        ]
        ends = {id(parameter) for module in outside for parameter in module.parameters()}
        return [parameter for parameter in self.parameters() if parameter.ndim == 2 and id(parameter) not in ends]

    def own(self) -> dict[str, nn.Parameter]:
        """The parameters that tell this policy from its base: the adapters of a LoRA policy, else all of them."""
        named = self.model.named_parameters()
        return {name: p for name, p in named if not self.lora or ".lora_" in name}

    def base(self) -> dict[str, nn.Parameter]:
        """The parameters that the adapters of a LoRA policy stand on; none for any other policy."""
        own = self.own()
        return {name: p for name, p in self.model.named_parameters() if name not in own}

    def state_dict(self) -> dict[str, Tensor]:
        """A copy of the policy's own parameters by name; of an average its float32 values (those of trained weights are its
        optimiser's)."""
        return {name: (wide(p) if _average(p) else p.detach()).clone() for name, p in self.own().items()}

    @torch.no_grad()
    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Restore what `state_dict` returned; raises `UserError` when it belongs to another model."""
        mine = self.own()
        wrong = mine.keys() ^ state.keys() or {n for n in mine if mine[n].shape != state[n].shape}
        if wrong:
            raise UserError(
                f"these weights belong to another model than {self.source or 'this one'}: {len(wrong)} parameters differ, "
                f"'{min(wrong)}' among them; load them into the model and LoRA rank they were saved from"
            )
        for name, parameter in mine.items():
            if low(parameter) and not low(state[name]):
                write(parameter, state[name])
            else:
                parameter.copy_(state[name])

    def twin(self) -> LanguagePolicy:
        """A copy of the policy as it is now, trainable where it is. A LoRA copy shares the base and owns only its adapters."""
        return LanguagePolicy(self._copied(), self.chat, self.source, self.version)

    def _copied(self) -> Any:
        shared = {} if not self.lora else {id(p): p for n, p in self.model.named_parameters() if ".lora_" not in n}
        return copy.deepcopy(self.model, dict(shared))

    def whole(self) -> LanguagePolicy:
        """A copy of the policy as it is now with all its weights trainable; those of a LoRA policy have its adapters merged in."""
        plain = merged(self.model)[0] if self.lora else self._copied()
        return LanguagePolicy(plain.requires_grad_(True), self.chat, self.source, self.version)

    def adapted(self, rank: int, alpha: float, seed: int) -> LanguagePolicy:
        """This policy, which has no adapters, with fresh ones in every linear layer of its own copy: they alone are trainable there,
        and the weights are these, which stay as they are."""
        model = attached(sharing(self.model), rank, alpha, EVERYWHERE, seed)
        return LanguagePolicy(model, self.chat, self.source, self.version)

    def products(self) -> dict[str, Tensor]:
        """What the adapters of a LoRA policy add to the weights they stand on, by the names of these without adapters."""
        return products(self.model)

    def frozen(self) -> LanguagePolicy:
        """An untrainable copy of the policy as it is now. A LoRA copy shares the base and owns only its adapters."""
        twin = LanguagePolicy(self._copied().requires_grad_(False), self.chat, self.source, self.version)
        for mine, theirs in zip(self.own().values(), twin.own().values()):
            if _average(mine):
                write(theirs, wide(mine))
        return twin

    @torch.no_grad()
    def blend(self, policy: LanguagePolicy, decay: float) -> None:
        """theta <- decay theta + (1 - decay) theta_policy, for every own parameter (an exponential moving average), in float32 or
        wider."""
        theirs = policy.own()
        mine = self.own()
        if mine.keys() != theirs.keys() or any(mine[n].shape != theirs[n].shape for n in mine):
            raise UserError(
                f"the weights of {self.source} and {policy.source} cannot be averaged: different architectures"
            )
        for name, parameter in mine.items():
            mean = wide(parameter)
            mean.lerp_(wide(theirs[name]).to(mean), 1.0 - decay)
            if low(parameter):
                write(parameter, mean)

    # -- language -------------------------------------------------------------------------------------------------------

    def encode(self, messages: Messages) -> np.ndarray:
        """Tokens of an opening conversation, up to where the policy starts to write, int32 [L].

        Raises `UserError` when they leave no room in the model's context.
        """
        tokens = self._readable(self.chat.encode(messages))
        if len(tokens) >= self.context:
            raise UserError(
                f"a prompt has {len(tokens)} tokens but the model's context is {self.context}; "
                "shorten the prompt or choose another model"
            )
        return tokens

    def continue_with(self, messages: Messages, ended: bool = True, history: Messages = ()) -> np.ndarray:
        """Tokens to append after the policy's turn (see `Chat.continue_with`), int32 [L]."""
        return self._readable(self.chat.continue_with(messages, ended, history))

    def answer(self, text: str) -> np.ndarray:
        """Tokens the policy would write for `text`, the end of its turn included, int32 [L]."""
        return self._readable(self.chat.answer(text))

    def _readable(self, tokens: np.ndarray) -> np.ndarray:
        """`tokens`; `UserError` where one of them has no embedding."""
        if len(tokens) and int(tokens.max()) >= self.causal.get_input_embeddings().num_embeddings:
            name = self.tokenizer.convert_ids_to_tokens(int(tokens.max()))
            raise UserError(f"a text contains '{name}', for which {self.source or 'the model'} has no embedding")
        return tokens

    def words(self, text: str) -> np.ndarray:
        """Tokens of `text` inside the policy's turn, int32 [L]."""
        return self.chat.words(text)

    def decode(self, tokens: np.ndarray) -> str:
        """Text of `tokens` without end and padding tokens."""
        return self.chat.decode(tokens)

    # -- export ---------------------------------------------------------------------------------------------------------

    def save(self, path: Path | str, merge: bool = True, untied: bool = False) -> str:
        """Write a folder that `AutoModelForCausalLM` and `AutoTokenizer` load, replacing it in one step.

        A LoRA policy is written merged into its base, with the adapter alone in the subfolder ``adapter``; with ``merge=False``
        only the adapter is written, in peft's own format. With ``untied=True`` an output embedding that is the input embedding's
        twin is written, too, as a matrix of its own: for servers that load weights anew and forget that the two are one. Returns
        what rounding lost in merging, in a sentence (empty where it is little). Raises `UserError` when the disk is full or the
        folder not writable.
        """
        lost = ""
        with quiet(), replace_folder(Path(path)) as folder:
            plain = self.model
            if not self.lora:
                self.model.save_pretrained(folder)
            else:
                self.model.save_pretrained(folder / "adapter")
                if merge:
                    plain, lost = merged(self.model)
                    plain.save_pretrained(folder)
                else:
                    for file in (folder / "adapter").iterdir():
                        shutil.move(file, folder)
                    (folder / "adapter").rmdir()
            if untied:
                untie(folder, plain)
            self.chat.save(folder)
        return lost


@dataclass(frozen=True)
class _Reading:
    """What one pass of the training forward reads for `names`: `samples`, and for each kind of column (first logp and entropy,
    then one per role) the decision that each of its numbers belongs to, in the concatenation of the trajectories' decisions.

    A trajectory read for several roles is several samples of the same tokens, which a packed forward computes once.
    """

    batch: Batch
    names: Collection[str]
    samples: list[Sample]
    owners: dict[str, Tensor]

    @staticmethod
    def of(batch: Batch, names: Collection[str]) -> _Reading:
        read: list[Sample] = []
        owners: dict[str, Tensor] = {}
        if {"logp", "entropy"} & set(names):
            read += samples(batch)
            owners["logp"] = torch.arange(sum(len(trajectory) for trajectory in batch.trajectories))
        for name in sorted(ROLE_COLUMNS.keys() & set(names)):
            places, owners[name] = charged(batch.trajectories, ROLE_COLUMNS[name])
            read += [_sample(t, place) for t, place in zip(batch.trajectories, places) if len(place)]
        return _Reading(batch, names, read, owners)

    def columns(self, found: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The named columns over the rows of the batch, from the forward's numbers; truncation is taken into account."""
        found = {name: column.to(self.batch.sequence.device) for name, column in found.items()}
        out: dict[str, Tensor] = {}
        sizes = [len(owner) for owner in self.owners.values()]
        for number, (name, owner) in enumerate(self.owners.items()):
            own = {key: column.split(sizes)[number] for key, column in found.items()}
            if name in ROLE_COLUMNS:
                out[name] = to_rows(self.batch, own["logp"], owner)
                continue
            place = decisions(self.batch)
            out |= {key: column[place] for key, column in own.items() if key in self.names}
            if "logp" in out:
                out["logp"] = out["logp"] - unlisted_mass(self.batch).to(out["logp"].dtype)
        return out

    def coefficients(self, gradients: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Those of the forward's numbers for those of the rows, beside these."""
        together("coefficients of a batch", self.batch.sequence, *gradients.values())
        place, total = decisions(self.batch), sum(len(trajectory) for trajectory in self.batch.trajectories)

        def flat(name: str, owner: Tensor) -> Tensor:
            if name not in gradients:
                return torch.zeros(len(owner))
            gradient = gradients[name]
            return torch.zeros(total, dtype=gradient.dtype).index_add_(0, place, gradient)[owner]

        out = {"logp": torch.cat([flat(name, owner) for name, owner in self.owners.items()])}
        if "entropy" in gradients:
            pieces = [flat("entropy" if name == "logp" else "", owner) for name, owner in self.owners.items()]
            out["entropy"] = torch.cat(pieces)
        return out


def _average(parameter: nn.Parameter) -> bool:
    """A fixed weight with a float32 value behind it."""
    return not parameter.requires_grad and master(parameter) is not None


def _by_view(names: Collection[str]) -> dict[str, dict[str, str]]:
    """Column names by view: what is asked of it, with the full name."""
    out: dict[str, dict[str, str]] = {}
    for name in sorted(names):
        plain, _, view = name.partition("@")
        out.setdefault(view, {})[plain] = name
    return out


def samples(batch: Batch) -> list[Sample]:
    """The trajectories of `batch` as the training forward reads them, each at the temperature it was sampled at."""
    heats = batch.sequences["temperature"].tolist()
    return [_sample(t, None, heat if heat > 0 else 1.0, kept_here(t)) for t, heat in zip(batch.trajectories, heats)]


def _sample(trajectory: Trajectory, places: np.ndarray | None, heat: float = 1.0, kept: Kept | None = None) -> Sample:
    content = trajectory.content
    if not isinstance(content, Tokens):
        raise TypeError("a language policy needs trajectories of tokens")
    return Sample(content.tokens, content.actions if places is None else places, heat, kept)
