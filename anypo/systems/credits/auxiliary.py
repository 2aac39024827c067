"""Methods that make auxiliary questions of the policy's own rollouts."""

from __future__ import annotations

from anypo.algorithm import Algorithm
from anypo.generate import WithAuxiliary
from anypo.generate.groups.auxiliary import SelfJudging
from anypo.generate.groups.execution import ExecutionTraces
from anypo.systems.baselines.group_relative import grpo
from anypo.systems.registry import system


@system("coderl-plus", title="CodeRL+", paper="arXiv:2510.18471", base="grpo")
def coderl_plus() -> Algorithm:
    """Beside the code task, a second one made of the policy's own failed programs: they are run on a test's input, and the policy
    is asked what they print and what their last three variables hold (0.1 for the format, 0.9 for the share of right values). Both
    kinds are prompts with groups of their own in one GRPO loss. ``generate.share=0`` is GRPO. For tasks of programs
    (``--task python_exercises``, or a file with tests and ``verifier=program``). The share of such questions and which failed
    programs are taken (here the first two of a group) are not published; the release leaves out programs that are too simple or too
    long by a measure it does not explain, which is not done here."""
    return grpo().replace(generate=WithAuxiliary(auxiliary=ExecutionTraces()))


@system("spark", title="SPARK", paper="arXiv:2509.22624", base="grpo")
def spark() -> Algorithm:
    """The policy is its own reward model: from every step's rollouts and their verdicts come questions (is this answer
    correct? which of two is better? improve this one) that are trained by the same GRPO loss in groups of their own. No
    further data, no second network. ``generate.share=0`` is GRPO."""
    return grpo().replace(generate=WithAuxiliary(auxiliary=SelfJudging()))
