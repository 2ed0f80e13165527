"""The engine in C has not become slower: instructions are counted, since seconds prove nothing on a busy machine."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
KERNELS = ROOT / "rlkit" / "engine" / "native" / "c"

INSTRUCTIONS = {  # of a gradient step with AVX2, in thousands: the best so far
    ("256", "64", "tanh"): 1408.2,
    ("64", "128", "relu"): 1179.1,
}
COMPILER = "12"
"""GCC's version that they are of."""


@pytest.fixture(scope="module")
def engine_work(tmp_path_factory: pytest.TempPathFactory) -> Path:
    if not shutil.which("valgrind") or not shutil.which("gcc"):
        pytest.skip("instructions are counted by valgrind, of a program that gcc compiles")
    if (compiler := subprocess.check_output(["gcc", "-dumpversion"], text=True).split(".")[0].strip()) != COMPILER:
        pytest.skip(f"the numbers are those of gcc {COMPILER}, not {compiler}")
    flags = re.search(r"extra_compile_args=\[(.*?)\]", (ROOT / "setup.py").read_text(), re.DOTALL)
    assert flags is not None
    program = tmp_path_factory.mktemp("engine") / "engine_work"
    sources = [ROOT / "tests" / "engine_work.c", KERNELS / "avx2.c"]
    options = re.findall(r'"(.*?)"', flags[1])
    subprocess.run(["gcc", *options, f"-I{KERNELS}", "-o", program, *sources, "-lm"], check=True)
    return program


@pytest.mark.parametrize("work", INSTRUCTIONS, ids="-".join)
def test_a_gradient_step_takes_no_more_instructions(engine_work: Path, work: tuple[str, str, str]) -> None:
    counts = [instructions(engine_work, *work, steps) for steps in ("1", "2")]
    step = (counts[1] - counts[0]) / 1000
    assert step < 1.05 * INSTRUCTIONS[work], f"{step:.0f} thousand instructions"
    assert step > 0.9 * INSTRUCTIONS[work], f"better: {step:.0f} thousand; let that be the number to beat"


def instructions(program: Path, *arguments: str) -> int:
    """How many a whole run takes."""
    command = ["valgrind", "--tool=callgrind", "--callgrind-out-file=/dev/null", str(program), *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    collected = re.search(r"Collected : (\d+)", done.stderr)
    assert collected is not None, done.stderr
    return int(collected[1])
