from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
from gymnasium import spaces

from rlkit.errors import RlkitError
from rlkit.space_json import from_json, to_json

inf = np.inf
SPACES: list[spaces.Space[Any]] = [
    spaces.Box(-inf, inf, (3,)),
    spaces.Box(np.array([-1, -inf], np.float32), np.array([inf, 0.1], np.float32)),
    spaces.Box(np.array([0.1, -inf]), np.array([1e300, inf]), dtype=np.float64),
    spaces.Box(0, 255, (84, 84, 3), np.uint8),
    spaces.Box(-(2**63), 2**63 - 2, (2,), np.int64),
    spaces.Box(np.array([0, 2**53 + 1]), np.array([1, 2**62 + 1]), dtype=np.int64),
    spaces.Box(0, 1, (2, 2), np.bool_),
    spaces.Box(0, 1, ()),
    spaces.Box(
        np.broadcast_to(np.arange(4.0), (5, 1, 4)),
        np.broadcast_to(np.arange(9.0, 14.0)[:, None, None], (5, 1, 4)),
        dtype=np.float64,
    ),
    spaces.Discrete(3, start=-1),
    spaces.Discrete(2, dtype=np.int32),
    spaces.MultiDiscrete(np.array([[1, 2], [3, 4]]), start=np.array([[1, 1], [0, -5]])),
    spaces.MultiDiscrete([2, 3], dtype=np.int32),
    spaces.MultiBinary(4),
    spaces.MultiBinary([2, 3]),
    spaces.Tuple([spaces.Discrete(2), spaces.Dict({"a": spaces.Box(0, 1, (2,)), "b": spaces.Tuple([])})]),
]


@pytest.mark.parametrize("space", SPACES, ids=str)
def test_a_space_comes_back_exactly(space: spaces.Space[Any]) -> None:
    text = json.dumps(to_json(space), allow_nan=False)
    back = from_json(json.loads(text))
    assert back == space
    if isinstance(space, spaces.Box):  # whose == ignores small differences
        assert isinstance(back, spaces.Box)
        assert np.array_equal(back.low, space.low)
        assert np.array_equal(back.high, space.high)


def test_the_keys_of_a_dict_keep_their_order() -> None:
    space = spaces.Dict({"b": spaces.Discrete(2), "a": spaces.Discrete(3)}, sort_keys=False)
    back = from_json(json.loads(json.dumps(to_json(space))))
    assert isinstance(back, spaces.Dict)
    assert list(back.spaces) == ["b", "a"]


def test_equal_bounds_are_one_number() -> None:
    assert to_json(spaces.Box(0, 255, (84, 84, 3), np.uint8))["high"] == 255


def test_bounds_that_repeat_along_a_dimension_are_stored_once() -> None:
    high = np.broadcast_to(np.array([255.0, 255, 255, 9.5], np.float32), (600, 500, 4))
    data = to_json(spaces.Box(0, high, high.shape, np.float32))
    assert (data["low"], data["high"]) == (0, [[[255, 255, 255, 9.5]]])
    back = from_json(data)
    assert isinstance(back, spaces.Box)
    assert np.array_equal(back.high, high)


def test_more_bounds_than_a_file_may_hold_are_refused() -> None:
    high = np.arange(400.0 * 300).reshape(400, 300)
    with pytest.raises(RlkitError, match="a Box with 120,000 bounds that do not repeat along any dimension"):
        to_json(spaces.Box(0, high, high.shape, np.float64))


def test_other_spaces_are_refused_by_name() -> None:
    with pytest.raises(RlkitError, match="a Text space cannot be saved"):
        to_json(spaces.Dict({"words": spaces.Text(5)}))
    with pytest.raises(RlkitError, match="unknown type of space 'Boks'; did you mean 'Box'"):
        from_json({"type": "Boks"})
