"""Step rules: hooks of one optimiser step."""
