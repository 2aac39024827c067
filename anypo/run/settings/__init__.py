"""What a run is, before it runs: named, filled, checked, written."""
