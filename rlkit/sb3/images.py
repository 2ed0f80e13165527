"""The observations that SB3 takes for images, which it divides by 255, and encodes by a CNN where there is one."""

from __future__ import annotations

from typing import Any

import numpy as np
from gymnasium import spaces


def is_their_image(space: spaces.Space[Any]) -> bool:
    """Returns True for bytes of three dimensions, from 0 to 255."""
    return (
        isinstance(space, spaces.Box)
        and len(space.shape) == 3
        and space.dtype == np.uint8
        and not space.low.any()
        and bool((space.high == 255).all())
    )


def parts(space: spaces.Space[Any]) -> list[tuple[str, spaces.Space[Any]]]:
    """Lists the parts of a Dict by their keys, or any other space as its own only part."""
    return [(str(key), part) for key, part in space.spaces.items()] if isinstance(space, spaces.Dict) else [("", space)]
