"""Profile of a run, for `profile=true`: the time that each part took, and how close it came to the least possible.

The trainer, the collector, the agent and its engine know nothing of it. While a profiled run goes on, their methods are
replaced by timed ones from outside; a run without a profile pays nothing.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import wraps
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from gymnasium import spaces
from torch import Tensor, nn

from rlkit.networks.actor_critic import ActorCritic
from rlkit.networks.own import probe
from rlkit.networks.q_network import QNetwork

if TYPE_CHECKING:
    from rlkit.trainer import CollectAndUpdate, Trainer

SECTIONS = {
    "env": "stepping and resetting the environments",
    "act": "choosing actions",
    "store": "adding steps to the buffer",
    "collect": "the rest of the collector: checks, episode statistics",
    "sample": "drawing from the replay buffer",
    "returns": "values, advantages, targets",
    "gradient": "gradient steps",
    "update": "the rest of the updates",
    "log": "progress and loggers",
    "evaluate": "evaluations during training",
    "checkpoint": "writing checkpoints",
    "loop": "what is left",
}
"""Sections that time is charged to, with their descriptions."""
PROBE_SIZE = 512
"""Rows and columns of the matrices whose product shows how fast this machine multiplies."""
PROBE_SECONDS = 0.1
"""Seconds for which that product is repeated."""
CLOCK: Callable[[], float] = time.perf_counter
"""The clock of profiles. On a busy machine, benchmarks take that of the process's CPU time instead."""


class Stopwatch:
    """Charges time to one section at a time; a timed call inside another one interrupts that one's section."""

    def __init__(self, clock: Callable[[], float] | None = None) -> None:
        self.seconds = dict.fromkeys(SECTIONS, 0.0)
        self.calls = dict.fromkeys(SECTIONS, 0)
        self.interruptions = dict.fromkeys(SECTIONS, 0)
        """Timed calls from within each section."""
        self.section = "loop"
        """The section that time is charged to now."""
        self._clock = clock or CLOCK
        self._since = self._clock()

    def switch(self, section: str) -> None:
        """Charges the time from now on to `section`."""
        now = self._clock()
        self.seconds[self.section] += now - self._since
        self.section, self._since = section, now

    def restart(self) -> None:
        """Forgets the time since the last switch."""
        self._since = self._clock()

    def timed(self, section: str, function: Callable[..., Any]) -> Callable[..., Any]:
        """Wraps `function` so that its time is charged to `section`.

        Whatever an evaluation calls is charged to the evaluation, except for checkpoints.
        """

        @wraps(function)
        def call(*args: Any, **kwargs: Any) -> Any:
            before = self.section
            if before == "evaluate" and section != "checkpoint":
                return function(*args, **kwargs)
            self.switch(section)
            self.calls[section] += 1
            self.interruptions[before] += 1
            try:
                return function(*args, **kwargs)
            finally:
                self.switch(before)

        return call

    def spent(self, inside: float, outside: float) -> dict[str, float]:
        """Returns the seconds of each section less those that timing itself took, per call inside and outside of it."""
        own = {name: inside * self.calls[name] + outside * self.interruptions[name] for name in SECTIONS}
        return {name: max(0.0, seconds - own[name]) for name, seconds in self.seconds.items()}


def own_cost(batches: int = 20, calls: int = 100) -> tuple[float, float]:
    """Measures the seconds that timing a call takes inside of the call, and outside: the least of a few means."""
    costs = []
    for _ in range(batches):
        watch = Stopwatch()
        empty = watch.timed("act", lambda: None)
        for _ in range(calls):
            empty()
        costs.append((watch.seconds["act"] / calls, watch.seconds["loop"] / calls))
    return min(costs, key=sum)


class Profile:
    """Times all parts of a trainer, and counts the floating-point operations of its agent's network."""

    def __init__(self, trainer: Trainer, source: CollectAndUpdate[Any]) -> None:
        self._trainer, self._watch, self._flops = trainer, Stopwatch(), 0.0
        agent, engine = trainer.agent, getattr(trainer.agent, "engine", None)
        self._network = getattr(agent, "network", None)
        self._sections = [
            (source.collector.envs, "step", "env"),
            (source.collector.envs, "reset", "env"),
            (source.collector, "collect", "collect"),
            (agent, "act", "act"),
            (source.buffer, "add", "store"),
            (source.buffer, "sample", "sample"),
            (sys.modules[type(agent).__module__], "policy_batch", "returns"),  # imported from rlkit/advantages.py
            (engine, "evaluate", "returns"),
            (engine, "target_outputs", "returns"),
            (engine, "step", "gradient"),
            (agent, "update", "update"),
            (trainer, "log", "log"),
            (trainer, "evaluate", "evaluate"),
            (trainer, "save", "checkpoint"),
        ]

    @contextmanager
    def running(self) -> Iterator[None]:
        """Takes the time until the block ends; the block runs the trainer's loop."""
        with ExitStack() as stack:
            if isinstance(self._network, ActorCritic | QNetwork):
                self._count_products(self._network, stack)
            for owner, method, section in self._sections:
                if hasattr(owner, method):
                    timed = self._watch.timed(section, getattr(owner, method))
                    stack.enter_context(replaced(owner, method, timed))
            self._watch.restart()
            try:
                yield
            finally:
                self._watch.switch("loop")

    def report(self) -> dict[str, Any]:
        """Returns the content of profile.json."""
        watch, timesteps = self._watch, self._trainer.timesteps
        spent = watch.spent(*own_cost())
        total = sum(spent.values())
        rate = multiplications_per_second(self._trainer.agent.device) if self._flops else None
        products = self._flops / rate if rate else 0.0
        return {
            "timesteps": timesteps,
            "seconds": round(total, 6),
            "sections": {
                name: {
                    "seconds": round(seconds, 6),
                    "share": round(seconds / total, 4),
                    "us_per_timestep": round(seconds / max(1, timesteps) * 1e6, 3),
                    "calls": watch.calls[name],
                }
                for name, seconds in spent.items()
            },
            "floor": {
                "env_seconds": round(spent["env"], 6),
                "products_seconds": round(products, 6),
                "gflop": round(self._flops / 1e9, 6),
                "gflop_per_second": None if rate is None else round(rate / 1e9, 3),
                "share": round((spent["env"] + products) / (total - spent["evaluate"]), 4),
            },
        }

    def _count_products(self, network: ActorCritic | QNetwork, stack: ExitStack) -> None:
        """Makes the engine's methods count the operations of their matrix products, except during evaluations."""
        engine = self._trainer.agent.engine  # type: ignore[attr-defined]
        whole = products_per_row(network, network)
        acting = products_per_row(network, network.policy) if isinstance(network, ActorCritic) else whole
        # A method counts in these sections only: one may call another, and the work must not be counted twice.
        work = {
            "policy": (acting.forward, ("act",)),
            "q_values": (whole.forward, ("act", "update")),
            "evaluate": (whole.forward, ("returns",)),
            "target_outputs": (whole.forward, ("returns",)),
            "step": (whole.forward + whole.backward, ("gradient",)),
        }
        for method, (flops, sections) in work.items():
            if hasattr(engine, method):
                counted = self._counted(getattr(engine, method), flops, sections)
                stack.enter_context(replaced(engine, method, counted))

    def _counted(self, function: Callable[..., Any], flops: float, sections: tuple[str, ...]) -> Callable[..., Any]:
        @wraps(function)
        def call(given: Any, *args: Any, **kwargs: Any) -> Any:
            if self._watch.section in sections:
                # Methods are given features, a batch that has features, or the indices of rows.
                features = getattr(given, "features", given)
                self._flops += flops * len(features[0] if isinstance(features, tuple) else features)
            return function(given, *args, **kwargs)

        return call


@contextmanager
def replaced(owner: Any, name: str, value: Any) -> Iterator[None]:
    """Sets an attribute of an object or a module to `value` until the block ends."""
    names = vars(owner)
    before = [names[name]] if name in names else []
    setattr(owner, name, value)
    try:
        yield
    finally:
        if before:
            setattr(owner, name, before[0])
        else:
            delattr(owner, name)


class Products(NamedTuple):
    """Floating-point operations of a network's matrix products and convolutions, for one row."""

    forward: float
    """Operations of the forward pass."""
    backward: float
    """Operations of the backward pass."""


def products_per_row(network: ActorCritic | QNetwork, function: Callable[..., Any]) -> Products:
    """Counts the operations of `function`, which computes the network, or a part of it, from features.

    Wherever a weight is applied, it takes one multiplication and one addition. In the backward pass it takes as many
    for its own gradient, and again for the gradient of its input, unless that is the observation.
    """
    forward = backward = 0.0

    def count(layer: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        nonlocal forward, backward
        assert isinstance(layer, nn.Linear | nn.Conv2d)
        flops = 2.0 * output[0].numel() * layer.weight[0].numel()
        forward += flops
        backward += flops * (1 + inputs[0].requires_grad)

    layers = [module for module in network.modules() if isinstance(module, nn.Linear | nn.Conv2d)]
    features = network.features(probe(spaces.Tuple(network.features.leaves), rows=1))
    device = layers[0].weight.device
    with ExitStack() as stack:
        for layer in layers:
            stack.callback(layer.register_forward_hook(count).remove)
        function(tuple(torch.as_tensor(part, device=device) for part in features))
    return Products(forward, backward)


def multiplications_per_second(device: str) -> float:
    """Measures floating-point operations per second in a large product of float32 matrices, with the run's threads."""
    matrix = torch.ones(PROBE_SIZE, PROBE_SIZE, device=device)
    out = matrix @ matrix
    count, start = 0, CLOCK()
    while (spent := CLOCK() - start) < PROBE_SECONDS or count == 0:
        torch.mm(matrix, matrix, out=out)
        out[0, 0].item()  # on a GPU, this waits until the product is there
        count += 1
    return count * 2 * PROBE_SIZE**3 / spent


def table(report: dict[str, Any]) -> str:
    """Formats the report as a table."""
    lines = [f"{'':<11}{'seconds':>9}{'share':>8}{'µs/step':>10}"]
    for name, section in report["sections"].items():
        if section["seconds"]:
            numbers = f"{section['seconds']:>9.2f}{section['share']:>8.1%}{section['us_per_timestep']:>10.2f}"
            lines.append(f"{name:<11}{numbers}  {SECTIONS[name]}")
    floor = report["floor"]
    lines.append(
        f"floor: {floor['env_seconds']:.2f} s of stepping environments and {floor['products_seconds']:.2f} s of matrix "
        f"products are {floor['share']:.0%} of the time without evaluations"
    )
    return "\n".join(lines)
