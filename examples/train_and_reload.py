"""Train PPO on CartPole-v1, load it back, and evaluate it both with rlkit and with Stable-Baselines3."""

from __future__ import annotations

import gymnasium as gym
from stable_baselines3.common.evaluation import evaluate_policy
from stable_baselines3.common.monitor import Monitor

import rlkit


def main() -> None:
    """Trains for 20,000 steps, which take seconds; more steps give a better policy."""
    result = rlkit.train(agent="ppo", env="CartPole-v1", total_timesteps=20_000, seed=0)

    agent = rlkit.load(result.run_dir)
    evaluation = rlkit.evaluate_policy(agent, "CartPole-v1", episodes=20)
    print(f"rlkit: {evaluation.return_mean:.1f} ± {evaluation.return_std:.1f}")

    env = Monitor(gym.make("CartPole-v1"))
    mean, std = evaluate_policy(agent, env, n_eval_episodes=20)
    print(f"SB3:   {mean:.1f} ± {std:.1f}")


if __name__ == "__main__":
    main()
