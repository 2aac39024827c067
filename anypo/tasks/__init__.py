"""Tasks: problems with a way to act on them and to judge what was done.

`load` makes one from a name or a mapping, `parse` checks the same without loading anything heavy.
"""

from anypo.tasks.base import Action, Environment, Problem, Reply, State, Task
from anypo.tasks.loading import load, names, parse
from anypo.tasks.named import Episodes, register_task, task
from anypo.tasks.text.onestep import step_all

__all__ = [
    "Action", "Environment", "Episodes", "Problem", "Reply", "State", "Task", "load", "names", "parse", "register_task",
    "step_all", "task",
]  # fmt: skip
