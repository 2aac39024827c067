"""Sampling from a server: the client, the kinds of servers, and the check that they have the weights they were given."""

from anypo.engine.remote.calls import KEY, RETRY, authorise, post, stable_seed
from anypo.engine.remote.client import RemoteEngine

__all__ = ["KEY", "RETRY", "RemoteEngine", "authorise", "post", "stable_seed"]
