"""What a system may be excused from, and why it is."""

from __future__ import annotations

import pytest

from anypo.systems import SYSTEMS

PROPERTIES = {"checks", "order", "masked rows", "on-policy", "reward offset", "common offset", "acts"}
"""What a system or a part may be excused from (`System.excuses`, `Part.excuses`); ``acts`` is held in tests/systems. An offset common
to all groups is a case of one for each, so an excuse from the former is one from both."""


def excuse(property_: str, name: str) -> str:
    """Why the system need not have the property; empty where it must."""
    system = SYSTEMS[name]
    implied = [property_, "common offset"] if property_ == "reward offset" else [property_]
    given = [system.excuses, *(part.excuses for _, part in system.algorithm().walk())]
    return next((excuses[key] for excuses in given for key in implied if key in excuses), "")


def excused(property_: str, name: str) -> None:
    if reason := excuse(property_, name):
        pytest.skip(reason)
