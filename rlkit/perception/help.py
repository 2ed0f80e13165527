"""The text of `python -m rlkit.perception --help`."""

from __future__ import annotations

import dataclasses
import textwrap
from collections.abc import Sequence

from rlkit.errors import unknown
from rlkit.perception.config import FitConfig, PerceptionConfig
from rlkit.perception.config_source import fields_of, recipes, table
from rlkit.runs.field_docs import as_override, section

USAGE = """\
Train a companion model: a network, a data set and all settings that go with them.

  python -m rlkit.perception recipe=lenet-digits                         train; needs no files
  python -m rlkit.perception.fetch mnist data_root=FOLDER                fetch a data set
  python -m rlkit.perception recipe=lenet-mnist data_root=FOLDER seed=1  train on it
  python -m rlkit.perception recipe=lenet-mnist fit.epochs=3 model=mlp   override any field below
  python -m rlkit.perception -m recipe=lenet-mnist,mlp-mnist seed=0,1    train every combination
  python -m rlkit.perception resume=RUN                                  go on with a run that was stopped"""


def help_text(arguments: Sequence[str]) -> str:
    """Returns the help text: the choices of each group, the fields of those in `arguments`, and the run's settings."""
    sections = [USAGE, _listing("recipe", recipes())]
    for group, default in (("data", "digits"), ("model", "lenet"), ("task", "classification")):
        names = sorted(table(group))
        given = [argument.removeprefix(f"{group}=") for argument in arguments if argument.startswith(f"{group}=")]
        chosen = given[-1] if given else default
        if chosen not in names:
            raise unknown(group, chosen, names)
        fields = dataclasses.fields(fields_of(group, chosen))
        doc = (table(group)[chosen].__doc__ or "").splitlines()[0]
        lines = [_listing(group, names), f"{group}={chosen}: {doc}"]
        instance = fields_of(group, chosen)()
        lines += [f"  {group}.{field.name}={as_override(getattr(instance, field.name))}" for field in fields]
        sections.append("\n".join(lines))
    sections.append(section("Settings of the training:", "fit.", FitConfig()))
    sections.append(section("Settings of the run:", "", PerceptionConfig(), without=("fit",)))
    return "\n\n".join(sections)


def _listing(group: str, names: Sequence[str]) -> str:
    return textwrap.fill(f"{group}=NAME, one of: {', '.join(names)}", 100, subsequent_indent="  ")
