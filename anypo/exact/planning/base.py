"""What a planner is asked, and what it answers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from torch import Tensor

from anypo.exact.mdp import TabularMDP
from anypo.parts import Part


@dataclass(frozen=True, eq=False)
class Plan:
    """A solved process. policy: the action in every state, [S]; values [S] and q [S, A] as the planner defines them; value: what the
    policy is worth from the start; certified: whether it is proved to be the best; rounds: numbers of every iteration; says: the
    result in a sentence."""

    policy: Tensor
    values: Tensor
    q: Tensor
    value: float
    certified: bool = True
    rounds: tuple[Mapping[str, float], ...] = ()
    says: str = ""
    state_names: Sequence[str] = ()
    action_names: Sequence[str] = ()

    def named(self, states: Sequence[str], actions: Sequence[str]) -> Plan:
        """The plan with names for its states and actions."""
        return replace(self, state_names=tuple(states), action_names=tuple(actions))

    def plain(self) -> dict[str, Any]:
        """As plain data."""
        return {
            "value": self.value,
            "certified": self.certified,
            "says": self.says,
            "states": list(self.state_names),
            "actions": list(self.action_names),
            "policy": self.policy.tolist(),
            "values": self.values.tolist(),
            "q": self.q.tolist(),
            "rounds": [dict(row) for row in self.rounds],
        }


class Bed(Part, slot="bed"):
    """A process, or a set of them that share states, actions and the start, to try planners on."""

    def models(self) -> list[TabularMDP]:
        """The processes; the first is the nominal one."""
        raise NotImplementedError

    def states(self) -> list[str]:
        """Names of the states."""
        return [str(state) for state in range(self.models()[0].states)]

    def actions(self) -> list[str]:
        """Names of the actions."""
        return [str(action) for action in range(self.models()[0].actions)]


class Planner(Part, slot="planner"):
    """A planner with its settings and its bed."""

    def plan(self) -> Plan:
        """Solve the bed."""
        raise NotImplementedError
