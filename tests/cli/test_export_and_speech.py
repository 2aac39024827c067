"""What was trained, exported and spoken with, from the command line."""

from __future__ import annotations

import io
import json
import os
import shutil
import sys
from pathlib import Path

import pytest
import torch
import yaml

from anypo import policies
from anypo.errors import UserError
from anypo.run.settings.config import resolve

SMALL = ("--model", "tiny", "--task", "chain_sum", "--sft-steps", "0", "--eval-size", "0", "--steps", "1")
PARTS = ("--set", "control.prompts=2", "--set", "control.samples=2", "--set", "generate.max_new=6")
IDS = torch.arange(3, 20)[None]


@torch.no_grad()
def logits(folder, dtype=torch.float32):
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(folder, dtype=dtype)(IDS).logits


@pytest.fixture
def run(anypo):
    assert anypo("train", *SMALL, *PARTS, "--out", "run").code == 0
    return Path("run")


@pytest.fixture
def adapted(anypo):
    """A LoRA run whose adapters have moved far, so that merging has something to do."""
    from safetensors.torch import load_file, save_file

    assert anypo("train", *SMALL, *PARTS, "--lora", "2", "--seed", "3", "--out", "lora").code == 0
    file = "lora/model/adapter/adapter_model.safetensors"
    torch.manual_seed(0)
    save_file({name: value + 0.1 * torch.randn_like(value) for name, value in load_file(file).items()}, file)
    return Path("lora")


def stay(*left):
    """Nothing half-written: these and no hidden leftovers."""
    assert sorted(os.listdir()) == sorted(left)


def test_an_export_is_the_model_with_its_template_and_its_ends(anypo, run):
    from transformers import AutoTokenizer, GenerationConfig

    assert anypo("export", "run", "mine").code == 0
    assert torch.equal(logits("mine"), logits("run/model"))
    policy = policies.load("run/model")
    ends = GenerationConfig.from_pretrained("mine").eos_token_id
    assert set(ends if isinstance(ends, list) else [ends]) == policy.ends
    assert all(file.stat().st_mode & 0o444 == 0o444 for file in Path("mine").iterdir())  # for colleagues, too
    asked = [{"role": "user", "content": "1+1?"}]
    template = AutoTokenizer.from_pretrained("mine").apply_chat_template(asked, tokenize=False)
    assert template == policy.chat.render(asked, opening=False)
    scored = anypo("evaluate", "mine", "--task", "chain_sum", "--size", "4", "--json")
    assert scored.code == 0 and json.loads(scored.out)["n"] == 4
    again = anypo("export", "run", "mine")
    assert again.code == 2 and "not empty" in again.err
    stay("run", "mine")


def test_another_type_is_rounded_once_and_said(anypo, run):
    done = anypo("export", "run", "low", "--dtype", "bfloat16", "--json")
    assert done.code == 0 and "rounding to bfloat16" in json.loads(done.out)["notes"][0]
    assert json.loads(Path("low/config.json").read_text())["dtype"] == "bfloat16"
    from safetensors.torch import load_file

    low, high = load_file("low/model.safetensors"), load_file("run/model/model.safetensors")
    assert all(torch.equal(low[name], high[name].bfloat16()) for name in high)
    kept = anypo("export", "low", "again", "--json")  # in the type it is stored in, which loses nothing
    assert kept.code == 0 and not json.loads(kept.out)["notes"]
    assert all(torch.equal(value, low[name]) for name, value in load_file("again/model.safetensors").items())


def test_adapters_are_merged_into_the_base_they_were_trained_on(anypo, adapted):
    from peft import PeftModel

    assert anypo("export", "lora", "whole").code == 0
    base = policies.load("tiny", seed=3).model
    with torch.no_grad():
        plain = PeftModel.from_pretrained(base, "lora/model/adapter")(IDS).logits
    assert not torch.allclose(plain, logits("lora/model"), atol=1e-3)
    torch.testing.assert_close(logits("whole"), plain, atol=1e-4, rtol=1e-4)
    assert not Path("whole/adapter").exists()
    half = anypo("export", "lora", "half", "--dtype", "float16")
    assert half.code == 0 and "float16" in half.out


def test_an_adapter_knows_its_base_by_name_and_weights(anypo, adapted):
    assert anypo("export", "lora", "whole").code == 0
    assert anypo("export", "lora", "alone", "--adapter").code == 0
    assert not Path("alone/model.safetensors").exists()
    torch.testing.assert_close(policies.load("alone").model(IDS).logits, logits("whole"), atol=1e-4, rtol=1e-4)
    base = json.loads(Path("alone/base.json").read_text())
    assert base["model"] == "tiny" and base["seed"] == 3 and len(base["sha256"]) == 64
    Path("alone/base.json").write_text(json.dumps(base | {"seed": 4}))
    with pytest.raises(UserError, match="was trained on other weights"):
        policies.load("alone")


def test_an_adapter_on_a_folder_finds_it_after_both_moved(anypo, tmp_path):
    policies.load("tiny", seed=1).save("here/base")
    assert anypo("train", "--model", "here/base", *SMALL[2:], *PARTS, "--lora", "2", "--out", "run").code == 0
    assert anypo("export", "run", "here/alone", "--adapter").code == 0
    assert json.loads(Path("here/alone/adapter_config.json").read_text())["base_model_name_or_path"] == "../base"
    before = policies.load("here/alone").model(IDS).logits
    os.mkdir("elsewhere")
    shutil.move("here", "elsewhere/there")
    assert torch.equal(policies.load("elsewhere/there/alone").model(IDS).logits, before)
    lost = anypo("export", "run", "whole")  # the base is gone: what the run merged is left
    assert lost.code == 0 and "base could not be read" in lost.out
    assert torch.equal(logits("whole"), logits("run/model"))


def test_a_control_policy_is_exported_as_what_it_is(anypo):
    words = ("--system", "ppo", "--task", "CartPole-v1", "--steps", "1", "--eval-size", "0")
    assert anypo("train", *words, "--out", "run").code == 0
    assert anypo("export", "run", "mine").code == 0
    assert sorted(os.listdir("mine")) == ["policy.json", "policy.safetensors"]
    one, other = (anypo("evaluate", name, "--size", "2", "--json") for name in ("run", "mine"))
    assert one.code == other.code == 0 and json.loads(one.out) == json.loads(other.out)
    for words in (("export", "run", "x", "--dtype", "bfloat16"), ("generate", "run", "hello"), ("chat", "run")):
        done = anypo(*words)
        assert done.code == 2 and "takes actions" in done.err
    assert not Path("x").exists()


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (("tiny", "x", "--adapter"), "no adapter to export"),
        (("tiny", "x", "--dtype", "bfloat61"), "Did you mean 'bfloat16'"),
        (("tiny", "x", "--gguf"), "llama.cpp's converter"),
        (("tiny", "x", "--push", "me/mine"), "hub cannot be reached"),
        (("tinny", "x"), "is not a known name"),
        (("begun", "x"), "has no final weights yet"),
    ],
)
def test_what_cannot_be_exported_is_one_sentence_and_no_folder(anypo, monkeypatch, words, says):
    monkeypatch.setenv("PATH", "/nowhere")
    monkeypatch.delenv("ANYPO_GGUF", raising=False)
    os.mkdir("begun")
    Path("begun/config.yaml").write_text(yaml.safe_dump(resolve("grpo", "tiny").model_dump(mode="json")))
    done = anypo("export", *words)
    assert done.code == 2 and says in done.err and done.err.count("\n") == 1
    stay("begun")


CONVERTER = """
import sys
folder, _, outfile, _, kind = sys.argv[1:]
if kind == "f16":
    sys.exit("this model is not supported")
open(outfile, "w").write(kind)
"""


def test_the_converter_fills_the_folder_or_leaves_none(anypo, monkeypatch):
    Path("convert.py").write_text(CONVERTER)
    monkeypatch.setenv("ANYPO_GGUF", "convert.py")
    assert anypo("export", "tiny", "good", "--gguf").code == 0
    assert Path("good/model-f32.gguf").read_text() == "f32"
    bad = anypo("export", "tiny", "bad", "--gguf", "--dtype", "float16")
    assert bad.code == 2 and "this model is not supported" in bad.err
    stay("convert.py", "good")


def test_a_push_checks_the_login_first_and_uploads_the_folder(anypo, monkeypatch):
    import huggingface_hub

    calls = []

    class Hub:
        def whoami(self):
            calls.append(("whoami", os.path.exists("mine")))

        def create_repo(self, name, **options):
            return type("Made", (str,), {"repo_id": name})(f"https://hub/{name}")

        def upload_folder(self, *, folder_path, repo_id, commit_message):
            calls.append((repo_id, sorted(os.listdir(folder_path))))

    monkeypatch.setattr(huggingface_hub, "HfApi", Hub)
    done = anypo("export", "tiny", "mine", "--push", "me/mine", "--json")
    assert done.code == 0 and json.loads(done.out)["pushed"] == "https://hub/me/mine"
    assert calls == [("whoami", False), ("me/mine", sorted(os.listdir("mine")))]


# -- speaking --------------------------------------------------------------------------------------------------------------------


def test_generate_answers_every_prompt_as_the_engine_does(anypo, run, monkeypatch):
    one = anypo("generate", "run", "1+1?", "--json")
    found = json.loads(one.out)["answers"]
    assert one.code == 0 and len(found) == 1 and 1 <= found[0]["tokens"] <= 6  # the run's own length
    monkeypatch.setattr(sys, "stdin", io.StringIO("1+1?\n\n2+2?\n"))
    many = anypo("generate", "run", "-", "--samples", "3", "--max-new", "2", "--json")
    rows = [json.loads(line) for line in many.out.splitlines()]
    assert [row["prompt"] for row in rows] == ["1+1?", "2+2?"]
    assert all(len(row["answers"]) == 3 and all(a["tokens"] <= 2 for a in row["answers"]) for row in rows)
    assert len({answer["text"] for row in rows for answer in row["answers"]}) > 1
    from transformers import AutoModelForCausalLM, AutoTokenizer

    model, tokenizer = (kind.from_pretrained("run/model") for kind in (AutoModelForCausalLM, AutoTokenizer))
    ids = tokenizer.apply_chat_template(
        [{"role": "user", "content": "1+1?"}], add_generation_prompt=True, return_tensors="pt", return_dict=True
    )
    plain = model.generate(**ids, max_new_tokens=6, do_sample=False)[0, ids["input_ids"].shape[1] :]
    assert tokenizer.decode(plain, skip_special_tokens=True) == found[0]["text"]
    long = anypo("generate", "tiny", "ok", "x" * 600)
    assert long.code == 2 and "prompt 2" in long.err


def test_chat_goes_through_a_pipe_and_ends_with_it(anypo, run, monkeypatch):
    monkeypatch.setattr(sys, "stdin", io.StringIO("1+1?\n\nand 2+2?\n/new\n1+1?\n"))
    done = anypo("chat", "run", "--temperature", "0", "--max-new", "8")
    assert done.code == 0 and not done.err
    alone = json.loads(anypo("generate", "run", "1+1?", "--max-new", "8", "--json").out)["answers"][0]["text"]
    assert done.out.startswith(alone + "\n") and done.out.endswith(alone + "\n")


def test_a_conversation_sees_what_was_said():
    from anypo.trained import Conversation, Speech, open_trained

    speech = Speech(open_trained("tiny"), max_new=4)
    talk, pieces = Conversation(speech), []
    first = talk.say("a", pieces.append)
    assert "".join(pieces) == first
    second = talk.say("b")
    said = [{"role": "user", "content": "a"}, {"role": "assistant", "content": first}, {"role": "user", "content": "b"}]
    said.append({"role": "assistant", "content": second})
    assert talk.history == said
    text = speech.policy.tokenizer.decode(talk.tokens)
    assert text.startswith(speech.policy.chat.render(said[:3]))


def test_a_full_conversation_begins_anew_and_ctrl_c_leaves(anypo, monkeypatch):
    lines = iter(["x" * 300, "y" * 300])

    def read(sign):
        try:
            return next(lines)
        except StopIteration:
            raise KeyboardInterrupt from None

    monkeypatch.setattr("builtins.input", read)
    done = anypo("chat", "tiny", "--max-new", "2")
    assert done.code == 0 and "begins anew" in done.err and done.err.count("\n") == 1
