"""The command `python -m rlkit.runs`: lists run folders, and with `--watch` looks again and again."""

from __future__ import annotations

import re
import shutil
import sys
import time
from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path
from typing import IO, cast

from rlkit.errors import unknown
from rlkit.runs.command import exit_code, typed_options, usage_with_options
from rlkit.runs.listing import COLUMNS, ListConfig, Row, folders_of, rows_of
from rlkit.system.terminal import Terminal, prepare, say
from rlkit.system.user_paths import user_path

NUMBERS = ("seed", "timesteps", "return", "steps/s")
"""Columns that stand on the right."""
MOST_CUT = 20
"""Characters of a folder that are shown at least, however narrow the terminal is."""
USAGE = """\
usage: python -m rlkit.runs [FOLDER …] [--watch] [key=value …]

Lists run folders, those in runs/ or in the folders that are named, the latest last. --watch looks again every two
seconds and shows how far they are, until Ctrl-C.
For example: python -m rlkit.runs agent=ppo status=finished sort=return
"""


def help_text() -> str:
    """Returns the text that `--help` prints."""
    return usage_with_options(USAGE, ListConfig(), width=18)


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command and returns its exit code: 0, 2 for a mistake of the user's, 130 after Ctrl-C."""
    prepare()
    arguments = sys.argv[1:] if arguments is None else list(arguments)
    if {"-h", "--help"} & set(arguments):
        say(help_text())
        return 0
    return exit_code(lambda: show(*parse(arguments)))


def show(folders: Sequence[Path], config: ListConfig, watching: bool) -> None:
    """Prints the table of runs, once or again and again."""
    rows = rows_of(config, folders)
    if watching:
        watch(config, folders)
    elif rows:
        terminal = Terminal(sys.stdout)
        width = shutil.get_terminal_size().columns if terminal.isatty() else None
        say("\n".join(lines_of(rows, width)))
    else:
        say("no run is like that")


def parse(arguments: Sequence[str]) -> tuple[list[Path], ListConfig, bool]:
    """Returns the folders, the options, and whether to watch; raises RlkitError for a mistake."""
    own = [option.name for option in fields(ListConfig)]
    named, options = [], []
    for argument in arguments:
        key = re.match(r"([\w/]+)=", argument)
        if argument == "--watch":
            continue
        if argument.startswith("-"):
            raise unknown("option", argument, ["--watch", "--help"])
        if key is not None and (key[1] in own or not user_path(argument).exists()):
            options.append(argument)
        else:
            named.append(argument)
    config = typed_options("runs", ListConfig, options)
    return folders_of(config, named), config, "--watch" in arguments


def lines_of(rows: Sequence[Row], width: int | None = None) -> list[str]:
    """Returns the table as lines, which are cut to a width; folders lose their beginning, which is often the same."""
    cells = [list(COLUMNS), *([row.text(column) for column in COLUMNS] for row in rows)]
    widths = [max(len(line[i]) for line in cells) for i in range(len(COLUMNS))]
    if width is not None:
        widths[-1] = max(MOST_CUT, min(widths[-1], width - sum(widths[:-1]) - 2 * len(widths[:-1])))
    lines = []
    for line in cells:
        line[-1] = line[-1] if len(line[-1]) <= widths[-1] else f"…{line[-1][1 - widths[-1] :]}"
        padded = [
            cell.rjust(size) if column in NUMBERS else cell.ljust(size)
            for column, cell, size in zip(COLUMNS, line, widths, strict=True)
        ]
        lines.append("  ".join(padded).rstrip())
    return lines


def watch(config: ListConfig, folders: Sequence[Path]) -> None:
    """Shows the table again and again, until Ctrl-C."""
    from rich.console import Console
    from rich.live import Live
    from rich.text import Text

    console = Console(file=cast(IO[str], Terminal(sys.stdout)), highlight=False)

    def now() -> Text:
        lines = lines_of(rows_of(config, folders), console.width)
        return Text("\n".join(lines[:1] + lines[1:][-max(1, console.height - 3) :]), no_wrap=True)

    with Live(now(), console=console, auto_refresh=False) as live:
        while True:
            time.sleep(config.every)
            live.update(now(), refresh=True)


if __name__ == "__main__":
    sys.exit(main())
