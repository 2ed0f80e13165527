"""Speed of rlkit's training, beside Stable-Baselines3, a plain script and, if they are installed, other libraries.

    python benchmarks/throughput.py [--workload ppo_cartpole] [--repetitions 3] [--timesteps 100000] [--resume]
    python -m venv peers && peers/bin/pip install tianshou==2.0.1 torchrl==0.14.1 torch==2.13.0 gymnasium==1.4.0
    python -m venv sbx && sbx/bin/pip install sbx-rl==0.28.0 gymnasium==1.4.0
    python -m venv rlox && rlox/bin/pip install rlox==1.2.0 torch==2.13.0 gymnasium==1.4.0
    python benchmarks/throughput.py --no-evaluations --peers-python {peers,sbx,rlox}/bin/python

Runs all systems in turn, each run in a fresh process with one thread, all on one core (or, with `--cores 2`, all on the
same two, with as many threads as each system can use). All have equal hyperparameters (workloads.py). rlkit and SB3
have the same features on: CSV log, evaluations, best and last checkpoints, a final evaluation; the plain script
(single_file.py) has none. With `--no-evaluations`, rlkit and SB3 have none either, which leaves what training itself
takes, and results go to results/training_<workload>.json and .md instead of results/throughput_<workload>. SBX and rlox
are measured so only, without what JAX compiles (peers.py). Prints
medians and ranges; with `--resume` it continues a benchmark that was stopped. "Training" is the training loop with
everything in it. "Shell to trained" is the whole process, from its start to its end. "Solved" is the end of the first
evaluation that reaches the mean return that the workload names. One more run of rlkit with `profile=true` shows where
its CPU time goes.
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
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple

from workloads import WORKLOADS, Workload

import rlkit
from rlkit.engine.native import primitives as native
from rlkit.system.resources import processor

HERE = Path(__file__).resolve().parent
SCRIPT = "benchmarks/throughput.py"
THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")
ONE_THREAD = dict.fromkeys(THREADS, "1")
PACKAGES = ("stable-baselines3", "torch", "gymnasium", "numpy")
PROFILED = "rlkit:profile=true"
PEERS = ("tianshou", "torchrl", "sbx-rl", "rlox")
"""Packages of other libraries; a system is called as its package, up to a hyphen."""
WITHOUT_EVALUATIONS = ("sbx-rl", "rlox")
"""Packages that are measured without evaluations only."""
PEERS_WORKLOADS = ("ppo_cartpole", "dqn_cartpole", "dqn_cartpole_every_4")
NOT_MEASURED = "Other libraries' trainers are not measured here: see `--peers-python`."


class Measure(NamedTuple):
    """A row of the table; `better` is +1 if more is better, -1 if less is, 0 if the row is not compared."""

    title: str
    better: int
    digits: int


MEASURES = {
    "train_steps_per_s": Measure("training, steps per second", +1, 0),
    "train_steps_per_cpu_s": Measure("training, steps per CPU second", +1, 0),
    "compile_s": Measure("compiling, which is left out of the training time, seconds", 0, 1),
    "process_wall_s": Measure("shell to trained, seconds", -1, 1),
    "process_cpu_s": Measure("shell to trained, CPU seconds", -1, 1),
    "solved_s": Measure("shell to solved, seconds", -1, 1),
    "gradient_steps": Measure("gradient steps", 0, 0),
    "eval_return": Measure("return at the end", 0, 0),
}


def main() -> None:
    """Runs the benchmark and writes its results."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--workload", choices=WORKLOADS, default="ppo_cartpole", help="default ppo_cartpole")
    parser.add_argument("--repetitions", type=int, default=3, help="runs of each system (default 3)")
    parser.add_argument("--timesteps", type=int, help="of each run (default: the workload's own)")
    parser.add_argument(
        "--systems", nargs="*", help="which of rlkit, torch, sb3 and single_file (default: all but torch)"
    )
    parser.add_argument(
        "--peers-python", type=Path, nargs="*", default=[], help="those of other libraries' environments"
    )
    parser.add_argument("--cores", type=int, default=1, help="that all systems run on (default 1)")
    parser.add_argument("--no-evaluations", action="store_true", help="neither during training nor at its end")
    parser.add_argument("--resume", action="store_true", help="keep the runs that are in results already")
    parser.add_argument("--results", type=Path, default=HERE / "results", help="folder to write to")
    given = parser.parse_args()
    workload = WORKLOADS[given.workload]
    timesteps = given.timesteps or workload.timesteps
    measurable = [name for name in PEERS if given.no_evaluations or name not in WITHOUT_EVALUATIONS]
    peers = found_peers(given.peers_python, measurable) if given.workload in PEERS_WORKLOADS else {}
    systems = [*systems_of(workload), *peers]
    systems = [name for name in systems if not given.systems or name.split(":")[0] in given.systems]
    peers = {name: peer for name, peer in peers.items() if name in systems}
    cores = sorted(os.sched_getaffinity(0))[-given.cores :]
    kind, more = ("training", ["0"]) if given.no_evaluations else ("throughput", [])
    file = given.results / f"{kind}_{given.workload}{f'_{len(cores)}_cores' if len(cores) > 1 else ''}.json"
    report: dict[str, Any] = {
        "command": f"python {SCRIPT} --workload {given.workload} --repetitions {given.repetitions} "
        f"--timesteps {timesteps}"
        + (f" --systems {' '.join(given.systems)}" if given.systems else "")
        + (f" --cores {len(cores)}" if len(cores) > 1 else "")
        + (" --no-evaluations" if given.no_evaluations else "")
        + (" --peers-python PATH …" if peers else ""),
        "workload": asdict(workload),
        "cores": len(cores),
        "evaluations": not given.no_evaluations,
        "machine": machine(),
        "versions": {
            "rlkit": rlkit.__version__,
            "python": platform.python_version(),
            **{name: version(name) for name in PACKAGES},
            **{name: peer.version for name, peer in peers.items()},
        },
        "runs": [],
        "profile": None,
    }
    if given.resume and file.exists():
        before = json.loads(file.read_text())
        report |= {key: before[key] for key in ("runs", "profile")}
    given.results.mkdir(parents=True, exist_ok=True)
    os.sched_setaffinity(0, cores)
    os.environ |= dict.fromkeys(THREADS, str(len(cores)))
    for seed in range(given.repetitions):
        for system in systems if seed % 2 == 0 else systems[::-1]:
            if any((run["system"], run["seed"]) == (system, seed) for run in report["runs"]):
                continue
            python = peers[system].python if system in peers else Path(sys.executable)
            run, _ = timed_run(given.workload, system, timesteps, seed, python, *more)
            report["runs"].append(run)
            print({key: round(value, 1) if isinstance(value, float) else value for key, value in run.items()})
            file.write_text(json.dumps(report, indent=2) + "\n")
    if report["profile"] is None:
        _, report["profile"] = timed_run(given.workload, PROFILED, timesteps, 0, Path(sys.executable), *more)
    report["summary"] = summary(report["runs"], rate(report))
    file.write_text(json.dumps(report, indent=2) + "\n")
    table = markdown(report)
    file.with_suffix(".md").write_text(table)
    print(f"\n{table}")


def systems_of(workload: Workload) -> list[str]:
    """Returns the names of the systems that are compared on a workload."""
    numbers = workload.sb3_num_envs
    plain = ["single_file"] if workload.agent in ("ppo", "dqn") and not numbers else []
    return ["rlkit", *([f"sb3:{number}" for number in numbers] or ["sb3"]), *plain]


class Peer(NamedTuple):
    """Another library: the Python of the environment that has it, and its version there."""

    python: Path
    version: str


def found_peers(pythons: list[Path], packages: list[str]) -> dict[str, Peer]:
    """Returns other libraries by the names of their systems; ends this program if a Python has none of them."""
    code = (
        "import json; from importlib.metadata import distributions; "
        "print(json.dumps({found.name.replace('_', '-'): found.version for found in distributions()}))"
    )
    peers: dict[str, Peer] = {}
    for python in pythons:
        done = subprocess.run([python, "-c", code], capture_output=True, text=True, check=False)
        installed = json.loads(done.stdout) if done.returncode == 0 else {}
        has = {name.partition("-")[0]: Peer(python, installed[name]) for name in packages if name in installed}
        if not has:
            sys.exit(f"--peers-python {python} has none of {', '.join(packages)}\n{done.stderr}")
        peers |= has
    return peers


def timed_run(
    workload: str, system: str, timesteps: int, seed: int, python: Path, *more: str
) -> tuple[dict[str, Any], Any]:
    """Makes one run in a fresh process; returns its measures and rlkit's profile, if it was profiled.

    timed_training.py measures inside the process, and this function measures the process from outside.
    """
    with tempfile.TemporaryDirectory() as run_dir:
        script = str(HERE / "timed_training.py")
        command = [str(python), script, workload, system, run_dir, str(timesteps), str(seed), *more]
        log = Path(run_dir) / "log.txt"
        started, start = time.time(), time.perf_counter()
        with log.open("w") as output:
            process = subprocess.Popen(command, stdout=output, stderr=subprocess.STDOUT)
            _, status, usage = os.wait4(process.pid, 0)
        wall = time.perf_counter() - start
        process.returncode = os.waitstatus_to_exitcode(status)
        if process.returncode != 0:
            sys.exit(f"{' '.join(command)} failed:\n{log.read_text()}")
        timing = json.loads((Path(run_dir) / "timing.json").read_text())
        profile = Path(run_dir) / "run" / "profile.json"
        profiled = json.loads(profile.read_text()) if profile.exists() else None
    run = {
        "system": system,
        "seed": seed,
        "train_steps_per_s": timing["steps"] / timing["train_wall_s"],
        "train_steps_per_cpu_s": timing["steps"] / timing["train_cpu_s"],
        "process_wall_s": wall,
        "process_cpu_s": usage.ru_utime + usage.ru_stime,
        "compile_s": timing["compile_s"] or None,
        "solved_s": timing["solved_at"] and timing["solved_at"] - started,
        "gradient_steps": timing["gradient_steps"],
        "eval_return": timing["eval_return"],
    }
    return run, profiled


def rate(report: dict[str, Any]) -> str:
    """Returns the measure that goals are about: steps per CPU second on one core, steps per second on several.

    Several cores are there to save time, not work.
    """
    return "train_steps_per_cpu_s" if report.get("cores", 1) == 1 else "train_steps_per_s"


def summary(runs: list[dict[str, Any]], rate: str = "train_steps_per_cpu_s") -> dict[str, Any]:
    """Returns for each measure every system's median, lowest and highest value, and rlkit's median relative to SB3's.

    Of SB3's numbers of environments, the one with the highest `rate` is compared. A measure that a system does not have
    in every run is left out.
    """
    systems = list(dict.fromkeys(run["system"] for run in runs))
    found: dict[str, Any] = {}
    theirs = fastest_sb3(runs, rate)
    for key, measure in MEASURES.items():
        found[key] = {}
        for name in systems:
            values = [run[key] for run in runs if run["system"] == name]
            if None not in values:
                found[key][name] = {"median": median(values), "min": min(values), "max": max(values)}
        if measure.better and "rlkit" in found[key] and theirs in found[key]:
            ratio = found[key]["rlkit"]["median"] / found[key][theirs]["median"]
            found[key]["ratio"] = ratio**measure.better
    return found


def fastest_sb3(runs: list[dict[str, Any]], rate: str) -> str | None:
    """Returns the name of SB3's fastest system."""
    names = {run["system"] for run in runs if run["system"].startswith("sb3")}
    speed = {name: median(run[rate] for run in runs if run["system"] == name) for name in names}
    return max(sorted(names), key=speed.__getitem__, default=None)


def markdown(report: dict[str, Any]) -> str:
    """Returns the summary as a table in Markdown, with the command, the machine, and rlkit's profile."""
    versions, found = report["versions"], report["summary"]
    goal = report["workload"]["goal"]
    systems = list(dict.fromkeys(run["system"] for run in report["runs"]))
    repetitions = len({run["seed"] for run in report["runs"]})
    titles = {name: title(name, versions) for name in systems}
    measured = {name.partition("-")[0] for name in PEERS} & set(systems)
    missing = "" if measured else NOT_MEASURED
    lines = [
        f"{report['workload']['title']}: medians (lowest – highest) of {repetitions} runs of each system, in turn.",
        "",
        f"`{report['command']}`, on {report.get('cores', 1)} of {report['machine']}; Python {versions['python']}, "
        f"torch {versions['torch']}. {missing}{report.get('note', '')}",
        "",
        f"| | {' | '.join(titles.values())} | rlkit and SB3 |",
        "|---|" + "---|" * (len(systems) + 1),
    ]
    for key, measure in MEASURES.items():
        row = found[key]
        if not any(name in row for name in systems):
            continue
        cells = [
            f"{row[name]['median']:,.{measure.digits}f} "
            f"({row[name]['min']:,.{measure.digits}f} – {row[name]['max']:,.{measure.digits}f})"
            if name in row
            else ""
            for name in systems
        ]
        ratio = f"**{row['ratio']:.2f} ×**" if "ratio" in row else ""
        aim = f" (goal {goal:g} ×)" if key == rate(report) and goal else ""
        lines.append(f"| {measure.title} | {' | '.join(cells)} | {ratio}{aim} |")
    if measured and not report.get("evaluations", True):
        lines += rows_beside(report, systems)
    return "\n".join(lines) + "\n" + profile_table(report["profile"])


def rows_beside(report: dict[str, Any], systems: list[str]) -> list[str]:
    """Returns rows of steps per CPU second: rlkit's in multiples of the others', and each in shares of the floor.

    The floor is nothing but environments and matrix products; shares of it travel from one machine to another.
    """
    profile, speeds = report["profile"], report["summary"]["train_steps_per_cpu_s"]
    floor = profile["timesteps"] / (profile["floor"]["env_seconds"] + profile["floor"]["products_seconds"])
    medians = [speeds[name]["median"] for name in systems]
    ours = speeds["rlkit"]["median"]
    return [
        f"| rlkit's, times theirs | {' | '.join(f'{ours / theirs:.2f}' for theirs in medians)} | |",
        f"| share of the floor ({floor:,.0f}) | {' | '.join(f'{theirs / floor:.0%}' for theirs in medians)} | |",
    ]


def title(system: str, versions: dict[str, str]) -> str:
    """Returns the title of a system's column."""
    name, _, num_envs = system.partition(":")
    named = {"rlkit": f"rlkit {versions['rlkit']}", "sb3": f"SB3 {versions['stable-baselines3']}"}
    for peer, called in {"tianshou": "Tianshou", "torchrl": "torchrl", "sbx": "SBX", "rlox": "rlox"}.items():
        named[peer] = f"{called} {versions.get(peer)}"
    named["torch"] = f"{named['rlkit']} without its C engine"
    return named.get(name, "a script in CleanRL's style") + (f", {num_envs} environments" if num_envs else "")


def profile_table(profile: dict[str, Any] | None) -> str:
    """Returns the shares of rlkit's time as a table in Markdown; an empty string without a profile."""
    if profile is None:
        return ""
    floor = profile["floor"]
    sections = {name: section for name, section in profile["sections"].items() if section["share"] >= 0.005}
    return (
        "\nWhere rlkit's time goes (`profile=true`): stepping the environments "
        f"({floor['env_seconds']:.2f} s) and matrix products ({floor['products_seconds']:.2f} s) alone would take "
        f"{floor['share']:.0%} of the training time without evaluations.\n\n"
        f"| {' | '.join(sections)} |\n|{'---|' * len(sections)}\n"
        f"| {' | '.join(format(section['share'], '.1%') for section in sections.values())} |\n"
    )


def machine() -> str:
    """Returns the number of cores, the processor's name, and the vector instructions of rlkit's C engine."""
    vectors = f", rlkit's C engine with {native.simd()}" if native.missing is None else ""
    return f"{os.cpu_count()} cores of {processor(model=True)}{vectors}"


if __name__ == "__main__":
    main()
