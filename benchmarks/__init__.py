"""Speed and memory beside the peers, interleaved in one process tree. Run with `make bench`."""
