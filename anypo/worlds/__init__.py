"""Worlds: small environments that the library brings, each with an oracle."""
