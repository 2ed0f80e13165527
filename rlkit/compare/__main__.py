"""The command `python -m rlkit.compare`: agents beside Stable-Baselines3's, or finished runs beside each other."""

from __future__ import annotations

import re
import shlex
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING

from rlkit.compare.config import CompareConfig
from rlkit.errors import RlkitError
from rlkit.runs.command import INTERRUPTED, exit_code, typed_options, usage_with_options
from rlkit.system.terminal import prepare, say
from rlkit.system.user_paths import user_path

if TYPE_CHECKING:
    from rlkit.runs.stored_runs import StoredRun

USAGE = """\
usage: python -m rlkit.compare agent=NAME[,NAME…] env=ID[,ID…] [key=value …]
       python -m rlkit.compare RUN RUN… [folder=FOLDER threshold=RETURN]

Trains rlkit's agents and Stable-Baselines3's on the same environments, seeds and budgets, with the same
hyperparameters and network, one run after the other, each in a process of its own, and evaluates all of them alike.
Every field of training is understood, `total_timesteps=…` and `agent.learning_rate=…` too; ~tuned compares both
sides at their own defaults. The results go into one folder: comparison.json, report.html and all runs. The same
command goes on where it was stopped, and runs nothing again that is finished; with more seeds it adds those.
With run folders, or folders of them, nothing is trained: those with equal settings but for the seed are one side.
For example: python -m rlkit.compare agent=ppo,dqn env=CartPole-v1 seeds=5 total_timesteps=50_000
"""


def help_text() -> str:
    """Returns the text that `--help` prints."""
    return usage_with_options(USAGE, CompareConfig())


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command and returns its exit code: 0, 2 for a mistake or a failed run, 130 after Ctrl-C."""
    prepare()
    arguments = sys.argv[1:] if arguments is None else list(arguments)
    if not arguments or {"-h", "--help"} & set(arguments):
        say(help_text())
        return 0
    code = exit_code(lambda: compare(arguments))
    if code == INTERRUPTED:
        say("interrupted: the same command goes on from here", "stderr")
    return code


def compare(arguments: Sequence[str]) -> int:
    """Does what the command line says, and returns the exit code."""
    runs, config, overrides = parse(arguments)
    return compare_runs(runs, config, arguments) if runs else compare_agents(config, overrides, arguments)


def parse(arguments: Sequence[str]) -> tuple[list[Path], CompareConfig, list[str]]:
    """Returns the run folders, the options, and the overrides of training; raises RlkitError for a mistake."""
    from rlkit.runs import grammar

    own = {option.name for option in fields(CompareConfig)}
    runs, options, overrides = [], [], []
    for argument in arguments:
        key = re.match(r"[+~]*([\w/.@-]+)=", argument)
        if argument.startswith("-"):
            raise RlkitError(f"unknown option '{argument}': options are key=value, and --help")
        if key is None and not argument.startswith("~"):
            runs.append(user_path(argument))
        elif key is not None and key[1].partition(".")[0] in own:
            options.append(argument)
        else:
            overrides.append(argument)
    if runs and overrides:
        raise RlkitError(
            f"{overrides[0]} is for training, and {runs[0]} is a run: expected run folders alone, or agent=… and env=…"
        )
    config = typed_options("compare", CompareConfig, options, open_fields=["sb3_args"])
    return runs, config, grammar.with_homes(overrides)


def compare_agents(config: CompareConfig, overrides: Sequence[str], arguments: Sequence[str]) -> int:
    """Trains what is missing, and reports; returns the exit code."""
    from rlkit.cli.composition import APP
    from rlkit.compare.plan import make_plan, missing
    from rlkit.compare.processes import run_tasks
    from rlkit.runs.files import make_folder
    from rlkit.runs.folder_lock import FolderLock
    from rlkit.runs.hydra_app import readable_errors
    from rlkit.runs.stored_runs import StoredRun

    with readable_errors(APP):
        plan = make_plan(config, overrides)
    lock = FolderLock(make_folder(plan.folder))
    try:
        tasks = missing(plan)
        values = "the same hyperparameters and network" if plan.same else "its own defaults on each side"
        say(f"{len(plan.tasks)} runs, {len(plan.tasks) - len(tasks)} of them finished; {values}; {plan.folder}")
        for note in plan.notes:
            say(f"not equal: {note}")
        if tasks:
            say(f"how far they are: python -m rlkit.runs {shlex.quote(str(plan.folder))} --watch")
        failures = run_tasks(tasks, same=plan.same, more=config.sb3_args, jobs=config.jobs, say=say)
        groups: dict[str, dict[str, list[StoredRun]]] = {}
        for task in plan.tasks:
            groups.setdefault(task.group, {}).setdefault(task.side, []).append(StoredRun(task.run_dir))
        warnings = [f"FAILED: {failure}" for failure in failures]
        if config.jobs > 1:
            warnings.append(f"jobs={config.jobs}: runs were made side by side, which disturbs all their times")
        report(groups, plan.folder, config, arguments, warnings, plan.notes)
    finally:
        lock.release()
    if failures:
        raise RlkitError(f"{len(failures)} of {len(plan.tasks)} runs failed: {failures[0]}")
    return 0


def compare_runs(paths: Sequence[Path], config: CompareConfig, arguments: Sequence[str]) -> int:
    """Compares run folders that are there already; returns the exit code."""
    from rlkit.report.sides import sides_of
    from rlkit.runs.files import make_folder
    from rlkit.runs.stored_runs import find_runs

    runs = find_runs(paths)
    folder = make_folder(Path(config.folder) if config.folder else Path("runs", "compare", "runs"))
    report(sides_of(runs), folder, config, arguments, [], [])
    return 0


def report(
    groups: Mapping[str, Mapping[str, Sequence[StoredRun]]],
    folder: Path,
    config: CompareConfig,
    arguments: Sequence[str],
    warnings: Sequence[str],
    notes: Sequence[str],
) -> None:
    """Writes comparison.json and report.html, and prints the table; raises RlkitError if no run has a result."""
    from rlkit.compare import results
    from rlkit.compare.output import page_html, terminal_text
    from rlkit.runs.files import write_json, write_text

    summarized = results.summarized(groups, config.threshold)
    if not summarized:
        raise RlkitError("; ".join([*warnings, "no run is finished and has a final evaluation: nothing to compare"]))
    runs = [run for sides in groups.values() for side in sides.values() for run in side]
    comparison = results.Comparison(
        command=shlex.join(["python", "-m", "rlkit.compare", *arguments]),
        created=time.strftime("%Y-%m-%d %H:%M"),
        machine=results.machine(),
        groups=summarized,
        overall=results.overall(summarized),
        warnings=list(warnings),
        notes=list(notes),
        versions=results.versions_of(runs),
    )
    write_json(folder / "comparison.json", results.as_json(comparison))
    write_text(folder / "report.html", page_html(comparison))
    say("")
    say(terminal_text(comparison))
    say(f"\nreport: {folder / 'report.html'}\nnumbers: {folder / 'comparison.json'}")


if __name__ == "__main__":
    sys.exit(main())
