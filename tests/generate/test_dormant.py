"""Generators say before a run what of them cannot act in it, with the setting that would let it."""

from __future__ import annotations

import pytest

from anypo.claims.beds.words import TextTask
from anypo.errors import UserError
from anypo.generate import Independent
from anypo.generate.base import check_task
from anypo.generate.nothing import Nothing
from anypo.outlook import Outlook
from anypo.systems import find
from anypo.tasks import loading as tasks
from anypo.tasks.base import Problem
from anypo.tasks.functions import Judged
from anypo.tasks.unlabelled import Unlabelled

GUESS, SUMS = tasks.load({"name": "guess_number", "size": 8}), tasks.load({"name": "sums", "size": 8})


def test_a_game_of_several_turns_played_for_one_is_said() -> None:
    game, one = Outlook(20, task=GUESS), Outlook(20, task=SUMS)
    assert "set generate.turns=5" in Independent().dormant(None, game)
    assert Independent(turns=3).dormant(None, game) is None and Independent().dormant(None, one) is None
    assert "set generate.turns=1 (now 4)" in Independent(turns=4).dormant(None, one)
    assert "set generate.turns=5" in Independent().dormant(None, Outlook(20, task=Unlabelled(GUESS)))
    mine = Judged(SUMS, {"mine": lambda text: 0.0})
    assert "set generate.turns=1 (now 4)" in Independent(turns=4).dormant(None, Outlook(20, task=mine))
    unknown = TextTask((Problem.ask("1", "1"),) * 4, lambda p, text: 0.0)
    assert all(Independent(turns=t).dormant(None, Outlook(20, task=unknown)) is None for t in (1, 4))
    assert all(Independent(turns=t).dormant(None, Outlook(20)) is None for t in (1, 4))
    assert Nothing().dormant(None, game) is None
    assert any("set generate.turns=5" in said for said in find("grpo").algorithm().sleepers(game))


@pytest.mark.parametrize("system", ["dagrpo", "otr", "refine", "chord"])
def test_methods_that_need_worked_solutions_are_refused_before_the_run(system: str) -> None:
    bare = TextTask((Problem.ask("1+1", "2"),) * 4, lambda p, text: 0.0)
    generate = find(system).algorithm().generate
    with pytest.raises(UserError, match="no worked solutions"):
        check_task(generate, bare)
    check_task(generate, SUMS)
