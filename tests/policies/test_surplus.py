"""What model files hold beyond the configuration, or hold that is no number, is refused or said; merges are computed in float32."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import LlamaConfig, LlamaForCausalLM

from anypo.errors import UserError
from anypo.policies.language import tiny
from anypo.policies.language.merging import merged
from anypo.policies.loading import load

SIZES = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 3,
    "num_attention_heads": 2,
    "eos_token_id": 96,
}
SMALL = {"model": "tiny", "layers": 2, "hidden": 64, "intermediate": 96}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    torch.manual_seed(0)
    tokenizer = tiny.tokenizer(64)
    LlamaForCausalLM(LlamaConfig(vocab_size=len(tokenizer), **SIZES)).save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    return tmp_path


def rewrite(folder: Path, change: Callable[[dict[str, Tensor]], None]) -> None:
    file = folder / "model.safetensors"
    weights = {name: value.clone() for name, value in load_file(file).items()}
    change(weights)
    save_file(weights, file, metadata={"format": "pt"})


def configure(folder: Path, **fields: object) -> None:
    file = folder / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | fields))


LAYER = "model.layers.1.self_attn.q_proj."
WRONG: dict[str, tuple[Callable[[Path], None], str]] = {
    "more layers than configured": (
        lambda f: configure(f, num_hidden_layers=2),
        r"9 of them have no place in the model, 'model\.layers\.2\..*behind the last that is configured",
    ),
    "biases": (
        lambda f: rewrite(f, lambda w: w.update({LAYER + "bias": torch.ones(32)})),
        "1 of them have no place.*the bias of a layer that is configured without",
    ),
    "an adapter among the weights": (
        lambda f: rewrite(f, lambda w: w.update({LAYER + "lora_A.weight": torch.ones(2, 32)})),
        "belongs to an adapter that is not merged",
    ),
    "scales of FP8": (
        lambda f: rewrite(f, lambda w: w.update({LAYER + "weight_scale_inv": torch.ones(1, 1)})),
        "scales quantised weights.*quantization_config",
    ),
    "an adapter beside the weights": (
        lambda f: (f / "adapter_config.json").write_text("{}"),
        "holds whole weights and an adapter beside them",
    ),
    "a weight that is not a number": (
        lambda f: rewrite(f, lambda w: w[LAYER + "weight"][3].fill_(torch.nan)),
        rf"ruined: 1 parameters hold numbers that are not finite, '{LAYER}weight'",
    ),
    "an infinite weight": (
        lambda f: rewrite(f, lambda w: w["model.norm.weight"][:1].fill_(torch.inf)),
        r"not finite, 'model\.norm\.weight'",
    ),
}


@pytest.mark.parametrize("name", WRONG)
def test_files_that_the_model_would_misread_are_refused(folder: Path, name: str) -> None:
    load(folder)
    change, sentence = WRONG[name]
    change(folder)
    with pytest.raises(UserError, match=sentence) as caught:
        load(folder)
    assert "\n" not in str(caught.value)


def test_parts_of_a_larger_model_are_left_out_and_said(folder: Path) -> None:
    before = load(folder)
    assert before.notes == ()
    rewrite(folder, lambda w: w.update({"vision_tower.patch.weight": torch.ones(3), "mtp.head.bias": torch.ones(2)}))
    after = load(folder)
    assert len(after.notes) == 1 and "2 weights" in after.notes[0] and "(mtp, vision_tower)" in after.notes[0]
    assert all(torch.equal(value, after.state_dict()[name]) for name, value in before.state_dict().items())


def test_a_missing_package_is_not_called_damage(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from transformers import AutoModelForCausalLM

    def raises(*_: object, **__: object) -> None:
        raise ImportError("Loading a GPTQ quantized model requires gptqmodel")

    monkeypatch.setattr(AutoModelForCausalLM, "from_pretrained", raises)
    with pytest.raises(UserError, match=r"needs a package that is not installed here: Loading a GPTQ.*gptqmodel"):
        load(folder)


# -- merging ------------------------------------------------------------------------------------------------------------------


def adapted(size: float, dtype: str):
    policy = load(SMALL, dtype, lora=4, seed=0)
    for name, parameter in policy.own().items():
        if "lora_B" in name:
            parameter.data.normal_(generator=torch.Generator().manual_seed(1)).mul_(size)
    return policy


def test_adapters_are_added_in_float32_and_rounded_once() -> None:
    policy = adapted(1e-3, "bfloat16")
    plain, lost = merged(policy.model)
    assert lost == "" and not hasattr(plain, "peft_config")
    base = dict(policy.causal.named_parameters())
    lora = dict(policy.model.named_parameters())
    checked = 0
    for name, parameter in plain.named_parameters():
        at = name.removesuffix(".weight")
        if f"{at}.base_layer.weight" not in base:
            assert torch.equal(parameter, base[name])
            continue
        a, b = (lora[f"base_model.model.{at}.lora_{x}.default.weight"].detach() for x in "AB")
        exact = base[f"{at}.base_layer.weight"].detach().double() + 8.0 * (
            b.double() @ a.double()
        )  # alpha 32 over rank 4
        assert parameter.dtype == torch.bfloat16
        torch.testing.assert_close(parameter.double(), exact, rtol=2**-8, atol=1e-12)
        assert (parameter == exact.bfloat16()).double().mean() > 0.999
        checked += 1
    assert checked == 14


@pytest.mark.parametrize(
    ("size", "dtype", "says"), [(1e-5, "bfloat16", True), (1e-5, "float32", False), (0.0, "bfloat16", False)]
)
def test_an_export_says_what_rounding_loses(tmp_path: Path, size: float, dtype: str, says: bool) -> None:
    policy = adapted(size, dtype)
    said = policy.save(tmp_path / "model")
    assert (said != "") == says and ("rounding" in said) == says
    assert load(tmp_path / "model", dtype).model.dtype == policy.model.dtype
    load(SMALL, dtype, seed=0).save(tmp_path / "base")
    config = tmp_path / "model" / "adapter" / "adapter_config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | {"base_model_name_or_path": str(tmp_path / "base")}))
    assert (load(config.parent, dtype).notes != ()) == says
