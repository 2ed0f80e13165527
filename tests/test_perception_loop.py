"""The training loop: what a step does, when it stops, and that it can be stopped and go on."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from rlkit.errors import RlkitError
from rlkit.perception.config import FitConfig
from rlkit.perception.data.samples import Batch, Data, TensorSamples, check_labels, split
from rlkit.perception.inputs import Inputs
from rlkit.perception.loop import Training, fit, set_training
from rlkit.perception.models import make_model
from rlkit.perception.optimization import clip_gradients, learning_rate_factor, penalty
from rlkit.perception.task import Loss, Task
from rlkit.perception.tasks import Classification, Regression


def line(count: int = 40, noise: float = 0.0) -> Data:
    """y = 2x - 1, in three equal parts."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(count, 1, generator=generator)
    y = 2 * x - 1 + noise * torch.randn(count, 1, generator=generator)
    samples = TensorSamples(x, y)
    return Data(samples, samples, samples, input_shape=(1,))


def linear(start: float = 0.0) -> Regression:
    model = nn.Linear(1, 1)
    nn.init.constant_(model.weight, start)
    nn.init.zeros_(model.bias)
    return Regression(model)


class Log:
    def __init__(self) -> None:
        self.rows: list[dict[str, float]] = []

    def log(self, metrics: Any, step: int) -> None:
        self.rows.append({**metrics, "step": step})

    def close(self) -> None: ...


def training(task: Task, data: Data, **fields: Any) -> Training:
    return Training(task, data, FitConfig(**fields), Inputs(), seed=0, device="cpu")


def test_fit_learns_a_line() -> None:
    task = linear()
    fitted = fit(task, line(), FitConfig(epochs=60, batch_size=8, optimizer="sgd", learning_rate=0.1))
    assert fitted.task is task
    assert fitted.epochs == 60
    assert fitted.metrics["test_loss"] < 1e-6
    assert fitted.metrics["test_mae"] == pytest.approx(math.sqrt(fitted.metrics["test_loss"]), rel=1)
    torch.testing.assert_close([p.item() for p in task.parameters()], [2.0, -1.0], rtol=0, atol=1e-3)


def test_one_step_of_sgd_is_the_one_by_hand() -> None:
    # loss = mean (w x + b - y)^2 with w = b = 0: dw = -2 mean(x y), db = -2 mean(y)
    data = line()
    assert isinstance(data.train, TensorSamples)
    x, y = data.train.inputs, data.train.targets
    task = linear()
    loop = training(task, data, optimizer="sgd", learning_rate=0.1, batch_size=40, l1=0.5, l2=0.25, epochs=1)
    loop.step(Batch(x, y))
    weight, bias = (parameter.item() for parameter in task.parameters())
    assert weight == pytest.approx(0.2 * (x * y).mean().item(), rel=1e-5)  # the penalties of 0 have gradient 0
    assert bias == pytest.approx(0.2 * y.mean().item(), rel=1e-5)
    before = weight
    loop.step(Batch(x, y))
    gradient = 2 * ((weight * x + bias - y) * x).mean().item() + 0.5 * math.copysign(1, before) + 2 * 0.25 * before
    assert next(iter(task.parameters())).item() == pytest.approx(before - 0.1 * gradient, rel=1e-4)


def test_penalties_are_of_the_weights_that_match() -> None:
    model = nn.Sequential(nn.Linear(2, 1), nn.Linear(1, 1))
    for parameter, value in zip(model.parameters(), (3.0, 10.0, -2.0, 10.0), strict=True):
        nn.init.constant_(parameter, value)
    assert penalty(model, 0, 0, ".") is None
    total = penalty(model, 1.0, 0.5, ".")
    assert total is not None
    assert total.item() == 3 + 3 + 2 + 0.5 * (9 + 9 + 4)
    only = penalty(model, 1.0, 0.0, r"^1\.")
    assert only is not None
    assert only.item() == 2


@pytest.mark.parametrize(
    ("field", "value", "clipped"),
    [
        ("value", 2.0, [[2.0, -2.0], [0.0, 1.0]]),
        ("norm", 2.5, [[1.5, -2.0], [0.0, 1.0]]),  # norms 5 and 1
        ("global_norm", math.sqrt(26) / 2, [[1.5, -2.0], [0.0, 0.5]]),
    ],
)
def test_gradients_are_clipped(field: str, value: float, clipped: list[list[float]]) -> None:
    parameters = [torch.zeros(2, requires_grad=True), torch.zeros(2, requires_grad=True)]
    parameters[0].grad, parameters[1].grad = torch.tensor([3.0, -4.0]), torch.tensor([0.0, 1.0])
    limits: dict[str, float | None] = {"value": None, "norm": None, "global_norm": None, field: value}
    clip_gradients(parameters, **limits)
    torch.testing.assert_close([p.grad for p in parameters], [torch.tensor(c) for c in clipped], rtol=1e-4, atol=1e-4)


def test_clipping_bounds_the_step_that_fit_takes() -> None:
    task = linear()
    data = line()
    loop = training(task, data, optimizer="sgd", learning_rate=1.0, clip_global_norm=0.01, batch_size=40)
    loop.step(Batch(data.train.batch(torch.arange(40)).inputs, 1e6 * torch.ones(40, 1)))
    assert math.hypot(*(p.item() for p in task.parameters())) == pytest.approx(0.01, rel=1e-3)


@pytest.mark.parametrize(
    ("schedule", "fields", "factors"),
    [
        ("constant", {}, [1, 1, 1]),
        ("linear", {}, [1, 0.5, 0]),
        ("cosine", {}, [1, 0.5, 0]),
        ("step", {"schedule_epochs": 5}, [1, 0.1, 0.01]),
        ("exponential", {"schedule_factor": 0.5}, [1, 0.5**5, 0.5**10]),
        ("one_cycle", {}, [1 / 25, 1e-4 + (1 - 1e-4) * (1 + math.cos(2 * math.pi / 7)) / 2, 1e-4]),
        ("constant", {"warmup_steps": 4}, [0.25, 1, 1]),
    ],
)
def test_learning_rates(schedule: str, fields: dict[str, Any], factors: list[float]) -> None:
    config = FitConfig(schedule=schedule, **fields)
    found = [learning_rate_factor(config, step, 100, step // 10) for step in (0, 50, 100)]
    assert found == pytest.approx(factors, abs=1e-6)


def test_one_cycle_peaks_after_thirty_percent() -> None:
    config = FitConfig(schedule="one_cycle")
    assert learning_rate_factor(config, 30, 100, 0) == pytest.approx(1)


def test_early_stopping_keeps_the_best_model() -> None:
    class Worse(Task):
        """Whose validation loss is 3, 1, 2, 2, …"""

        def __init__(self) -> None:
            super().__init__(nn.Linear(1, 1))
            self.validations = 0
            self.bias = nn.Parameter(torch.zeros(()))

        def losses(self, batch: Batch) -> Iterator[Loss]:
            yield Loss("model", self.model(batch.inputs).square().mean())

        def measure(self, batch: Batch) -> dict[str, Tensor]:
            self.validations += 1
            with torch.no_grad():
                self.bias.fill_(self.validations)
            return {"loss": torch.tensor([3.0, 1.0, 2.0, 2.0, 2.0, 2.0, 2.0][self.validations - 1])}

    task = Worse()
    loop = training(task, line(), epochs=50, batch_size=40, patience=3)
    loop.train()
    assert loop.epoch == 5  # the best of them was the second
    assert loop.best_epoch == 2
    assert task.bias.item() == 2  # as it was when that was measured


def test_improvements_smaller_than_min_delta_do_not_count_for_patience() -> None:
    loop = training(linear(), line(), epochs=50, batch_size=40, patience=2, min_delta=100.0, learning_rate=1e-3)
    loop.train()
    assert loop.epoch == 3
    assert loop.best_epoch == 3


def test_accuracy_is_better_when_larger() -> None:
    x = torch.tensor([[1.0], [-1.0]])
    samples = TensorSamples(x, torch.tensor([0, 1]))
    data = Data(samples, samples, samples, input_shape=(1,), num_outputs=2)
    loop = training(Classification(nn.Linear(1, 2)), data, epochs=30, monitor="accuracy", learning_rate=0.1)
    loop.train()
    assert loop.best == -1.0
    with pytest.raises(RlkitError, match="unknown fit.monitor 'accurcy'; did you mean 'accuracy'"):
        training(Classification(nn.Linear(1, 2)), data, epochs=1, monitor="accurcy").train()


def test_a_loss_that_is_no_number_stops_and_says_in_which_step() -> None:
    data = line()
    assert isinstance(data.train, TensorSamples)
    loop = training(linear(), data, optimizer="sgd", learning_rate=1e30, batch_size=10, epochs=5)
    with pytest.raises(RlkitError, match=r"^training diverged: the loss is (inf|nan) in step \d \(epoch 1\); a "):
        loop.train()
    assert loop.steps <= 4


def test_losses_are_asked_for_one_after_another() -> None:
    class Two(Task):
        """The second part's loss is made of what the first has become."""

        def __init__(self) -> None:
            super().__init__(nn.Identity())
            self.first, self.second = nn.Linear(1, 1, bias=False), nn.Linear(1, 1, bias=False)
            nn.init.constant_(self.first.weight, 1.0)
            nn.init.constant_(self.second.weight, 0.0)

        def parts(self) -> dict[str, nn.Module]:
            return {"first": self.first, "second": self.second}

        def measure(self, batch: Batch) -> dict[str, Tensor]:
            return {"loss": torch.zeros(())}

        def losses(self, batch: Batch) -> Iterator[Loss]:
            yield Loss("first", self.first.weight.sum() * 1.0)
            yield Loss("second", (self.second.weight * self.first.weight.detach()).sum())

    task = Two()
    loop = training(task, line(), optimizer="sgd", learning_rate=0.5, learning_rates={"second": 1.0}, batch_size=40)
    loop.step(next(loop.batches()))
    assert task.first.weight.item() == 0.5
    assert task.second.weight.item() == -0.5  # not -1: the first had taken its step
    with pytest.raises(RlkitError, match="unknown part of the task in fit.learning_rates 'frist'; did you"):
        training(Two(), line(), learning_rates={"frist": 1.0})


def small_classifier() -> Classification:
    torch.manual_seed(0)
    return Classification(make_model("mlp", input_shape=[4], num_outputs=3, hidden_sizes=[8], dropout=0.3))


def blobs() -> Data:
    generator = torch.Generator().manual_seed(1)
    labels = torch.randint(3, (50,), generator=generator)
    samples = TensorSamples(torch.randn(50, 4, generator=generator) + labels.unsqueeze(1), labels)
    return Data(samples, samples, samples, input_shape=(4,), num_outputs=3)


@pytest.mark.parametrize("optimizer", ["adam", "sgd", "rmsprop"])
@pytest.mark.parametrize("stop_at", [5, 8, 9])  # in the second epoch, in its validation, and in the third epoch
def test_a_run_that_is_stopped_and_resumed_is_the_same_run(optimizer: str, stop_at: int) -> None:
    fields = {"epochs": 4, "batch_size": 16, "optimizer": optimizer, "momentum": 0.9, "schedule": "cosine"}

    def begin() -> Training:
        loop = training(small_classifier(), blobs(), **fields)
        loop.loggers = [Log()]
        return loop

    torch.manual_seed(7)
    whole = begin()
    torch.manual_seed(7)
    whole.train()

    stopped = begin()
    torch.manual_seed(7)
    step = stopped.step

    def stop(batch: Batch) -> None:
        step(batch)
        stopped.interrupted = stopped.steps == stop_at

    stopped.step = stop  # type: ignore[method-assign]
    with pytest.raises(KeyboardInterrupt):
        stopped.train()
    assert stopped.steps == stop_at
    tensors, numbers = stopped.state()

    torch.manual_seed(99)
    resumed = begin()
    resumed.load_state({name: tensor.clone() for name, tensor in tensors.items()}, json.loads(json.dumps(numbers)))
    resumed.best_state = stopped.best_state
    resumed.train()
    assert (resumed.steps, resumed.best_epoch, resumed.best) == (whole.steps, whole.best_epoch, whole.best)
    for mine, theirs in zip(resumed.task.parameters(), whole.task.parameters(), strict=True):
        assert torch.equal(mine, theirs)
    (log,), (expected,) = resumed.loggers, whole.loggers
    assert isinstance(log, Log)
    assert isinstance(expected, Log)
    assert log.rows[-1]["val/loss"] == expected.rows[-1]["val/loss"]
    assert log.rows[0]["train/loss"] == pytest.approx(expected.rows[-len(log.rows)]["train/loss"])


def test_two_runs_with_one_seed_are_the_same() -> None:
    first, second = (fit(small_classifier(), blobs(), FitConfig(epochs=2), seed=3) for _ in range(2))
    other = fit(small_classifier(), blobs(), FitConfig(epochs=2), seed=4)
    weights = [torch.cat([p.flatten() for p in fitted.task.parameters()]) for fitted in (first, second, other)]
    assert torch.equal(weights[0], weights[1])
    assert not torch.equal(weights[0], weights[2])


def test_mixed_precision_computes_in_bfloat16_and_learns() -> None:
    seen = []
    task = small_classifier()
    task.model.register_forward_hook(lambda module, args, output: seen.append(output.dtype))
    fitted = fit(task, blobs(), FitConfig(epochs=20, learning_rate=0.02, amp="bfloat16"))
    assert set(seen) == {torch.bfloat16}
    assert {parameter.dtype for parameter in task.parameters()} == {torch.float32}
    assert fitted.metrics["test_accuracy"] > 0.6


def test_rows_hold_means_over_samples() -> None:
    log = Log()
    data = line()
    loop = training(linear(), data, epochs=1, batch_size=30, optimizer="sgd", learning_rate=1e-9)
    loop.loggers = [log]
    loop.train()
    (row,) = log.rows
    everything = loop.evaluate(data.train)
    assert row["train/loss"] == pytest.approx(everything["loss"], rel=1e-4)  # of batches of 30 and 10
    assert row["val/mae"] == pytest.approx(everything["mae"])
    assert row["time/epoch"] == 1
    assert row["step"] == 2
    loop = training(linear(), data, epochs=1, batch_size=10, log_interval=2)
    loop.loggers = [log := Log()]
    loop.train()
    assert [row["time/epoch"] for row in log.rows] == [0.5, 1, 1]


def test_what_is_frozen_does_not_train() -> None:
    model = nn.Sequential(nn.BatchNorm1d(1), nn.Linear(1, 1), nn.Dropout(0.5))
    model[0].requires_grad_(False)
    task = Regression(model)
    set_training(task)
    assert [module.training for module in model] == [False, True, True]


def test_split_is_disjoint_complete_and_seeded() -> None:
    first, second, rest = split(100, [0.2, 0.3], seed=0)
    assert (len(first), len(second), len(rest)) == (20, 30, 50)
    assert sorted(torch.cat([first, second, rest]).tolist()) == list(range(100))
    assert torch.equal(first, split(100, [0.2, 0.3], seed=0)[0])
    assert not torch.equal(first, split(100, [0.2, 0.3], seed=1)[0])
    for shares in ([0.5, 0.5], [0.01]):
        with pytest.raises(RlkitError, match="a part would be empty"):
            split(10, shares, seed=0)


def test_labels_out_of_range() -> None:
    with pytest.raises(RlkitError, match="labels go from 0 to 10: with 10 classes they must be from 0 to 9"):
        check_labels(torch.tensor([0, 10]), 10)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"epochs": 0}, "fit.epochs=0 is out of range"),
        ({"optimizer": "adm"}, "unknown fit.optimizer 'adm'; did you mean 'adam'"),
        ({"learning_rate": 0.0}, "fit.learning_rate=0.0 is out of range: it must be greater than 0"),
        ({"nesterov": True}, "fit.nesterov=true needs fit.momentum"),
        ({"penalized": "("}, "fit.penalized=.: not a regular expression"),
    ],
)
def test_bad_settings(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(RlkitError, match=message):
        fit(linear(), line(), FitConfig(**fields))


def test_classification_by_one_output_is_that_by_two() -> None:
    class Fixed(nn.Module):
        def __init__(self, logits: Tensor) -> None:
            super().__init__()
            self.logits = logits

        def forward(self, inputs: Tensor) -> Tensor:
            return self.logits

    z = torch.tensor([[0.3], [-2.0], [1.5]])
    batch = Batch(torch.zeros(3, 1), torch.tensor([1, 1, 0]))
    one = Classification(Fixed(z)).measure(batch)
    expected = nn.functional.binary_cross_entropy_with_logits(z.squeeze(1), batch.targets.float())
    torch.testing.assert_close(one["loss"], expected)
    assert one["accuracy"].item() == pytest.approx(1 / 3)
    mse = Classification(Fixed(torch.tensor([[1.0, 0.0]])), loss="mse").measure(Batch(z[:1], torch.tensor([1])))
    assert mse["loss"].item() == 1.0
