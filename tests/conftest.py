"""One thread per process: the tensors of the tests are tiny, and threads that wait for one another cost more than they compute.
Offline: no test may wait for a model hub. The marks of trusted runs lie in a folder of
the tests' own. No COLUMNS, which parallel test workers set: pipes have no edge."""

import os
import tempfile

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ.pop("COLUMNS", None)
os.environ["XDG_STATE_HOME"] = tempfile.mkdtemp(prefix="anypo-state-")

import torch

torch.set_num_threads(1)
