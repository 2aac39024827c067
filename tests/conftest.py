"""One thread per process: the tensors of the tests are tiny, and threads that wait for one another cost more than they compute.
Offline: no test may wait for a model hub. No COLUMNS, which parallel test workers set: pipes have no edge."""

import os

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ.pop("COLUMNS", None)

import torch

torch.set_num_threads(1)
