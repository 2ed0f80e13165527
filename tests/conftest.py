"""What holds for all tests: one thread, because tiny matrices only wait for more, and busy machines wait longest.

And Ctrl-C works: a shell that starts the tests in the background makes them, and all that they start, ignore it.
"""

from __future__ import annotations

import signal

import torch
from threadpoolctl import threadpool_limits

torch.set_num_threads(1)
threadpool_limits(1)

signal.signal(signal.SIGINT, signal.default_int_handler)
