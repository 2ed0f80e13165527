"""Counts the files and lines that one must know to understand PPO: `python tests/reading.py`.

Follows imports from the agent, the trainer and the collector on the path that torch computes. Left out are parts that
any program has (configuration, files, loggers, the machine below) and parts that PPO can be read without (other ways to
compute, companion networks as backbones, workers).
"""

from __future__ import annotations

import ast
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
START = ("rlkit.agents.ppo", "rlkit.trainer", "rlkit.collector")
ANY_PROGRAM = ("checkpoint", "config", "setting", "episodes", "errors", "runs", "system")
OTHER_WAYS = ("engine.native", "engine.threads", "engine.q", "engine.torch.q", "networks.q_network", "networks.noisy")
OTHER_PARTS = ("networks.backbone", "networks.own", "perception", "workers")
LEFT_OUT = tuple(f"rlkit.{name}" for name in ANY_PROGRAM + OTHER_WAYS + OTHER_PARTS)
LONGEST = 40
"""Lines that a function on this path may have."""


def file_of(module: str) -> Path | None:
    """The file of a module of ours; None for a package or another's module."""
    path = ROOT / Path(*module.split(".")).with_suffix(".py")
    return path if module.startswith("rlkit.") and path.is_file() else None


def imported(path: Path) -> set[str]:
    """The modules that a file names in import statements, those for types alone included."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module:
            names |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
        elif isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
    return names


def files_to_know() -> list[Path]:
    """The files on PPO's path, in the order in which they are met."""
    found: list[Path] = []
    waiting = list(START)
    while waiting:
        module = waiting.pop(0)
        left_out = any(module == name or module.startswith(f"{name}.") for name in LEFT_OUT)
        path = None if left_out else file_of(module)
        if path is not None and path not in found:
            found.append(path)
            waiting += sorted(imported(path))
    return found


def long_functions(path: Path) -> list[str]:
    """The functions of a file that are longer than they may be, with their lengths."""
    functions = [node for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.FunctionDef)]
    lengths = {node.name: (node.end_lineno or node.lineno) - node.lineno + 1 for node in functions}
    return [f"{name} ({length} lines)" for name, length in lengths.items() if length > LONGEST]


def main() -> None:
    """Prints the files with their lines, and the sum."""
    paths = files_to_know()
    lines = {path: path.read_text().count("\n") for path in paths}
    for path in paths:
        print(f"{lines[path]:>6}  {path.relative_to(ROOT)}  {', '.join(long_functions(path))}".rstrip())
    print(f"{sum(lines.values()):>6}  lines in {len(paths)} files")


if __name__ == "__main__":
    main()
