"""PPO on images as a single script in the style of LeanRL: all of an update is compiled and recorded as a CUDA graph.

It was written for gpu.py, from LeanRL's description of its design: a rollout that stays on the GPU, one compiled
function each for acting, advantages and the gradient step, CUDA graphs for what comes again and again, a fused and
capturable Adam, and no transfers back but the actions. Like its model it does not tell truncated from terminated
episodes. It neither evaluates nor logs nor saves anything.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import gymnasium as gym
import numpy as np
import torch
from torch import Tensor, nn
from torch.distributions import Categorical
from workloads import Workload

WARM_UP = 3
"""Calls of a function before it is recorded."""


class Graphed:
    """A function of tensors that is recorded at its fourth call, and replayed from then on."""

    def __init__(self, function: Callable[..., tuple[Tensor, ...]]) -> None:
        self._function, self._calls = function, 0
        self._graph = torch.cuda.CUDAGraph()
        self._inputs: list[Tensor] = []
        self._outputs: tuple[Tensor, ...] = ()

    def __call__(self, *inputs: Tensor) -> tuple[Tensor, ...]:
        self._calls += 1
        if self._calls <= WARM_UP:
            return self._function(*inputs)
        if not self._inputs:
            self._inputs = [part.clone() for part in inputs]
            with torch.cuda.graph(self._graph):
                self._outputs = self._function(*self._inputs)
        for place, part in zip(self._inputs, inputs, strict=True):
            place.copy_(part, non_blocking=True)
        self._graph.replay()
        return self._outputs


class Network(nn.Module):
    """The convolutional network of Mnih et al. (2015) with a policy and a value behind it."""

    def __init__(self, actions: int) -> None:
        super().__init__()
        self.body = nn.Sequential(
            *(nn.Conv2d(4, 32, 8, 4), nn.ReLU(), nn.Conv2d(32, 64, 4, 2), nn.ReLU(), nn.Conv2d(64, 64, 3), nn.ReLU()),
            *(nn.Flatten(), nn.Linear(3136, 512), nn.ReLU()),
        )
        self.actor, self.critic = nn.Linear(512, actions), nn.Linear(512, 1)

    def forward(self, frames: Tensor) -> tuple[Tensor, Tensor]:
        """Computes logits and values from frames of bytes."""
        hidden = self.body(frames / 255)
        return self.actor(hidden), self.critic(hidden)[:, 0]


def train(workload: Workload, timesteps: int, seed: int) -> tuple[int, int]:
    """Trains the workload's agent; returns the timesteps and the gradient steps."""
    torch.set_num_threads(1)
    torch.manual_seed(seed)
    torch.set_float32_matmul_precision("high")
    given: Any = workload.hyperparameters
    steps, num_envs, device = given["num_steps"], workload.num_envs, "cuda"
    envs = gym.vector.SyncVectorEnv(
        [lambda: gym.wrappers.RecordEpisodeStatistics(gym.make(workload.env))] * num_envs,
        autoreset_mode=gym.vector.AutoresetMode.SAME_STEP,
    )
    single: Any = envs
    network = Network(int(single.single_action_space.n)).to(device)
    rate = torch.tensor(given["learning_rate"], device=device)
    optimizer = torch.optim.Adam(network.parameters(), lr=rate, eps=1e-5, fused=True, capturable=True)

    def act(frames: Tensor) -> tuple[Tensor, ...]:
        logits, values = network(frames)
        distribution = Categorical(logits=logits, validate_args=False)
        actions = distribution.sample()  # type: ignore[no-untyped-call]
        return actions, distribution.log_prob(actions), values  # type: ignore[no-untyped-call]

    def advantages(rewards: Tensor, values: Tensor, dones: Tensor, last: Tensor) -> Tensor:
        following, after, found = torch.zeros_like(last), last, []
        for t in reversed(range(steps)):
            error = rewards[t] + given["gamma"] * after * (1 - dones[t]) - values[t]
            following = error + given["gamma"] * given["gae_lambda"] * (1 - dones[t]) * following
            after = values[t]
            found.append(following)
        return torch.stack(found[::-1])

    def loss(*batch: Tensor) -> Tensor:
        frames, actions, old_log_prob, advantage, returns, clip = batch
        logits, values = network(frames)
        distribution = Categorical(logits=logits, validate_args=False)
        ratio = (distribution.log_prob(actions) - old_log_prob).exp()  # type: ignore[no-untyped-call]
        advantage = (advantage - advantage.mean()) / (advantage.std() + 1e-8)
        gain = torch.min(ratio * advantage, ratio.clamp(1 - clip, 1 + clip) * advantage).mean()
        entropy: Tensor = distribution.entropy().mean()  # type: ignore[no-untyped-call]
        value: Tensor = 0.5 * (values - returns).square().mean() - gain - given["ent_coef"] * entropy
        return value

    compiled_loss = torch.compile(loss)

    def update(*batch: Tensor) -> tuple[Tensor, ...]:
        optimizer.zero_grad()
        value = compiled_loss(*batch)
        torch.autograd.backward(value)
        nn.utils.clip_grad_norm_(network.parameters(), 0.5, foreach=True)
        optimizer.step()
        return (value.detach(),)

    policy, graphed_update = Graphed(torch.compile(act)), Graphed(update)
    compiled_advantages = torch.compile(advantages)
    shape = (steps, num_envs)
    frames = torch.zeros(*shape, *single.single_observation_space.shape, dtype=torch.uint8, device=device)
    actions = torch.zeros(shape, dtype=torch.int64, device=device)
    log_probs, values = (torch.zeros(shape, device=device) for _ in range(2))
    obs = torch.as_tensor(envs.reset(seed=seed)[0]).to(device)
    taken = gradient_steps = 0
    while taken < timesteps:
        left = 1 - taken / timesteps
        rate.fill_(given["learning_rate"] * left)
        clip = torch.tensor(given["clip_coef"] * left, device=device)
        rewards, dones = np.zeros(shape, np.float32), np.zeros(shape, np.float32)
        with torch.no_grad():
            for t in range(steps):
                frames[t] = obs
                chosen, log_probs[t], values[t] = policy(obs)
                actions[t] = chosen
                next_obs, rewards[t], terminated, truncated, _ = envs.step(chosen.cpu().numpy())
                dones[t] = terminated | truncated
                obs = torch.as_tensor(next_obs).pin_memory().to(device, non_blocking=True)
            taken += steps * num_envs
            last = network(obs)[1]
            parts = torch.as_tensor(rewards, device=device), values, torch.as_tensor(dones, device=device), last
            advantage = compiled_advantages(*parts)
            batch = [part.flatten(0, 1) for part in (frames, actions, log_probs, advantage, advantage + values)]
        for _ in range(given["num_epochs"]):
            order = torch.randperm(steps * num_envs, device=device)
            for rows in torch.split(order, given["minibatch_size"]):
                graphed_update(*(part[rows] for part in batch), clip)
                gradient_steps += 1
    envs.close()
    return taken, gradient_steps
