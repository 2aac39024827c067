"""Generators that watch rollouts while they are sampled, and stop some: to go on with them later, or not at all."""
