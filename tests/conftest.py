"""One thread per process: the tensors of the tests are tiny, and threads that wait for one another cost more than they compute.
Offline: no test may wait for a model hub. The marks of trusted runs lie in a folder of
the tests' own. No COLUMNS, which parallel test workers set: pipes have no edge."""

import os
import tempfile

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ.pop("COLUMNS", None)
os.environ["XDG_STATE_HOME"] = tempfile.mkdtemp(prefix="anypo-state-")

import pytest
import torch

torch.set_num_threads(1)


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--all", action="store_true", help="the whole matrix of families (tests/engine/test_matrix.py)")
