"""The answer that a text gives: numbers and choices, as people and models write them."""
