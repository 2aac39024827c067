"""Messages to tokens: the character tokenizer, append-only conversations, templates and their absence."""

import numpy as np
import pytest
from transformers import AutoTokenizer

from anypo import policies
from anypo.errors import UserError
from anypo.policies.language import tiny
from anypo.policies.language.chat import Chat

CHATML = (
    "{% for m in messages %}{% if loop.first and m['role'] != 'system' %}<|im_start|>system\nBe brief.<|im_end|>\n{% endif %}"
    "<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
DROPS_TURNS = "{{ messages[-1]['content'] }}"


def say(content, role="user"):
    return {"role": role, "content": content}


def chatml() -> Chat:
    tokenizer = tiny.tokenizer(512)
    tokenizer.add_special_tokens({"eos_token": "<|im_end|>", "additional_special_tokens": ["<|im_start|>"]})
    tokenizer.chat_template = CHATML
    return Chat(tokenizer)


def plain() -> Chat:
    tokenizer = tiny.tokenizer(512)
    tokenizer.chat_template = None
    return Chat(tokenizer)


# -- the character tokenizer -------------------------------------------------------------------------------------------------


def test_every_character_is_one_token_and_comes_back(tmp_path):
    tokenizer = tiny.tokenizer(64)
    tokenizer.save_pretrained(tmp_path)
    for t in (tokenizer, AutoTokenizer.from_pretrained(tmp_path)):
        chat = Chat(t)
        assert len(t) == len(tiny.CHARACTERS) + 2 == 98
        for number, character in enumerate(tiny.CHARACTERS):
            assert chat.tokens(character).tolist() == [number]
        everything = "\n  two  blanks\n\n" + tiny.CHARACTERS + " a.b , don't <eo s>"
        assert chat.decode(chat.tokens(everything)) == everything
        assert chat.tokens("é\t字").tolist() == chat.tokens("???").tolist()  # anything else is read as '?'
        assert chat.answer("5").tolist() == [*chat.tokens("5").tolist(), t.eos_token_id]
        assert chat.decode(chat.answer("5")) == "5"
        assert t.eos_token_id != t.pad_token_id


# -- conversations -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("make", [chatml, lambda: Chat(tiny.tokenizer(512))], ids=["chatml", "tiny"])
def test_appending_gives_the_tokens_of_the_whole_conversation(make):
    chat = make()
    history = [say("3 + 4 =")]
    tokens = chat.encode(history)
    for answer, following in (("7", [say("and 5?")]), ("?", [say("hint", "user"), say("so?")]), ("12", [say("bye")])):
        tokens = np.concatenate([tokens, chat.answer(answer), chat.continue_with(following)])
        history += [say(answer, "assistant"), *following]
        assert tokens.tolist() == chat.encode(history).tolist()
    assert tokens.dtype == np.int32


def test_a_turn_ended_by_a_stop_string_is_closed_for_it():
    chat = chatml()
    whole = chat.encode([say("q"), say("a", "assistant"), say("next")])
    opening, sampled = chat.encode([say("q")]), chat.tokens("a")
    assert np.concatenate([opening, sampled, chat.continue_with([say("next")], ended=False)]).tolist() == whole.tolist()
    assert chat.continue_with([say("x")], ended=False)[0] == chat.eos
    assert chat.continue_with([say("x")])[0] != chat.eos


def test_sampled_tokens_are_never_touched():
    """Text that would be tokenised differently from what was sampled stays as sampled."""
    chat = chatml()
    spelt_out = chat.tokens("<|im_start|>".replace("|", "| ").replace(" ", ""))  # one special token
    by_letters = np.concatenate([chat.tokens(c) for c in "<|im_start|>"])
    assert len(spelt_out) == 1 and len(by_letters) == 12
    opening = chat.encode([say("q")])
    grown = np.concatenate([opening, by_letters, [chat.eos], chat.continue_with([say("go on")])])
    assert grown[len(opening) : len(opening) + 12].tolist() == by_letters.tolist()


def test_without_a_template_every_message_is_a_line():
    chat = plain()
    assert chat.decode(chat.encode([say("Be brief.", "system"), say("2 + 2 =")])) == "Be brief.\n2 + 2 =\n"
    assert chat.decode(chat.continue_with([say("why?")])) == "\nwhy?\n"
    begins = tiny.tokenizer(64)
    begins.chat_template = None
    begins.add_special_tokens({"bos_token": "<bos>"})
    assert chat.encode([say("x")]).tolist() == Chat(begins).encode([say("x")]).tolist()  # it adds none by itself


def test_templates_that_cannot_work_are_refused():
    tokenizer = tiny.tokenizer(64)
    tokenizer.chat_template = DROPS_TURNS
    with pytest.raises(UserError, match="earlier turns"):
        Chat(tokenizer).continue_with([say("x")])
    tokenizer.chat_template = "{{ raise_exception('roles must alternate') }}"
    with pytest.raises(UserError, match="roles must alternate"):
        Chat(tokenizer).encode([say("x")])


def test_end_of_sequence_and_padding():
    tokenizer = tiny.tokenizer(64)
    tokenizer.pad_token = None
    assert Chat(tokenizer).pad == tokenizer.eos_token_id
    assert tokenizer.pad_token is None  # it is exported as it was loaded
    tokenizer.eos_token = None
    with pytest.raises(UserError, match="no end-of-sequence token"):
        Chat(tokenizer)


def test_a_prompt_must_leave_room_in_the_context():
    policy = policies.load({"model": "tiny", "layers": 1, "hidden": 32, "intermediate": 8, "context": 16})
    assert policy.context == 16
    assert len(policy.encode([say("x" * 14)])) == 15
    with pytest.raises(UserError, match="16 tokens but the model's context is 16"):
        policy.encode([say("x" * 15)])
