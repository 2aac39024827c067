"""Methods that learn from a teacher's distribution instead of a reward."""
