"""Failed rollouts that are made good: corrected from their first wrong step, thought over again, retried from a turn."""
