"""Extractors, verifiers and reward components against hand-written cases."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from anypo.errors import UserError
from anypo.tasks.base import Problem
from anypo.tasks.text.extract import EXTRACTORS, INSTRUCTIONS, extract, write
from anypo.tasks.text.rewards import Correct, Format, Length, Reward, SoftOverlong, complete
from anypo.tasks.text.verifiers import Exact, MathVerify, MultipleChoice, Numeric, Regex, Verifier, number


def problem(answer: str, **metadata: Any) -> Problem:
    return Problem(0, ({"role": "user", "content": "?"},), answer=answer, metadata=metadata)


@pytest.mark.parametrize(
    ("name", "text", "expected"),
    [
        ("whole", "  a b \n", "a b"),
        ("whole", " \n", None),
        ("last_line", "so\n 19 \n\n", "19"),
        ("last_line", "", None),
        ("last_integer", "12 + 7 = 19.", "19"),
        ("last_integer", "it is 1,019!", "1019"),
        ("last_integer", "= -5", "-5"),
        ("last_integer", "=−5", "-5"),
        ("last_integer", "12-5", "5"),
        ("last_integer", "(3)-5", "5"),
        ("last_integer", "19.0", "19"),
        ("last_integer", "19.5", None),
        ("last_integer", "1e5", None),
        ("last_integer", "x2", "2"),
        ("last_integer", "none", None),
        ("last_integer", "٣", None),
        ("last_number", "pi is 3.14, e is 2.72.", "2.72"),
        ("last_number", "-1.5e-3 m", "-1.5e-3"),
        ("last_number", "1,234.5", "1234.5"),
        ("tags", "<answer>1</answer> no, <answer> 2 </answer> done", "2"),
        ("tags", "<answer>1</answer> <answer>2", None),
        ("tags", "</answer><answer>", None),
        ("tags", "<answer></answer>", ""),
        ("boxed", r"so \boxed{\frac{1}{2}} it is", r"\frac{1}{2}"),
        ("boxed", r"\boxed{1} or \boxed{2}", "2"),
        ("boxed", r"\boxed{1", None),
        ("choice", "A dog is there, so I choose (B).", "B"),
        ("choice", "Answer: C", "C"),
        ("choice", "**D**", "D"),
        ("choice", "I think so", None),
    ],
)
def test_extractors(name: str, text: str, expected: str | None) -> None:
    assert extract(name, text) == expected


@given(st.integers(-(10**12), 10**12))
def test_every_extractor_reads_what_write_writes(value: int) -> None:
    for name in set(EXTRACTORS) - {"choice"}:
        assert extract(name, write(name, str(value))) == str(value)
    assert extract("choice", write("choice", "C")) == "C"
    assert set(INSTRUCTIONS) == set(EXTRACTORS)


@given(st.text(max_size=200))
def test_extractors_take_any_text(text: str) -> None:
    for name in EXTRACTORS:
        found = extract(name, text)
        bare = str.rstrip if name == "code" else str.strip  # the first line of a program may be indented
        assert found is None or (isinstance(found, str) and found == bare(found))


@pytest.mark.parametrize(
    ("verifier", "answer", "text", "expected"),
    [
        (Exact(), "new  York", "new York ", 1.0),
        (Exact(), "New York", "new york", 0.0),
        (Exact(ignore_case=True), "New York", "new york", 1.0),
        (Exact(extract="tags"), "x", "y <answer>x</answer>", 1.0),
        (Exact(extract="tags"), "x", "x", 0.0),
        (Numeric(), "0.3333", "1/3 is 0.3333", 1.0),
        (Numeric(extract="whole"), "1/3", "2/6", 1.0),
        (Numeric(extract="whole"), "0.5", "50%", 1.0),
        (Numeric(extract="whole"), "20", "$20.00", 1.0),
        (Numeric(), "1234.5", "1,234.5", 1.0),
        (Numeric(relative=0.01), "100", "101", 1.0),
        (Numeric(relative=0.01), "100", "101.01", 0.0),
        (Numeric(relative=0.0, absolute=0.25), "-1", "-1.25", 1.0),
        (Numeric(relative=0.0, absolute=0.25), "-1", "-1.2500001", 0.0),
        (Numeric(), "0", "0.0000001", 0.0),
        (Numeric(extract="whole"), "1", "1/0", 0.0),
        (Numeric(extract="whole"), "1", "nan", 0.0),
        (Numeric(extract="whole"), "1", "1e999999999", 0.0),
        (Regex(pattern=r"\d+ apples?"), "", "12 apples", 1.0),
        (Regex(pattern=r"\d+ apples?"), "", "12 apples!", 0.0),
        (Regex(ignore_case=True), "a+b", "AAB", 1.0),
        (MultipleChoice(), "b)", "The answer is (B).", 1.0),
        (MultipleChoice(), "B", "C", 0.0),
        (MathVerify(), r"\frac{1}{2}", "The answer is $0.5$", 1.0),
        (MathVerify(), "1/2", r"\boxed{\frac{2}{4}}", 1.0),
        (MathVerify(), "x^2+1", "$1+x^2$", 1.0),
        (MathVerify(), "x^2+1", "$1+x^3$", 0.0),
        (MathVerify(extract="boxed"), "3", "3", 0.0),
        (MathVerify(), r"\(\sqrt{2}\)", "$2^{1/2}$", 1.0),
    ],
)
def test_verifiers(verifier: Verifier, answer: str, text: str, expected: float) -> None:
    assert verifier.verify(problem(answer), text) == expected


def test_numbers_are_exact() -> None:
    assert number("0.1") == number("1/10") == number("10%") == number("1e-1")
    assert number("1" * 2000) is None and number("1e401") is None and number("inf") is None and number("") is None


def test_verifiers_that_cannot_judge_say_so() -> None:
    assert "not a number" in (Numeric().refuse_problem(problem("many")) or "")
    for prose in ("12 apples", "B", "2020-01-01", "5-7", "12:30", r"\text{Tuesday}"):
        assert "not a number" in (Numeric().refuse_problem(problem(prose)) or ""), prose
    for mathematics in (r"\sqrt{2}", "[2,5)", "x^2+1", r"\{1,2\}"):
        assert Numeric().refuse_problem(problem(mathematics)) is None
    assert "not the letter" in (MultipleChoice().refuse_problem(problem("BC")) or "")
    assert "regular expression" in (Regex().refuse_problem(problem("a(")) or "")
    assert "empty" in (Exact().refuse_problem(problem(" ")) or "")
    assert Regex(pattern="a").refuse_problem(problem("")) is None
    with pytest.raises(UserError, match="not a regular expression"):
        Verifier.parse({"part": "regex", "pattern": "a("})
    with pytest.raises(UserError, match="module:function"):
        Verifier.parse({"part": "python", "function": "module.function"})
    with pytest.raises(UserError, match="relative"):
        Verifier.parse({"part": "numeric", "relative": -1})


@pytest.mark.parametrize("part", sorted(Verifier.parts))
def test_verifiers_round_trip(part: str) -> None:
    fields = {"python": {"function": "a:b"}, "reasoning_gym": {"dataset": "gcd"}}.get(part, {})
    value = Verifier.parse({"part": part, **fields})
    assert Verifier.parse(value.dump()) == value


def test_soft_overlong_is_the_published_piecewise_line() -> None:
    """DAPO equation 13 with L_max = 20480 and L_cache = 4096."""
    reward = SoftOverlong(buffer=4096)
    expected = {1: 0.0, 16384: 0.0, 16385: -1 / 4096, 18432: -0.5, 20480: -1.0}
    for tokens, value in expected.items():
        assert reward.value(problem(""), "", tokens, 20480) == pytest.approx(value, abs=1e-12)
    capped = SoftOverlong(buffer=4, maximum=8)
    assert [capped.value(problem(""), "", tokens, 20) for tokens in (4, 6, 8, 20)] == [0.0, -0.5, -1.0, -1.0]
    assert SoftOverlong(buffer=100).value(problem(""), "", 5, 10) == -0.5


def test_what_the_template_opened_counts_for_the_format() -> None:
    text = "so 4</think><answer>4</answer>"
    for opened, wanted in (("<think>\n", 1.0), ("", 0.0)):
        assert Format().value(Problem(0, (), opened=opened), text, 0, 0) == wanted
        assert Format().value(Problem(0, (), opened=opened), "<think>" + text, 0, 0) == 1.0
    with pytest.raises(ValueError, match="cannot tell whether the prompt had opened <think>"):
        Format().value(Problem(0, ()), text, 0, 0)
    assert Format().value(Problem(0, ()), "so 4<answer>4</answer>", 0, 0) == 0.0


def test_length_and_format() -> None:
    assert [Length().value(problem(""), "", tokens, 16) for tokens in (0, 8, 16, 17)] == [0.0, -0.5, -1.0, -1.0]
    pattern = Format()
    assert pattern.value(problem(""), " <think>a\nb</think>\n<answer>c</answer>\n", 0, 0) == 1.0
    assert pattern.value(problem(""), "<answer>c</answer>", 0, 0) == 0.0


def test_correct_is_always_among_the_components() -> None:
    (added, kept) = complete((Format(weight=0.1),), Exact())
    assert isinstance(added, Correct) and added.verifier == Exact() and kept == Format(weight=0.1)
    (own,) = complete((Correct(weight=2.0, verifier=Numeric()),), Exact())
    assert isinstance(own, Correct) and own.verifier == Numeric() and own.weight == 2.0
    assert Reward.parse(own.dump()) == own
