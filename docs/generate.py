"""Writes docs/configuration.md from the dataclasses that define the configuration, or with `--check` compares it."""

from __future__ import annotations

import json
import sys
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import Any

from rlkit.agents import VARIANTS
from rlkit.compare.config import CompareConfig
from rlkit.config import EnvConfig, TrainConfig
from rlkit.evaluate import EvaluateConfig
from rlkit.report.config import ReportConfig
from rlkit.runs.field_docs import field_docs
from rlkit.runs.listing import ListConfig
from rlkit.runs.loggers import LOGGERS
from rlkit.setting import NetworkConfig

PAGE = Path(__file__).parent / "configuration.md"
INTRODUCTION = """\
# Configuration

Every field, with its default. Written by `docs/generate.py` (`make format`) from the dataclasses: change it there.

On the command line a field is `key=value`, with the prefix of its table: `agent.gamma=0.95`. From Python it is a
keyword, nested or dotted: `rlkit.train(network={"hidden_sizes": [32]}, **{"agent.gamma": 0.95})`. The order of
precedence is: defaults, then tuned values for the agent and the environment (`conf/tuned/`, dropped by `~tuned`), then
an [experiment](experiments.md)'s, then yours.
"""


def page() -> str:
    """Returns the text of docs/configuration.md."""
    sections = [
        INTRODUCTION,
        section("The run", "", TrainConfig(), without=("agent", "env", "network")),
        section("The environment", "env.", EnvConfig(), "`env=<id>` chooses it.", without=("id",)),
        section("The network", "network.", NetworkConfig()),
    ]
    for config in {variant.config: None for variant in VARIANTS.values()}:
        sections.append(section(f"agent={config().name}", "agent.", config(), variants(config)))
    for name, kind in LOGGERS.items():
        sections.append(section(f"logger={name}", f"logger.{name}.", kind.config()))
    sections.append(section("python -m rlkit.evaluate RUN", "", EvaluateConfig()))
    sections.append(section("python -m rlkit.compare", "", CompareConfig()))
    sections.append(section("python -m rlkit.report RUN…", "", ReportConfig()))
    sections.append(section("python -m rlkit.runs", "", ListConfig()))
    return "\n".join(sections)


def section(title: str, prefix: str, config: Any, note: str = "", without: Collection[str] = ()) -> str:
    """Returns a heading, the docstring of the config's dataclass with a `note`, and a table of its fields."""
    lines = [f"## {title}", "", " ".join(part for part in (type(config).__doc__, note) if part), ""]
    rows = [
        " | ".join(
            (
                f"| `{prefix}{field.name}`",
                field.type.replace("|", "or"),
                f"`{shown(field.default)}`",
                escaped(field.doc),
            )
        )
        + " |"
        for field in field_docs(config, without)
    ]
    if rows:
        lines += ["| field | type | default | |", "|---|---|---|---|", *rows, ""]
    return "\n".join(lines)


def variants(config: type[Any]) -> str:
    """Returns a sentence about the other names of this agent, with the fields that they set."""
    named = {
        name: ", ".join(f"`agent.{key}={value}`" for key, value in dotted(variant.fields))
        for name, variant in VARIANTS.items()
        if variant.config is config and name != config().name
    }
    return " ".join(f"`agent={name}` is the same with {fields}." for name, fields in named.items())


def dotted(fields: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    """Yields the fields by their dotted names; a mapping among them is a group of fields."""
    for name, value in fields.items():
        if isinstance(value, Mapping):
            yield from ((f"{name}.{key}", item) for key, item in dotted(value))
        else:
            yield name, value


def shown(value: Any) -> str:
    """Returns a default as it is written on the command line."""
    return value if isinstance(value, str) else json.dumps(value)


def escaped(text: str) -> str:
    """Returns text that is safe in a cell of a table; code in backquotes is left as it is."""
    parts = text.replace("|", "\\|").split("`")
    return "`".join(part if i % 2 else part.replace("<", "&lt;") for i, part in enumerate(parts))


def main() -> None:
    """Writes the page, or with --check exits with 1 if it is not up to date."""
    if "--check" not in sys.argv[1:]:
        PAGE.write_text(page(), encoding="utf-8")
    elif PAGE.read_text(encoding="utf-8") != page():
        sys.exit(f"{PAGE.name} is not current: run python docs/generate.py")


if __name__ == "__main__":
    main()
