"""From a name, a folder or a hub id to a policy; whatever is wrong with it is said in one sentence."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal, TypeVar

import torch
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from anypo.errors import UserError, nearest, unknown
from anypo.parts import first_reason
from anypo.plugins import discover, missing, plain, register
from anypo.plugins import options as fields_of
from anypo.policies.language import smollm2, tiny
from anypo.policies.language.adapters import attached
from anypo.policies.language.base import Base
from anypo.policies.language.causal import LanguagePolicy
from anypo.policies.language.merging import merged
from anypo.policies.language.quantised import lacking, quantise
from anypo.policies.language.quiet import quiet
from anypo.policies.language.surplus import surplus
from anypo.policies.language.wrapped import text_part, wrapper

Factory = TypeVar("Factory", bound=Callable[..., tuple[Any, Any]])

MODELS: dict[str, Callable[..., tuple[Any, Any]] | None] = {"smollm2-135m": None, "tiny": None}
"""Models known by name, and the factories of those that plugins brought."""


def model(name: str) -> Callable[[Factory], Factory]:
    """Register a factory of a transformers causal LM and its tokenizer: ``--model name`` calls it with torch seeded.

    Its keyword arguments are what the mapping ``{"model": name, ...}`` may set. A class of the user's own must be known to
    transformers (``AutoConfig.register``, ``AutoModelForCausalLM.register``), which is how trained weights are loaded again.
    Raises `UserError` for a name that is taken or could be a folder or a hub id.
    """

    def known(factory: Factory) -> Factory:
        register(MODELS, "model", plain("model", name), factory, factory)
        return factory

    return known


GIVEN = "given-"
"""How the name of a model that a run is given as a Python object begins."""

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float64": torch.float64}


class Lora(BaseModel):
    """Low-rank adapters W + (alpha / rank) B A (arXiv:2106.09685), B = 0 at first. Dropout is always off.

    targets: module names, or ``all-linear`` for every linear layer but the head. bits: 4 stores the linear layers below them in NF4
    (QLoRA), 0 leaves them as they are.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    rank: int = Field(16, ge=1)
    alpha: float = Field(32.0, gt=0.0)
    targets: str | tuple[str, ...] = "all-linear"
    bits: Literal[0, 4] = 0

    @field_validator("bits")
    @classmethod
    def _possible(cls, bits: int) -> int:
        if bits and (reason := lacking()):
            raise ValueError(reason)
        return bits


def adapter(lora: int | Mapping[str, Any]) -> Lora:
    """The adapter meant by a rank or by fields of `Lora` (`UserError`)."""
    found = _read(Lora, {"rank": lora} if isinstance(lora, int) else lora, "lora")
    assert isinstance(found, Lora)
    return found


def check(spec: str) -> None:
    """Raise `UserError` for a model that is plainly not there, without reading its weights: an unknown name, a folder that holds no
    model, a hub id that is not in the cache while the hub is not to be asked."""
    if spec == "smollm2-135m":
        if not smollm2.present():
            smollm2.gguf(whole=False)
        return
    place = Path(spec).expanduser()
    if spec not in MODELS and not place.is_dir() and "/" not in spec:
        discover()
    _refuse_absent(spec)
    if spec in MODELS:
        return
    if place.is_dir():
        if not any((place / name).is_file() for name in ("config.json", "adapter_config.json")):
            raise UserError(_no_model(place))
    elif spec.startswith((".", "/", "~")) or spec.count("/") != 1:
        with _sentences(spec, hub="/" not in spec):
            _hub_id(spec)
            raise OSError
    else:
        from huggingface_hub import constants, try_to_load_from_cache

        if constants.HF_HUB_OFFLINE and not isinstance(try_to_load_from_cache(spec, "config.json"), str):
            with _sentences(spec, hub=True):
                raise OSError


def load(
    spec: str | Path | Mapping[str, Any],
    dtype: str = "float32",
    lora: int | Mapping[str, Any] | None = None,
    seed: int = 0,
    cache_dir: Path | str | None = None,
    device: str | torch.device = "cpu",
    chat: Mapping[str, Any] | None = None,
) -> LanguagePolicy:
    """A language policy.

    spec: ``smollm2-135m``; ``tiny`` (randomly initialised from `seed`); a registered name (see `model`); a folder that
    transformers, peft or `LanguagePolicy.save` wrote; or a hub id. A mapping ``{"model": ..., ...}`` adds fields of `TinyConfig`
    for ``tiny``, arguments of a registered factory, or a ``revision`` for a hub id.
    lora: adapter rank (0 trains all weights) or fields of `Lora`.
    cache_dir: where converted models are kept (default $ANYPO_CACHE, else ~/.cache/anypo). device: where the weights go once they
    are made or read, on the CPU. chat: arguments of the model's chat template (``{"enable_thinking": False}``). Raises `UserError`.
    """
    if dtype not in DTYPES:
        raise unknown("dtype", dtype, DTYPES)
    options = {"model": str(spec)} if isinstance(spec, (str, Path)) else dict(spec)
    name = str(options.pop("model", ""))
    if not name:
        raise UserError(f"no model is named; known models: {', '.join(MODELS)}; or give a folder or a hub id")
    local = name in MODELS or Path(name).expanduser().is_dir()
    if not local and "/" not in name:  # neither path nor hub id
        discover()
    _refuse_absent(name)
    made = MODELS.get(name)
    said: list[str] = []
    with quiet():
        if made is not None:
            model, tokenizer = _made(name, made, options, seed)
            _cast(model, DTYPES[dtype])
        elif name == "tiny":
            config = _read(tiny.TinyConfig, options, "model 'tiny'")
            model, tokenizer = tiny.model(config, seed), tiny.tokenizer(config.context)
            _cast(model, DTYPES[dtype])
        elif name == "smollm2-135m":
            _none_left(options, name)
            model, tokenizer = _pretrained(str(smollm2.folder(cache_dir)), DTYPES[dtype], said)
        elif Path(name).expanduser().is_dir():
            _none_left(options, name)
            model, tokenizer = _local(Path(name).expanduser(), dtype, cache_dir, said)
        else:
            model, tokenizer = _hub(name, DTYPES[dtype], options, said)
        model = model.to(device)
        if lora:
            model = _adapt(model, adapter(lora), seed)
        policy = LanguagePolicy(model.to(device), tokenizer, source=name, chat=chat)
    policy.notes = tuple(said)
    return policy


def _made(name: str, factory: Callable[..., tuple[Any, Any]], options: Mapping[str, Any], seed: int) -> tuple[Any, Any]:
    """What a registered factory makes of `options`, drawn from `seed`."""
    from transformers import MODEL_FOR_CAUSAL_LM_MAPPING

    values = _read(fields_of(factory), options, f"model '{name}'")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        try:
            model, tokenizer = factory(**{field: getattr(values, field) for field in type(values).model_fields})
            config = type(model.config)
        except UserError:
            raise
        except Exception as error:
            raise UserError(f"model '{name}' could not be made: {type(error).__name__}: {error}") from None
    if MODEL_FOR_CAUSAL_LM_MAPPING.get(config, None) is not type(model):
        raise UserError(
            f"model '{name}' is a {type(model).__name__}, which transformers would not load again after training; give it a "
            "configuration class of its own and register both with AutoConfig and AutoModelForCausalLM"
        )
    return model, tokenizer


def _local(path: Path, dtype: str, cache_dir: Path | str | None, said: list[str]) -> tuple[Any, Any]:
    """A model folder, or a peft adapter folder on the base it names."""
    if (path / "config.json").is_file() and (path / "adapter_config.json").is_file():
        raise UserError(
            f"{path} holds whole weights and an adapter beside them, and does not say whether one is part of the other; move "
            "the adapter (adapter_config.json, adapter_model.*) into a folder of its own, and load whichever is meant"
        )
    if (path / "config.json").is_file():
        return _pretrained(str(path), DTYPES[dtype], said)
    if not (path / "adapter_config.json").is_file():
        raise UserError(_no_model(path))
    with _sentences(str(path)):
        from peft import PeftModel

        base = Base.read(path)
        policy = load(base.model, dtype, seed=base.seed, cache_dir=cache_dir)
        base.check(policy, path)
        model, lost = merged(PeftModel.from_pretrained(policy.model, str(path)))
        said += [*policy.notes, *([f"{path}: {lost}"] if lost else [])]
        return model, policy.tokenizer


def _hub(name: str, dtype: torch.dtype, options: dict[str, Any], said: list[str]) -> tuple[Any, Any]:
    revision = options.pop("revision", None)
    _none_left(options, name, "revision")
    _hub_id(name)
    return _pretrained(name, dtype, said, hub=True, revision=revision)


def _refuse_absent(name: str) -> None:
    """Raise `UserError` for a model that was an object in the process that began the run."""
    if name.startswith(GIVEN) and name not in MODELS:
        raise UserError(
            f"the model '{name}' was a Python object when the run began, and is in no other process: give it again, as in "
            "anypo.resume(RUN, model=(model, tokenizer))"
        )


def _no_model(path: Path) -> str:
    return f"{path} is not a model folder: it has no config.json; give the folder that holds one"


def _hub_id(name: str) -> None:
    if name.startswith((".", "/", "~")) or name.count("/") > 1:
        raise UserError(f"there is no model folder '{name}'; known models: {', '.join(MODELS)}")


def _pretrained(name: str, dtype: torch.dtype, said: list[str], hub: bool = False, **options: Any) -> tuple[Any, Any]:
    """Model and tokenizer by transformers. Every parameter must come from the files and be a number, and what the files hold beyond
    the model must be nothing that it would compute otherwise with; what is left out is `said`."""
    from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

    with _sentences(name, hub):
        kind = wrapper(AutoConfig.from_pretrained(name, **options))
        loader = kind or AutoModelForCausalLM
        model, info = loader.from_pretrained(name, dtype=dtype, output_loading_info=True, **options)
        tokenizer = AutoTokenizer.from_pretrained(name, **options)
    absent = sorted(info["missing_keys"]) + sorted(str(key[0]) for key in info["mismatched_keys"])
    if absent:
        raise UserError(
            f"the weights of {name} are incomplete: {len(absent)} parameters are missing or of another shape, '{absent[0]}' "
            "among them; download or export the model again"
        )
    said += surplus(name, model, info["unexpected_keys"])
    if kind is not None:
        model = text_part(name, model)
        said.append(
            f"{name} takes more than text: its text part, a {type(model).__name__}, is the policy, and is what is saved"
        )
    _cast(model, dtype, copy=True)  # loaded weights are views of the mapped file, which may change
    ruined = [key for key, parameter in model.named_parameters() if not bool(torch.isfinite(parameter).all())]
    if ruined:
        raise UserError(
            f"the weights of {name} are ruined: {len(ruined)} parameters hold numbers that are not finite, '{ruined[0]}' among "
            "them; download or export the model again, or take an earlier checkpoint"
        )
    return model, tokenizer


def _cast(model: Any, dtype: torch.dtype, copy: bool = False) -> None:
    """Weights in `dtype`, buffers as they are: rotary frequencies lose their meaning in low precision."""
    for parameter in model.parameters():
        parameter.data = parameter.data.to(dtype, copy=copy)


def _adapt(model: Any, lora: Lora, seed: int) -> Any:
    if lora.bits:
        quantise(model)
    targets = lora.targets if isinstance(lora.targets, str) else list(lora.targets)
    return attached(model, lora.rank, lora.alpha, targets, seed)


def _read(kind: type[BaseModel], options: Mapping[str, Any], what: str) -> Any:
    for field in options:
        if field not in kind.model_fields:
            raise unknown(f"field of {what}", field, kind.model_fields)
    try:
        return kind(**options)
    except ValidationError as error:
        raise UserError(f"{what}: {first_reason(error)}") from None


def _none_left(options: Mapping[str, Any], name: str, *known: str) -> None:
    for field in options:
        raise unknown(f"field of model '{name}'", field, ("model", *known))


@contextmanager
def _sentences(name: str, hub: bool = False) -> Iterator[None]:
    """Turn what transformers, tokenizers and safetensors raise about bad files into one sentence each."""
    try:
        yield
    except (UserError, MemoryError):
        raise
    except ImportError as error:
        reason = " ".join(str(error).split())
        raise UserError(f"the model {name} needs a package that is not installed here: {_short(reason)}") from None
    except Exception as error:  # the loaders raise almost any type for a damaged file
        reason = " ".join(str(error).split()) or type(error).__name__
        if hub and isinstance(error, OSError):
            raise UserError(
                f"model '{name}' is not a known name, not a folder, and cannot be fetched from the Hugging Face hub "
                f"(offline, or no such model).{nearest(name, MODELS)} A model downloaded elsewhere loads by its folder. "
                f"{missing()}".rstrip()
            ) from None
        if said := _unsupported(name, error, reason):
            raise UserError(said) from None
        raise UserError(
            f"the model files of {name} cannot be read ({type(error).__name__}: {_short(reason)}); "
            "they are damaged, truncated or of an unknown kind: download or export the model again"
        ) from None


def _unsupported(name: str, error: Exception, reason: str) -> str:
    """The sentence for files that are whole but that this installation has no means for; empty for others."""
    import transformers

    if isinstance(error, ImportError):
        return f"the model files of {name} cannot be read without a package that is not installed ({_short(reason)})"
    if found := re.search(r"Unrecognized configuration class <class '[\w.]*?(\w+)'>", reason):
        return (
            f"{name} is configured by {found[1]}, for which transformers {transformers.__version__} has no causal language model; "
            "choose a text model, or export the language part of this one into a folder of its own"
        )
    if "does not recognize this architecture" in reason or isinstance(error, KeyError):
        return (
            f"the model files of {name} cannot be read: transformers {transformers.__version__} does not know its model type "
            f"({_short(reason)}); a newer transformers may"
        )
    if "trust_remote_code" in reason:
        return f"{name} comes with code of its own, which is not run; choose a model whose class transformers has"
    return ""


def _short(text: str, limit: int = 160) -> str:
    return text if len(text) <= limit else text[:limit] + "..."
