"""Reports and lists of run folders, and the pictures that runs end with."""

from __future__ import annotations

import base64
import json
import math
import os
import re
import subprocess
import sys
import time
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import pytest

import rlkit
from rlkit.errors import RlkitError
from rlkit.report.__main__ import main
from rlkit.report.page import Cell, Chart, Curve, Page, packed
from rlkit.report.runs_page import averaged, curve_of
from rlkit.report.sides import sides_of
from rlkit.runs.__main__ import lines_of
from rlkit.runs.__main__ import main as list_runs
from rlkit.runs.folder_lock import FolderLock
from rlkit.runs.listing import ListConfig, rows_of, status
from rlkit.runs.pictures import draw_learning_curves
from rlkit.runs.stored_runs import StoredRun, find_runs

LIBRARY_LIMIT = 200_000
"""Bytes that the charts' library and our own script may have."""


def write_run(folder: Path, rows: int = 30, *, gamma: float = 0.9, seed: int = 0, **summary: Any) -> StoredRun:
    """Writes the folder of a finished run, whose return rises by one per row."""
    (folder / ".hydra").mkdir(parents=True)
    config = f"agent:\n  name: ppo\n  gamma: {gamma}\nenv:\n  id: CartPole-v1\nnum_envs: 8\nseed: {seed}\n"
    (folder / ".hydra" / "config.yaml").write_text(config)
    lines = ["time/total_timesteps,time/training_time_s,rollout/episode_return,train/entropy"]
    lines += [f"{10 * i},{i / 2},{i + seed},{math.sin(i):.6g}" for i in range(1, rows + 1)]
    (folder / "metrics.csv").write_text("\n".join(lines) + "\n")
    whole = {
        "status": "finished",
        "agent": "ppo",
        "env": "CartPole-v1",
        "seed": seed,
        "total_timesteps": 10 * rows,
        "eval_return_mean": float(rows),
        "steps_per_second": 20.0,
        "versions": {"rlkit": "0.1.0"},
        **summary,
    }
    (folder / "summary.json").write_text(json.dumps(whole))
    return StoredRun(folder)


def data_of(html: str) -> dict[str, Any]:
    """The data of a page's charts."""
    found = re.search(r'<script type="application/json" id="charts">(.*?)</script>', html, re.DOTALL)
    assert found
    data: dict[str, Any] = json.loads(found[1])
    return data


def unpacked(column: Any) -> list[float | None]:
    """Numbers as the page's script unpacks them."""
    if isinstance(column, list):
        return column
    if "step" in column:
        return [column["from"] + i * column["step"] for i in range(column["count"])]
    numbers = np.frombuffer(base64.b64decode(column["q"]), "<u2")
    step = (column["high"] - column["low"]) / 65534
    return [None if number == 65535 else column["low"] + float(number) * step for number in numbers]


# Pages


def test_numbers_are_packed_within_their_precision() -> None:
    values = np.random.default_rng(0).normal(size=5_000) * 1e3
    values[17] = np.nan
    found = unpacked(packed(values))
    assert found[17] is None
    error = max(abs(one - other) for one, other in zip(found, values, strict=True) if one is not None)
    assert error <= (np.nanmax(values) - np.nanmin(values)) / 131_068 * (1 + 1e-9)
    assert len(json.dumps(packed(values))) < 5_000 * 2.7 + 100


@pytest.mark.parametrize("values", [[], [3.0], [1.0, math.nan, math.inf], [2.0] * 500, list(range(0, 10_000, 7))])
def test_numbers_that_are_packed_exactly(values: list[float]) -> None:
    expected = [value if math.isfinite(value) else None for value in values]
    assert unpacked(packed(values)) == expected


def test_a_page_is_one_file_and_everything_in_it_is_a_text() -> None:
    evil = '</script><img src=x onerror="alert(1)">'
    page = Page(evil)
    page.heading(evil)
    page.alarm([evil])
    page.notes([evil])
    page.code(evil)
    page.table([evil], [[evil], [evil]], sortable=True)
    page.table(["number"], [[Cell("1,000", 1000.0)], [Cell("–")]])
    page.chart(Chart(evil, {"x": evil}, [Curve(evil, {"x": [1.0, 2.0]}, [3.0, 5.0])]))
    html = page.html()
    assert "<img" not in html
    assert html.count("</script>") == html.count("<script") == 3
    assert data_of(html)["charts"][0]["curves"][0]["name"] == evil
    assert not re.findall(r"<(?:script|link|img|iframe|video)[^>]*\b(?:src|href)=", html)
    assert '<td class=number data-value="1000.0">1,000</td>' in html
    assert len(Page("empty").html()) < LIBRARY_LIMIT


def test_equal_columns_are_stored_once() -> None:
    page = Page("two curves over one axis")
    x = np.cumsum(np.random.default_rng(0).random(300))
    page.chart(Chart("c", {"x": "x"}, [Curve(str(i), {"x": x}, x * i) for i in (2, 3)]))
    data = data_of(page.html())
    one, other = data["charts"][0]["curves"]
    assert one["x"] == other["x"]
    assert len(data["columns"]) == 3


# Reports


def test_a_report_averages_seeds_and_shows_what_differs(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for gamma in (0.9, 0.95):
        for seed in (0, 2):
            write_run(tmp_path / f"{gamma}-{seed}", gamma=gamma, seed=seed)
    assert main([str(tmp_path), "--png", "--svg", "title=My runs"]) == 0
    html = (tmp_path / "report.html").read_text()
    assert "<h1>My runs</h1>" in html
    data = data_of(html)
    mean, each, entropy = data["charts"]
    assert [curve["name"] for curve in mean["curves"]] == ["ppo agent.gamma=0.9 (2)", "ppo agent.gamma=0.95 (2)"]
    steps, values, low, high = (
        unpacked(data["columns"][index])
        for index in (mean["curves"][0]["x"]["timesteps"], *(mean["curves"][0][key] for key in ("y", "low", "high")))
    )
    assert steps == [10.0 * i for i in range(1, 31)]
    assert values == [i + 1.0 for i in range(1, 31)]  # of i and i + 2
    assert (low[0], high[0]) == (1.0, 3.0)
    assert len(each["curves"]) == 4
    assert mean["axes"] == {"timesteps": "timesteps", "seconds": "seconds of training"}
    assert len(entropy["curves"]) == 4
    assert "<td>agent.gamma</td><td>0.9</td><td>0.95</td>" in html
    assert (tmp_path / "report.png").read_bytes().startswith(b"\x89PNG")
    assert "<svg" in (tmp_path / "report.svg").read_text()
    assert "4 runs" in capsys.readouterr().out


def test_many_points_stay_small(tmp_path: Path) -> None:
    """Fifty runs of 1,000 points and 14 metrics are below 3 MB: 2.7 bytes each."""
    rng = np.random.default_rng(0)
    names = [f"train/metric_{i}" for i in range(12)]
    lines = [",".join(["time/total_timesteps", "rollout/episode_return", *names])]
    lines += [",".join([str(i), *(f"{value:.6g}" for value in rng.normal(size=13))]) for i in range(1_000)]
    for run in range(50):
        folder = write_run(tmp_path / str(run), seed=run).path
        # A different number in each line of each run, because columns that are equal are stored once.
        (folder / "metrics.csv").write_text("\n".join([lines[0], *(line + str(run) for line in lines[1:])]) + "\n")
    assert main([str(tmp_path)]) == 0
    assert (tmp_path / "report.html").stat().st_size < 3_000_000


def test_runs_that_go_on_are_shown_and_left_out_of_averages(tmp_path: Path) -> None:
    done, going = write_run(tmp_path / "a"), write_run(tmp_path / "b", rows=3, seed=1)
    (going.path / "summary.json").unlink()
    found = averaged([done, StoredRun(going.path)], "rollout/episode_return")
    assert found is not None
    assert len(found[1]) == 30
    assert main([str(tmp_path)]) == 0
    html = (tmp_path / "report.html").read_text()
    assert "1 of 2 runs are not finished" in html


def test_thinned_curves_keep_their_last_point(tmp_path: Path) -> None:
    places, values = curve_of(write_run(tmp_path / "a"), "train/entropy", every=7)
    assert places["timesteps"].tolist() == [20, 90, 160, 230, 300]
    assert values[-1] == pytest.approx(math.sin(30), rel=1e-5)


def test_films_are_part_of_the_page_as_far_as_they_fit(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run").path
    (run / "videos").mkdir()
    (run / "videos" / "episode-0.mp4").write_bytes(b"first film")
    (run / "videos" / "episode-1.gif").write_bytes(b"x" * 5_000)
    assert main([str(run), "videos_mb=0.001"]) == 0
    html = (run / "report.html").read_text()
    assert f"data:video/mp4;base64,{base64.b64encode(b'first film').decode()}" in html
    assert "image/gif" not in html
    assert "episode-1.gif</li>" in html


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nowhere"], "there is no run folder nowhere"),
        (["."], "holds no run"),
        (["videos_mb=1"], "expected run folders"),
        ([".", "out=page.pdf"], "out=page.pdf: expected the name of an HTML file, such as page.pdf.html"),
        ([".", "ot=page.html"], "unknown key 'ot'; did you mean 'out'"),
        ([".", "--pnd"], "unknown option '--pnd'; did you mean '--png'"),
        ([".", "videos_mb=-1"], "videos_mb=-1.0 is out of range"),
    ],
)
def test_mistakes_are_one_line(
    arguments: list[str],
    message: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(arguments) == 2
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert message in line
    assert list(tmp_path.iterdir()) == []


def test_damaged_and_empty_runs(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = write_run(tmp_path / "run").path
    (run / "metrics.csv").write_text("time/total_timesteps,a\n1,word\n")
    assert main([str(run)]) == 2
    assert "metrics.csv is damaged: line 2, a: 'word' is not a number" in capsys.readouterr().err
    assert not (run / "report.html").exists()
    (run / "metrics.csv").write_text("time/total_timesteps,a\n")
    assert main([str(run)]) == 0
    assert "without any metrics" in (run / "report.html").read_text()
    assert main([str(run), "--png"]) == 2
    assert "no run has a return to draw" in capsys.readouterr().err


def test_runs_are_found_below_folders_once(tmp_path: Path) -> None:
    write_run(tmp_path / "a" / "b")
    write_run(tmp_path / "a" / "c")
    companion = tmp_path / "a" / "companion"
    companion.mkdir()
    (companion / "metrics.csv").write_text("time/step,time/epoch,train/loss\n1,1,0.5\n")
    found = find_runs([tmp_path, tmp_path / "a" / "b"])
    assert [run.path.name for run in found] == ["b", "c"]


def test_sides_of_one_agent_are_named_by_what_differs(tmp_path: Path) -> None:
    runs = [write_run(tmp_path / "a"), write_run(tmp_path / "b", agent="a2c"), write_run(tmp_path / "c", env="X-v0")]
    assert {env: list(sides) for env, sides in sides_of(runs).items()} == {
        "CartPole-v1": ["ppo", "a2c"],
        "X-v0": ["ppo"],
    }


def test_fields_that_other_versions_do_not_have_part_nothing(tmp_path: Path) -> None:
    runs = [write_run(tmp_path / "a"), write_run(tmp_path / "b", seed=1), write_run(tmp_path / "c", gamma=0.5)]
    with (runs[1].path / ".hydra" / "config.yaml").open("a") as file:
        file.write("new_field: 3\n")
    sides = sides_of([StoredRun(run.path) for run in runs])["CartPole-v1"]
    assert [len(side) for side in sides.values()] == [2, 1]


# Lists


def test_the_list_filters_and_sorts(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_run(tmp_path / "a", eval_return_mean=5.0)
    write_run(tmp_path / "b", eval_return_mean=3.0, agent="dqn", status="interrupted")
    running = write_run(tmp_path / "c", rows=4, seed=3)
    (running.path / "summary.json").unlink()
    assert list_runs([str(tmp_path), "sort=return"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split() == ["when", "agent", "env", "seed", "status", "timesteps", "return", "steps/s", "folder"]
    assert [line.split()[-1].rpartition("/")[2] for line in lines[1:]] == ["b", "a", "c"]  # 3, 5, and 4 + 3
    assert lines[3].split()[2:8] == ["ppo", "CartPole-v1", "3", "running", "40", "7.00"]
    assert list_runs([str(tmp_path), "agent=dqn", "status=interrupted"]) == 0
    assert len(capsys.readouterr().out.splitlines()) == 2
    assert list_runs([str(tmp_path), "seed=99"]) == 0
    assert capsys.readouterr().out == "no run is like that\n"
    assert list_runs([str(tmp_path), "sort=retrn"]) == 2
    assert "did you mean 'return'" in capsys.readouterr().err


def test_a_run_goes_on_while_it_holds_its_lock(tmp_path: Path) -> None:
    run = write_run(tmp_path / "a")
    (run.path / "summary.json").unlink()
    code = """
import sys
from pathlib import Path
from rlkit.runs.folder_lock import FolderLock
lock = FolderLock(Path(sys.argv[1]))
print("locked", flush=True)
input()
"""
    command = [sys.executable, "-c", code, str(run.path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as other:
        assert other.stdout is not None
        other.stdout.readline()
        assert status(StoredRun(run.path)) == "running"
        other.communicate("\n")
    assert status(StoredRun(run.path)) == "stopped"
    own = FolderLock(run.path)
    assert status(StoredRun(run.path)) == "running"
    assert not own.removed
    own.release()
    assert status(StoredRun(run.path)) == "stopped"


def test_a_run_without_a_lock_that_logs_no_more_was_stopped(tmp_path: Path) -> None:
    run = write_run(tmp_path / "a")
    (run.path / "summary.json").unlink()
    assert status(StoredRun(run.path)) == "running"
    long_ago = time.time() - 3_600
    os.utime(run.path / "metrics.csv", (long_ago, long_ago))
    assert status(StoredRun(run.path)) == "stopped"


def test_a_damaged_run_does_not_hide_the_others(tmp_path: Path) -> None:
    write_run(tmp_path / "a")
    (write_run(tmp_path / "b").path / "summary.json").write_text("{")
    rows = rows_of(ListConfig(), [tmp_path])
    assert sum(row.values["status"].startswith("damaged: ") for row in rows) == 1
    assert len(rows) == 2


def test_folders_are_cut_at_their_beginning(tmp_path: Path) -> None:
    write_run(tmp_path / "a-folder-with-a-long-name")
    (line,) = lines_of(rows_of(ListConfig(), [tmp_path]), width=110)[1:]
    assert len(line) <= 110
    assert line.endswith("a-long-name")
    assert "…" in line


def test_the_list_is_watched_until_it_is_interrupted(tmp_path: Path) -> None:
    write_run(tmp_path / "a")
    shown = []

    def look(seconds: float) -> None:
        shown.append(seconds)
        if len(shown) == 3:
            raise KeyboardInterrupt

    with mock.patch("rlkit.runs.__main__.time.sleep", look):
        assert list_runs([str(tmp_path), "--watch", "every=0.5"]) == 130
    assert shown == [0.5, 0.5, 0.5]


# Pictures at the end of runs


def test_a_run_ends_with_a_picture_unless_told_otherwise(tmp_path: Path) -> None:
    short: dict[str, Any] = {
        "env": "CartPole-v1",
        "total_timesteps": 256,
        "eval_interval": 128,
        "final_eval_episodes": 1,
    }
    with mock.patch("rlkit.run.draw_learning_curves", draw_learning_curves):
        result = rlkit.train(agent="a2c", run_dir=tmp_path / "with", **short)
        assert (result.run_dir / "curves.png").read_bytes().startswith(b"\x89PNG")
        result = rlkit.train(agent="a2c", run_dir=tmp_path / "without", curves=False, **short)
        assert not (result.run_dir / "curves.png").exists()


def test_a_picture_that_fails_costs_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = write_run(tmp_path / "run").path
    with mock.patch("rlkit.runs.pictures.save_figure", side_effect=MemoryError("no room")):
        assert draw_learning_curves(run) is None
    assert "remark: the picture of learning_curves failed: MemoryError: no room" in capsys.readouterr().err
    (run / "metrics.csv").unlink()
    assert draw_learning_curves(run) is None
    assert not list(run.glob("*.png"))


def test_commands_need_no_torch() -> None:
    code = """
import sys
import rlkit.report.__main__, rlkit.report.runs_page, rlkit.runs.__main__, rlkit.compare.__main__, rlkit.compare.plan
import rlkit.compare.processes, rlkit.compare.output
assert not {"torch", "stable_baselines3", "matplotlib", "scipy"} & set(sys.modules)
"""
    subprocess.run([sys.executable, "-c", code], check=True)


def test_help_names_every_option(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--help"]) == 0
    assert list_runs(["--help"]) == 0
    printed = capsys.readouterr().out
    for option in ("out=null", "videos_mb=8.0", "--png", "sort=when", "--watch"):
        assert option in printed


def test_a_run_whose_folder_is_no_folder() -> None:
    with pytest.raises(RlkitError, match="there is no run folder"):
        find_runs(["/dev/null"])
