"""Critics: credit from a value model that learns beside the policy."""
