"""The commands about methods: list, compare, verify, measure, solve."""
