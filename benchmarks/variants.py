"""DQN's variants double, prioritized and n-step, each compared with plain DQN over seeds, with intervals.

    python benchmarks/variants.py [--experiment cliffwalk] [--seeds 10] [--jobs 2]
    python benchmarks/variants.py --table

The tasks, the budgets, the numbers of seeds and the measures that count were written down before the first run. Nothing
is tuned for a variant: only its field changes.

maximisation_bias: example 6.7 of Sutton and Barto (2018), in which the true values are known and maximising over noisy
    estimates leads astray: the wrong action looks better than it is by as much as DQN overestimates. The replay buffer
    is small (1000 transitions), so that there is noise to maximise over all the time. Double DQN needs a target
    network whose errors differ from the online network's, so both are trained with a target that follows closely (every
    100 gradient steps) and one that lags as far behind as the buffer reaches (1000).

cliffwalk: the blind cliffwalk of Schaul et al. (2016, section 3.1), chosen because prioritized replay was introduced
    with it: rewards are rare in memory, 1 in 2046 transitions of 10 states. Memory is filled once with the transitions
    of all sequences of actions. As in the paper, the gradient steps are counted until the values' mean squared error is
    below 0.001.

long_cliffwalk: a longer cliffwalk, added after the results of the short one were seen, and before its own were. In the
    short one, prioritized replay took hardly more than 1000 steps, in which a target network that is copied every 100
    can just pass a value down 10 states, so that its advantage is hidden. This one has 13 states, 1 reward in 16,382
    transitions, and a copy every 10.

mountain_car: MountainCar-v0, half of the tuned budget with tuned values, chosen because its goal is found rarely and
    its value has to travel a long way, so that both replaying it more often and looking further ahead should help. The
    network is (64, 64), so that ten seeds can be afforded. The area under the learning curve counts: the mean, over 12
    evaluations spread over training, of the greedy policy's return.

Each finished run is at once a row of results/variants/<experiment>.csv, so that the command can be stopped and
continued. --table turns the rows into results/variants.md.
"""

from __future__ import annotations

import argparse
import contextlib
import csv
import io
import multiprocessing
import tempfile
from collections.abc import Callable, Mapping
from concurrent.futures import ProcessPoolExecutor, as_completed
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import gymnasium as gym
import numpy as np
import torch
from gymnasium import spaces
from learning import HERE, interval
from scipy import stats
from threadpoolctl import threadpool_limits

import rlkit
from rlkit.agents.dqn import DQN, DQNConfig
from rlkit.collector import Collector, Step
from rlkit.envs import EnvFactory, make_vector_env
from rlkit.field_groups import EpisodicEpsilonConfig, ReplayConfig
from rlkit.setting import NetworkConfig, Setting, updated

NETWORK = NetworkConfig(hidden_sizes=[64, 64])


# Experiment 1: maximisation bias


class MaximisationBias(gym.Env[Any, Any]):
    """Example 6.7 of Sutton and Barto (2018), in which maximising over noisy estimates makes a wrong action look right.

    From A, right ends the episode with reward 0, and left leads to B with reward 0. From B, each of ten actions ends
    the episode with a reward drawn from N(-0.1, 1). Without discounting, Q(A, left) is -0.1 and Q(A, right) is 0, so
    that left is wrong; but the largest of ten noisy estimates at B makes it look right.
    """

    A, B = 0, 1
    LEFT, RIGHT = 0, 1
    MEAN = -0.1

    observation_space = spaces.Discrete(2)
    action_space = spaces.Discrete(10)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[int, dict[str, Any]]:
        """Starts in state A."""
        super().reset(seed=seed)
        self.state = self.A
        return self.state, {}

    def step(self, action: int) -> tuple[int, float, bool, bool, dict[str, Any]]:
        """Moves to B, or ends the episode."""
        if self.state == self.B:
            return self.state, self.np_random.normal(self.MEAN, 1.0), True, False, {}
        if action == self.RIGHT:
            return self.state, 0.0, True, False, {}
        self.state = self.B
        return self.state, 0.0, False, False, {}

    def action_masks(self) -> np.ndarray[Any, Any]:
        """Returns a mask that allows two actions in A and all of them in B."""
        return np.arange(10) < (2 if self.state == self.A else 10)


BIAS = DQNConfig(
    learning_rate=1e-3,
    gamma=1.0,
    replay=ReplayConfig(size=1000),
    learning_starts=100,
    num_steps=1,
    gradient_steps=8,  # one for each transition of the 8 environments
    minibatch_size=32,
    epsilon=EpisodicEpsilonConfig(start=0.1, end=0.1),
    loss="mse",
)


def maximisation_bias(fields: Mapping[str, Any], seed: int, timesteps: int) -> dict[str, float]:
    """Measures the bias of Q(A, left) in each quarter of training, and the share of steps in which left is greedy."""
    env_seed, agent_seed = (int(part) for part in np.random.SeedSequence(seed).generate_state(2) >> 1)
    envs, _ = make_vector_env(EnvFactory("rlkit-benchmarks/MaximisationBias-v0"), 8, "sync")
    config = updated(BIAS, fields)
    agent = DQN(
        config,
        Setting(envs.single_observation_space, envs.single_action_space, network=NETWORK, num_envs=8, seed=agent_seed),
    )
    collector, buffer = Collector(envs, [env_seed + i for i in range(8)]), agent.make_buffer(8)
    errors, wrong = [], []
    while collector.timesteps < timesteps:
        collector.collect(agent, buffer, config.num_steps)
        agent.update(buffer, collector.timesteps / timesteps)
        left, right = agent.q_values([MaximisationBias.A])[0, :2]
        errors.append(left - MaximisationBias.MEAN)
        wrong.append(left > right)
    quarters = [float(part.mean()) for part in np.array_split(np.array(errors), 4)]
    return {
        "bias": float(np.mean(errors)),
        **{f"bias_quarter_{i}": value for i, value in enumerate(quarters, 1)},
        "wrong_share": float(np.mean(wrong)),
    }


# Experiment 2: the blind cliffwalk


class BlindCliffwalk(gym.Env[Any, Any]):
    """The blind cliffwalk of Schaul et al. (2016): in each of n states, the right action leads to the next state.

    The other action ends the episode. The right action is 0 and 1 by turns; from the last state it ends the episode
    with the only reward, 1. Its value in state s is γ^(n - 1 - s), and the other action's value is 0.
    """

    action_space = spaces.Discrete(2)

    def __init__(self, states: int) -> None:
        self.states = states
        self.observation_space = spaces.Discrete(states)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[int, dict[str, Any]]:
        """Starts in the first state, 0."""
        super().reset(seed=seed)
        self.state = 0
        return self.state, {}

    def step(self, action: int) -> tuple[int, float, bool, bool, dict[str, Any]]:
        """Moves to the next state, or ends the episode."""
        if action != self.state % 2:
            return self.state, 0.0, True, False, {}
        if self.state == self.states - 1:
            return self.state, 1.0, True, False, {}
        self.state += 1
        return self.state, 0.0, False, False, {}


class AllSequences:
    """An agent that acts out every sequence of binary actions in an episode of its own; sequence k is the bits of k."""

    def __init__(self) -> None:
        self.sequence = -1

    def act(self, obs: Any, *, action_mask: Any = None, explore: bool = True) -> Step:
        """Returns the next action of the sequence, in a single environment."""
        state = int(obs[0][0])
        self.sequence += state == 0  # every episode starts in this state, and none returns to it
        action = np.array([self.sequence >> state & 1])
        return Step(action, action)


CLIFFWALK = DQNConfig(
    learning_rate=1e-3,
    learning_starts=1,
    gradient_steps=10,
    minibatch_size=32,
)


def cliffwalk(
    fields: Mapping[str, Any], seed: int, most_steps: int, *, states: int = 10, target_interval: int = 100
) -> dict[str, float]:
    """Counts the gradient steps until the values are right, at most `most_steps`; `solved` is 1 if they are."""
    factory = EnvFactory("rlkit-benchmarks/BlindCliffwalk-v0", kwargs={"states": states})
    envs, _ = make_vector_env(factory, 1, "sync")
    task = {
        "gamma": 1 - 1 / states,  # the paper's
        "replay": {"size": 2 ** (states + 1) - 2},  # the transitions of all sequences
        "target": {"interval": target_interval},
    }
    config = updated(updated(CLIFFWALK, task), fields)
    agent = DQN(config, Setting(envs.single_observation_space, envs.single_action_space, network=NETWORK, seed=seed))
    buffer = agent.make_buffer(1)
    Collector(envs, [seed]).collect(AllSequences(), buffer, config.replay.size)
    all_states, answer = np.arange(states), np.zeros((states, 2))
    answer[all_states, all_states % 2] = config.gamma ** (states - 1 - all_states)
    steps, solved = 0, False
    while steps < most_steps and not solved:
        agent.update(buffer, steps / most_steps)
        steps += config.gradient_steps
        solved = bool(np.mean((agent.q_values(all_states) - answer) ** 2) < 1e-3)
    return {"gradient_steps": steps, "solved": solved}


# Experiment 3: MountainCar-v0


def mountain_car(fields: Mapping[str, Any], seed: int, timesteps: int) -> dict[str, float]:
    """Returns the mean of 12 evaluations spread over training, of 10 episodes each, and the final policy's return."""
    with tempfile.TemporaryDirectory() as folder, contextlib.redirect_stderr(io.StringIO()):
        result = rlkit.train(
            "dqn",
            "MountainCar-v0",
            seed=seed,
            total_timesteps=timesteps,
            network={"hidden_sizes": NETWORK.hidden_sizes},
            eval_interval=timesteps // 12,
            final_eval_episodes=100,
            checkpoint_interval=0,
            run_dir=f"{folder}/run",
            **{f"agent.{name}": value for name, value in {"n_step": 1, **fields}.items()},  # the tuned value is 3
        )
        with (result.run_dir / "metrics.csv").open(newline="") as metrics:
            returns = [float(row["eval/return_mean"]) for row in csv.DictReader(metrics) if row["eval/return_mean"]]
    return {"mean_return": float(np.mean(returns)), "final_return": float(result.summary["eval_return_mean"])}


# The experiments


class Experiment(NamedTuple):
    """Runs of several variants, with the comparisons between them."""

    name: str
    run: Callable[[Mapping[str, Any], int, int], dict[str, float]]
    """Function that makes one run: (the variant's fields, seed, budget) -> measures."""
    budget: int
    """Length of a run in timesteps or gradient steps."""
    seeds: int
    variants: dict[str, dict[str, Any]]
    """Fields of DQNConfig by the variant's name."""
    comparisons: list[tuple[str, str]]
    """Pairs of variants, with and without the field whose effect is measured."""
    measures: dict[str, str]
    """Descriptions of the measures by the CSV file's column."""


CLIFFWALK_MEASURES = {
    "gradient_steps": "gradient steps until the values are right, 30,000 where they never are (less is better)",
    "solved": "share of runs in which they are",
}
SUITE = [
    Experiment(
        "maximisation_bias",
        maximisation_bias,
        10_000,
        20,
        {
            f"{name}, target every {interval}": {"double": name == "double_dqn", "target": {"interval": interval}}
            for interval in (100, 1000)
            for name in ("dqn", "double_dqn")
        },
        [(f"double_dqn, target every {interval}", f"dqn, target every {interval}") for interval in (100, 1000)],
        {
            "bias": "Q(A, left) less its true value, mean over training (0 is right)",
            "bias_quarter_1": "the same, first quarter of training",
            "bias_quarter_2": "second quarter",
            "bias_quarter_3": "third quarter",
            "bias_quarter_4": "last quarter",
            "wrong_share": "share of training in which the greedy action is wrong (less is better)",
        },
    ),
    Experiment(
        "cliffwalk",
        cliffwalk,
        30_000,
        10,
        {"uniform": {}, "prioritized": {"replay": {"prioritized": True}}},
        [("prioritized", "uniform")],
        CLIFFWALK_MEASURES,
    ),
    Experiment(
        "long_cliffwalk",
        partial(cliffwalk, states=13, target_interval=10),
        30_000,
        10,
        {"uniform": {}, "prioritized": {"replay": {"prioritized": True}}},
        [("prioritized", "uniform")],
        CLIFFWALK_MEASURES,
    ),
    Experiment(
        "mountain_car",
        mountain_car,
        60_000,
        10,
        {"dqn": {}, "prioritized": {"replay": {"prioritized": True}}, "n_step 3": {"n_step": 3}},
        [("prioritized", "dqn"), ("n_step 3", "dqn")],
        {
            "mean_return": "return, mean over training (more is better)",
            "final_return": "return of the final policy (more is better)",
        },
    ),
]


def main() -> None:
    """Trains all runs that are missing, or writes the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--experiment", choices=[e.name for e in SUITE], help="only this one")
    parser.add_argument(
        "--seeds", type=int, help="seeds 0, 1, …: how many (default: 20 for maximisation_bias, else 10)"
    )
    parser.add_argument("--budget", type=int, help="timesteps or gradient steps of each run, instead of its own")
    parser.add_argument("--jobs", type=int, default=1, help="runs at the same time (default 1)")
    parser.add_argument("--table", action="store_true", help="write the table instead of training")
    parser.add_argument("--results", type=Path, default=HERE / "results", help="folder to write to")
    given = parser.parse_args()
    if given.table:
        text = table(given.results)
        (given.results / "variants.md").write_text(text)
        print(text)
        return
    runs = [
        (experiment, variant, seed)
        for experiment in SUITE
        if given.experiment in (None, experiment.name)
        for seed in range(given.seeds or experiment.seeds)  # the outer loop, so that a stopped command has all variants
        for variant in experiment.variants
    ]
    missing = [run for run in runs if (run[1], run[2]) not in finished_runs(given.results, run[0])]
    print(f"{len(missing)} of {len(runs)} runs to do", flush=True)
    with ProcessPoolExecutor(given.jobs, mp_context=multiprocessing.get_context("spawn")) as pool:
        rows = {
            pool.submit(measure, experiment.name, variant, seed, given.budget or experiment.budget): experiment
            for experiment, variant, seed in missing
        }
        for done in as_completed(rows):
            write_row(given.results, rows[done], row := done.result())
            print(rows[done].name, row, flush=True)


def measure(name: str, variant: str, seed: int, budget: int) -> dict[str, Any]:
    """Makes one run on one thread and returns it as a row of its experiment's CSV file."""
    register_environments()
    torch.set_num_threads(1)
    experiment = next(experiment for experiment in SUITE if experiment.name == name)
    with threadpool_limits(1):
        measures = experiment.run(experiment.variants[variant], seed, budget)
    rounded = {column: round(float(value), 4) for column, value in measures.items()}
    return {"variant": variant, "seed": seed, "budget": budget, **rounded}


def register_environments() -> None:
    """Registers this file's environments, in every process that needs them."""
    environments: tuple[Any, ...] = (MaximisationBias, BlindCliffwalk)
    for env in environments:
        if (id := f"rlkit-benchmarks/{env.__name__}-v0") not in gym.registry:
            gym.register(id, env)


def write_row(results: Path, experiment: Experiment, row: Mapping[str, Any]) -> None:
    """Appends a row to its experiment's CSV file, after a header if the file is new."""
    file = csv_file(results, experiment)
    file.parent.mkdir(parents=True, exist_ok=True)
    is_new = not file.exists()
    with file.open("a", newline="") as rows:
        writer = csv.DictWriter(rows, list(row), lineterminator="\n")
        if is_new:
            writer.writeheader()
        writer.writerow(row)


def csv_file(results: Path, experiment: Experiment) -> Path:
    """Returns the file with an experiment's rows."""
    return results / "variants" / f"{experiment.name}.csv"


def read_rows(results: Path, experiment: Experiment) -> list[dict[str, str]]:
    """Reads the rows of an experiment, in the order in which they were written."""
    file = csv_file(results, experiment)
    if not file.exists():
        return []
    with file.open(newline="") as rows:
        return list(csv.DictReader(rows))


def finished_runs(results: Path, experiment: Experiment) -> set[tuple[str, int]]:
    """Returns the pairs (variant, seed) that have been trained already."""
    return {(row["variant"], int(row["seed"])) for row in read_rows(results, experiment)}


def difference(with_it: list[float], without: list[float]) -> tuple[float, float]:
    """Returns the bootstrap 95 % interval of the difference of two means over seeds."""
    if len(set(with_it)) == len(set(without)) == 1:
        return (with_it[0] - without[0],) * 2
    result = stats.bootstrap(
        (with_it, without),
        lambda a, b, axis: np.mean(a, axis=axis) - np.mean(b, axis=axis),
        confidence_level=0.95,
        method="percentile",
        rng=0,
    )
    return float(result.confidence_interval.low), float(result.confidence_interval.high)


def table(results: Path) -> str:
    """Returns the results of all runs so far as a table in Markdown."""
    lines = [
        "Means over seeds, with bootstrap 95 % intervals over seeds, and the difference of two means with its own: a",
        "difference is shown only where that excludes 0. p is of the Mann-Whitney test. What was run, on which tasks,",
        "and why on these was written down before it was run, in `benchmarks/variants.py`.",
        "",
        "`python benchmarks/variants.py`, then `python benchmarks/variants.py --table`",
    ]
    for experiment in SUITE:
        rows = read_rows(results, experiment)
        for names in experiment.comparisons:
            with_it, without = ([row for row in rows if row["variant"] == name] for name in names)
            if min(len(with_it), len(without)) > 1:
                lines += [
                    *("", f"## {experiment.name}: {names[0]}, compared with {names[1]}", ""),
                    f"Seeds: {len(with_it)} and {len(without)}.",
                    *("", f"| | {' | '.join(names)} | difference | p | |", "|---|---|---|---|---|---|"),
                ]
                for column, meaning in experiment.measures.items():
                    a, b = ([float(row[column]) for row in part] for part in (with_it, without))
                    lines.append(f"| {meaning} | {compared(a, b)} |")
    return "\n".join(lines) + "\n"


def compared(with_it: list[float], without: list[float]) -> str:
    """Returns a row of the table: both means, the interval of their difference, and a verdict."""
    means = [float(np.mean(with_it)), float(np.mean(without))]
    low, high = difference(with_it, without)
    size = max(map(abs, means))
    digits = 0 if size >= 1000 else 1 if size >= 10 else 2
    values = [(means[0], *interval(with_it)), (means[1], *interval(without)), (means[0] - means[1], low, high)]
    cells = [f"{mean:,.{digits}f} [{left:,.{digits}f}, {right:,.{digits}f}]" for mean, left, right in values]
    p = stats.mannwhitneyu(with_it, without).pvalue
    words = "lower" if high < 0 else "higher" if low > 0 else "no difference shown"
    return " | ".join([*cells, f"{p:.1g}", words])


if __name__ == "__main__":
    main()
