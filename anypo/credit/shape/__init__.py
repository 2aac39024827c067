"""Shape: how an advantage is spread over the tokens of its trajectory."""
