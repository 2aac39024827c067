"""What every environment promises, as one check that any task can be run through."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from anypo.data.content import pieces
from anypo.tasks import Action, Problem, Reply
from anypo.tasks.live import Live
from anypo.tasks.unlabelled import LABEL


def check_environment(task: Any, problem: Problem, actions: Sequence[Action]) -> list[Reply]:
    """Assert the contract along `actions` (fewer when the episode ends) and return the replies.

    Two resets of one episode show the same (texts); rewards are finite numbers under names that the task weighs or knows as its
    outcome; an episode is not both over and cut off; and from the state after every action, an environment made anew goes on
    exactly as this one does.
    """
    first, second = Live(task, problem), Live(task, problem)
    assert same(first.reset(), second.reset()), "two episodes of one problem open differently"
    if task_of_texts(task, problem):
        opening = first.reset()
        first.step(actions[0])
        assert same(opening, first.reset()), "a second reset shows something else"
    replies, states = [], [first.snapshot()]
    for action in actions:
        reply = first.step(action)
        checked(reply, task)
        replies.append(reply)
        if reply.done or reply.truncated or reply.failed:
            break
        states.append(first.snapshot())
    for begun, state in enumerate(states):
        again = Live(task, problem)
        again.reset(state)
        rest = [again.step(action) for action in actions[begun : len(replies)]]
        assert all(map(equal, rest, replies[begun:])), f"restored after {begun} actions it goes on differently"
        assert again.rewards == first.rewards
    return replies


def checked(reply: Reply, task: Any) -> None:
    assert isinstance(reply, Reply) and not reply.failed, reply
    assert all(isinstance(name, str) and math.isfinite(value) for name, value in reply.rewards.items())
    assert set(reply.rewards) <= {*task.weights, task.outcome, LABEL}
    assert not (reply.done and reply.truncated)
    assert not reply.done or not reply.messages
    for message in reply.messages:
        assert message["role"] and pieces(message)


def task_of_texts(task: Any, problem: Problem) -> bool:
    return bool(Live(task, problem).reset())


def same(a: Any, b: Any) -> bool:
    return [dict(m) for m in a] == [dict(m) for m in b]


def equal(a: Reply, b: Reply) -> bool:
    """Whether two replies are the same to the last bit."""
    seen = (a.observation is None) == (b.observation is None) and (
        a.observation is None or np.asarray(a.observation).tobytes() == np.asarray(b.observation).tobytes()
    )
    plain = lambda r: (dict(r.rewards), r.done, r.truncated, r.append, r.failed, dict(r.keys))
    return seen and same(a.messages, b.messages) and plain(a) == plain(b)
