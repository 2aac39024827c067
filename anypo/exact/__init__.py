"""The exact bench: policies, tasks and processes small enough that every expectation is a sum."""

from anypo.exact.graph import StateGraph, chain, tree
from anypo.exact.policy import EnumerablePolicy
from anypo.exact.sampler import EnumerableSampler
from anypo.exact.task import ExactTask, bandit, patterns

__all__ = ["EnumerablePolicy", "EnumerableSampler", "ExactTask", "StateGraph", "bandit", "chain", "patterns", "tree"]
