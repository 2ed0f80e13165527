"""What holds for all tests: one thread, because tiny matrices only wait for more, and busy machines wait longest."""

from __future__ import annotations

import torch
from threadpoolctl import threadpool_limits

torch.set_num_threads(1)
threadpool_limits(1)
