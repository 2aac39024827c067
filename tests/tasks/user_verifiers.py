"""Verifiers as a user would write them, good and bad; imported by name in worker processes."""

from __future__ import annotations

import os
import sys
import time
from typing import Any

NOT_CALLABLE = 3


def ends_with(prediction: str, answer: str, metadata: dict[str, Any]) -> bool:
    return prediction.endswith(answer)


def from_column(prediction: str, answer: str, metadata: dict[str, Any]) -> float:
    return float(prediction == metadata["expected"])


def moody(prediction: str, answer: str, metadata: dict[str, Any]) -> Any:
    """Does what the prediction says."""
    if prediction == "raise":
        raise RuntimeError("no\nmood")
    if prediction == "sleep":
        time.sleep(60)
    if prediction == "c loop":
        return 9**9**9  # one C call; no Python signal handler runs before it ends
    if prediction == "die":
        os.abort()
    if prediction == "exit":
        sys.exit(1)
    if prediction == "nan":
        return float("nan")
    if prediction == "text":
        return "right"
    if prediction == "noise":
        print("x" * 100_000)
        os.write(1, b"y" * 100_000)
        os.write(2, b"z" * 100_000)
    return 1.0
