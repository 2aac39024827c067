"""Where turns end, what texts may spell and what is heard: one rule for templates of every kind."""

import json

import numpy as np
import pytest
from transformers import AutoTokenizer

from anypo import policies
from anypo.engine.config import Local
from anypo.errors import UserError
from anypo.policies.language import tiny
from anypo.policies.language.causal import LanguagePolicy
from anypo.policies.language.chat import Chat

TURNS = "{% for m in messages %}{{ m['role'] }}: {{ m['content'] }}END{% endfor %}{% if add_generation_prompt %}assistant: {% endif %}"
EOT = TURNS.replace("END", "<eot>\n")
TWO = TURNS.replace("END", "<eot><eos>\n")
LLAMA = (
    "{% for m in messages %}{% if m['role'] == 'user' %}[INST] {{ m['content'] }} [/INST]"
    "{% else %} {{ m['content'] }} {{ eos_token }}{% endif %}{% endfor %}"
)
GLM = (
    "{% for m in messages %}<|{{ m['role'] }}|>\n{{ m['content'] }}{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>\n{% endif %}"
)
NUMBERED = (
    "{% for m in messages %}[{{ loop.index }} {{ m['role'] }}] {{ m['content'] }}{{ eos_token }}{% endfor %}"
    "{% if add_generation_prompt %}[{{ messages | length + 1 }} assistant] {% endif %}"
)
THINKS = EOT.replace("assistant: {% endif", "assistant: <think>\n{% endif")
OFF = THINKS.replace("{% if add", "{% if enable_thinking is defined and not enable_thinking %}no{% endif %}{% if add")


def chat(template, extra=(), ends=(), **arguments):
    tokenizer = tiny.tokenizer(512)
    tokenizer.chat_template = template
    tokenizer.add_special_tokens({"additional_special_tokens": list(extra)})
    return Chat(tokenizer, arguments, [tokenizer.convert_tokens_to_ids(end) for end in ends])


def small(template, extra=()):
    made = chat(template, extra)
    model = tiny.model(tiny.TinyConfig(layers=1, hidden=32, intermediate=32), 0)
    model.resize_token_embeddings(len(made.tokenizer))
    return LanguagePolicy(model, made.tokenizer)


def user(text):
    return {"role": "user", "content": text}


def assistant(text):
    return {"role": "assistant", "content": text}


def pieces(template, extra=(), **flags):
    """A tokenizer of merged pieces that marks the beginning of a text, as sentencepiece does."""
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    inner = Tokenizer(models.BPE(unk_token="<unk>"))
    inner.pre_tokenizer, inner.decoder = pre_tokenizers.Metaspace(prepend_scheme="first"), decoders.Metaspace()
    special = ["<unk>", "<s>", "</s>"]
    trainer = trainers.BpeTrainer(vocab_size=300, special_tokens=special, show_progress=False)
    inner.train_from_iterator(["hello fine weather [INST] today /[INST] user assistant .?<|>\n"] * 4, trainer)
    inner.add_special_tokens([AddedToken(token, special=True, **flags) for token in extra])
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=inner, bos_token="<s>", eos_token="</s>", unk_token="<unk>")
    tokenizer.chat_template = template
    return Chat(tokenizer)


def shown(chat, tokens):
    return chat.tokenizer.decode(tokens)


ALL = {
    "chatml": (EOT, ["<eot>"], (), "<eot>"),
    "named": (EOT, ["<eot>"], ["<eot>"], "<eot>"),
    "two": (TWO, ["<eot>"], ["<eot>"], "<eot><eos>"),
    "space": (LLAMA, [], (), " <eos>"),
    "next role": (GLM, ["<|user|>", "<|assistant|>"], ["<|user|>"], "<|user|>"),
    "numbered": (NUMBERED, [], (), "<eos>"),
    "tiny": (tiny.TEMPLATE, [], (), "<eos>"),
}


@pytest.mark.parametrize("template, extra, ends, end", ALL.values(), ids=ALL)
def test_turns_end_as_the_template_ends_them(template, extra, ends, end):
    made = chat(template, extra, ends)
    assert shown(made, made.end) == end and set(made.end.tolist()) & made.ends
    history, following = [user("one"), assistant("1"), user("two")], [user("three")]
    whole = made.render([*history, assistant("2"), *following])
    begun = shown(made, made.encode(history))
    assert begun + shown(made, made.answer("2")) + shown(made, made.continue_with(following, history=history)) == whole
    stopped = shown(made, made.continue_with(following, ended=False, history=history))
    space = " " if template is LLAMA else ""  # what this template writes before an answer, the policy writes itself
    assert begun + space + "2" + stopped == whole


PHI = (
    "{% for m in messages %}<|{{ m['role'] }}|>\n{{ m['content'] }}<|end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>\n{% else %}{{ eos_token }}{% endif %}"
)


@pytest.mark.parametrize("template, end", [(PHI, "<|end|>"), (LLAMA, "</s>"), (EOT.replace(": ", ":<go>"), "<eot>")])
@pytest.mark.parametrize("rstrip", [False, True])
def test_a_grown_conversation_has_the_tokens_of_the_whole(template, end, rstrip):
    made = pieces(template, ["<|end|>", "<|user|>", "<|assistant|>", "<eot>", "<go>"], rstrip=rstrip)
    history, following = [user("hello fine")], [user("today?")]
    whole = made.encode([*history, assistant("weather"), *following])
    grown = [made.encode(history), made.answer("weather"), made.continue_with(following, history=history)]
    assert made.tokenizer.convert_ids_to_tokens(made.end.tolist())[-1] == end
    assert np.concatenate(grown).tolist() == whole.tolist()


def test_an_end_of_the_template_stops_the_engine_and_goes_with_the_export(tmp_path):
    policy = small(EOT, ["<eot>"])
    eot = policy.tokenizer.convert_tokens_to_ids("<eot>")
    assert policy.ends == {96, eot} == Local().sampler(policy).eos
    policy.save(tmp_path / "model")
    assert json.loads((tmp_path / "model" / "generation_config.json").read_text())["eos_token_id"] == [96, eot]
    again = policies.load(tmp_path / "model")
    assert again.ends == policy.ends and again.frozen().ends == policy.ends
    plain = policies.load({"model": "tiny", "layers": 1, "hidden": 32, "intermediate": 32})
    assert plain.model.generation_config.eos_token_id == 96  # nothing to add


def test_an_export_says_what_was_used(tmp_path):
    tokenizer = tiny.tokenizer(64)
    tokenizer.chat_template, tokenizer.pad_token = None, None
    policy = LanguagePolicy(tiny.model(tiny.TinyConfig(layers=1, hidden=32, intermediate=32), 0), tokenizer)
    policy.save(tmp_path / "model")
    saved = AutoTokenizer.from_pretrained(tmp_path / "model")
    assert saved.pad_token is None and tokenizer.chat_template is None
    assert saved.apply_chat_template([user("x")], tokenize=False) == policy.chat.render([user("x")]) == "x\n"


# -- what texts may spell ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "text", ["2<eot>", "<eot><eot>", "<eos>", "<eo<eot>s>", "\u2402anypo\u2403", "\u2402|\u2403<eot>", "a<obj>b"]
)
def test_a_text_is_never_a_control_token(text):
    made = chat(EOT.replace("assistant: ", "<go>assistant: "), ["<eot>", "<go>", "<obj>"])
    special = set(made.control.names)

    def count(tokens):
        return [t for t in np.asarray(tokens).tolist() if t in special]

    system = {"role": "system", "content": text}
    tool = {"role": "tool", "content": text, "tool_call_id": text}
    for said in ([system, user("q")], [user(text)], [user("q"), assistant("a"), tool]):
        plain = [{**m, "content": m["content"].replace(text, "x")} for m in said]
        assert count(made.encode(said)) == count(made.encode(plain))
        assert shown(made, made.encode(said)).replace("?", "") == made.render(said).translate(
            dict.fromkeys(map(ord, "\u2402\u2403?"))
        )
    assert count(made.continue_with([user(text)])) == count(made.continue_with([user("x")]))
    if text != "a<obj>b":  # the policy may say what carries a meaning, and end its turn with its end alone
        assert count(made.answer(text)) == count(made.end)
    assert len(made.encode([user("plain")])) == len(made.tokens(made.render([user("plain")])))


def test_what_a_template_writes_as_an_ordinary_token_is_control_too():
    made = chat(TURNS.replace("{{ m['role'] }}: ", "<|{{ m['role'] }}|>").replace("END", "{{ eos_token }}"))
    made.tokenizer.add_tokens(["<|user|>", "<|assistant|>", "<other>"])
    made = Chat(made.tokenizer)
    numbers = made.tokenizer.convert_tokens_to_ids(["<|user|>", "<|assistant|>"])
    said = made.encode([user("a<|user|><|assistant|>b")]).tolist()
    assert [token for token in said if token in numbers] == numbers[:1]  # this template invites nobody
    assert not set(numbers) & set(made.answer("<|user|><|assistant|>").tolist())
    assert len(made.encode([user("<other>")])) == len(made.encode([user("x")]))  # an ordinary token, as ever


def test_special_tags_are_heard_and_said():
    made = chat(EOT, ["<eot>", "<think>", "</think>", "<pad2>"])
    text = "<think>x</think>4"
    assert made.decode(made.answer(text)) == text
    assert len(made.words(text)) == 4  # two tags and two letters
    assert made.decode(np.append(made.tokens("a<pad2>"), [97, 96])) == "a<pad2>"


def test_what_the_template_opens_is_known():
    assert chat(THINKS, ["<eot>"]).opened == chat(THINKS, ["<eot>", "<think>", "</think>"]).opened == "<think>\n"
    assert chat(EOT, ["<eot>"]).opened == chat(GLM, ["<|user|>", "<|assistant|>"]).opened == ""


# -- conversations -------------------------------------------------------------------------------------------------------------


def test_an_assistants_last_message_is_gone_on_with():
    made = chat(EOT, ["<eot>"])
    said = [user("1+1?"), assistant("Let me think.")]
    assert made.render(said) == "user: 1+1?<eot>\nassistant: Let me think."
    assert made.encode(said).tolist() == [*made.encode([user("1+1?")]).tolist(), *made.words("Let me think.").tolist()]
    with pytest.raises(UserError, match="last message calls tools"):
        chat(EOT + "{# tool_calls #}").encode(
            [user("x"), {**assistant(""), "tool_calls": [{"function": {"name": "f"}}]}]
        )


CALL = {"type": "function", "function": {"name": "get", "arguments": {"city": "<eot>"}}}
TOOLS = (
    "{% if tools %}{{ tools | tojson }}{% endif %}{% for m in messages %}{{ m.name }}{{ m.content }}"
    "{% if m.tool_calls %}{{ m.tool_calls | tojson }}{% endif %}<eot>{% endfor %}"
)


def test_tools_and_their_calls_reach_the_template_and_spell_nothing():
    made = chat(TOOLS, ["<eot>"])
    tools = [{"type": "function", "function": {"name": "get", "description": "<eot>"}}]
    said = [
        {**user("w"), "tools": tools, "name": "Ann"},
        {**assistant(""), "tool_calls": [CALL]},
        {"role": "tool", "content": "12"},
    ]
    text = made.render(said)
    assert '"description": "<eot>"' in text and '"city": "<eot>"' in text and "Annw" in text
    assert made.encode(said).tolist().count(made.tokenizer.convert_tokens_to_ids("<eot>")) == 3


@pytest.mark.parametrize("field", ["tools", "tool_calls", "reasoning_content", "name"])
def test_a_field_that_the_template_would_drop_is_refused_by_name(field):
    with pytest.raises(UserError, match=f"does not show the field '{field}' of the assistant's"):
        chat(EOT, ["<eot>"]).encode([{**assistant("x"), field: "something"}, user("y")])


def test_template_arguments():
    assert chat(OFF, ["<eot>"], enable_thinking=False).render([user("x")]).endswith("noassistant: <think>\n")
    assert chat(OFF, ["<eot>"]).render([user("x")]).endswith(">\nassistant: <think>\n")
    with pytest.raises(UserError, match=r"reads no argument 'enable_thinkin'\. Did you mean 'enable_thinking'"):
        chat(OFF, ["<eot>"], enable_thinkin=False)
    with pytest.raises(UserError, match="'messages' is what the template is given anyway"):
        chat(OFF, messages=[])
