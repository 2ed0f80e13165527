"""Reads hundreds of damaged and hostile files, each in a process of its own, and writes down how each one ended.

    python benchmarks/hostile_files.py [--limit 60]

Every file has to be refused in one line, or to load as it was written: no traceback, no wait of more than five seconds,
not more than 300 MB of memory beside the libraries', nothing executed. It needs Linux.
"""

from __future__ import annotations

import argparse
import copy
import json
import os
import random
import resource
import shutil
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

import gymnasium as gym
import torch

import rlkit
from rlkit import checkpoint, perception
from rlkit.agents.ppo import PPOConfig
from rlkit.errors import RlkitError
from rlkit.perception.checkpoint import load_model
from rlkit.registry import make_agent
from rlkit.runs.loggers import CSVLogger
from rlkit.runs.reading import read_yaml
from rlkit.runs.tensor_files import read_tensors, write_tensors
from rlkit.setting import NetworkConfig, Setting

RESULTS = Path(__file__).parent / "results" / "hostile_files.json"
QUIET: dict[str, Any] = {"verbose": False, "curves": False, "eval_interval": 0, "final_eval_episodes": 0}
SECONDS, BYTES = 5, 300 * 2**20
WRONG: list[Any] = [None, True, -1, 10**9, 10**400, 1e38, float("nan"), "a", "\ud800\n\x1b[2J", [], {}, [[]] * 3]
PAYLOAD = "from pathlib import Path\nPath(__file__).with_name('exploded').touch()\n"


class Case(NamedTuple):
    """A damaged file: its name, how it is made in a fresh copy of the runs, and how it is read."""

    name: str
    damage: Callable[[Path], None]
    read: Callable[[Path], Any]


def main() -> None:
    """Runs all cases, or some of them, and exits with 1 if one ended wrongly."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--limit", type=int, help="so many cases, evenly chosen, without writing the result")
    limit = parser.parse_args().limit
    torch.set_num_threads(1)  # threads do not survive the fork
    with tempfile.TemporaryDirectory() as folder:
        wrong = run_cases(Path(folder), limit)
    sys.exit(1 if wrong else 0)


def run_cases(folder: Path, limit: int | None = None) -> list[dict[str, Any]]:
    """Makes and reads the files in a folder; returns what ended wrongly, and writes the result of all as it goes."""
    make_runs(folder / "whole")
    cases = list(all_cases(folder / "whole"))
    cases = cases[:: max(1, len(cases) // limit)] if limit else cases
    ends, wrong, slowest, largest = Counter[str](), [], 0.0, 0
    for case in cases:
        work = folder / "work"
        shutil.rmtree(work, ignore_errors=True)
        shutil.copytree(folder / "whole", work)
        case.damage(work)
        end, seconds, memory = in_a_process(case, work)
        if list(folder.rglob("exploded")):
            end = "executed"
        ends[end.split(":")[0]] += 1
        slowest, largest = max(slowest, seconds), max(largest, memory)
        if end not in ("refused", "loaded as written") or memory > BYTES:
            wrong.append({"case": case.name, "end": end, "seconds": round(seconds, 2), "megabytes": memory >> 20})
            print(wrong[-1])
        if not limit:
            summary = {"cases": ends.total(), "ends": dict(sorted(ends.items())), "slowest_s": round(slowest, 2)}
            report = {**summary, "most_memory_mb": largest >> 20, "wrong": wrong}
            RESULTS.write_text(json.dumps(report, indent=2) + "\n")
    print(dict(ends), f"slowest {slowest:.2f} s, most memory {largest >> 20} MB beside the libraries'")
    return wrong


def make_runs(folder: Path) -> None:
    """Makes an agent, a run that can be resumed, and a companion run, all small."""
    env = gym.make("CartPole-v1")
    setting = Setting(env.observation_space, env.action_space, NetworkConfig(hidden_sizes=[4]))
    agent = make_agent(PPOConfig(), setting)
    agent.env = {"id": "CartPole-v1", "kwargs": {}, "preprocessing": "auto"}
    agent.save(folder / "agent")
    fields: dict[str, Any] = {"total_timesteps": 64, "agent.num_steps": 16, "num_envs": 2, "vectorization": "sync"}
    rlkit.train("ppo", "CartPole-v1", tuned=False, run_dir=folder / "run", **QUIET, **fields)
    perception.train("moons-l2", folder / "companion", **{"fit.epochs": 1})


def all_cases(whole: Path) -> Iterator[Case]:
    """Yields the cases, always the same ones."""
    files = {
        "agent/agent.json": load_agent,
        "agent/model.safetensors": load_agent,
        "companion/checkpoints/last/model.json": load_companion,
        "companion/checkpoints/last/model.safetensors": load_companion,
        "companion/checkpoints/last/training.safetensors": load_training,
        "run/checkpoints/last/training.safetensors": load_run,
        "companion/.hydra/config.yaml": load_yaml,
        "companion/metrics.csv": load_metrics,
    }
    for name, read in files.items():
        yield from special_files(name, read)
        yield from flips(name, read, (whole / name).stat().st_size, 50 if "safetensors" in name else 15)
    yield from wrong_values(whole, "agent/agent.json", load_agent)
    yield from wrong_values(whole, "companion/checkpoints/last/model.json", load_companion)
    yield from wrong_states(whole)
    for value in (float("nan"), float("inf"), -float("inf")):
        yield Case(f"weights of {value}", lambda work, value=value: fill(work, value), load_agent)  # type: ignore[misc]
    for dtype in (torch.float64, torch.float16, torch.bfloat16, torch.int8, torch.bool):
        yield Case(f"weights of {dtype}", lambda work, dtype=dtype: cast(work, dtype), load_agent)  # type: ignore[misc]


def load_agent(work: Path) -> Any:
    """Loads the agent, and reads its environment."""
    agent = rlkit.load(work / "agent")
    checkpoint.read_env(work / "agent")
    return agent.model.state_dict()


def load_companion(work: Path) -> Any:
    """Loads the companion's model."""
    return load_model(work / "companion/checkpoints/last")[0].state_dict()


def load_training(work: Path) -> Any:
    """Reads the state of the companion's training."""
    return read_tensors(work / "companion/checkpoints/last/training.safetensors")[0]


def load_run(work: Path) -> None:
    """Reads the state of the agent's run."""
    checkpoint.load_run(work / "run/checkpoints/last")


def resume(work: Path) -> None:
    """Goes on with the agent's run for one update."""
    rlkit.train(resume=work / "run", total_timesteps=96)


def load_yaml(work: Path) -> None:
    """Reads the companion's stored configuration."""
    read_yaml(work / "companion/.hydra/config.yaml")


def load_metrics(work: Path) -> None:
    """Goes on with the companion's metrics."""
    CSVLogger(work / "companion", "time/step", resume_at=10**9).close()


def special_files(name: str, read: Callable[[Path], Any]) -> Iterator[Case]:
    """Yields what is no file, what is far too large, and what makes much of little."""
    bomb = "a: &a [x, x]\n" + "".join(f"{b}: &{b} [*{a}, *{a}]\n" for a, b in zip("abcdefgh", "bcdefghi", strict=True))
    contents = {
        "empty": b"",
        "zeros": bytes(1000),
        "deep JSON": b"[" * 100_000,
        "deep dicts": b'{"a":' * 1000 + b"1" + b"}" * 1000,
        "many lists": b"[" + b"[]," * 3_000_000 + b"[]]",
        "not UTF-8": b'{"a": "\xff"}',
        "UTF-16": '{"a": 1}'.encode("utf-16"),
        "aliases": bomb.encode(),
        "a tag": b"a: !!python/object/apply:os.system ['touch exploded']\n",
        "a pickle": b"\x80\x04cposix\nsystem\n(S'touch exploded'\ntR.",
        "a wide line": b"a," * 5_000_000,
        "a long number": b"9" * 10_000,
        "a long header": (2**40).to_bytes(8, "little") + b"{}",
    }
    for what, content in contents.items():
        yield Case(f"{name}: {what}", lambda work, content=content: replace(work / name, content), read)  # type: ignore[misc]
    makers: dict[str, Callable[[Path], None]] = {
        "a pipe": os.mkfifo,
        "a folder": os.mkdir,
        "endless": lambda path: os.symlink("/dev/zero", path),
        "a terminal": lambda path: os.symlink("/dev/tty", path),
        "a loop": lambda path: os.symlink(path.name, path),
        "a link to nothing": lambda path: os.symlink("nowhere", path),
        "a text elsewhere": lambda path: os.symlink("/etc/passwd", path),
        "sparse": make_sparse,
    }
    for what, make in makers.items():
        yield Case(f"{name}: {what}", lambda work, make=make: remake(work / name, make), read)  # type: ignore[misc]


def replace(path: Path, content: bytes) -> None:
    """Writes other contents, beside code that must not run."""
    path.write_bytes(content)
    (path.parent / "payload.py").write_text(PAYLOAD)


def remake(path: Path, make: Callable[[Path], None]) -> None:
    """Puts something else in a file's place."""
    path.unlink()
    make(path)


def make_sparse(path: Path) -> None:
    """Makes a file of 4 GB that takes no room."""
    with path.open("wb") as file:
        file.truncate(2**32)


def flips(name: str, read: Callable[[Path], Any], size: int, count: int) -> Iterator[Case]:
    """Yields files with one bit changed, and files that are cut off."""
    drawn = random.Random(name)
    for i in range(count):
        place, bit = drawn.randrange(size), drawn.randrange(8)

        def flip(work: Path, place: int = place, bit: int = bit) -> None:
            content = bytearray((work / name).read_bytes())
            content[place] ^= 1 << bit
            (work / name).write_bytes(content)

        yield Case(f"{name}: bit {bit} of byte {place}", flip, read)
        if i % 5 == 0:
            yield Case(f"{name}: {place} bytes", lambda work, n=place: os.truncate(work / name, n), read)  # type: ignore[misc]


def wrong_values(whole: Path, name: str, read: Callable[[Path], Any]) -> Iterator[Case]:
    """Yields descriptions with one value replaced, and the fingerprint of the weights made anew to match."""
    tree = json.loads((whole / name).read_text())
    drawn = random.Random(name)
    for path in places(tree):
        for value in drawn.sample(WRONG, 5):

            def change(work: Path, path: tuple[Any, ...] = path, value: Any = value) -> None:
                changed = copy.deepcopy(tree)
                inner = changed
                for key in path[:-1]:
                    inner = inner[key]
                inner[path[-1]] = value
                (work / name).write_text(json.dumps(changed))
                file = (work / name).with_name("model.safetensors")
                tensors, metadata = read_tensors(file)
                metadata.pop("description", None)
                with suppress(KeyError):
                    metadata |= {"agent": checkpoint._fingerprint(changed)} if "agent" in metadata else {}
                write_tensors(file, tensors, metadata)

            yield Case(f"{name}: {'.'.join(map(str, path))} = {ascii(value)[:20]}", change, read)


def wrong_states(whole: Path) -> Iterator[Case]:
    """Yields states of a run with one value replaced, and a digest that is right."""
    state = checkpoint.load_run(whole / "run/checkpoints/last")
    drawn = random.Random("state")
    for path in places(state):
        for value in drawn.sample(WRONG, 2):

            def change(work: Path, path: tuple[Any, ...] = path, value: Any = value) -> None:
                changed = copy.deepcopy(state)
                inner = changed
                for key in path[:-1]:
                    inner = inner[key]
                inner[path[-1]] = value
                with suppress(TypeError, UnicodeEncodeError):  # what cannot be written stays as it was
                    checkpoint.save_run(changed, work / "run/checkpoints/last")

            yield Case(f"the run's state: {'.'.join(map(str, path))} = {ascii(value)[:20]}", change, resume)


def places(tree: Any, prefix: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Yields the path of every value in a tree."""
    for key, value in tree.items() if isinstance(tree, dict) else enumerate(tree) if isinstance(tree, list) else ():
        yield (*prefix, key)
        yield from places(value, (*prefix, key))


def fill(work: Path, value: float) -> None:
    """Writes a number into the agent's weights, and a digest that is right."""
    tensors, metadata = read_tensors(work / "agent/model.safetensors")
    next(iter(tensors.values())).view(-1)[0] = value
    write_tensors(work / "agent/model.safetensors", tensors, metadata)


def cast(work: Path, dtype: torch.dtype) -> None:
    """Writes the agent's weights in another type, and a digest that is right."""
    tensors, metadata = read_tensors(work / "agent/model.safetensors")
    write_tensors(work / "agent/model.safetensors", {name: each.to(dtype) for name, each in tensors.items()}, metadata)


def in_a_process(case: Case, work: Path) -> tuple[str, float, int]:
    """Returns how reading ended, the seconds that it took, and the most address space that it took, in bytes.

    The system refuses more than `BYTES` of it, so that more ends with an error, or with the process.
    """
    reader, writer = os.pipe()
    started = time.perf_counter()
    if not (child := os.fork()):
        os.close(reader)
        before = kilobytes("VmSize")
        resource.setrlimit(resource.RLIMIT_AS, (before * 1024 + BYTES, resource.RLIM_INFINITY))
        end = attempt(case, work)
        os.write(writer, f"{kilobytes('VmPeak') - before} {end}".encode(errors="replace")[:4000])
        os._exit(0)
    os.close(writer)
    done = 0
    while not done and time.perf_counter() - started < SECONDS:
        done, status = os.waitpid(child, os.WNOHANG)
        time.sleep(0.002)
    seconds = time.perf_counter() - started
    if not done:
        os.kill(child, signal.SIGKILL)
        _, status = os.waitpid(child, 0)
    memory, _, end = os.read(reader, 4000).decode().partition(" ")
    os.close(reader)
    return end or (f"died: {status}" if done else "hung"), seconds, int(memory or 0) * 1024


def attempt(case: Case, work: Path) -> str:
    """Reads the damaged file, and compares with the whole one's tensors if it is taken."""
    try:
        found = case.read(work)
    except RlkitError as error:
        return "refused" if len(f"{error}") < 1000 else f"long: {error}"
    except BaseException as error:
        return f"traceback: {type(error).__name__}: {error}"
    expected = case.read(work.parent / "whole") if found is not None else {}
    same = all(torch.equal(found[name], tensor) for name, tensor in expected.items())
    return "loaded as written" if same else "wrong: other numbers were loaded"


def kilobytes(name: str) -> int:
    """Returns a size of this process, by its name in /proc/self/status."""
    status = Path("/proc/self/status").read_text()
    return int(status.split(f"{name}:")[1].split()[0])


if __name__ == "__main__":
    main()
