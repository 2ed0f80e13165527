"""The text of `--help`, from the documentation that stands below each field of the configs."""

from __future__ import annotations

import dataclasses
from importlib import resources

from rlkit.agents import VARIANTS
from rlkit.config import EnvConfig, TrainConfig
from rlkit.errors import unknown
from rlkit.runs.field_docs import section
from rlkit.runs.loggers import LOGGERS
from rlkit.setting import NetworkConfig

USAGE = """\
Train a reinforcement learning agent. `rlkit` and `python -m rlkit` are the same command.

  rlkit agent=ppo env=CartPole-v1                      train
  rlkit agent=ppo env=CartPole-v1 agent.gamma=0.95     override any field below
  rlkit experiment=book_dqn seed=1                     an agent, an environment and all values that go with them
  rlkit -m agent=ppo,ppo_kl env=CartPole-v1 seed=0,1   train every combination
  rlkit agent=ppo env=CartPole-v1 --cfg job            print the configuration instead of training
  python -m rlkit.evaluate RUN episodes=20 video=true  evaluate a run folder or checkpoint, record videos

Tuned values for an agent and an environment apply by themselves where there are some: they beat the defaults
below, and lose to an experiment, which loses to the command line; ~tuned leaves them out. hydra.run.dir=FOLDER
moves the run folder. Options with a dash go before or after the key=value arguments, not between them;
--hydra-help lists Hydra's own."""


def help_text(agent: str) -> str:
    """What `agent=<agent> --help` prints; raises RlkitError for an unknown agent."""
    if agent not in VARIANTS:
        raise unknown("agent", agent, VARIANTS)
    variant = VARIANTS[agent]
    chosen = f"agent=NAME, one of: {', '.join(VARIANTS)}"
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
    for name, kind in LOGGERS.items():
        if dataclasses.fields(kind.config):
            sections.append(section(f"With logger={name}:", f"logger.{name}.", kind.config()))
    return "\n\n".join(sections)
