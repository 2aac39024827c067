"""One thread per process: the tensors of the tests are tiny, and threads that wait for one another cost more than they compute."""

import torch

torch.set_num_threads(1)
