"""Programs that a model wrote: judged by tests, traced, and asked for."""
