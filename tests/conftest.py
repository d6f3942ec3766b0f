"""One thread for every test: tiny tensors are several times slower on two, whose sums and first `exp` may vary."""

from __future__ import annotations

import torch

torch.set_num_threads(1)
