"""The training forward against one-sequence-at-a-time transformers: values, gradients, and every way to cut the work."""

import copy

import numpy as np
import pytest
import torch
from training_models import (
    CONFIGS,
    NORMS,
    PADDED,
    SMALL,
    VOCABULARY,
    answers,
    assert_same_gradients,
    build,
    coefficients,
    gradients,
    mixed,
    naive,
    weighted,
    worst_difference,
)
from transformers import AutoModelForCausalLM, LlamaConfig

from anypo.engine.training import Sample, TrainingForward
from anypo.engine.training import networks as networks_module
from anypo.errors import UserError


@pytest.fixture(autouse=True)
def wide_norms(monkeypatch):
    for module, forward in NORMS.items():
        monkeypatch.setattr(module, "forward", forward)


@pytest.fixture(autouse=True)
def wide_softmax(monkeypatch):
    """Gemma 2 takes its softmax in float32 whatever it is given, and how far that is off depends on the processor."""
    softmax = torch.nn.functional.softmax

    def wide(x, dim=None, dtype=None, **more):
        return softmax(x, dim=dim, dtype=None if x.dtype == torch.float64 else dtype, **more)

    monkeypatch.setattr(torch.nn.functional, "softmax", wide)


@pytest.mark.parametrize("name", CONFIGS)
def test_values_and_gradients_are_those_of_separate_sequences(name):
    model, samples, exact = build(name), mixed(), 1e-10
    forward, weights = TrainingForward(model), coefficients(samples)
    assert forward.packed == (name not in PADDED) and not model.training
    reference = naive(model, samples)
    wanted = gradients(model, lambda: weighted(naive(model, samples), weights).backward())
    columns = forward.statistics(samples, entropy=True)
    for column, values in reference.items():
        torch.testing.assert_close(columns[column], values, rtol=exact, atol=exact)
    found = gradients(model, lambda: weighted(forward.statistics(samples, entropy=True), weights).backward())
    assert_same_gradients(found, wanted, exact)
    for budget in (None, 400, 90, 1):  # one pass, cut into ever smaller pieces
        met = {}
        found = gradients(model, lambda budget=budget, met=met: met.update(forward.backward(samples, weights, budget)))
        assert_same_gradients(found, wanted, exact)
        for column, values in reference.items():
            torch.testing.assert_close(met[column], values, rtol=exact, atol=exact)
    with torch.no_grad():
        torch.testing.assert_close(
            forward.statistics(samples, budget=100)["logp"], reference["logp"], rtol=exact, atol=exact
        )


@pytest.mark.parametrize("name", ["qwen3", "llama-gelu", "gpt2"])
def test_checkpointing_changes_memory_only(name):
    model, samples = build(name), mixed()
    weights = coefficients(samples)
    saved: list[int] = []

    def push(forward):
        kept = {}

        def keep(tensor):
            kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
            loss = weighted(forward.statistics(samples, entropy=True), weights)
        saved.append(sum(kept.values()))
        loss.backward()

    wanted = gradients(model, lambda: push(TrainingForward(model)))
    found = gradients(model, lambda: push(TrainingForward(model, checkpointing=True)))
    assert_same_gradients(found, wanted, 1e-12)
    assert saved[1] < 0.7 * saved[0]
    assert not any(module.training for module in model.modules())


@pytest.mark.parametrize("wide", [False, True], ids=["small", "wide"])
def test_single_precision(wide):
    """As near to the exact gradient as separate passes in that precision are, whose error is the processor's.

    Wide layers are multiplied by another library than small ones.
    """
    model, samples = build("llama-biased", torch.float32), mixed()
    if wide:
        torch.manual_seed(0)
        sizes = {"hidden_size": 512, "intermediate_size": 768, "num_hidden_layers": 1, "num_attention_heads": 64}
        config = LlamaConfig(**(SMALL | sizes), attention_bias=True, mlp_bias=True)
        model = AutoModelForCausalLM.from_config(config)
    forward, weights = TrainingForward(model), coefficients(samples, torch.float32)
    twin = copy.deepcopy(model).double()
    exact = {n: w.double() for n, w in weights.items()}
    wanted = gradients(twin, lambda: weighted(naive(twin, samples), exact).backward())
    separate = gradients(model, lambda: weighted(naive(model, samples), weights).backward())
    found = gradients(model, lambda: forward.backward(samples, weights))
    assert worst_difference(found, wanted) < 3 * worst_difference(separate, wanted) < 1e-4


def test_the_same_work_gives_the_same_bits():
    model, samples = build("qwen3", torch.float32), mixed()
    forward, weights = TrainingForward(model), coefficients(samples, torch.float32)
    first, again = (gradients(model, lambda: forward.backward(samples, weights, budget=200)) for _ in range(2))
    assert all(torch.equal(first[name], again[name]) for name in first)


def test_shared_tokens_pass_through_the_layers_once(monkeypatch):
    rng = np.random.default_rng(0)
    samples = answers(rng.integers(0, VOCABULARY, 50), *[10] * 8, rng=rng)
    forward = TrainingForward(build("qwen3"))  # tries itself out once, where no test has built one before
    seen, original = [], networks_module.decoder_layer

    def spy(arch, layer, x, *rest):
        out = original(arch, layer, x, *rest)
        seen.append((len(x), len(out)))
        return out

    monkeypatch.setattr(networks_module, "decoder_layer", spy)
    forward.statistics(samples)
    # the prompt once, no last tokens; the last layer's output at the end of the prompt and at the answers only
    distinct = len({tuple(s.tokens[:n]) for s in samples for n in range(51, 60)})
    assert seen == [(50 + distinct, 50 + distinct)] * 2 + [(50 + distinct, 1 + distinct)]


def test_answers_do_not_see_each_other():
    rng = np.random.default_rng(0)
    samples = answers(rng.integers(0, VOCABULARY, 20), 8, 8, 8, rng=rng)
    forward = TrainingForward(build("qwen3"))
    before = forward.statistics(samples)["logp"]
    changed = samples[1].tokens.copy()
    changed[20:] = (changed[20:] + 1) % VOCABULARY
    after = forward.statistics([samples[0], Sample(changed, samples[1].actions), samples[2]])["logp"]
    torch.testing.assert_close(
        after[[*range(8), *range(16, 24)]], before[[*range(8), *range(16, 24)]], rtol=1e-12, atol=1e-12
    )
    assert (after[8:16] != before[8:16]).all()


@pytest.mark.parametrize("name", ["llama-tied", "gpt2", "gemma2"])
@pytest.mark.parametrize(
    "samples", [[], [Sample(np.array([1, 2, 3]), np.array([], dtype=np.int64))]], ids=["none", "no-decisions"]
)
def test_nothing_to_score(name, samples):
    model = build(name)
    forward = TrainingForward(model)
    columns = forward.statistics(samples, entropy=True)
    assert columns["logp"].shape == columns["entropy"].shape == (0,)
    (columns["logp"].sum() + columns["entropy"].sum()).backward()
    empty = {n: torch.zeros(0) for n in ("logp", "entropy")}
    assert forward.backward(samples, empty, budget=10)["logp"].shape == (0,)
    assert all(p.grad is None or not p.grad.any() for p in model.parameters())
    assert forward.hidden(samples).shape == (0, 32)


@pytest.mark.parametrize("name", ["qwen3", "gpt2", "gemma2"])
def test_hidden_states(name):
    model, samples = build(name).eval(), mixed()
    wanted = [
        model(torch.as_tensor(s.tokens)[None], output_hidden_states=True).hidden_states[-1][0, s.actions - 1]
        for s in samples
    ]
    with torch.no_grad():
        torch.testing.assert_close(
            TrainingForward(model).hidden(samples, budget=90), torch.cat(wanted), rtol=1e-10, atol=1e-10
        )
    found = gradients(model, lambda: TrainingForward(model).hidden(samples).square().sum().backward())
    assert_same_gradients(found, gradients(model, lambda: torch.cat(wanted).square().sum().backward()), 1e-8)


@pytest.mark.parametrize("name", ["qwen2", "gpt2"])
def test_adapters(name):
    from peft import LoraConfig, get_peft_model

    targets = "all-linear" if name == "qwen2" else ["c_attn", "c_proj"]
    lora = get_peft_model(
        build(name),
        LoraConfig(
            r=4, target_modules=targets, init_lora_weights=False, lora_dropout=0.5, fan_in_fan_out=name == "gpt2"
        ),
    )
    lora.double()
    samples = mixed()
    forward, weights = TrainingForward(lora), coefficients(samples)
    wanted = gradients(lora, lambda: weighted(naive(lora, samples), weights).backward())
    assert wanted and all(".lora_" in name for name in wanted)
    assert_same_gradients(gradients(lora, lambda: forward.backward(samples, weights, budget=300)), wanted, 1e-10)
    with lora.disable_adapter(), torch.no_grad():
        torch.testing.assert_close(
            forward.statistics(samples)["logp"], naive(lora, samples)["logp"], rtol=1e-10, atol=1e-10
        )


def test_frozen_models_have_values_and_no_gradient():
    model, samples = build("qwen3").requires_grad_(False), mixed()
    forward = TrainingForward(model)
    assert not forward.statistics(samples)["logp"].requires_grad
    found = forward.backward(samples, coefficients(samples))["logp"]
    torch.testing.assert_close(found, naive(model, samples)["logp"], rtol=1e-10, atol=1e-10)
    assert all(p.grad is None for p in model.parameters())


@pytest.mark.parametrize("way", ["weights", "autocast"])
def test_bfloat16(way):
    model, samples = build("qwen3", torch.float32), mixed()
    weights = coefficients(samples, torch.float32)
    wanted = gradients(model, lambda: weighted(naive(model, samples), weights).backward())
    reference = naive(model, samples)["logp"]
    if way == "weights":
        model.zero_grad()
        model.to(torch.bfloat16)
        for parameter in model.parameters():
            parameter.grad_dtype = torch.float32
    met = {}
    with torch.autocast("cpu", torch.bfloat16, enabled=way == "autocast"):
        forward = TrainingForward(model)
        one = gradients(model, lambda: met.update(forward.backward(samples, weights)))
        two = gradients(model, lambda: weighted(forward.statistics(samples, entropy=True), weights).backward())
    assert met["logp"].dtype == torch.float32
    assert (met["logp"] - reference).abs().mean() < 0.02
    for found in (one, two):
        assert all(g.dtype == torch.float32 for g in found.values())
        error = torch.cat([(found[n] - wanted[n]).flatten() for n in wanted]).norm()
        assert error < 0.03 * torch.cat([g.flatten() for g in wanted.values()]).norm()


def test_bad_input_is_refused():
    tokens = np.arange(5)
    for actions in ([0, 1], [4, 5]):
        with pytest.raises(UserError, match="token indices"):
            Sample(tokens, np.array(actions))
    with pytest.raises(UserError, match="temperature 0"):
        Sample(tokens, np.array([3]), temperature=0.0)
