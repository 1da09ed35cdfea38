"""The library's tests run on one thread: their models are tiny and their neighbours many."""

import torch

torch.set_num_threads(1)
