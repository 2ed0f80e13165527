"""The repository's promises about itself: packaging, who may import whom, and documentation that cannot drift."""

from __future__ import annotations

import ast
import csv
import importlib.metadata
import os
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import gymnasium
import pytest
import reading
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

import rlkit
import rlkit.envs  # registers the probes

ROOT = Path(__file__).resolve().parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
EXTRAS = PROJECT["project"]["optional-dependencies"]
LINKED = ("agents", "conf", "envs")
DOCUMENTS = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/*.md"), *ROOT.glob("benchmarks/*.md")])


def sources() -> dict[str, Path]:
    """Every module of the package by its import name, at the place where the file really is."""
    folders = {"rlkit": ROOT / "rlkit", **{f"rlkit.{name}": ROOT / name for name in LINKED}}
    modules = {}
    for package, folder in folders.items():
        for file in folder.rglob("*.py"):
            parts = file.relative_to(folder).with_suffix("").parts
            if package == "rlkit" and parts[0] in LINKED:  # rglob follows links before Python 3.13
                continue
            modules[".".join((package, *parts)).removesuffix(".__init__")] = file
    return modules


SOURCES = sources()


def run_python(*arguments: str | Path, cwd: Path = ROOT) -> subprocess.CompletedProcess[str]:
    """Runs Python with this repository's package."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, *arguments]
    return subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True)


# Packaging


def test_packages_are_the_folders_on_disk() -> None:
    folders = {name for name, file in SOURCES.items() if file.name == "__init__.py"}
    assert set(PROJECT["tool"]["setuptools"]["packages"]) == folders


def test_every_folder_with_code_is_a_package() -> None:
    assert [str(file) for file in SOURCES.values() if not (file.parent / "__init__.py").exists()] == []


@pytest.mark.parametrize("name", LINKED)
def test_link_is_committed_as_a_relative_link(name: str) -> None:
    link = ROOT / "rlkit" / name
    assert link.is_symlink()
    assert link.readlink() == Path("..") / name
    assert PROJECT["tool"]["setuptools"]["package-dir"][f"rlkit.{name}"] == name


def test_direct_dependencies_are_constrained_to_a_version_they_allow() -> None:
    pins = [Requirement(line) for line in (ROOT / "constraints.txt").read_text().splitlines() if line[:1] not in "#"]
    versions = {canonicalize_name(pin.name): str(pin.specifier).removeprefix("==") for pin in pins}
    groups = (PROJECT["project"]["dependencies"], *EXTRAS.values())
    direct = [Requirement(line) for group in groups for line in group]
    for requirement in direct:
        name = canonicalize_name(requirement.name)
        if name != PROJECT["project"]["name"]:
            assert name in versions, f"constraints.txt has no version of {name}"
            assert requirement.specifier.contains(versions[name]), requirement


def test_dependencies_are_what_the_package_imports() -> None:
    imported = imported_distributions(SOURCES.values())
    required = names(PROJECT["project"]["dependencies"])
    optional = names([*EXTRAS["atari"], *EXTRAS["export"], *EXTRAS["ray"]])
    # Not imported by name: Gymnasium renders with pygame, and torch writes TensorBoard's events with tensorboard.
    assert required - imported == {"pygame-ce", "tensorboard"}
    assert imported <= required | optional


def test_dependencies_of_tests_and_benchmarks_are_in_an_extra() -> None:
    files = [file for folder in ("benchmarks", "docs", "examples", "tests") for file in (ROOT / folder).glob("*.py")]
    imported = imported_distributions(files)
    extras = [name for extra in ("atari", "export", "ray", "dev") for name in EXTRAS[extra]]
    assert imported <= names([*PROJECT["project"]["dependencies"], *extras])


def names(requirements: list[str]) -> set[str]:
    """The distributions that requirements name."""
    return {canonicalize_name(Requirement(line).name) for line in requirements}


def imported_distributions(files: Iterable[Path]) -> set[str]:
    """The distributions that the modules come from which the files import, our own aside."""
    files = list(files)
    own = {*sys.stdlib_module_names, "rlkit", *(file.stem for file in files)}
    modules = {name.split(".")[0] for file in files for name in imports(file)} - own
    distributions = importlib.metadata.packages_distributions()
    # A module of an extra that is not installed here is called like its distribution.
    return {canonicalize_name(distributions.get(module, [module])[0]) for module in modules}


def test_version_is_the_same_everywhere() -> None:
    assert rlkit.__version__ == PROJECT["project"]["version"]
    changes = (ROOT / "CHANGELOG.md").read_text()
    assert re.findall(r"^## (\S+)", changes, re.MULTILINE)[0] in (rlkit.__version__, "Unreleased")


# Who may know whom


def imports(file: Path) -> Iterator[str]:
    """The modules that a file imports, inside functions too, but not what is imported only for its types."""
    nodes: list[ast.AST] = [ast.parse(file.read_text())]
    while nodes:
        node = nodes.pop()
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
            nodes.extend(node.orelse)
            continue
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{file}: relative import"
            for alias in node.names:  # `from rlkit import checkpoint` is an import of rlkit.checkpoint
                name = f"{node.module}.{alias.name}"
                yield name if name in SOURCES else str(node.module)
        nodes.extend(ast.iter_child_nodes(node))


def unit(module: str) -> str:
    """`rlkit.agents.ppo` and `rlkit.agents` are both of the unit `agents`."""
    return module.split(".")[1] if "." in module else "rlkit"


def layers() -> dict[str, int]:
    """The rank of each unit in the table of docs/architecture.md, the highest layer first."""
    text = (ROOT / "docs/architecture.md").read_text()
    table = text.split("<!-- layers -->")[1]
    rows = [re.findall(r"`(\w+)`", line.split("|")[1]) for line in table.splitlines() if line.startswith("| `")]
    return {name: -rank for rank, names in enumerate(rows) for name in names}


def test_every_module_has_its_place_in_the_architecture() -> None:
    assert {unit(module) for module in SOURCES} == {"rlkit", *layers()}


@pytest.mark.parametrize("module", sorted(set(SOURCES) - {"rlkit"}))
def test_imports_point_down_only(module: str) -> None:
    rank = layers()
    # Agent.save is shorthand for checkpoint.save, which rebuilds agents and therefore stands above them.
    shorthand = {("rlkit.agents.base", "rlkit.checkpoint")}
    for imported in imports(SOURCES[module]):
        checked = imported in SOURCES and unit(imported) not in ("rlkit", unit(module))
        if checked and (module, imported) not in shorthand:
            assert rank[unit(imported)] < rank[unit(module)], f"{module} must not know {imported}"


@pytest.mark.parametrize("module", sorted(module for module in SOURCES if module.startswith("rlkit.agents.")))
def test_agents_know_nothing_of_each_other(module: str) -> None:
    of_agents = {imported for imported in imports(SOURCES[module]) if imported.startswith("rlkit.agents.")}
    another = {"rlkit.agents.a2c"} if module == "rlkit.agents.a3c" else set()  # A3C is A2C in several processes
    assert of_agents <= {"rlkit.agents.base", "rlkit.agents.policy_agent"} | another


def test_environments_know_only_gymnasium() -> None:
    allowed = {"ale_py", "gymnasium", "numpy", *sys.stdlib_module_names}
    for module, file in SOURCES.items():
        if unit(module) == "envs":
            others = {name for name in imports(file) if name.split(".")[0] not in allowed}
            assert {unit(name) for name in others} <= {
                "action_masks",
                "envs",
                "config",
                "errors",
                "system",
                "spaces",
            }, module


def test_light_modules_import_nothing_heavy() -> None:
    light = [
        "cli.main",
        "cli.composition",
        "config",
        "errors",
        "spaces",
        "agents",
        "envs",
        "maths.schedules",
        "maths.returns",
    ]
    code = f"import sys, {', '.join('rlkit.' + name for name in light)}; print(*sys.modules)"
    result = run_python("-c", code)
    assert result.returncode == 0, result.stderr
    heavy = {"torch", "stable_baselines3", "wandb", "matplotlib", "tensorboard", "rich", "moviepy", "pygame"}
    assert heavy & set(result.stdout.split()) == set()


# Documentation

RIDDLES = re.compile(r"(What|Of|Whether|How|Which|Where|The same|Those)\b")
"""Beginnings of docstrings that a stranger does not understand in a tooltip, without what stands around them."""


def test_docstrings_begin_with_a_noun_or_a_verb() -> None:
    """Checks docstrings of modules, classes and functions, and those below constants and fields."""
    scripts = [file for folder in ("benchmarks", "docs", "examples") for file in (ROOT / folder).glob("*.py")]
    riddles = []
    for file in sorted([*SOURCES.values(), *scripts]):
        path = str(file.relative_to(ROOT))
        for node in ast.walk(ast.parse(file.read_text())):
            match node:
                case ast.Expr(ast.Constant(str(text))) if RIDDLES.match(text.strip()):
                    riddles.append(f"{path}:{node.lineno}: {text.strip().splitlines()[0]}")
    assert riddles == []


def test_generated_documentation_is_current() -> None:
    result = run_python("docs/generate.py", "--check")
    assert result.returncode == 0, result.stderr


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_links_lead_somewhere(document: Path) -> None:
    for target in re.findall(r"\]\(([^)\s]+)\)", document.read_text()):
        if not re.match(r"https?:|#", target):
            assert (document.parent / target.split("#")[0]).exists(), target


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_files_that_are_named_exist(document: Path) -> None:
    """Paths in code quotes, from the root of the repository: `rlkit/trainer.py`, `docs/`."""
    folders = "agents|benchmarks|conf|docs|envs|examples|rlkit|tests|\\.ci"
    for target in re.findall(rf"`((?:{folders})/[\w./-]*)`", document.read_text()):
        assert (ROOT / target).exists() or target in gymnasium.registry, target


def test_every_environment_of_ours_is_documented() -> None:
    ids = re.findall(r"`(rlkit/\w+-v\d)`", (ROOT / "docs/environments.md").read_text())
    assert sorted(set(ids)) == sorted(id for id in gymnasium.registry if id.startswith("rlkit/"))


def test_every_file_and_key_of_a_run_is_documented(tmp_path: Path) -> None:
    quick: dict[str, Any] = {"total_timesteps": 512, "eval_interval": 256, "final_eval_episodes": 1}
    columns = set()
    runs: dict[str, dict[str, Any]] = {
        "q_learning": {"env": "FrozenLake-v1"},
        "dqn": {"env": "CartPole-v1", "agent.learning_starts": 100},
        "ppo_adaptive_kl": {"env": "CartPole-v1"},
        "trpo": {"env": "CartPole-v1", "agent.num_steps": 64, "agent.minibatch_size": 64},
        "a3c": {"env": "CartPole-v1", "agent.num_workers": 1},
    }
    for agent, fields in runs.items():
        result = rlkit.train(agent=agent, run_dir=tmp_path / agent, **quick, **fields)
        with (result.run_dir / "metrics.csv").open(newline="") as metrics:
            columns |= set(next(csv.reader(metrics)))
    first, keys = (ROOT / "docs/run-folder.md").read_text().split("## summary.json")
    summary, log = keys.split("## Log keys")
    files = {path.relative_to(result.run_dir).as_posix() for path in result.run_dir.rglob("*") if path.is_file()}
    for file in files:
        assert re.search(rf"`({re.escape(file)}|{re.escape(file.rpartition('/')[0])}/)`", first), file
    assert documented(summary) == result.summary.keys()
    assert documented(log) == columns


def documented(text: str) -> set[str]:
    """What stands in backquotes in the first column of a Markdown table."""
    return {
        name
        for line in text.splitlines()
        if line.startswith("| `")
        for name in re.findall(r"`([^`]+)`", line.split("|")[1])
    }


def test_readme_has_one_command_to_train_and_one_to_test() -> None:
    commands = re.findall(r"^python3 -m venv .*$", (ROOT / "README.md").read_text(), re.MULTILINE)
    train, test = commands
    assert train.endswith(" -m rlkit agent=ppo env=CartPole-v1")
    assert test.endswith(" -m pytest")
    assert all("pip install -c constraints.txt -e " in command for command in commands)


@pytest.mark.parametrize("example", sorted(ROOT.glob("examples/*.py")), ids=lambda path: path.name)
def test_example_runs(example: Path, tmp_path: Path) -> None:
    result = run_python(example, cwd=tmp_path)
    assert result.returncode == 0, result.stderr


def test_no_function_on_the_way_from_the_loop_to_ppos_loss_is_long() -> None:
    paths = reading.files_to_know()
    assert ROOT / "rlkit/agents/ppo.py" in paths
    assert {path.name: found for path in paths if (found := reading.long_functions(path))} == {}
