"""Other libraries on the workloads of throughput.py, PPO and DQN, as their documentation builds them.

They are not among rlkit's dependencies: `throughput.py --peers-python PATH …` takes them from environments of their
own, in which rlkit need not be installed. All run without a logger that writes, but for SBX's, which is SB3's.

- Tianshou by its own trainer, and torchrl's parts (collector, losses, replay buffer) in the plain loop of its examples.
  Where the other systems evaluate and save, so do they.
- SBX (SB3's interface, JAX) and rlox (Rust and torch), by their own `learn` and `train`, without evaluations only. What
  JAX compiles during the run is told by JAX itself, and not counted. SBX's DQN does not clip gradients, and its rate
  does not fall; rlox's has the mean squared error, and its rate and PPO's clip range do not fall either. rlox's PPO
  steps a CartPole of its own, in Rust.
"""

from __future__ import annotations

import importlib
import time
from pathlib import Path
from typing import Any

from workloads import Workload

EVALUATIONS, EVAL_EPISODES, FINAL_EVAL_EPISODES, EVAL_ENVS = 10, 10, 20, 10


def train_tianshou(
    workload: Workload, run_dir: Path, timesteps: int, seed: int, clock: Any, *, evaluations: int
) -> Any:
    """Trains Tianshou's PPO or DQN by its trainer; returns timesteps, gradient steps and the final return.

    With `evaluations` 0 there are none, and the final return is None.
    """
    import gymnasium as gym
    import numpy as np
    import torch
    from torch import nn

    data, env, trainer, net, discrete = (
        importlib.import_module(f"tianshou.{name}")
        for name in ("data", "env", "trainer", "utils.net.common", "utils.net.discrete")
    )
    optim, algorithm = (importlib.import_module(f"tianshou.algorithm.{name}") for name in ("optim", "modelfree"))
    reinforce, dqn, ppo = (
        importlib.import_module(f"{algorithm.__name__}.{name}") for name in ("reinforce", "dqn", "ppo")
    )
    torch.set_num_threads(1)
    torch.manual_seed(seed)
    np.random.seed(seed)
    given = workload.hyperparameters
    envs, eval_envs = (
        env.DummyVectorEnv([lambda: gym.make(workload.env)] * count) for count in (workload.num_envs, EVAL_ENVS)
    )
    envs.seed(seed)
    eval_envs.seed(seed + 1000)
    example = gym.make(workload.env)
    shape, actions = example.observation_space.shape, int(example.action_space.n)  # type: ignore[attr-defined]
    collected, epoch = given["num_steps"] * workload.num_envs, timesteps // EVALUATIONS
    sizes = {
        "state_shape": shape,
        "hidden_sizes": workload.hidden_sizes,
        "activation": {"tanh": nn.Tanh, "relu": nn.ReLU}[workload.activation],
    }
    factory = optim.AdamOptimizerFactory(lr=given["learning_rate"], eps=1e-5 if workload.agent == "ppo" else 1e-8)
    # The learning rate falls with each update of PPO, and with each gradient step of DQN.
    per_fall = collected if workload.agent == "ppo" else collected // given["gradient_steps"]
    factory.with_lr_scheduler_factory(optim.LRSchedulerFactoryLinear(EVALUATIONS, epoch, per_fall))
    spaces = {"action_space": example.action_space, "observation_space": example.observation_space}
    common = {
        "max_epochs": EVALUATIONS,
        "epoch_num_steps": epoch,
        "collection_step_num_env_steps": collected,
        "test_step_num_episodes": EVAL_EPISODES,
        "batch_size": given["minibatch_size"],
        "save_best_fn": lambda learned: torch.save(learned.state_dict(), run_dir / "best.pt"),
        "verbose": False,
        "show_progress": False,  # hides the progress of epochs; that of updates cannot be hidden
    }
    if workload.agent == "ppo":
        actor = discrete.DiscreteActor(preprocess_net=net.Net(**sizes), action_shape=actions, softmax_output=False)
        learner = ppo.PPO(
            policy=reinforce.DiscreteActorPolicy(actor=actor, deterministic_eval=True, **spaces),
            critic=discrete.DiscreteCritic(preprocess_net=net.Net(**sizes)),
            optim=factory,
            eps_clip=given["clip_coef"],
            vf_coef=0.5,
            ent_coef=given["ent_coef"],
            max_grad_norm=0.5,
            gae_lambda=given["gae_lambda"],
            gamma=given["gamma"],
        )
        collector = data.Collector(learner, envs, data.VectorReplayBuffer(collected, workload.num_envs))
        of_kind = {"update_step_num_repetitions": given["num_epochs"]}
        parameters: Any = trainer.OnPolicyTrainerParams
    else:
        policy = dqn.DiscreteQLearningPolicy(model=net.Net(action_shape=actions, **sizes), eps_training=1.0, **spaces)
        learner = dqn.DQN(
            policy=policy,
            optim=factory,
            gamma=given["gamma"],
            target_update_freq=given["target.interval"],
            is_double=False,
            huber_loss_delta=1.0,
        )
        buffer = data.VectorReplayBuffer(given["replay.size"], workload.num_envs)
        collector = data.Collector(learner, envs, buffer, exploration_noise=True)

        def set_epsilon(epoch: int, step: int) -> None:
            policy.set_eps_training(epsilon(given, step / timesteps))

        of_kind = {
            "training_fn": set_epsilon,
            "update_step_num_gradient_steps_per_sample": given["gradient_steps"] / collected,
        }
        parameters = trainer.OffPolicyTrainerParams
    tester = data.Collector(learner, eval_envs)
    if not evaluations:
        common["test_step_num_episodes"] = 0
    with clock.running():
        collector.reset()
        if workload.agent == "dqn":  # as many random steps as the other systems take before their first update
            before = -(-given["learning_starts"] // collected) * collected - collected
            collector.collect(n_step=before, random=True)
        info = learner.run_training(
            parameters(
                training_collector=collector,
                test_collector=tester if evaluations else None,
                **common,
                **of_kind,
            )
        )
        torch.save(learner.state_dict(), run_dir / "last.pt")
    updates = info.update_step
    each = given["num_epochs"] * collected // given["minibatch_size"] if workload.agent == "ppo" else None
    steps, gradient_steps = int(info.train_step), int(updates * (each or given["gradient_steps"]))
    if not evaluations:
        return steps, gradient_steps, None
    found = tester.collect(n_episode=FINAL_EVAL_EPISODES, reset_before_collect=True)
    return steps, gradient_steps, float(np.mean(found.returns))


def train_torchrl(workload: Workload, run_dir: Path, timesteps: int, seed: int, clock: Any, *, evaluations: int) -> Any:
    """Trains with torchrl's collector, losses and replay buffer in a loop; returns like `train_tianshou`."""
    import torch
    from torch import nn

    modules, data, envs, objectives, values, collectors, tensordict_nn = map(
        importlib.import_module,
        (
            *("torchrl.modules", "torchrl.data", "torchrl.envs", "torchrl.objectives", "torchrl.objectives.value"),
            *("torchrl.collectors", "tensordict.nn"),
        ),
    )
    torch.set_num_threads(1)
    torch.manual_seed(seed)
    given = workload.hyperparameters
    collected = given["num_steps"] * workload.num_envs

    def make_envs(count: int) -> Any:
        def make() -> Any:
            return envs.GymEnv(workload.env, categorical_action_encoding=True)

        inner = envs.SerialEnv(count, make) if count > 1 else make()
        made = envs.TransformedEnv(inner, envs.Compose(envs.StepCounter(), envs.RewardSum()))
        made.set_seed(seed + count)
        return made

    training, testing = make_envs(workload.num_envs), make_envs(EVAL_ENVS)
    inputs, actions = training.observation_spec["observation"].shape[-1], int(training.action_spec.space.n)

    def mlp(outputs: int) -> Any:
        activation = {"tanh": nn.Tanh, "relu": nn.ReLU}[workload.activation]
        return modules.MLP(inputs, outputs, num_cells=list(workload.hidden_sizes), activation_class=activation)

    if workload.agent == "ppo":
        head = tensordict_nn.TensorDictModule(mlp(actions), in_keys=["observation"], out_keys=["logits"])
        policy: Any = modules.ProbabilisticActor(
            head,
            in_keys=["logits"],
            spec=training.action_spec_unbatched,
            distribution_class=torch.distributions.Categorical,
            return_log_prob=True,
        )
        critic = modules.ValueOperator(mlp(1), in_keys=["observation"])
        loss = objectives.ClipPPOLoss(
            policy,
            critic,
            clip_epsilon=given["clip_coef"],
            entropy_coeff=given["ent_coef"],
            critic_coeff=0.5,
            loss_critic_type="l2",
            normalize_advantage=True,
        )
        gae = values.GAE(gamma=given["gamma"], lmbda=given["gae_lambda"], value_network=critic, average_gae=False)
        acting, storage = policy, data.LazyTensorStorage(collected)
        sampler: Any = data.replay_buffers.samplers.SamplerWithoutReplacement()
    else:
        policy = modules.QValueActor(mlp(actions), spec=training.action_spec_unbatched, in_keys=["observation"])
        greedy = modules.EGreedyModule(
            policy.spec,
            eps_init=1.0,
            eps_end=given["epsilon.end"],
            annealing_num_steps=int(given["epsilon.fraction"] * timesteps),
        )
        loss = objectives.DQNLoss(policy, loss_function="smooth_l1", action_space=training.action_spec)
        loss.make_value_estimator(gamma=given["gamma"])
        acting, storage = (
            tensordict_nn.TensorDictSequential(policy, greedy),
            data.LazyTensorStorage(given["replay.size"]),
        )
        sampler = data.replay_buffers.samplers.RandomSampler()
        target = objectives.HardUpdate(loss, value_network_update_interval=given["target.interval"])
    buffer = data.TensorDictReplayBuffer(storage=storage, sampler=sampler, batch_size=given["minibatch_size"])
    collector = collectors.Collector(
        training, acting, frames_per_batch=collected, total_frames=timesteps, no_cuda_sync=True
    )
    parameters = [p for p in loss.parameters() if p.requires_grad]
    optimizer = torch.optim.Adam(parameters, given["learning_rate"], eps=1e-5 if workload.agent == "ppo" else 1e-8)
    steps = gradient_steps = 0
    due, best = timesteps // EVALUATIONS, float("-inf")

    def follow(batch: Any, max_norm: float) -> None:
        found = loss(batch)
        optimizer.zero_grad()
        sum(part for name, part in found.items() if name.startswith("loss")).backward()
        nn.utils.clip_grad_norm_(parameters, max_norm)
        optimizer.step()

    def evaluation(episodes: int) -> float:
        returns: list[float] = []
        with torch.no_grad(), envs.set_exploration_type(envs.ExplorationType.DETERMINISTIC):
            while len(returns) < episodes:
                rolled = testing.rollout(500, policy, break_when_any_done=False, break_when_all_done=True)["next"]
                first = rolled["done"].int().argmax(1, keepdim=True)  # the end of each environment's first episode
                returns += rolled["episode_reward"].gather(1, first).flatten().tolist()
        return sum(returns[:episodes]) / episodes

    with clock.running():
        for rollout in collector:
            steps += rollout.numel()
            for group in optimizer.param_groups:
                group["lr"] = given["learning_rate"] * (1 - (steps - collected) / timesteps)
            if workload.agent == "ppo":
                with torch.no_grad():
                    rollout = gae(rollout)
                buffer.empty()
                buffer.extend(rollout.reshape(-1))
                for _ in range(given["num_epochs"]):
                    for _ in range(collected // given["minibatch_size"]):
                        follow(buffer.sample(), 0.5)
                        gradient_steps += 1
            else:
                greedy.step(collected)
                buffer.extend(rollout.reshape(-1))
                for _ in range(given["gradient_steps"] if steps >= given["learning_starts"] else 0):
                    follow(buffer.sample(), 10.0)
                    target.step()
                    gradient_steps += 1
            if evaluations and steps >= due:
                due += timesteps // EVALUATIONS
                if (found := evaluation(EVAL_EPISODES)) > best:
                    best = found
                    torch.save(policy.state_dict(), run_dir / "best.pt")
                torch.save(loss.state_dict(), run_dir / "last.pt")
    collector.shutdown()
    return steps, gradient_steps, evaluation(FINAL_EVAL_EPISODES) if evaluations else None


def train_sbx(workload: Workload, run_dir: Path, timesteps: int, seed: int, clock: Any) -> Any:
    """Trains SBX's PPO or DQN without evaluations; returns like `train_tianshou`, without a final return."""
    import torch

    jax, sbx, linen, env_util, logger = map(
        importlib.import_module,
        ("jax", "sbx", "flax.linen", "stable_baselines3.common.env_util", "stable_baselines3.common.logger"),
    )
    torch.set_num_threads(1)
    spans: list[tuple[float, float]] = []

    def note(event: str, seconds: float, **_: Any) -> None:
        if event.startswith("/jax/core/compile/"):
            ended = time.perf_counter()
            spans.append((ended - seconds, ended))

    jax.monitoring.register_event_duration_secs_listener(note)
    arguments = workload.sb3_arguments()
    arguments["policy_kwargs"] |= {"activation_fn": getattr(linen, workload.activation)}
    envs = env_util.make_vec_env(workload.env, workload.num_envs, seed=seed)
    model = getattr(sbx, workload.agent.upper())("MlpPolicy", envs, seed=seed, **arguments)
    model.set_logger(logger.configure(str(run_dir), ["csv"]))
    spans.clear()
    with clock.running():
        model.learn(timesteps)
    clock.exclude_compiling(covered(spans))
    # SBX counts PPO's epochs, and DQN's gradient steps.
    given, counted = workload.hyperparameters, model._n_updates
    per_count = given["num_steps"] * workload.num_envs // given["minibatch_size"] if workload.agent == "ppo" else 1
    return model.num_timesteps, counted * per_count, None


def covered(spans: list[tuple[float, float]]) -> float:
    """Returns the length of all (start, end) together, of which some are within others."""
    total, until = 0.0, float("-inf")
    for start, end in sorted(spans):
        total += max(0.0, end - max(start, until))
        until = max(until, end)
    return total


def train_rlox(workload: Workload, run_dir: Path, timesteps: int, seed: int, clock: Any) -> Any:
    """Trains rlox's PPO or DQN without evaluations; returns like `train_sbx`."""
    import numpy as np
    import torch

    algorithms = importlib.import_module(f"rlox.algorithms.{workload.agent}")
    torch.set_num_threads(1)
    torch.manual_seed(seed)
    np.random.seed(seed)
    given = workload.hyperparameters
    (hidden,) = set(workload.hidden_sizes)
    if workload.agent == "ppo":
        assert (hidden, workload.activation) == (64, "tanh"), "rlox's own policy"
        model = algorithms.PPO(
            workload.env,
            workload.num_envs,
            seed,
            n_steps=given["num_steps"],
            batch_size=given["minibatch_size"],
            n_epochs=given["num_epochs"],
            learning_rate=given["learning_rate"],
            clip_eps=given["clip_coef"],
            ent_coef=given["ent_coef"],
            gamma=given["gamma"],
            gae_lambda=given["gae_lambda"],
            clip_vloss=False,
            anneal_lr=True,
        )
    else:
        theirs = workload.sb3_arguments()
        model = algorithms.DQN(
            workload.env,
            seed=seed,
            buffer_size=given["replay.size"],
            learning_rate=given["learning_rate"],
            batch_size=given["minibatch_size"],
            gamma=given["gamma"],
            target_update_freq=theirs["target_update_interval"],
            exploration_fraction=given["epsilon.fraction"],
            exploration_final_eps=given["epsilon.end"],
            learning_starts=given["learning_starts"],
            double_dqn=False,
            hidden=hidden,
            train_freq=given["num_steps"],
            gradient_steps=given["gradient_steps"],
            max_grad_norm=10.0,
        )
    gradient_steps, step = 0, model.optimizer.step

    def counted_step() -> None:
        nonlocal gradient_steps
        gradient_steps += 1
        step()

    model.optimizer.step = counted_step
    with clock.running():
        model.train(timesteps)
    steps = timesteps // (given["num_steps"] * workload.num_envs) * given["num_steps"] * workload.num_envs
    return steps if workload.agent == "ppo" else timesteps, gradient_steps, None


def epsilon(given: dict[str, Any], progress: float) -> float:
    """Returns the probability of a random action after the share `progress` of the run."""
    end: float = given["epsilon.end"]
    fraction: float = given["epsilon.fraction"]
    return 1 + min(1, progress / fraction) * (end - 1)
