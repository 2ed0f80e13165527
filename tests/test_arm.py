"""The kernels for ARM, in an emulator, learn what those for AVX2 learn."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
KERNELS = ROOT / "rlkit" / "engine" / "native" / "c"
EMULATOR = "qemu-aarch64-static"
COMPILERS = {"avx2": "gcc", "neon": "aarch64-linux-gnu-gcc"}


@pytest.fixture(scope="module")
def programs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[str]]:
    """Commands that do the work of engine_work.c, by the kernels that they do it with."""
    if not all(shutil.which(tool) for tool in (*COMPILERS.values(), EMULATOR)):
        pytest.skip("needs gcc for both (Debian: gcc, gcc-aarch64-linux-gnu) and an emulator (qemu-user-static)")
    cpu = Path("/proc/cpuinfo")
    if not (cpu.exists() and {"avx2", "fma"} <= set(cpu.read_text().split())):
        pytest.skip("needs a processor with AVX2 to compare with")
    folder, commands = tmp_path_factory.mktemp("arm"), {}
    for simd, compiler in COMPILERS.items():
        sources = [ROOT / "tests" / "engine_work.c", KERNELS / f"{simd}.c"]
        options = ["-std=gnu11", "-O2", "-static", f"-I{KERNELS}"]
        subprocess.run([compiler, *options, "-o", folder / simd, *sources, "-lm"], check=True)
        commands[simd] = [*([EMULATOR] if simd == "neon" else []), str(folder / simd)]
    return commands


@pytest.mark.parametrize("rows", ["1", "7", "64", "129"])
@pytest.mark.parametrize("hidden", ["3", "12", "40", "64"])
@pytest.mark.parametrize("activation", ["tanh", "relu", "elu", "norm-silu", "gelu", "norm-leaky_relu"])
def test_gradient_steps_on_arm_are_those_with_avx2(
    programs: dict[str, list[str]], rows: str, hidden: str, activation: str
) -> None:
    losses = {
        simd: [float(subprocess.check_output([*command, rows, hidden, activation, steps])) for steps in ("1", "10")]
        for simd, command in programs.items()
    }
    assert losses["neon"] == pytest.approx(losses["avx2"], rel=1e-4)
    assert losses["neon"][1] != losses["neon"][0]
