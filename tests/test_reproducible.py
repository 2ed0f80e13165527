"""Equal seeds give equal runs: whatever environments draw from, in every process, on any number of cores or threads."""

from __future__ import annotations

import random
import threading
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import stubborn_envs
import torch
from training import assert_same_parameters, parameters

import rlkit
from rlkit.agents.dqn import DQNConfig
from rlkit.agents.ppo import PPOConfig
from rlkit.envs import EnvFactory, make_vector_env
from rlkit.envs.lifetime import seed_spaces
from rlkit.registry import make_agent
from rlkit.run import Result
from rlkit.setting import NetworkConfig, Setting
from rlkit.system.seeding import env_seeds, seeded_globally
from rlkit.system.threads import one_thread

SOURCES = ("numpy", "python", "torch", "action space", "observation space")
SMALL: dict[str, Any] = {
    "total_timesteps": 128,
    "num_envs": 2,
    "agent.num_steps": 32,
    "agent.minibatch_size": 32,
    "eval_episodes": 2,
    "final_eval_episodes": 2,
}


def train(run_dir: Path, source: str, **settings: Any) -> Result:
    # A space that a constructor has made cannot be seeded before the constructor draws from it.
    kwargs = {"source": source, "in_constructor": "space" not in source}
    settings = {"env_kwargs": kwargs, **SMALL, **settings}
    return rlkit.train("ppo", "stubborn_envs:stubborn/Draws-v0", run_dir=run_dir, **settings)


def states() -> tuple[Any, ...]:
    return random.getstate(), str(np.random.get_state()), torch.get_rng_state().tolist()


@pytest.mark.parametrize("source", SOURCES)
def test_environments_that_draw_from_others_generators_are_seeded(source: str, tmp_path: Path) -> None:
    first = train(tmp_path / "0", source)
    np.random.random(), random.random(), torch.rand(())
    before = states()
    # Evaluations, and trying out how long a step takes, change nothing.
    second = train(tmp_path / "1", source, eval_interval=0, vectorization="sync")
    assert states() == before, "the user's own generators go on where they were"
    other = train(tmp_path / "2", source, seed=1)
    assert_same_parameters(first.agent, second.agent)
    assert first.summary["eval_return_mean"] == second.summary["eval_return_mean"]
    assert any((array != parameters(other.agent)[name]).any() for name, array in parameters(first.agent).items())


def rewards(vectorization: str, seed: int, source: str) -> list[Any]:
    kwargs = {"source": source, "in_constructor": source in ("numpy", "python")}
    envs, _ = make_vector_env(EnvFactory("stubborn_envs:stubborn/Draws-v0", kwargs), 2, vectorization, seed)
    seeds: Any = env_seeds(seed, 2)
    drawn: list[Any] = [envs.reset(seed=seeds)[0].tolist()]
    for _ in range(5):
        drawn += [part.tolist() for part in envs.step(np.zeros(2, np.int64))[:2]]
    envs.close()
    return drawn


@pytest.mark.parametrize("source", ["numpy", "python", "torch"])
def test_auto_does_not_choose_by_a_measurement_where_the_data_would_differ(
    source: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("rlkit.envs.make.num_cores", lambda: 2)
    monkeypatch.setattr("rlkit.envs.make._step_time", lambda env: [env.reset(seed=0), env.step(0)] and 1.0)
    envs, sentence = make_vector_env(EnvFactory("stubborn_envs:stubborn/Draws-v0", {"source": source}), 2, "auto")
    envs.close()
    assert sentence.startswith("sync, in this process: ")
    assert "but it draws from global generators, of which every process has its own" in sentence


@pytest.mark.parametrize("source", ["numpy", "python", "torch", "action space"])
def test_worker_processes_are_seeded_as_well(source: str) -> None:
    drawn = rewards("async", 5, source)
    assert drawn == rewards("async", 5, source)
    assert drawn != rewards("async", 6, source)
    assert drawn[1][0] != drawn[1][1], "each environment has numbers of its own"


def test_spaces_are_seeded_alike_in_this_process_and_in_workers() -> None:
    for source in ("action space", "observation space"):
        sync, processes = rewards("sync", 3, source)[1:], rewards("async", 3, source)[1:]
        assert sync[1::2] == processes[1::2]


def test_workers_of_a3c_are_seeded(tmp_path: Path) -> None:
    def trained(name: str) -> Any:
        kwargs = {"source": "numpy", "in_constructor": True}
        settings: dict[str, Any] = {"total_timesteps": 200, "agent.num_workers": 1, "final_eval_episodes": 2}
        return rlkit.train(
            "a3c", "stubborn_envs:stubborn/Draws-v0", run_dir=tmp_path / name, env_kwargs=kwargs, **settings
        )

    first, second = trained("0"), trained("1")
    assert_same_parameters(first.agent, second.agent)
    assert first.summary["eval_return_mean"] == second.summary["eval_return_mean"]


def test_spaces_of_wrappers_have_numbers_of_their_own() -> None:
    env = stubborn_envs.WrappedDraws()
    drawn = []
    for seed in (7, 7, 8):
        seed_spaces(env, seed)
        drawn.append([[space.sample() for _ in range(20)] for space in (env.action_space, env.env.action_space)])
    assert drawn[0] == drawn[1] != drawn[2]
    vector = gym.vector.SyncVectorEnv([stubborn_envs.Ten] * 2)
    seed_spaces(vector, 3)
    again = vector.action_space.sample()
    seed_spaces(vector, 3)
    np.testing.assert_array_equal(vector.action_space.sample(), again)


def test_evaluations_are_seeded_and_leave_the_generators_alone(tmp_path: Path) -> None:
    agent = train(tmp_path / "run", "numpy", total_timesteps=64).agent
    kwargs = {"source": "numpy", "in_constructor": True}
    before = states()
    played = [
        rlkit.evaluate_policy(agent, "stubborn_envs:stubborn/Draws-v0", 4, env_kwargs=kwargs, seed=seed)
        for seed in (1, 1, 2)
    ]
    assert states() == before
    assert played[0] == played[1] != played[2]


def test_global_generators_are_restored_after_an_error() -> None:
    before = states()

    def fail() -> None:
        with seeded_globally(3):
            np.random.random(), random.random(), torch.rand(())
            raise ValueError("no")

    with pytest.raises(ValueError, match="no"):
        fail()
    assert states() == before


SPACES = gym.spaces.Box(-1, 1, (300,), np.float32), gym.spaces.Discrete(5)
IMAGES = gym.spaces.Box(0, 255, (36, 36, 3), np.uint8), SPACES[1]


@pytest.mark.parametrize("config", [PPOConfig(), DQNConfig(), DQNConfig(dueling=True, noisy=True)])
@pytest.mark.parametrize("spaces", [SPACES, IMAGES])
def test_first_weights_do_not_depend_on_the_number_of_threads(config: Any, spaces: Any) -> None:
    """As torch finds cores when it starts: the QR decomposition behind orthogonal weights rounds by them."""
    before = torch.get_num_threads()
    setting = Setting(spaces[0], spaces[1], NetworkConfig(hidden_sizes=[256, 256]), num_envs=2, seed=3, device="cpu")
    made = []
    try:
        for threads in (1, 2, 4):
            torch.set_num_threads(threads)
            made.append(make_agent(config, setting))
            assert torch.get_num_threads() == threads
    finally:
        torch.set_num_threads(before)
    assert_same_parameters(made[0], made[1])
    assert_same_parameters(made[0], made[2])


def test_runs_in_threads_of_one_process_are_those_of_runs_alone(tmp_path: Path) -> None:
    results: dict[int, Result] = {}

    def run(index: int) -> None:
        settings: dict[str, Any] = {**SMALL, "network": {"hidden_sizes": [128, 128]}, "total_timesteps": 512}
        results[index] = rlkit.train("ppo", run_dir=tmp_path / str(index), vectorization="sync", **settings)

    run(0)
    threads = [threading.Thread(target=run, args=(index,)) for index in (1, 2, 3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for index in (1, 2, 3):
        assert_same_parameters(results[0].agent, results[index].agent)


def test_one_thread_is_given_back_by_the_last_that_leaves() -> None:
    from threadpoolctl import threadpool_info, threadpool_limits

    def threads() -> set[int]:
        return {library["num_threads"] for library in threadpool_info() if library["user_api"] == "blas"}

    with threadpool_limits(2, user_api="blas"):
        first, second = one_thread(), one_thread()
        first.__enter__()
        assert threads() == {1}
        second.__enter__()
        first.__exit__(None, None, None)
        assert threads() == {1}, "the second still computes"
        second.__exit__(None, None, None)
        assert threads() == {2}
