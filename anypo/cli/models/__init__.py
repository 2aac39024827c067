"""The commands about models: talk to, sample from, export."""
