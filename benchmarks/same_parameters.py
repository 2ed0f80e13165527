"""Fingerprints of trained parameters, which show that a change of the code did not change what is learned.

    python benchmarks/same_parameters.py                     # trains everything briefly, writes results/parameters.json
    python benchmarks/same_parameters.py --check             # trains again, and compares with the committed file

A fingerprint is the SHA-256 of all tensors of the trained model. The C engine computes with AVX2 here, because wider
vectors add up in another order. Torch's rounding differs between processors, too, so the file names the processor that
it was made on, and can be compared on such a processor only. On another one, run the first command in a worktree of the
commit to compare with, and the second command with `--file` naming the file that the first wrote.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import platform
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

os.environ["RLKIT_SIMD"] = "avx2"  # read when rlkit is imported

import rlkit
from rlkit.system.resources import processor

RESULTS = Path(__file__).parent / "results" / "parameters.json"
POLICY_GRADIENT = ("reinforce", "reinforce_baseline", "a2c", "a3c", "ppo", "ppo_kl", "ppo_adaptive_kl", "trpo")
DEEP_Q = ("dqn", "double_dqn", "dueling_dqn", "rainbow")
TEMPORAL_DIFFERENCE = ("sarsa", "expected_sarsa", "q_learning")


def cases() -> Iterator[tuple[str, dict[str, Any]]]:
    """Yields the trainings by name, each as keyword arguments of `rlkit.train`."""
    for agent in (*POLICY_GRADIENT, *DEEP_Q, *TEMPORAL_DIFFERENCE):
        workers = {"agent.num_workers": 1} if agent == "a3c" else {}
        for compute in ("auto", "torch"):
            yield f"{agent} CartPole {compute}", {"agent": agent, "env": "CartPole-v1", "compute": compute, **workers}
    for agent in ("a2c", "ppo", "trpo", "reinforce"):
        yield f"{agent} Pendulum", {"agent": agent, "env": "Pendulum-v1"}
    for agent in (*TEMPORAL_DIFFERENCE, "ppo", "dqn"):
        yield f"{agent} FrozenLake", {"agent": agent, "env": "FrozenLake-v1"}
    for agent in ("a2c", "ppo", "trpo", "dqn"):
        yield f"{agent} image", {"agent": agent, "env": "rlkit/ProbeImageObs-v0", "total_timesteps": 1500}
    for agent in ("ppo", "dqn", "q_learning"):
        yield f"{agent} masked", {"agent": agent, "env": "rlkit/ProbeMaskedAction-v0"}
    normalized = {"network": {"normalize_obs": True}, "agent.normalize_rewards": True}
    for agent in ("a2c", "ppo", "trpo"):
        yield f"{agent} normalized", {"agent": agent, "env": "CartPole-v1", "vectorization": "native", **normalized}
    yield "ppo correlated noise", {"agent": "ppo", "env": "Pendulum-v1", "agent.noise_correlation": 0.9}
    yield "ppo critic rate", {"agent": "ppo", "env": "CartPole-v1", "agent.critic_learning_rate": 1e-3}
    yield "a2c adam", {"agent": "a2c", "env": "CartPole-v1", "agent.optimizer": "adam"}


def fingerprint(settings: dict[str, Any]) -> str:
    """Trains and returns the SHA-256 of the names and the bytes of all tensors of the trained model."""
    with tempfile.TemporaryDirectory() as folder:
        fixed = {"total_timesteps": 3000, "seed": 7, "eval_interval": 0, "final_eval_episodes": 0}
        result = rlkit.train(tuned=False, run_dir=Path(folder) / "run", **{**fixed, **settings})
    digest = hashlib.sha256()
    for name, tensor in sorted(result.agent.model.state_dict().items()):
        digest.update(name.encode() + tensor.cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()


def main() -> None:
    """Trains everything, and writes the fingerprints or compares them with a file."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="compare instead of writing; exit code 1 if any differs")
    parser.add_argument("--file", type=Path, default=RESULTS, help="where the fingerprints are")
    parser.add_argument("--only", default="", help="only trainings whose name contains this")
    arguments = parser.parse_args()
    machine = {"processor": processor(), "torch": torch.__version__, "python": platform.python_version()}
    known = json.loads(arguments.file.read_text()) if arguments.check else {}
    if known and known["machine"] != machine:
        sys.exit(f"{arguments.file} was made on {known['machine']}, and this is {machine}: make one here first")
    found, wrong = {}, []
    for name, settings in cases():
        if arguments.only in name:
            found[name] = fingerprint(settings)
            if arguments.check and known["parameters"].get(name) != found[name]:
                wrong.append(name)
            print(f"{'DIFFERS' if name in wrong else 'ok':<8}{name}: {found[name][:16]}", flush=True)
    if not arguments.check:
        arguments.file.write_text(json.dumps({"machine": machine, "parameters": found}, indent=2) + "\n")
    print(f"{len(found)} trainings, {len(wrong)} differ" if arguments.check else f"written: {arguments.file}")
    sys.exit(1 if wrong else 0)


if __name__ == "__main__":
    main()
