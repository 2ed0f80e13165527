"""The maze: its moves, its rewards, its pictures."""

from __future__ import annotations

from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env

import rlkit.envs  # registers the maze
from rlkit.envs.maze import CELLS, GOALS, WALL, Maze, state_of

LEFT, DOWN, RIGHT, UP = range(4)


def walk(cell: tuple[int, int], *actions: int) -> list[tuple[Any, ...]]:
    env = Maze()
    env.reset(options={"cell": cell})
    return [env.step(action)[:3] for action in actions]


def test_it_is_a_sound_environment() -> None:
    assert rlkit.envs.check_id("rlkit/Maze-v0") is None  # type: ignore[func-returns-value]
    check_env(gym.make("rlkit/Maze-v0").unwrapped, skip_render_check=True)


def test_walking_to_the_goal_costs_its_moves_and_ends_on_it() -> None:
    assert walk((1, 1), UP, UP, RIGHT, RIGHT, RIGHT, LEFT) == [
        (state_of((1, 2)), -1, False),
        (state_of((1, 3)), -1, False),
        (state_of((2, 3)), -1, False),
        (state_of((3, 3)), -1, False),
        (state_of((4, 3)), -1, False),
        (state_of((4, 3)), 10, True),
    ]
    assert walk((3, 2), RIGHT, UP) == [(state_of((4, 2)), -1, False), (state_of((4, 2)), -10, True)]


@pytest.mark.parametrize(
    ("cell", "action"),
    [((1, 1), LEFT), ((1, 1), DOWN), ((1, 3), UP), ((4, 1), RIGHT), ((1, 2), RIGHT), ((2, 1), UP), ((3, 2), LEFT)],
)
def test_borders_and_the_wall_hold_one_back_at_the_price_of_a_move(cell: tuple[int, int], action: int) -> None:
    assert walk(cell, action) == [(state_of(cell), -1, False)]


def test_episodes_start_in_every_free_cell_and_are_cut_after_100_steps() -> None:
    env = gym.make("rlkit/Maze-v0")
    starts = {env.reset(seed=seed)[0] for seed in range(200)}
    assert starts == {state_of(cell) for cell in CELLS} - {state_of(WALL)}
    env.reset(options={"cell": (1, 1)})
    steps = [env.step(LEFT) for _ in range(100)]
    assert [truncated for *_, truncated, _ in steps] == [False] * 99 + [True]


@pytest.mark.parametrize("cell", [WALL, (0, 1), (4, 4)])
def test_one_can_only_start_in_a_free_cell(cell: tuple[int, int]) -> None:
    with pytest.raises(ValueError, match="one cannot start in"):
        Maze().reset(options={"cell": cell})


def test_the_pictures_show_the_agent_the_wall_and_the_goals() -> None:
    text, image = Maze("ansi"), Maze("rgb_array")
    for env in (text, image):
        env.reset(options={"cell": (1, 1)})
    assert text.render() == ". . . +\n. # . -\nA . . .\n"
    before = image.render()
    assert before.shape == (3 * 64, 4 * 64, 3)
    assert before.dtype == np.uint8
    image.step(RIGHT)
    changed = np.argwhere((image.render() != before).any(2))
    assert (changed.min(0) // 64).tolist() == [2, 0]  # (row, column) from the top left
    assert (changed.max(0) // 64).tolist() == [2, 1]
    assert len(GOALS) == 2
    assert Maze().render() is None
