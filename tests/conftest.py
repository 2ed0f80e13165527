"""What holds for all tests: one thread, because tiny matrices only wait for more, and busy machines wait longest.

And Ctrl-C and a lost terminal work: a shell that starts the tests in the background, or nohup, makes them, and all that
they start, ignore these signals. Runs end without their picture, which takes longer than a short run.
"""

from __future__ import annotations

import signal
from collections.abc import Iterator
from types import SimpleNamespace
from unittest import mock

import pytest
import torch
from threadpoolctl import threadpool_limits

from rlkit.engine.native import primitives as native

torch.set_num_threads(1)
threadpool_limits(1)

signal.signal(signal.SIGINT, signal.default_int_handler)
if hasattr(signal, "SIGHUP"):  # not on Windows
    signal.signal(signal.SIGHUP, signal.SIG_DFL)


@pytest.fixture(scope="session", autouse=True)
def _without_pictures() -> Iterator[None]:
    with mock.patch("rlkit.run.draw_learning_curves"):
        yield


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skips what a test does with compute=native, where the C engine cannot be used."""
    if native.missing is None:
        return
    for item in items:
        params = getattr(item, "callspec", SimpleNamespace(params={})).params
        if "native" in (params.get("compute"), params.get("before"), params.get("after")):
            item.add_marker(pytest.mark.skip(reason=native.missing))
