"""Actor losses: the policy follows the gradient of a critic through its own action."""
