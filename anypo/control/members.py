"""A population: every step asks each of its members for episodes."""

from __future__ import annotations

from typing import ClassVar

from anypo.context import Context
from anypo.control.base import Ask, Control


class Members(Control, name="members"):
    """`prompts` members, `samples` episodes of each: ask i has the plan ``member: i``. All members of a step get the same problem,
    the next one in order with every step."""

    plans: ClassVar[frozenset[str]] = frozenset({"member"})

    def choose(self, problems: int, count: int, context: Context) -> list[Ask]:
        index = context.step % problems
        return [Ask(index, self.samples, plan={"member": member}) for member in range(count)]
