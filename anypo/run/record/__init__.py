"""What a run says and leaves behind: metrics, times, memory, loggers, provenance, and whoever watches."""
