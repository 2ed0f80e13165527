"""The frame of our commands: the text of `--help`, options of a config dataclass, and exit codes."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

from rlkit.errors import RlkitError
from rlkit.system.terminal import complain

Config = TypeVar("Config")
INTERRUPTED = 130
"""Exit code after Ctrl-C."""


def usage_with_options(usage: str, config: object, width: int = 22) -> str:
    """Returns the usage of a command, and a line about each field of the dataclass of its options."""
    from rlkit.runs.field_docs import field_docs

    lines = []
    for doc in field_docs(config):
        option = f"{doc.name}={json.dumps(doc.default)}".replace('"', "")
        lines.append(f"  {option:<{width}}{doc.doc}")
    return "\n".join([usage, *lines])


def typed_options(
    command: str, config: type[Config], options: Sequence[str], *, open_fields: Sequence[str] = ()
) -> Config:
    """Returns a dataclass with the values of `key=value` options, checked by its `validate`.

    `open_fields` are those that are dicts with keys of the user's. Raises RlkitError for a mistake in the options.
    """
    from omegaconf import OmegaConf

    from rlkit.runs import grammar
    from rlkit.runs.hydra_app import App, readable_errors, refuse_undeclared

    structured = grammar.structured(config)
    for name in open_fields:
        OmegaConf.set_struct(structured[name], False)
    with readable_errors(App(name=command, conf="", config=config, groups=())):
        grammar.apply(structured, grammar.with_homes(options))
        typed: Any = OmegaConf.to_object(structured)
    refuse_undeclared(typed)
    typed.validate()
    found: Config = typed
    return found


def exit_code(work: Callable[[], int | None]) -> int:
    """Runs a command and returns its exit code: 0, 2 for a mistake, which is printed, 130 after Ctrl-C."""
    try:
        return work() or 0
    except RlkitError as error:
        complain(error)
        return 2
    except KeyboardInterrupt:
        return INTERRUPTED
