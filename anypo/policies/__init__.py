"""What acts and what is trained: language models, their critics, and small control policies."""

from anypo.policies.base import Learner, Policy
from anypo.policies.control import CategoricalPolicy, GaussianPolicy, ValueNetwork
from anypo.policies.critic import Critic
from anypo.policies.language import LanguagePolicy
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
