"""Stable-Baselines3's own tests with the import swapped: `from rlkit.sb3 import PPO, A2C, DQN`.

The tests are those of the installed version, out of its source distribution on PyPI, or out of `--source FOLDER`; they
are fetched for the measurement and thrown away afterwards. Writes benchmarks/results/sb3_tests.md: of each file how
many tests of PPO, A2C and DQN pass, and why the others do not.

    python benchmarks/sb3_tests.py
"""

from __future__ import annotations

import argparse
import importlib.metadata
import re
import subprocess
import sys
import tarfile
import tempfile
import xml.etree.ElementTree as ET
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

FILES = (
    *("test_callbacks", "test_cnn", "test_deterministic", "test_dict_env", "test_identity", "test_logger"),
    *("test_n_step_replay", "test_predict", "test_run", "test_save_load", "test_spaces", "test_train_eval_mode"),
    *("test_tensorboard", "test_vec_normalize"),
)
"""Files with tests of algorithms."""
OURS = ("A2C", "DQN", "PPO")
OTHERS = ("SAC", "TD3", "DDPG", "HER", "sde")
"""Parts of the names of tests that are of algorithms or exploration that rlkit.sb3 does not have."""
SECONDS = 240
"""Limit for a file."""
RESULT = Path(__file__).parent / "results" / "sb3_tests.md"


def main() -> None:
    """Fetches the tests, runs them with the import swapped, and writes the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--source", type=Path, help="a folder with SB3's source in place of PyPI's")
    parser.add_argument("--files", nargs="*", default=FILES)
    parser.add_argument("--seconds", type=int, default=SECONDS, help="limit for a file")
    arguments = parser.parse_args()
    version = importlib.metadata.version("stable-baselines3")
    with tempfile.TemporaryDirectory() as scratch:
        source = arguments.source or fetched(version, Path(scratch))
        rows, reasons = [], Counter[str]()
        for name in arguments.files:
            passed, failed, cut = run_file(source / "tests" / f"{name}.py", Path(scratch), arguments.seconds)
            reasons.update(failed)
            rows.append(f"| `{name}.py` | {passed} | {len(failed)} | {'cut off after its time' if cut else ''} |")
            print(rows[-1], flush=True)
    write(version, rows, reasons)


def fetched(version: str, folder: Path) -> Path:
    """Downloads SB3's source distribution and unpacks it; returns the folder of its source."""
    package = f"stable-baselines3=={version}"
    command = [sys.executable, "-m", "pip", "download", "-q", "--no-deps", "--no-binary", ":all:", package]
    subprocess.run(command, cwd=folder, check=True)
    (archive,) = folder.glob("*.tar.gz")
    with tarfile.open(archive) as opened:
        opened.extractall(folder, filter="data")
    return folder / f"stable_baselines3-{version}"


def swapped(text: str) -> str:
    """Returns a test file in which our three algorithms come from rlkit.sb3."""

    def replaced(found: re.Match[str]) -> str:
        names = [name.strip() for name in found[1].split(",")]
        lines = [("rlkit.sb3", [name for name in names if name in OURS])]
        lines.append(("stable_baselines3", [name for name in names if name not in OURS]))
        return "\n".join(f"from {module} import {', '.join(some)}" for module, some in lines if some)

    return re.sub(r"^from stable_baselines3 import ([\w, ]+)$", replaced, text, flags=re.MULTILINE)


def run_file(file: Path, scratch: Path, seconds: int) -> tuple[int, list[str], int]:
    """Runs one file; returns the tests that passed, why others failed, and 1 where the file did not end in time."""
    folder = scratch / "swapped"
    folder.mkdir(exist_ok=True)
    copy, report = folder / file.name, folder / "report.xml"
    copy.write_text(swapped(file.read_text()))
    report.unlink(missing_ok=True)
    command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "-n", "0", f"--junitxml={report}"]
    command += ["-c", "/dev/null", f"--rootdir={folder}", "--timeout=60", "-W", "ignore", copy.name]
    command += ["-v", "-k", " and ".join(f"not {name}" for name in OTHERS)]
    try:
        subprocess.run(command, cwd=folder, timeout=seconds, capture_output=True, check=False)
    except subprocess.TimeoutExpired as error:
        output = (error.output or b"").decode(errors="replace")
        failed = ["failed in a file that did not end in time"] * output.count(" FAILED")
        return output.count(" PASSED"), failed, 1
    cases = list(results(report))
    failed = [message for _, message in cases if message is not None]
    return len(cases) - len(failed), failed, 0


def results(report: Path) -> Iterator[tuple[str, str | None]]:
    """Yields the name of each test that was run, and the reason why it failed, None if it did not."""
    for case in ET.parse(report).iter("testcase"):
        if case.find("skipped") is not None:
            continue
        failure = case.find("failure") if case.find("failure") is not None else case.find("error")
        message = None if failure is None else reason(failure.get("message", "") or (failure.text or ""))
        yield f"{case.get('classname')}::{case.get('name')}", message


def reason(message: str) -> str:
    """Returns the first line of a failure without what differs from test to test."""
    first = message.strip().splitlines()[0] if message.strip() else "no message"
    return re.sub(r"0x[0-9a-f]+|/tmp/\S+", "…", first)[:150].replace("|", "\\|")


def write(version: str, rows: list[str], reasons: Counter[str]) -> None:
    """Writes the table."""
    lines = [
        f"# Stable-Baselines3 {version}'s own tests, with the import swapped",
        "",
        "`python benchmarks/sb3_tests.py`. Left out: tests of SAC, TD3, DDPG, HER and gSDE by name. A test that trains",
        "several algorithms counts as failed where one of them cannot be had. Files are cut off after their time.",
        "",
        "| file | pass | fail | |",
        "|---|---|---|---|",
        *rows,
        "",
        "| tests that fail | the first line of why |",
        "|---|---|",
        *(f"| {count} | {message} |" for message, count in reasons.most_common()),
    ]
    RESULT.write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
