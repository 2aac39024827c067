"""Trees: rollouts that share prefixes."""
