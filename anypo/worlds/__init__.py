"""Worlds: small environments that the library brings, each with an oracle."""

import anypo.tasks  # noqa: F401 - it lists these worlds and they are made of its parts, so it comes first whichever is asked for
