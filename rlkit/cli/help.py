"""The text of `--help`, generated from the documentation below each field of the configs."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from importlib import resources

from rlkit.config import EnvConfig, TrainConfig
from rlkit.registry import agent_names, find_agent
from rlkit.runs.field_docs import section
from rlkit.runs.loggers import LOGGERS, find_logger, logger_key, logger_names
from rlkit.setting import NetworkConfig

USAGE = """\
Train a reinforcement learning agent. `rlkit` and `python -m rlkit` are the same command.

  rlkit agent=ppo env=CartPole-v1                      train
  rlkit agent=ppo env=CartPole-v1 agent.gamma=0.95     override any field below
  rlkit experiment=book_dqn seed=1                     an agent, an environment and all values that go with them
  rlkit -m agent=ppo,ppo_kl env=CartPole-v1 seed=0,1   train every combination
  rlkit agent=ppo env=CartPole-v1 --cfg job            print the configuration instead of training
  rlkit resume=RUN                                     go on with a run that was stopped, or, with more steps, finished
  python -m rlkit.evaluate RUN episodes=20 video=true  evaluate a run folder or checkpoint, record videos

Tuned values for an agent and an environment apply by themselves where there are some: they beat the defaults
below, and lose to an experiment, which loses to the command line; ~tuned leaves them out. hydra.run.dir=FOLDER
moves the run folder. Options with a dash go before or after the key=value arguments, not between them;
--hydra-help lists Hydra's own."""


def help_text(agent: str, loggers: Sequence[str] = ()) -> str:
    """Returns the text that `agent=<agent> logger=<loggers> --help` prints; raises RlkitError for unknown names."""
    variant = find_agent(agent)
    chosen = f"agent=NAME, one of: {', '.join(agent_names())}, or your own: my_package.module:MyAgent"
    folder = resources.files("rlkit.conf") / "experiment"
    experiments = sorted(file.name.removesuffix(".yaml") for file in folder.iterdir())
    env = "env=ID, any Gymnasium id: CartPole-v1, ALE/Pong-v5, my_package.module:MyEnv-v0"
    sections = [
        USAGE,
        f"experiment=NAME, one of: {', '.join(experiments)}",
        section(f"{chosen}\n{agent}:", "agent.", variant.make()),
        section(f"{env}\nOf the environment:", "env.", EnvConfig(), without=("id",)),
        section("Of the network:", "network.", NetworkConfig()),
        section("Of the run:", "", TrainConfig(**variant.run), without=("agent", "env", "network")),
    ]
    sections.append(f"logger=[NAME,…], any of: {', '.join(logger_names())}, or your own: my_package.module:MyLogger")
    for name in dict.fromkeys([*LOGGERS, *loggers]):
        config = find_logger(name).config
        if dataclasses.fields(config):
            sections.append(section(f"With logger={name}:", f"logger.{logger_key(name)}.", config()))
    return "\n\n".join(sections)
