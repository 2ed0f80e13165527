from __future__ import annotations

import errno
import io
import json
import os
import pty
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

import rlkit
from rlkit import perception
from rlkit.errors import RlkitError
from rlkit.perception.config import FitConfig
from rlkit.perception.data import DATASETS
from rlkit.perception.loop import fit
from rlkit.perception.models import make_model
from rlkit.perception.tasks import TASKS
from rlkit.runs import loggers as loggers_module
from rlkit.runs.loggers import CSVLogger, NoFields, make_loggers
from rlkit.runs.progress import Progress
from rlkit.system.terminal import Terminal, remarked, say

TRAIN = "-m rlkit total_timesteps=2000 eval_episodes=2 final_eval_episodes=2 hydra.run.dir=run"
COMPANION = "-m rlkit.perception recipe=moons-depth data.count=40 fit.epochs=2 model.hidden_sizes=[4] hydra.run.dir=run"
PYTHON = f"'{sys.executable}'"


def shell(command: str, folder: Path, **environment: str) -> subprocess.CompletedProcess[bytes]:
    """Runs a bash command, whose exit code is that of the first command of a pipe, in a folder."""
    variables = {**os.environ, "PYTHONPATH": os.getcwd(), **environment}
    line = f"{command}; exit ${{PIPESTATUS[0]}}"
    return subprocess.run(["bash", "-c", line], cwd=folder, env=variables, capture_output=True)


def summary(folder: Path) -> dict[str, Any]:
    content: dict[str, Any] = json.loads((folder / "run" / "summary.json").read_text(encoding="utf-8"))
    return content


ENDINGS = {
    "no stderr": "2>&-",
    "no stdout": ">&-",
    "neither": "<&- >&- 2>&-",
    "full": ">/dev/full 2>/dev/full",
    "reader gone": "2>&1 | true",
    "first line read": "2>&1 | head -1",
}


CASES = [*((TRAIN, ending) for ending in ENDINGS), *((COMPANION, ending) for ending in ("neither", "full"))]


@pytest.mark.parametrize(("command", "ending"), CASES)
def test_a_run_finishes_whatever_becomes_of_its_terminal(command: str, ending: str, tmp_path: Path) -> None:
    done = shell(f"{PYTHON} {command} {ENDINGS[ending]}", tmp_path)
    assert done.returncode == 0, done
    assert summary(tmp_path)["status"] == "finished"
    assert b"Traceback" not in done.stdout + done.stderr
    rows = (tmp_path / "run" / "metrics.csv").read_text(encoding="utf-8").splitlines()
    assert rows[0].startswith("time/")  # and nothing that was meant for the terminal
    assert all(row.count(",") == rows[0].count(",") for row in rows)


SURROUNDINGS = {
    "a dumb terminal and no home": "TERM=dumb env -u HOME -u XDG_CACHE_HOME -u XDG_CONFIG_HOME",
    "ascii, and a home that is not there": "LC_ALL=C PYTHONUTF8=0 PYTHONCOERCECLOCALE=0 HOME=/proc/nowhere",
}


@pytest.mark.parametrize("surroundings", SURROUNDINGS)
def test_runs_finish_and_resume_in_poor_surroundings(surroundings: str, tmp_path: Path) -> None:
    for command, epochs in ((COMPANION, 2), ("-m rlkit.perception resume=run fit.epochs=3", 3)):
        done = shell(f"{SURROUNDINGS[surroundings]} {PYTHON} {command}", tmp_path)
        assert done.returncode == 0, done
        assert b"Traceback" not in done.stderr
        assert (summary(tmp_path)["status"], summary(tmp_path)["epochs"]) == ("finished", epochs)
    assert (tmp_path / "run" / "boundary.png").is_file()


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("trained")
    rlkit.train(total_timesteps=512, run_dir=folder / "run", eval_interval=0, final_eval_episodes=0)
    return folder


@pytest.mark.parametrize("ending", [*ENDINGS.values(), ""], ids=[*ENDINGS, "seen"])
@pytest.mark.parametrize("encoding", ["ascii", "cp1252", "latin-1"])
def test_an_evaluation_is_written_whatever_becomes_of_its_terminal(trained: Path, encoding: str, ending: str) -> None:
    if ending and encoding != "ascii":
        pytest.skip("nothing is seen of it")
    (trained / "run" / "evaluation.json").unlink(missing_ok=True)
    done = shell(f"{PYTHON} -m rlkit.evaluate run episodes=2 {ending}", trained, PYTHONIOENCODING=encoding)
    assert (done.returncode, done.stderr) == (0, b"")
    report = json.loads((trained / "run" / "evaluation.json").read_text(encoding="utf-8"))
    assert len(report["returns"]) == 2
    if not ending:
        sign = {"ascii": b" +/- ", "cp1252": " ± ".encode("cp1252"), "latin-1": " ± ".encode("latin-1")}
        assert sign[encoding] in done.stdout


@pytest.mark.parametrize("encoding", ["ascii", "cp1252", "latin-1"])
@pytest.mark.parametrize("module", ["rlkit", "rlkit.evaluate", "rlkit.perception", "rlkit.perception.fetch"])
def test_help_is_shown_in_every_encoding(module: str, encoding: str, tmp_path: Path) -> None:
    done = shell(f"{PYTHON} -m {module} --help", tmp_path, PYTHONIOENCODING=encoding)
    assert (done.returncode, done.stderr) == (0, b"")
    done.stdout.decode(encoding)
    for ending in ("2>&1 | true", ">/dev/full", ">&-"):
        assert shell(f"{PYTHON} -m {module} --help {ending}", tmp_path).returncode == 0


@pytest.mark.parametrize("encoding", ["utf-8", "ascii:strict", "cp1252:strict"])
@pytest.mark.parametrize("gone", [False, True])
def test_a_bar_in_a_terminal_that_goes_away(gone: bool, encoding: str, tmp_path: Path) -> None:
    ours, theirs = pty.openpty()
    variables = {**os.environ, "PYTHONPATH": os.getcwd(), "PYTHONIOENCODING": encoding, "TERM": "xterm"}
    command = [sys.executable, *TRAIN.split()]
    run = subprocess.Popen(command, cwd=tmp_path, env=variables, stdout=theirs, stderr=theirs, start_new_session=True)
    os.close(theirs)
    shown = b""
    while True:
        try:
            some = os.read(ours, 4096)
        except OSError:  # the last process that had the other end has ended
            break
        shown += some
        if gone or not some:
            break
    os.close(ours)
    assert run.wait() == 0
    assert summary(tmp_path)["status"] == "finished"
    assert b"Traceback" not in shown
    if not gone:
        assert (" ± " if encoding == "utf-8" else " ").encode() in shown


def test_python_without_a_console_trains(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stderr", None)  # as under pythonw
    monkeypatch.setattr(sys, "stdout", None)
    result = rlkit.train(total_timesteps=512, run_dir=tmp_path / "run", eval_interval=0, final_eval_episodes=1)
    assert result.summary["status"] == "finished"


class Broken(io.StringIO):
    """A stream that raises an exception at every use."""

    def __init__(self, error: Exception) -> None:
        super().__init__()
        self.error = error

    def write(self, text: str) -> int:
        raise self.error

    def flush(self) -> None:
        raise self.error

    def isatty(self) -> bool:
        return True


BROKEN = [*(OSError(number, "") for number in (errno.EIO, errno.ENOSPC, errno.EPIPE)), ValueError("I/O on closed file")]


@pytest.mark.parametrize("error", [*BROKEN, RuntimeError("theirs")], ids=repr)
def test_a_stream_that_raises_costs_nothing(error: Exception, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stderr", Broken(error))
    with Progress(100) as progress:  # a bar, because the stream says that it is a terminal
        progress.say("line")
        progress.update(50, {})
    say("line", "stderr")


@given(st.text(), st.sampled_from(["ascii", "cp1252", "latin-1", "utf-8", "koi8-r", "shift_jis"]))
def test_every_text_can_be_said_in_every_encoding(text: str, encoding: str) -> None:
    raw = io.BytesIO()
    stream = io.TextIOWrapper(raw, encoding=encoding, newline="")
    terminal = Terminal(stream)
    terminal.write(f"[{text}]")
    terminal.write("\ud800 ± −\n")  # a letter that no encoding has, as in the names of some files
    terminal.flush()
    shown = raw.getvalue().decode(encoding)
    assert shown.startswith("[")
    assert shown.endswith("\n")
    if encoding == "ascii":
        assert "? +/- -" in shown


def test_a_remark_is_one_line_and_hides_no_error(capsys: pytest.CaptureFixture[str]) -> None:
    def fails() -> None:
        try:
            raise RlkitError("first")
        finally:
            with remarked("the picture"):
                raise ValueError("second,\n" + "long " * 1000)

    with pytest.raises(RlkitError, match="first"):
        fails()
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("remark: the picture failed: ValueError: second, long")
    assert len(line) <= 300


class Failing:
    """A logger that fails in the middle of a run, and when it is closed."""

    def __init__(self, config: NoFields, run_dir: Path, run_config: Any) -> None:
        self.rows = 0

    def log(self, metrics: Any, step: int) -> None:
        self.rows += 1
        if self.rows > 1:
            raise ConnectionError("the server is gone")

    def close(self) -> None:
        raise RuntimeError("still gone")


def test_a_logger_that_fails_costs_no_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    logger: Any = [f"{__name__}:Failing"]
    result = rlkit.train(total_timesteps=2000, logger=logger, run_dir=tmp_path / "a", final_eval_episodes=1)
    assert result.summary["status"] == "finished"
    err = capsys.readouterr().err
    assert err.count("the server is gone; it gets nothing from step") == 1
    assert err.count("remark: closing logger=Failing failed: RuntimeError: still gone") == 1
    companion = perception.train("moons-depth", tmp_path / "b", logger=logger, **{"data.count": 40, "fit.epochs": 3})
    assert companion.summary["status"] == "finished"
    assert capsys.readouterr().err.count("the server is gone") == 1


def test_a_first_error_is_not_hidden_by_a_logger(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("rlkit.trainer.Trainer.evaluate", lambda trainer: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        rlkit.train(total_timesteps=2000, logger=[f"{__name__}:Failing"], run_dir=tmp_path / "a")


def test_rows_wait_for_a_disk_that_is_full(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    logger = CSVLogger(tmp_path)
    logger.log({"a": 1.0}, 1)
    with monkeypatch.context() as full:

        def refuse(*_: Any, **__: Any) -> Any:
            raise OSError(errno.ENOSPC, "No space left on device")

        full.setattr(loggers_module, "atomic", refuse)
        logger.log({"a": 2.0, "b": 1.0}, 2)  # a new column, so that the file is written anew
        logger.log({"a": 3.0}, 3)
    assert capsys.readouterr().err.count("No space left on device") == 1
    logger.log({"a": 4.0, "c": 5.0}, 4)
    logger.close()
    text = (tmp_path / "metrics.csv").read_text(encoding="utf-8")
    assert text.splitlines() == ["time/total_timesteps,a,b,c", "1,1.0,,", "2,2.0,1.0,", "3,3.0,,", "4,4.0,,5.0"]


@pytest.mark.parametrize("backend", ["module://matplotlib_inline.backend_inline", "nonsense"])
def test_pictures_are_drawn_whatever_a_notebook_left_behind(backend: str, tmp_path: Path) -> None:
    done = shell(f"{PYTHON} {COMPANION}", tmp_path, MPLBACKEND=backend)
    assert done.returncode == 0
    assert summary(tmp_path)["status"] == "finished"
    assert (tmp_path / "run" / "curves.png").exists()
    assert (tmp_path / "run" / "boundary.png").exists()
    assert b"Traceback" not in done.stderr


def test_a_picture_that_fails_costs_no_result(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(*_: Any) -> Any:
        raise MemoryError("no room")

    monkeypatch.setattr("rlkit.perception.plots.save_figure", fail)
    result = perception.train("moons-depth", tmp_path / "run", **{"data.count": 40, "fit.epochs": 2})
    assert result.summary["status"] == "finished"
    assert "test_loss" in result.summary
    assert "remark: the picture of boundary failed: MemoryError: no room" in capsys.readouterr().err


@pytest.mark.parametrize("end", ["ctrl-c", "kill"])
def test_results_are_written_before_the_first_picture(end: str, tmp_path: Path) -> None:
    stop = "raise KeyboardInterrupt" if end == "ctrl-c" else "os._exit(9)"
    code = f"""
import os
from rlkit import perception
from rlkit.perception import plots
def stop(*_):
    {stop}
plots.save_figure = stop
perception.train("moons-depth", "run", **{{"data.count": 40, "fit.epochs": 2}})
"""
    (tmp_path / "train.py").write_text(code, encoding="utf-8")
    assert shell(f"{PYTHON} train.py", tmp_path).returncode != 0
    assert summary(tmp_path)["status"] == "finished"
    assert "test_loss" in summary(tmp_path)
    assert (tmp_path / "run" / "checkpoints" / "last" / "training.safetensors").is_file()
    assert not list((tmp_path / "run").glob("*.png"))


def fails(*_: Any) -> Any:
    raise ZeroDivisionError("no such picture")


FAILURES = {
    "what is drawn": ("rlkit.perception.tasks.Classification._draw_boundary", ["drawing boundary.png"]),
    "which are drawn": ("rlkit.perception.tasks.Classification.pictures", ["drawing"]),
    "one picture": ("rlkit.perception.tasks.draw_boundary", ["drawing boundary.png"]),
    "all figures": ("rlkit.perception.plots.figure_of", ["the picture of boundary", "the picture of curves"]),
    "matplotlib": ("rlkit.runs.pictures.import_matplotlib", ["the picture of boundary", "the picture of curves"]),
}


@pytest.mark.parametrize("where", FAILURES)
def test_whatever_fails_in_a_picture_is_a_remark(
    where: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    place, names = FAILURES[where]
    monkeypatch.setattr(place, fails)
    result = perception.train("moons-depth", tmp_path / "run", **{"data.count": 40, "fit.epochs": 2})
    assert summary(tmp_path)["test_loss"] == result.summary["test_loss"]
    err = capsys.readouterr().err
    assert re.findall("remark: (.*) failed: ZeroDivisionError: no such picture", err) == names


def test_a_picture_that_fails_costs_no_other_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("rlkit.perception.generative.Variational._draw_reconstructions", fails)
    settings = {"data": "digits", "fit.epochs": 1}
    result = perception.train("vae-fashion", tmp_path / "run", **settings)
    assert result.summary["status"] == "finished"
    assert "remark: drawing reconstructions.png failed" in capsys.readouterr().err
    assert sorted(path.name for path in (tmp_path / "run").glob("*.png")) == ["curves.png", "samples.png"]


def test_a_picture_is_drawn_where_its_name_is_free(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name in ("curves.png", "boundary.png"):
        (tmp_path / "run" / name / "in the way").mkdir(parents=True)
    result = perception.train("moons-depth", tmp_path / "run", **{"data.count": 40, "fit.epochs": 2})
    assert result.summary["status"] == "finished"
    err = capsys.readouterr().err
    assert err.count("remark: the picture of ") == 2
    assert "Traceback" not in err


def test_a_logger_given_to_fit_costs_no_training(capsys: pytest.CaptureFixture[str]) -> None:
    data = DATASETS["moons"](count=40)
    rows: list[int] = []

    class Right:
        def log(self, metrics: Any, step: int) -> None:
            rows.append(step)

        def close(self) -> None:
            pass

    task = TASKS["classification"](make_model("mlp", input_shape=[2], num_outputs=2))
    loggers: list[Any] = [Failing(NoFields(), Path(), {}), Right()]
    fitted = fit(task, data, FitConfig(epochs=3), loggers=loggers)
    assert fitted.metrics["test_loss"] > 0
    assert len(rows) == 3
    assert capsys.readouterr().err.count("remark: logger=Failing failed: ConnectionError: the server is gone") == 1


SABOTEUR = """
class Logger:
    # Fails in the job of seed 1, in whose folder it is in the way of every picture.

    def __init__(self, config, run_dir, run_config):
        self.broken = run_config["seed"] == 1
        if self.broken:
            for name in ("curves.png", "boundary.png"):
                (run_dir / name / "in the way").mkdir(parents=True)

    def log(self, metrics, step):
        if self.broken:
            raise ConnectionError("the server is gone")

    def close(self):
        if self.broken:
            raise RuntimeError("still gone")
"""


@pytest.mark.parametrize(
    "command",
    [
        "-m rlkit total_timesteps=1024 eval_interval=0 final_eval_episodes=1",
        "-m rlkit.perception recipe=moons-depth data.count=40 fit.epochs=2 model.hidden_sizes=[4]",
    ],
)
def test_a_sweep_goes_on_when_one_job_cannot_be_shown(command: str, tmp_path: Path) -> None:
    (tmp_path / "saboteur.py").write_text(SABOTEUR, encoding="utf-8")
    where = "hydra.sweep.dir=sweep 'hydra.sweep.subdir=${seed}'"
    done = shell(f"{PYTHON} {command} seed=0,1,2 logger=saboteur:Logger {where} -m", tmp_path)
    assert done.returncode == 0, done
    assert b"Traceback" not in done.stderr
    assert done.stderr.count(b"the server is gone") == 1
    for seed in range(3):
        found = json.loads((tmp_path / "sweep" / str(seed) / "summary.json").read_text(encoding="utf-8"))
        assert (found["seed"], found["status"]) == (seed, "finished")


def test_a_logger_that_cannot_start_is_an_error_before_the_run(tmp_path: Path) -> None:
    with pytest.raises(RlkitError, match="unknown logger 'tensorbord'"):
        make_loggers({"tensorbord": None}, tmp_path, {})
