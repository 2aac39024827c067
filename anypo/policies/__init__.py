"""What acts and what is trained: language models, their critics, and small control policies. Models are loaded when asked for."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from anypo.policies.base import Learner, Policy

if TYPE_CHECKING:
    from anypo.policies.control.networks import CategoricalPolicy, GaussianPolicy, ValueNetwork
    from anypo.policies.language.causal import LanguagePolicy
    from anypo.policies.language.critic import Critic
    from anypo.policies.loading import MODELS, load, model

_HOME = {
    "MODELS": "anypo.policies.loading",
    "CategoricalPolicy": "anypo.policies.control.networks",
    "Critic": "anypo.policies.language.critic",
    "GaussianPolicy": "anypo.policies.control.networks",
    "LanguagePolicy": "anypo.policies.language.causal",
    "ValueNetwork": "anypo.policies.control.networks",
    "load": "anypo.policies.loading",
    "model": "anypo.policies.loading",
}


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module '{__name__}' has no attribute '{name}'")
    return getattr(importlib.import_module(_HOME[name]), name)


__all__ = [
    "MODELS", "CategoricalPolicy", "Critic", "GaussianPolicy", "LanguagePolicy", "Learner", "Policy", "ValueNetwork", "load", "model",
]  # fmt: skip
