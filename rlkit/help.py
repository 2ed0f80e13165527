"""The text of `--help`, from the documentation that stands below each field of the configs."""

from __future__ import annotations

import ast
import dataclasses
import inspect
import os
import shutil
import sys
import textwrap
from importlib import resources
from typing import Any, NamedTuple

from rlkit.agents import VARIANTS
from rlkit.config import EnvConfig, NetworkConfig, TrainConfig
from rlkit.errors import unknown
from rlkit.loggers import LOGGERS

USAGE = """\
Train a reinforcement learning agent. `rlkit` and `python -m rlkit` are the same command.

  rlkit agent=ppo env=CartPole-v1                      train
  rlkit agent=ppo env=CartPole-v1 agent.gamma=0.95     override any field below
  rlkit experiment=book_dqn seed=1                     an agent, an environment and all values that go with them
  rlkit -m agent=ppo,ppo_kl env=CartPole-v1 seed=0,1   train every combination
  rlkit agent=ppo env=CartPole-v1 --cfg job            print the configuration instead of training
  python -m rlkit.evaluate RUN episodes=20 video=true  evaluate a run folder or checkpoint, record videos

Tuned values for an agent and an environment apply by themselves where there are some: they beat the defaults
below, and lose to an experiment, which loses to the command line; ~tuned leaves them out. hydra.run.dir=FOLDER
moves the run folder. Options with a dash go before or after the key=value arguments, not between them;
--hydra-help lists Hydra's own."""


class FieldDoc(NamedTuple):
    """What there is to know about one field of a config dataclass."""

    name: str
    type: str
    default: Any
    doc: str


def field_docs(config: Any) -> list[FieldDoc]:
    """The fields of a config (an instance: its values are the defaults), each with the docstring below it."""
    (body,) = ast.parse(textwrap.dedent(inspect.getsource(type(config)))).body
    assert isinstance(body, ast.ClassDef)
    docs = {
        statement.target.id: " ".join(following.value.value.split())
        for statement, following in zip(body.body, body.body[1:], strict=False)
        if isinstance(statement, ast.AnnAssign) and isinstance(statement.target, ast.Name)
        if isinstance(following, ast.Expr) and isinstance(following.value, ast.Constant)
        if isinstance(following.value.value, str)
    }
    return [
        FieldDoc(field.name, str(field.type), getattr(config, field.name), docs.get(field.name, ""))
        for field in dataclasses.fields(config)
    ]


def help_text(agent: str) -> str:
    """What `agent=<agent> --help` prints; raises RlkitError for an unknown agent."""
    if agent not in VARIANTS:
        raise unknown("agent", agent, VARIANTS)
    variant = VARIANTS[agent]
    chosen = f"agent=NAME, one of: {', '.join(VARIANTS)}"
    folder = resources.files("rlkit.conf") / "experiment"
    experiments = sorted(file.name.removesuffix(".yaml") for file in folder.iterdir())
    env = "env=ID, any Gymnasium id: CartPole-v1, ALE/Pong-v5, my_package.module:MyEnv-v0"
    sections = [
        USAGE,
        f"experiment=NAME, one of: {', '.join(experiments)}",
        _section(f"{chosen}\n{agent}:", "agent.", variant.config(**variant.fields)),
        _section(f"{env}\nOf the environment:", "env.", EnvConfig()),
        _section("Of the network:", "network.", NetworkConfig()),
        _section("Of the run:", "", TrainConfig(**variant.run)),
    ]
    for name, kind in LOGGERS.items():
        if dataclasses.fields(kind.config):
            sections.append(_section(f"With logger={name}:", f"logger.{name}.", kind.config()))
    return "\n\n".join(sections)


def _section(title: str, prefix: str, config: Any) -> str:
    width = min(shutil.get_terminal_size().columns, 120)
    lines = [title]
    for field in field_docs(config):
        if dataclasses.is_dataclass(field.default) or field.name in ("agent", "id"):
            continue  # has a section of its own, or is chosen by name
        lines.append(f"  {prefix}{field.name}={_as_override(field.default)}  ({field.type})")
        lines += textwrap.wrap(field.doc, width, initial_indent=" " * 6, subsequent_indent=" " * 6)
    return "\n".join(lines)


def _as_override(value: Any) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    return "null" if value is None else str(value)


def show(text: str) -> None:
    """Prints a help text; ends quietly when `head` or a pager has read enough of it."""
    try:
        print(text, flush=True)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # or Python would flush again, and complain
