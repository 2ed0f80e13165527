"""The command `python -m rlkit.export RUN`, which writes an agent or a companion model as an ONNX file."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from rlkit.errors import RlkitError
from rlkit.runs.command import exit_code
from rlkit.system.imports import NothingImportedFrom
from rlkit.system.terminal import prepare, say
from rlkit.system.user_paths import user_path

USAGE = """\
usage: python -m rlkit.export RUN [file=PATH] [observations=1000]

Writes the agent or companion model in RUN as an ONNX file, and checks it with onnxruntime against `predict`.
RUN is a run folder (its best checkpoint, else its last), a checkpoint folder, or a model.safetensors file.
  file=PATH            The file to write; by default model.onnx in the checkpoint folder.
  observations=1000    Observations, drawn from the agent's space, that the file is checked on.
For example: python -m rlkit.export runs/ppo/CartPole-v1/2026-01-31_12-00-00-seed0 file=cartpole.onnx
"""
OPTIONS = ("file", "observations")


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command and returns its exit code: 0, 2 for a mistake of the user's, 130 after Ctrl-C."""
    prepare()
    arguments = sys.argv[1:] if arguments is None else arguments
    if {"-h", "--help"} & set(arguments):
        say(USAGE)
        return 0
    return exit_code(lambda: _export_and_report(*parse(arguments)))


def parse(arguments: Sequence[str]) -> tuple[str, str | None, int]:
    """Returns the run, the file and the number of observations; raises RlkitError for what is neither."""
    from rlkit.errors import unknown

    options: dict[str, str] = {}
    runs = []
    for argument in arguments:
        key, equals, value = argument.partition("=")
        if equals and key in OPTIONS:
            options[key] = value
        elif equals and key.isidentifier() and not user_path(argument).exists():
            raise unknown("option", key, OPTIONS)
        else:
            runs.append(argument)
    if len(runs) != 1 or runs[0].startswith("-"):
        given = f"not {' and '.join(runs)}" if runs else "and none was given"
        raise RlkitError(f"expected one run folder, checkpoint or model file, {given} (--help says more)")
    observations = options.get("observations", "1000")
    if not observations.isascii() or not observations.isdigit() or not 1 <= int(observations) <= 10**6:
        raise RlkitError(f"observations={observations} is no number of observations: expected 1 to 1,000,000")
    return runs[0], options.get("file"), int(observations)


def _export_and_report(run: str, file: str | None, observations: int) -> None:
    with NothingImportedFrom(user_path(run)):
        from rlkit.export.exporting import export

        exported = export(run, file, observations=observations)
    worst = ", ".join(f"{name} {value:.0e}" for name, value in exported.differences.items())
    say(f"written: {exported.file} ({exported.file.stat().st_size:,} bytes)")
    say(f"onnxruntime agrees on {exported.observations:,} observations; largest differences: {worst or 'none'}")
    if exported.actions_differ:
        say(f"of these, {exported.actions_differ} are choices between two that are equal but for rounding")


if __name__ == "__main__":
    sys.exit(main())
