"""The engines compared: microseconds per gradient step and per action, and the speed of whole runs.

    python benchmarks/engines.py [--repetitions 5] [--scale 1.0] [--engines torch compile native]

For the first table, the engines take turns in one process with one thread. A gradient step takes a minibatch from a
rollout and updates the parameters, including its metrics. Acting goes from the features of eight observations (one for
DQN) to the distribution's parameters or the action values. The second table is about `python -m rlkit` with the tuned
values, in a fresh process for each run, in turn: it times the training loop with everything in it, including
evaluations and checkpoints. All times are CPU times. Writes results/engines.json and .md.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from importlib.metadata import version
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple

from rlkit.system.resources import processor

HERE = Path(__file__).resolve().parent
ONE_THREAD = {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
ENGINES = ("torch", "compile", "native")
IN_RUNS = ("torch", "native")
"""Engines that the second table compares, if they are available."""
RUNS = {"ppo": 50_000, "a2c": 50_000, "dqn": 10_000}
"""Agents and timesteps of the second table, on CartPole-v1."""


class Work(NamedTuple):
    """One line of the first table, with the calls that are timed for each engine."""

    title: str
    step: dict[str, Callable[[], Any]]
    act: dict[str, Callable[[], Any]]


def main() -> None:
    """Runs the benchmark and writes its results."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repetitions", type=int, default=5, help="of each measurement (default 5)")
    parser.add_argument("--scale", type=float, default=1.0, help="of the runs' timesteps (default 1.0)")
    parser.add_argument("--agents", nargs="*", choices=RUNS, default=list(RUNS), help="of the runs (default: all)")
    parser.add_argument("--engines", nargs="*", choices=ENGINES, default=list(ENGINES), help="which (default: all)")
    parser.add_argument("--results", type=Path, default=HERE / "results", help="folder to write to")
    parser.add_argument("--one-run", nargs=4, metavar=("AGENT", "ENGINE", "TIMESTEPS", "SEED"), help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.one_run:
        print(json.dumps(timed_run(*given.one_run)))
        return
    os.environ |= ONE_THREAD  # takes effect because NumPy and torch are imported later
    engines = available(given.engines)
    steps = timed_steps(engines, given.repetitions)
    runs = timed_runs(engines, given.agents, given.repetitions, given.scale)
    report = {
        "command": f"python benchmarks/engines.py --repetitions {given.repetitions} --scale {given.scale:g}",
        "machine": machine(),
        "versions": {"python": platform.python_version(), **{name: version(name) for name in ("torch", "numpy")}},
        "steps": steps,
        "runs": runs,
    }
    given.results.mkdir(parents=True, exist_ok=True)
    (given.results / "engines.json").write_text(json.dumps(report, indent=2) + "\n")
    table = markdown(report)
    (given.results / "engines.md").write_text(table)
    print(f"\n{table}")


def available(asked: list[str]) -> tuple[str, ...]:
    """Returns the engines among `asked` that are available here."""
    from rlkit.engine.native import primitives as native

    if native.missing:
        print(f"without native: {native.missing}")
    return tuple(name for name in ENGINES if name in asked and not (name == "native" and native.missing))


def works(engines: tuple[str, ...]) -> list[Work]:
    """Returns the lines of the first table: PPO and A2C on CartPole with two layers of 64, DQN with two of 256.

    These are RL Zoo's sizes. DQN is timed once more with a layer in which many units are off, as they soon are in
    training.
    """
    import numpy as np
    import torch
    from gymnasium import spaces

    from rlkit.agents.a2c import A2CCoefficients, a2c_loss
    from rlkit.agents.ppo import PPOCoefficients, ppo_loss
    from rlkit.buffers.batch import PolicyBatch
    from rlkit.engine.actor_critic import ActorCriticLoss
    from rlkit.engine.descent import Optimization
    from rlkit.engine.losses import dqn_loss
    from rlkit.engine.make import make_actor_critic, make_engine, make_q_engine, make_q_network
    from rlkit.engine.native.policy_gradient import a2c_gradient, ppo_gradient
    from rlkit.engine.native.q import dqn_gradient
    from rlkit.engine.q import QLoss, TDBatch
    from rlkit.networks.array_heads import array_head
    from rlkit.setting import NetworkConfig, Setting
    from rlkit.system.ranks import ALONE

    observations, actions, seed = spaces.Box(-1, 1, (4,)), spaces.Discrete(2), np.random.SeedSequence(0)
    rng = np.random.default_rng(0)

    def policy_work(title: str, rows: int, loss: ActorCriticLoss, coefficients: Any, optimizer: str) -> Work:
        work = Work(title, {}, {})
        features = (rng.normal(size=(rows, 4)).astype(np.float32),)
        floats, action = rng.normal(size=(2, rows)).astype(np.float32), rng.integers(2, size=rows)
        for name in engines:
            config = NetworkConfig(hidden_sizes=[64, 64])
            setting = Setting(observations, actions, config, device="cpu", compute=name)
            network, _ = make_actor_critic(setting, seed)
            engine, _ = make_engine(network, loss, Optimization(0.5, 1e-5, optimizer), setting)
            params, values = engine.evaluate(features)
            log_prob = array_head(network.head).evaluate(params, action).log_prob
            engine.load(PolicyBatch(features, action, log_prob, floats[0], floats[1], values))
            order = rng.permutation(rows)
            work.step[name] = partial(engine.step, order, coefficients, 1e-4)
            work.act[name] = partial(engine.policy, (features[0][:8],))
        return work

    def q_work(title: str, rows: int, off: int = 0) -> Work:
        work = Work(title, {}, {})
        batch = TDBatch(
            (rng.normal(size=(rows, 4)).astype(np.float32),),
            rng.integers(2, size=rows),
            rng.normal(size=rows).astype(np.float32),
        )
        config = NetworkConfig(hidden_sizes=[256, 256], activation="relu")
        for name in engines:
            setting = Setting(observations, actions, config, device="cpu", compute=name)
            network, _ = make_q_network(setting, 2, seed)
            with torch.no_grad():
                network.get_parameter("body.2.bias")[:off] -= 100  # these units of layer 2 are off in all rows
            engine, _ = make_q_engine(network, QLoss(dqn_loss, dqn_gradient), Optimization(10.0, 1e-8), setting)
            work.step[name] = partial(engine.step, batch, "huber", 1e-4)
            work.act[name] = partial(engine.q_values, (batch.features[0][:1],))
        return work

    ppo = PPOCoefficients("clip", 0.2, 0.0, None, 0.0, 0.5, True, ALONE)
    return [
        policy_work("PPO, 256 rows, 4-64-64-{2, 1}", 256, ActorCriticLoss(ppo_loss, ppo_gradient), ppo, "adam"),
        policy_work(
            "A2C, 40 rows, 4-64-64-{2, 1}",
            40,
            ActorCriticLoss(a2c_loss, a2c_gradient),
            A2CCoefficients(0.0, 0.5, False, ALONE),
            "rmsprop",
        ),
        q_work("DQN, 64 rows, 4-256-256-2", 64),
        q_work("DQN, half of the second layer off", 64, off=128),
    ]


def timed_steps(engines: tuple[str, ...], repetitions: int) -> dict[str, Any]:
    """Measures CPU microseconds per gradient step and per action, by work and engine: one number per repetition."""
    import torch

    torch.set_num_threads(1)
    found: dict[str, Any] = {}
    for work in works(engines):
        found[work.title] = {kind: {name: [] for name in engines} for kind in ("step", "act")}
        for call in (*work.step.values(), *work.act.values()):
            call()
        for _ in range(repetitions):
            for kind, calls in (("step", work.step), ("act", work.act)):
                for name in engines:
                    found[work.title][kind][name].append(round(microseconds(calls[name]), 2))
        print(work.title, {kind: {n: median(v) for n, v in by.items()} for kind, by in found[work.title].items()})
    return found


def microseconds(call: Callable[[], Any], seconds: float = 0.2) -> float:
    """Measures the CPU time of one call, in microseconds, as a mean over all calls within `seconds`."""
    count, start = 0, time.process_time()
    while time.process_time() - start < seconds:
        for _ in range(10):
            call()
        count += 10
    return (time.process_time() - start) / count * 1e6


def timed_runs(engines: tuple[str, ...], agents: list[str], repetitions: int, scale: float) -> dict[str, Any]:
    """Measures timesteps per CPU second of training, and final returns, by agent and engine: one per repetition."""
    names = [name for name in engines if name in IN_RUNS]
    found: dict[str, Any] = {
        agent: {key: {name: [] for name in names} for key in ("steps_per_cpu_s", "eval_return")} for agent in agents
    }
    for repetition in range(repetitions):
        for agent in agents:
            for name in names if repetition % 2 == 0 else names[::-1]:
                arguments = [agent, name, str(int(RUNS[agent] * scale)), str(repetition)]
                command = [sys.executable, __file__, "--one-run", *arguments]
                done = subprocess.run(command, env=os.environ | ONE_THREAD, capture_output=True, text=True, check=False)
                if done.returncode != 0:
                    sys.exit(f"{' '.join(command)} failed:\n{done.stderr}")
                run = json.loads(done.stdout.splitlines()[-1])
                print(agent, name, run)
                for key, value in run.items():
                    found[agent][key][name].append(value)
    return found


def timed_run(agent: str, engine: str, timesteps: str, seed: str) -> dict[str, float]:
    """Measures one run by rlkit's command line, with a clock around its training loop."""
    from rlkit import trainer
    from rlkit.cli import main as cli

    train, spent = trainer.Trainer.train, []

    def timed_train(self: trainer.Trainer) -> None:
        start = time.process_time()
        train(self)
        spent.append(time.process_time() - start)

    trainer.Trainer.train = timed_train  # type: ignore[method-assign]
    with tempfile.TemporaryDirectory() as folder:
        fields = [f"agent={agent}", "env=CartPole-v1", f"compute={engine}", f"total_timesteps={timesteps}"]
        sys.argv = ["rlkit", *fields, f"seed={seed}", f"hydra.run.dir={folder}/run"]
        cli.main()
        summary = json.loads((Path(folder) / "run" / "summary.json").read_text())
    assert summary["compute"] == engine
    return {
        "steps_per_cpu_s": round(summary["total_timesteps"] / spent[0], 1),
        "eval_return": summary["eval_return_mean"],
    }


def markdown(report: dict[str, Any]) -> str:
    """Returns both tables in Markdown, with the command and the machine."""
    versions = report["versions"]
    lines = [
        f"`{report['command']}`, on {report['machine']}; Python {versions['python']}, torch {versions['torch']}, "
        f"NumPy {versions['numpy']}. CPU time; medians (lowest – highest).",
        "",
        "| µs | torch | compile | native | torch / native |",
        "|---|---|---|---|---|",
    ]
    for title, kinds in report["steps"].items():
        for kind, name in (("step", "gradient step"), ("act", "act")):
            lines.append(row(f"{title}: {name}", kinds[kind], ENGINES, 0 if kind == "step" else 1, less_is_better=True))
    lines += ["", "| timesteps per CPU second | torch | native | native / torch |", "|---|---|---|---|"]
    for agent, found in report["runs"].items():
        lines.append(row(f"{agent} on CartPole-v1", found["steps_per_cpu_s"], IN_RUNS, 0, less_is_better=False))
    return "\n".join(lines) + "\n"


def row(title: str, found: dict[str, list[float]], engines: tuple[str, ...], digits: int, less_is_better: bool) -> str:
    """Returns one line of a table; the cells of engines that are not available are empty."""
    cells = [
        f"{median(found[name]):,.{digits}f} ({min(found[name]):,.{digits}f} – {max(found[name]):,.{digits}f})"
        if name in found
        else ""
        for name in engines
    ]
    ratio = ""
    if {"native", "torch"} <= found.keys():
        faster = median(found["native"]) / median(found["torch"])
        ratio = f"**{1 / faster if less_is_better else faster:.2f} ×**"
    return f"| {title} | {' | '.join(cells)} | {ratio} |"


def machine() -> str:
    """Returns the processor's name and the number of cores."""
    return f"{os.cpu_count()} cores of {processor()}"


if __name__ == "__main__":
    main()
