"""What acts and what is trained: language models, their critics, and small control policies."""

from anypo.policies.base import Learner, Policy
from anypo.policies.control.networks import CategoricalPolicy, GaussianPolicy, ValueNetwork
from anypo.policies.language.causal import LanguagePolicy
from anypo.policies.language.critic import Critic
from anypo.policies.loading import MODELS, load

__all__ = [
    "MODELS",
    "CategoricalPolicy",
    "Critic",
    "GaussianPolicy",
    "LanguagePolicy",
    "Learner",
    "Policy",
    "ValueNetwork",
    "load",
]
