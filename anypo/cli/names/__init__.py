"""Names for lists and for completion in a shell."""
