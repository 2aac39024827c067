"""The guard finds what is wrong with a path, says it, and takes the next one; outputs are read as the configuration has them."""

from __future__ import annotations

import warnings

import families
import pytest
import torch
from local_models import GPT2, Endless, build
from peft import LoraConfig, get_peft_model

from anypo.engine import guard
from anypo.engine.local import LocalEngine
from anypo.engine.local import engine as engine_module
from anypo.engine.local.model.general import GeneralBackend
from anypo.engine.output import Output
from anypo.engine.training import TrainingForward
from anypo.errors import Note, UserError


@pytest.fixture(autouse=True)
def forgetful(monkeypatch):
    monkeypatch.setattr(guard, "_CHOSEN", {})


class Blind(GeneralBackend):
    """Does not tell the model where its tokens stand, as it was under LoRA."""

    def __init__(self, *args, **options):
        super().__init__(*args, **options)
        self._takes_positions = False


class Amnesiac(Blind):
    """Nor what came before."""

    def run(self, work):
        for item in work:
            item.handle._memory = None
        return super().run(work)


def test_a_path_that_is_wrong_is_refused_in_a_sentence_and_the_next_one_taken(monkeypatch):
    lora = get_peft_model(build(GPT2), LoraConfig(r=2, target_modules="all-linear")).eval()
    assert LocalEngine(lora, Endless()).path == "with a cache"
    guard._CHOSEN.clear()
    monkeypatch.setattr(engine_module, "GeneralBackend", Blind)
    with pytest.warns(
        Note, match=r"sampling of GPT2LMHeadModel with adapters goes with a cache, one sequence at a time: .*differs"
    ):
        assert LocalEngine(lora, Endless()).path == "with a cache, one sequence at a time"
    guard._CHOSEN.clear()
    monkeypatch.setattr(engine_module, "GeneralBackend", Amnesiac)
    with pytest.warns(Note, match="goes without memory"):
        assert LocalEngine(lora, Endless()).path.startswith("without memory")
    guard._CHOSEN.clear()
    monkeypatch.setattr(engine_module, "RecomputingBackend", lambda *_: 1 / 0)
    with pytest.raises(UserError, match=r"no way of running it is right: .*nats; .*ZeroDivisionError"):
        LocalEngine(lora, Endless())


def test_a_verdict_holds_for_the_kind_of_model_and_costs_nothing_again(monkeypatch):
    LocalEngine(build("llama"), Endless())
    TrainingForward(build("llama"))
    monkeypatch.setattr(guard.Reference, "of", lambda model: pytest.fail("tried again"))
    with warnings.catch_warnings():
        warnings.simplefilter("error", Note)
        assert LocalEngine(build("llama"), Endless()).path == "with paged memory"
        assert TrainingForward(build("llama")).path == "on packed prefix trees"


def test_the_trial_leaves_the_engine_as_it_was_made():
    engine = LocalEngine(build("llama"), Endless(), block=8)
    assert engine.stats.computed == 0 and engine.backend.used() == 0 and engine.backend.pool.cached == 0
    general = LocalEngine(build(GPT2), Endless())
    assert general.backend.used() == 0


def test_models_without_any_difference_between_tokens_are_not_judged():
    model = build("llama")
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.zero_()
    assert LocalEngine(model, Endless()).fast and not guard._CHOSEN


@pytest.mark.parametrize(
    ("name", "factor", "divisor", "limit"),
    [
        ("gemma2", 1.0, 1.0, 30.0),
        ("gemma3_text", 1.0, 1.0, 30.0),
        ("recurrent_gemma", 1.0, 1.0, 30.0),
        ("granite", 1.0, 1.005, None),
        ("cohere", 0.0625, 1.0, None),
        ("falcon_h1", 1.01, 1.0, None),
        ("opt", 1.0, 1.0, None),
    ],
)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_caps_and_scales_are_those_of_the_configuration(name, factor, divisor, limit, dtype):
    output = Output.of(families.build(name, dtype))
    assert output is not None and (output.factor, output.divisor, output.limit) == (factor, divisor, limit)
    assert output.plain == (factor == divisor == 1.0 and limit is None)


@pytest.mark.parametrize("name", ["gemma2", "granite"])
def test_a_cap_or_scale_that_the_configuration_does_not_tell_is_found(name, monkeypatch):
    from anypo.engine import output

    for names in ("LIMITS", "FACTORS", "DIVISORS"):
        monkeypatch.setattr(output, names, ())
    assert Output.of(families.build(name)) is None
    assert TrainingForward(families.build(name)).path == "padded with all logits"


def test_models_with_another_output_compute_their_own_logits():
    assert Output.of(families.build("bert")) is None
    assert TrainingForward(families.build("bert")).path == "padded with all logits"
