"""What a companion run is made of: typed configs, their documentation, and their checks. Imports no torch."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Any

from rlkit.errors import RlkitError, check_choice, check_fields, check_range

OPTIMIZERS = ("sgd", "adam", "adamw", "rmsprop")
SCHEDULES = ("constant", "linear", "cosine", "step", "exponential", "one_cycle")
AMPS = ("auto", "off", "bfloat16", "float16")
DEVICES = ("auto", "cpu", "cuda")


@dataclass
class FitConfig:
    """How a model is trained."""

    epochs: int = 10
    """Passes over the training samples."""
    batch_size: int = 128
    """Samples of each gradient step."""
    eval_batch_size: int = 500
    """Samples at a time in validation and test."""
    drop_last: bool = False
    """Leave out an epoch's last batch where it is smaller than the others."""
    optimizer: str = "adam"
    """`sgd`, `adam`, `adamw` (weight decay apart from the gradient), or `rmsprop`."""
    learning_rate: float = 1e-3
    """Of the first step after the warm-up."""
    learning_rates: dict[str, float] = field(default_factory=dict)
    """Of parts that have one of their own, such as `{discriminator: 4e-4}`."""
    momentum: float = 0.0
    """Of SGD and RMSProp."""
    nesterov: bool = False
    """Nesterov's momentum, with SGD."""
    beta1: float = 0.9
    """Adam's decay of the mean gradient."""
    beta2: float = 0.999
    """Adam's decay of the mean squared gradient, and RMSProp's."""
    schedule: str = "constant"
    """Of the learning rate: `constant`; `linear` or `cosine` down to 0; `step` every `schedule_epochs`; `exponential`
    every epoch; `one_cycle` up for 30 % of the run from a 25th, and down to almost nothing."""
    schedule_factor: float = 0.1
    """What `step` and `exponential` multiply by."""
    schedule_epochs: int = 30
    """How often `step` does."""
    warmup_steps: int = 0
    """Gradient steps over which the learning rate grows to its value."""
    weight_decay: float = 0.0
    """The optimiser's own."""
    l1: float = 0.0
    """Adds l1 Σ|w| to the loss."""
    l2: float = 0.0
    """Adds l2 Σw² to the loss."""
    penalized: str = "."
    """A regular expression: whose weights `l1` and `l2` are for; biases are left out."""
    clip_value: float | None = None
    """Clips every entry of the gradient to ± this."""
    clip_norm: float | None = None
    """Clips the norm of each parameter's gradient."""
    clip_global_norm: float | None = None
    """Clips the norm of the gradient of all parameters together."""
    monitor: str = "loss"
    """The validation metric that says which model is best, and when to stop: `loss` and `mae` the smaller, others the
    larger, the better."""
    patience: int | None = None
    """Stop after so many epochs without an improvement; null: never."""
    min_delta: float = 0.0
    """What counts as an improvement, for `patience`."""
    restore_best: bool = True
    """The result is the model that was best in validation, where there is one, instead of the last one."""
    validation_interval: int = 1
    """Epochs between validations."""
    amp: str = "auto"
    """Mixed precision: `bfloat16`, `float16` (with scaled losses), `off`; `auto`: bfloat16 on a GPU that has it,
    float16 on others, off on a CPU."""
    log_interval: int | None = None
    """Gradient steps between rows of metrics.csv; null: a row per epoch."""
    checkpoint_interval: int | None = None
    """Epochs between writes of checkpoints; null: a tenth of the run; 0: only at the end."""

    def validate(self) -> None:
        """Raises RlkitError on the first field whose value cannot work."""
        counts = ["epochs", "batch_size", "eval_batch_size", "schedule_epochs", "patience", "validation_interval"]
        check_fields(
            self,
            "fit",
            counts=[*counts, "log_interval"],
            positive=["learning_rate", "clip_value", "clip_norm", "clip_global_norm", "schedule_factor"],
            not_negative=["warmup_steps", "weight_decay", "l1", "l2", "min_delta", "checkpoint_interval"],
            shares=["momentum", "beta1", "beta2"],
        )
        check_choice("fit.optimizer", self.optimizer, OPTIMIZERS)
        check_choice("fit.schedule", self.schedule, SCHEDULES)
        check_choice("fit.amp", self.amp, AMPS)
        for name, rate in self.learning_rates.items():
            check_range(f"fit.learning_rates.{name}", rate, 0, exclusive=True)
        if self.nesterov and not self.momentum:
            raise RlkitError("fit.nesterov=true needs fit.momentum to be greater than 0")
        try:
            re.compile(self.penalized)
        except re.error as error:
            raise RlkitError(f"fit.penalized={self.penalized}: not a regular expression: {error}") from error


@dataclass
class PerceptionConfig:
    """One companion run."""

    recipe: str = "none"
    """Set by the recipe: its name."""
    data: Any = None
    """The data set's own fields."""
    model: Any = None
    """The network's own fields."""
    task: Any = None
    """The task's own fields."""
    fit: FitConfig = field(default_factory=FitConfig)
    logger: dict[str, Any] = field(default_factory=dict)
    """Loggers beside the CSV file, by name; `logger=[tensorboard,wandb]` on the command line."""
    data_root: str | None = None
    """The folder with the data sets, `<data_root>/<name>/…`; null: what the variable RLKIT_DATA says."""
    seed: int = 0
    """Seeds the initial weights, the order of the samples, dropout and augmentation."""
    device: str = "auto"
    """`cpu`, `cuda`, or `auto`: CUDA where there is a GPU."""
    scale: str = "auto"
    """Of images and columns: `unit` leaves [0, 1], `signed` makes it [−1, 1], `standardize` whitens by the training
    samples' statistics, `none` changes nothing; `auto` standardises where that makes sense."""
    resize: int | None = None
    """Enlarge or shrink images to so many pixels."""
    augment: dict[str, float] = field(default_factory=dict)
    """What happens to training images, by name: `{crop: 4, flip: 0.5}`; also flip_vertical, rotate, rotate90, erase,
    color, noise."""
    init_from: str | None = None
    """A companion run's folder: start with its network, all but the head."""
    freeze: bool = False
    """With `init_from`: train nothing but the head."""

    def validate(self) -> None:
        """Raises RlkitError on the first field whose value cannot work."""
        check_range("seed", self.seed, 0, 2**31 - 1)
        check_choice("device", self.device, DEVICES)
        check_range("resize", self.resize, 1)
        if self.freeze and self.init_from is None:
            raise RlkitError("freeze=true needs init_from=RUN: a network of random weights would stay as it is")
        self.fit.validate()
