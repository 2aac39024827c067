"""Files of a run folder by name, for those that only look whether they are there: reading them takes heavier libraries."""

CONFIG, MANIFEST, STATUS = "config.yaml", "manifest.json", "status.json"
METRICS, EVALUATIONS, LOCK = "metrics.jsonl", "evaluations.jsonl", ".lock"
WARNINGS = "warnings.jsonl"
"""What the live diagnosis said."""
