"""PPO and DQN as a script in the style of CleanRL, with plain torch modules and optimisers and no abstractions.

It was written for throughput.py, from the algorithms' papers and CleanRL's documentation of its design: Gymnasium's
SyncVectorEnv with RecordEpisodeStatistics, one module with several parameters, torch's default Adam, tensors on one
device, actions drawn with torch.distributions. It neither evaluates nor logs nor saves anything.
"""

from __future__ import annotations

from typing import Any

import gymnasium as gym
import numpy as np
import torch
from torch import Tensor, nn
from torch.distributions import Categorical
from torch.nn import functional as F
from workloads import Workload


def train(workload: Workload, timesteps: int, seed: int) -> tuple[int, int]:
    """Trains the workload's agent; returns the timesteps and the gradient steps."""
    torch.set_num_threads(1)
    torch.manual_seed(seed)
    np.random.seed(seed)
    envs = gym.vector.SyncVectorEnv(
        [lambda: gym.wrappers.RecordEpisodeStatistics(gym.make(workload.env))] * workload.num_envs,
        autoreset_mode=gym.vector.AutoresetMode.SAME_STEP,
    )
    return {"ppo": ppo, "dqn": dqn}[workload.agent](workload, envs, timesteps, seed)


def network(workload: Workload, envs: Any, outputs: int) -> nn.Sequential:
    """Makes an MLP with the workload's hidden layers."""
    activation = {"tanh": nn.Tanh, "relu": nn.ReLU}[workload.activation]
    layers: list[nn.Module] = []
    inputs = int(np.prod(envs.single_observation_space.shape))
    for size in workload.hidden_sizes:
        layers += [nn.Linear(inputs, size), activation()]
        inputs = size
    return nn.Sequential(*layers, nn.Linear(inputs, outputs))


def ppo(workload: Workload, envs: Any, timesteps: int, seed: int) -> tuple[int, int]:
    """Trains by PPO with a clipped ratio; returns the timesteps and the gradient steps."""
    given: Any = workload.hyperparameters
    steps, num_envs = given["num_steps"], workload.num_envs
    actor, critic = network(workload, envs, int(envs.single_action_space.n)), network(workload, envs, 1)
    parameters = [*actor.parameters(), *critic.parameters()]
    optimizer = torch.optim.Adam(parameters, lr=given["learning_rate"], eps=1e-5)
    shape = (steps, num_envs)
    all_obs = torch.zeros(*shape, *envs.single_observation_space.shape)
    actions, log_probs, rewards, dones, values = (torch.zeros(shape) for _ in range(5))
    obs, done = torch.as_tensor(envs.reset(seed=seed)[0]), torch.zeros(num_envs)
    done_steps = gradient_steps = 0
    while done_steps < timesteps:
        left = 1 - done_steps / timesteps
        for group in optimizer.param_groups:
            group["lr"] = given["learning_rate"] * (left if given["learning_rate_schedule"] == "linear" else 1)
        clip = given["clip_coef"] * (left if given["clip_coef_schedule"] == "linear" else 1)
        for t in range(steps):
            all_obs[t], dones[t] = obs, done
            with torch.no_grad():
                policy: Any = Categorical(logits=actor(obs))
                action = policy.sample()
                log_probs[t], values[t] = policy.log_prob(action), critic(obs).flatten()
            actions[t] = action
            next_obs, reward, terminated, truncated, _ = envs.step(action.numpy())
            rewards[t] = torch.as_tensor(reward)
            obs, done = torch.as_tensor(next_obs), torch.as_tensor(terminated | truncated).float()
            done_steps += num_envs
        advantages, last = torch.zeros(shape), torch.zeros(num_envs)
        with torch.no_grad():
            next_value = critic(obs).flatten()
        for t in reversed(range(steps)):
            alive = 1 - (done if t == steps - 1 else dones[t + 1])
            following = next_value if t == steps - 1 else values[t + 1]
            delta = rewards[t] + given["gamma"] * following * alive - values[t]
            advantages[t] = last = delta + given["gamma"] * given["gae_lambda"] * alive * last
        returns = (advantages + values).flatten()
        flat_obs, flat = all_obs.flatten(0, 1), [part.flatten() for part in (actions, log_probs, advantages)]
        for _ in range(given["num_epochs"]):
            order = np.random.permutation(steps * num_envs)
            for start in range(0, len(order), given["minibatch_size"]):
                rows = order[start : start + given["minibatch_size"]]
                action, old, advantage = (part[rows] for part in flat)
                policy = Categorical(logits=actor(flat_obs[rows]))
                ratio = (policy.log_prob(action) - old).exp()
                advantage = (advantage - advantage.mean()) / (advantage.std() + 1e-8)
                policy_loss = torch.max(-advantage * ratio, -advantage * ratio.clamp(1 - clip, 1 + clip)).mean()
                value_loss = (critic(flat_obs[rows]).flatten() - returns[rows]).square().mean()
                entropy = policy.entropy().mean()
                loss: Tensor = policy_loss - given["ent_coef"] * entropy + 0.5 * value_loss
                optimizer.zero_grad()
                loss.backward()  # type: ignore[no-untyped-call]
                nn.utils.clip_grad_norm_(parameters, 0.5)
                optimizer.step()
                gradient_steps += 1
    return done_steps, gradient_steps


def dqn(workload: Workload, envs: Any, timesteps: int, seed: int) -> tuple[int, int]:
    """Trains by DQN with a target network in one environment; returns the timesteps and the gradient steps."""
    given: Any = workload.hyperparameters
    rng, size, actions = np.random.default_rng(seed), given["replay.size"], int(envs.single_action_space.n)
    online, target = network(workload, envs, actions), network(workload, envs, actions)
    target.load_state_dict(online.state_dict())
    optimizer = torch.optim.Adam(online.parameters(), lr=given["learning_rate"])
    shape = envs.single_observation_space.shape
    all_obs, all_next = (np.zeros((size, *shape), np.float32) for _ in range(2))
    all_actions, rewards, ends = np.zeros(size, np.int64), np.zeros(size, np.float32), np.zeros(size, np.float32)
    obs, _ = envs.reset(seed=seed)
    gradient_steps = 0
    for step in range(timesteps):
        share = min(1, step / timesteps / given["epsilon.fraction"])
        if rng.random() < 1 + share * (given["epsilon.end"] - 1):
            action = np.array([rng.integers(actions)])
        else:
            with torch.no_grad():
                action = online(torch.as_tensor(obs)).argmax(1).numpy()
        next_obs, reward, terminated, truncated, info = envs.step(action)
        reached = info["final_obs"][0] if terminated[0] or truncated[0] else next_obs[0]
        slot = step % size
        all_obs[slot], all_next[slot], all_actions[slot] = obs[0], reached, action[0]
        rewards[slot], ends[slot] = reward[0], terminated[0]
        obs = next_obs
        if step + 1 < given["learning_starts"] or (step + 1) % given["num_steps"]:
            continue
        for group in optimizer.param_groups:
            group["lr"] = given["learning_rate"] * (1 - step / timesteps)
        for _ in range(given["gradient_steps"]):
            if gradient_steps % given["target.interval"] == 0:
                target.load_state_dict(online.state_dict())
            rows = rng.integers(min(step + 1, size), size=given["minibatch_size"])
            with torch.no_grad():
                best = target(torch.as_tensor(all_next[rows])).max(1).values
                targets = torch.as_tensor(rewards[rows]) + given["gamma"] * best * (1 - torch.as_tensor(ends[rows]))
            chosen = online(torch.as_tensor(all_obs[rows])).gather(1, torch.as_tensor(all_actions[rows])[:, None])
            loss = F.smooth_l1_loss(chosen[:, 0], targets)
            optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            nn.utils.clip_grad_norm_(online.parameters(), 10.0)
            optimizer.step()
            gradient_steps += 1
    return timesteps, gradient_steps
