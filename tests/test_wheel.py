"""The wheel for this machine runs in an environment and a folder with nothing of ours, and without a compiler."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from rlkit.engine.native import primitives as native

ROOT = Path(__file__).resolve().parents[1]
PARTS = ("rlkit", "agents", "envs", "conf", "pyproject.toml", "setup.py", "README.md", "LICENSE")
BUILD = "import sys; from setuptools import build_meta; print(build_meta.build_wheel(sys.argv[1]))"


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A wheel that is built from a copy of the sources, as `pip wheel . --no-deps` builds it."""
    pytest.importorskip("setuptools", minversion="77")
    if native.missing is not None:
        pytest.skip(native.missing)
    if shutil.which(os.environ.get("CC", "cc")) is None:
        pytest.skip("needs a C compiler")
    sources, found = tmp_path_factory.mktemp("sources"), tmp_path_factory.mktemp("dist")
    for part in PARTS:
        if (ROOT / part).is_dir():
            leave_out = shutil.ignore_patterns("*.so", "__pycache__")
            shutil.copytree(ROOT / part, sources / part, symlinks=True, ignore=leave_out)
        else:
            shutil.copy(ROOT / part, sources)
    built = subprocess.run([sys.executable, "-c", BUILD, found], cwd=sources, capture_output=True, text=True)
    assert built.returncode == 0, built.stderr
    return found / built.stdout.splitlines()[-1]


def test_one_wheel_serves_every_python_from_3_11_on_and_holds_all_modules(wheel: Path) -> None:
    assert "-cp311-abi3-" in wheel.name
    names = set(zipfile.ZipFile(wheel).namelist())
    assert any(name.startswith("rlkit/engine/native/kernels.") and not name.endswith(".pyi") for name in names)
    for folder, package in (("rlkit", "rlkit"), ("agents", "rlkit/agents"), ("envs", "rlkit/envs")):
        for file in (ROOT / folder).rglob("*.py"):
            assert f"{package}/{file.relative_to(ROOT / folder).as_posix()}" in names


def test_the_wheel_trains_by_the_c_engine_where_there_is_no_compiler(wheel: Path, tmp_path: Path) -> None:
    environment, empty = tmp_path / "environment", tmp_path / "empty"
    empty.mkdir()
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", environment], check=True)
    scripts = environment / ("Scripts" if os.name == "nt" else "bin")
    python = scripts / "python"
    where = "import sysconfig; print(sysconfig.get_path('purelib'))"
    site = Path(subprocess.check_output([python, "-c", where], text=True).strip())
    zipfile.ZipFile(wheel).extractall(site)  # which is all that installing one does, but for the commands
    # The libraries that rlkit needs are this environment's: a path in a .pth file brings no .pth files with it, and so
    # nothing that is installed by a link to its sources, such as rlkit itself.
    libraries = [path for path in sys.path if path.endswith(("site-packages", "dist-packages"))]
    (site / "libraries.pth").write_text("\n".join(libraries))
    variables = {"PATH": str(scripts), "HOME": str(empty), "OMP_NUM_THREADS": "1"}
    fields = ["agent=ppo", "env=CartPole-v1", "total_timesteps=256", "agent.num_steps=32", "eval_interval=0"]
    fields += ["final_eval_episodes=1", "curves=false", "hydra.run.dir=run"]
    done = subprocess.run([python, "-m", "rlkit", *fields], cwd=empty, env=variables, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert json.loads((empty / "run" / "summary.json").read_text())["compute"] == "native"
    asking = "import rlkit, shutil; print(rlkit.__file__, shutil.which('cc') or shutil.which('gcc'))"
    said = subprocess.check_output([python, "-c", asking], cwd=empty, env=variables, text=True)
    assert said.split() == [str(site / "rlkit" / "__init__.py"), "None"]
