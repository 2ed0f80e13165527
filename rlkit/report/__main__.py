"""The command `python -m rlkit.report RUN…`: finished runs, or running ones, as one page of HTML."""

from __future__ import annotations

import re
import sys
from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path

from rlkit.errors import RlkitError, unknown
from rlkit.report.config import ReportConfig
from rlkit.runs.command import exit_code, typed_options, usage_with_options
from rlkit.system.terminal import prepare, say
from rlkit.system.user_paths import user_path

USAGE = """\
usage: python -m rlkit.report RUN [RUN …] [--png] [--svg] [key=value …]

Writes one HTML file about runs, which needs no network: interactive curves, tables, what differs between the
configurations, videos, environments and versions. RUN is a run folder, or a folder with run folders in it, as a
sweep's or a comparison's. Runs that are equal but for the seed are averaged, with 95 % intervals.
For example: python -m rlkit.report runs/ppo runs/a2c out=report.html --png
"""


def help_text() -> str:
    """Returns the text that `--help` prints."""
    return usage_with_options(USAGE, ReportConfig())


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command and returns its exit code: 0, 2 for a mistake of the user's, 130 after Ctrl-C."""
    prepare()
    arguments = sys.argv[1:] if arguments is None else list(arguments)
    if not arguments or {"-h", "--help"} & set(arguments):
        say(help_text())
        return 0
    return exit_code(lambda: write_report(*parse(arguments)))


def parse(arguments: Sequence[str]) -> tuple[list[Path], ReportConfig]:
    """Returns the folders and the options; raises RlkitError for a mistake in them."""
    own = [option.name for option in fields(ReportConfig)]
    folders, options = [], []
    for argument in arguments:
        key = re.match(r"(\w+)=", argument)
        if argument in ("--png", "--svg"):
            options.append(f"{argument[2:]}=true")
        elif argument.startswith("-"):
            raise unknown("option", argument, ["--png", "--svg", "--help"])
        elif key is not None and (key[1] in own or not user_path(argument).exists()):
            options.append(argument)
        else:
            folders.append(user_path(argument))
    config = typed_options("report", ReportConfig, options)
    if not folders:
        raise RlkitError("expected run folders, or folders with run folders in them (--help says more)")
    return folders, config


def write_report(folders: Sequence[Path], config: ReportConfig) -> None:
    """Writes the page, and pictures if asked for, and says where; raises RlkitError for what cannot be read."""
    from rlkit.report.figures import draw_returns
    from rlkit.report.runs_page import runs_page
    from rlkit.report.sides import sides_of
    from rlkit.runs.files import make_folder, write_text
    from rlkit.runs.stored_runs import find_runs

    runs = find_runs(folders)
    path = user_path(config.out) if config.out else folders[0] / "report.html"
    make_folder(path.parent)
    write_text(path, runs_page(runs, config.title, config.videos_mb))
    say(f"{len(runs)} {'run' if len(runs) == 1 else 'runs'}: {path}")
    for kind in [kind for kind in ("png", "svg") if getattr(config, kind)]:
        say(f"picture: {draw_returns(sides_of(runs), path.with_suffix(f'.{kind}'))}")


if __name__ == "__main__":
    sys.exit(main())
