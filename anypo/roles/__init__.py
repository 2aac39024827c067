"""Roles: other models beside the policy, such as a teacher, a judge or a summariser. Each is loaded when it is first needed."""

from anypo.roles.base import Messages, Model
from anypo.roles.casting import Cast, advice, cast, check, idle, recast

__all__ = ["Cast", "Messages", "Model", "advice", "cast", "check", "idle", "recast"]
