"""Groups: rollouts of one prompt that are not all drawn alike."""
