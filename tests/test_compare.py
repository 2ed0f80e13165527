"""Comparisons: the table of hyperparameters, runs of SB3's agents, statistics, and what is made of them."""

from __future__ import annotations

import dataclasses
import json
import math
import re
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from scipy import stats
from stable_baselines3 import PPO as SB3PPO
from torch import nn

import rlkit
from rlkit.cli import composition
from rlkit.compare import peer_run, results
from rlkit.compare.__main__ import main, parse
from rlkit.compare.config import CompareConfig
from rlkit.compare.output import page_html, terminal_text
from rlkit.compare.peers import FIELDS, PEERS, Linear, Mapped, Peer, PeerTask, differences, find_peer, mapped_arguments
from rlkit.compare.plan import make_plan, missing
from rlkit.episodes import evaluate_policy
from rlkit.errors import RlkitError
from rlkit.maths import statistics
from rlkit.registry import find_agent, make_agent
from rlkit.report.sides import sides_of
from rlkit.run import Evaluations
from rlkit.runs.stored_runs import StoredRun, find_runs
from rlkit.setting import NetworkConfig, Setting
from rlkit.system.seeding import run_seeds

FIXTURE = Path(__file__).parent / "fixtures" / "rliable.json"


# The table of hyperparameters


def fields_of(config: Any, prefix: str) -> set[str]:
    """The dotted names of a config's fields, those of groups among them."""
    found = set()
    for field in dataclasses.fields(config):
        value = getattr(config, field.name)
        name = f"{prefix}.{field.name}"
        found |= fields_of(value, name) if dataclasses.is_dataclass(value) else {name}
    return found


@pytest.mark.parametrize("agent", sorted(FIELDS))
def test_the_table_has_a_row_for_every_field(agent: str) -> None:
    rows = [field for row in FIELDS[agent] for field in row.ours]
    expected = fields_of(find_agent(agent).make(), "agent") | fields_of(NetworkConfig(), "network")
    assert sorted(rows) == sorted(expected)


def peer_of(name: str, ours: str) -> Peer:
    return next(peer for peer in PEERS if (peer.name, peer.ours) == (name, ours))


def test_hyperparameters_by_the_names_of_sb3() -> None:
    config = composition.compose(["agent=ppo", "env=CartPole-v1", "agent.max_grad_norm=null", "agent.adam_eps=2e-5"])
    found = mapped_arguments(config)
    assert found == {
        "policy_kwargs.activation_fn": nn.Tanh,
        "policy_kwargs.log_std_init": 0.0,
        "policy_kwargs.optimizer_kwargs.eps": 2e-5,
        "gamma": 0.98,
        "gae_lambda": 0.8,
        "n_steps": 32,
        "learning_rate": Linear(1e-3),
        "normalize_advantage": True,
        "batch_size": 256,
        "n_epochs": 20,
        "clip_range": Linear(0.2),
        "clip_range_vf": None,
        "target_kl": None,
        "ent_coef": 0.0,
        "vf_coef": 0.5,
        "max_grad_norm": math.inf,
    }
    assert found["learning_rate"](0.25) == 2.5e-4


def test_a_target_network_follows_by_steps_instead_of_gradient_steps() -> None:
    run = ["agent=dqn", "env=CartPole-v1", "~tuned", "num_envs=2", "agent.num_steps=4", "agent.gradient_steps=2"]
    found = mapped_arguments(composition.compose([*run, "agent.target.interval=100"]))
    assert found["target_update_interval"] == 400  # 100 gradient steps take 50 updates of 2 * 4 steps
    assert found["learning_starts"] == 999
    uneven = composition.compose([*run, "agent.gradient_steps=3", "agent.target.interval=1"])
    (note,) = [text for text in differences(uneven, peer_of("sb3", "dqn")) if "target" in text]
    assert note == "agent.target.interval=1: in SB3 DQN the target network follows every 3 steps, ours 2.66667"


def test_layers_of_policy_and_critic() -> None:
    run = ["agent=a2c", "env=CartPole-v1", "network.hidden_sizes=[32,16]", "network.activation=leaky_relu"]
    config = composition.compose([*run, "network.critic_hidden_sizes=[8]", "agent.optimizer=adam"])
    found = mapped_arguments(config)
    assert found["policy_kwargs.net_arch"] == {"pi": [32, 16], "vf": [8]}
    assert found["policy_kwargs.activation_fn"] is nn.LeakyReLU
    assert found["use_rms_prop"] is False
    assert found["policy_kwargs.optimizer_kwargs.eps"] == 1e-5
    assert mapped_arguments(composition.compose(["agent=dqn", "network.hidden_sizes=[7]"]))[
        "policy_kwargs.net_arch"
    ] == [7]


def test_what_sb3_cannot_do_is_said() -> None:
    config = composition.compose(["agent=ppo_kl", "agent.noise_correlation=0.5", "total_episodes=7"])
    assert differences(config, peer_of("sb3", "ppo")) == [
        "agent.objective=kl: SB3 PPO has the clipped objective alone",
        "agent.noise_correlation=0.5: SB3 PPO explores with white noise",
        "total_episodes=7: SB3 PPO counts timesteps alone",
    ]
    rainbow = differences(composition.compose(["agent=rainbow", "~tuned"]), peer_of("sb3", "dqn"))
    assert (
        sum(any(word in text for word in ("double", "dueling", "noisy", "expected", "evenly")) for text in rainbow) == 5
    )


def test_agents_without_a_counterpart() -> None:
    with pytest.raises(
        RlkitError, match=r"agent=reinforce has no counterpart .* expected one of a2c, dqn, ppo, or peers=\[\]"
    ):
        find_peer("sb3", "reinforce")
    with pytest.raises(RlkitError, match=r"agent=trpo .* expected peers=\[sb3-contrib\]"):
        find_peer("sb3", "trpo")


# A run of SB3's agent


def peer_task(*overrides: str, peer: str = "sb3", same: bool = True, more: dict[str, Any] | None = None) -> PeerTask:
    run = ["total_timesteps=60", "eval_interval=20", "eval_episodes=2", "final_eval_episodes=2", "log_interval=10"]
    config = composition.compose([*run, *overrides])
    return PeerTask(peer_of(peer, config.agent.name), config, same, more or {})


def test_a_run_leaves_a_run_folder_with_metrics_and_summary(tmp_path: Path) -> None:
    task = peer_task("agent=a2c", "env=CartPole-v1", "num_envs=2", "agent.num_steps=5")
    peer_run.train_peer(task, tmp_path / "a")
    peer_run.train_peer(task, tmp_path / "b")
    first, second = StoredRun(tmp_path / "a"), StoredRun(tmp_path / "b")
    assert (first.status, first.agent, first.env, first.seed, first.timesteps) == (
        *("finished", "SB3 A2C", "CartPole-v1", 0),
        60,
    )
    steps, returns = first.curve("eval/return_mean")
    assert steps.tolist() == [20, 40, 60]
    assert returns.tolist() == second.curve("eval/return_mean")[1].tolist()  # a run is repeated exactly
    assert first.summary["eval_return_mean"] == second.summary["eval_return_mean"]
    assert first.config["agent.n_steps"] == 5
    assert first.number("training_cpu_s")
    assert first.number("peak_memory_mib")
    assert (tmp_path / "a" / "model.zip").exists()


def test_normalisation_becomes_a_wrapper_that_evaluations_use(tmp_path: Path) -> None:
    task = peer_task(
        "agent=ppo",
        "env=Pendulum-v1",
        "~tuned",
        "network.normalize_obs=true",
        "agent.normalize_rewards=true",
        "num_envs=2",
        "agent.num_steps=10",
        "agent.minibatch_size=10",
        "agent.num_epochs=1",
    )
    peer_run.train_peer(task, tmp_path)
    assert StoredRun(tmp_path).config["wrappers.VecNormalize"] == "observations True, rewards True"
    assert StoredRun(tmp_path).number("eval_return_mean") is not None


def test_defaults_are_sb3s_own_and_arguments_win(tmp_path: Path) -> None:
    task = peer_task(
        "agent=dqn", "env=CartPole-v1", same=False, more={"learning_starts": 20, "policy_kwargs.net_arch": [8]}
    )
    peer_run.train_peer(task, tmp_path)
    config = StoredRun(tmp_path).config
    assert {key for key in config if key.startswith("agent.")} == {
        *("agent.name", "agent.policy", "agent.learning_starts", "agent.policy_kwargs.net_arch"),
    }
    assert config["num_envs"] == 1
    assert StoredRun(tmp_path).summary["notes"] == []


def test_arguments_that_sb3_does_not_have() -> None:
    with pytest.raises(RlkitError, match="SB3 A2C has no argument 'n_step'; did you mean 'n_steps'?"):
        peer_run.train_peer(peer_task("agent=a2c", more={"n_step": 3}), Path("never"))


def test_what_sb3_refuses_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(RlkitError, match="SB3 DQN cannot be made for Pendulum-v1"):
        peer_run.train_peer(peer_task("agent=dqn", "env=Pendulum-v1"), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_observations_that_only_ours_scales_are_said() -> None:
    task = peer_task("agent=ppo", "env=CartPole-v1")
    far = gym.spaces.Box(0, 255, (4,), np.uint8)
    assert [note for note in peer_run._differences(task, far, "MlpPolicy") if "far bounds" in note]
    near = gym.spaces.Box(-1, 1, (4,))
    assert peer_run._differences(task, near, "MlpPolicy") == []
    image = gym.spaces.Box(0, 1, (10, 10, 4))
    assert [note for note in peer_run._differences(task, image, "MlpPolicy") if "no CNN" in note]


def test_both_sides_are_evaluated_alike() -> None:
    """Two agents that always push to the right see the same episodes, and get the same returns."""
    env = gym.make("CartPole-v1")
    ours: Any = make_agent(find_agent("ppo").make(), Setting(env.observation_space, env.action_space))
    theirs = SB3PPO("MlpPolicy", "CartPole-v1", n_steps=8, batch_size=8, device="cpu")
    state = {name: torch.zeros_like(tensor) for name, tensor in ours.model.state_dict().items()}
    (bias,) = [name for name in state if name.endswith("bias") and state[name].shape == (2,)]
    state[bias][1] = 5.0
    ours.model.load_state_dict(state)
    with torch.no_grad():
        for parameter in theirs.policy.parameters():
            parameter.zero_()
        dict(theirs.policy.named_parameters())["action_net.bias"][1] = 5.0
    config = composition.compose(["env=CartPole-v1"])
    factory = {"id": "CartPole-v1", "kwargs": {}, "preprocessing": "auto"}
    with ExitStack() as stack:
        played = [
            Evaluations(config, agent, factory, run_seeds(3), stack).at_the_end(5)
            for agent in (ours, peer_run.PeerAgent(theirs, env.observation_space))
        ]
    assert played[0].returns == played[1].returns
    assert len(set(played[0].returns)) > 1
    assert played[0].returns == evaluate_policy(ours, "CartPole-v1", 5, seed=run_seeds(3).final_evaluation).returns


# Statistics


@pytest.mark.parametrize(
    "case", json.loads(FIXTURE.read_text())["cases"], ids=lambda case: f"{len(case['ours'])}-tasks"
)
def test_estimates_are_those_of_rliable(case: dict[str, Any]) -> None:
    """benchmarks/rliable_numbers.py made the numbers.

    The ends of two bootstrap intervals of a bell-shaped statistic differ by chance, with a standard deviation of
    √(pq/B)/φ(z) = 0.027σ for 10,000 samples, which is 0.007 of the interval's width; with rliable's 50,000, 0.0075.
    """
    found = {
        "iqm": statistics.iqm_estimate(case["ours"]),
        "improvement": statistics.improvement_estimate(case["ours"], case["theirs"]),
    }
    if len(case["ours"]) == 1:
        found["mean"] = statistics.mean_estimate(case["ours"][0])
    for name, estimate in found.items():
        expected = case[name]
        assert estimate.value == pytest.approx(expected["value"], rel=1e-12), name
        width = expected["high"] - expected["low"]
        assert estimate.low == pytest.approx(expected["low"], abs=5 * 0.0075 * width), name
        assert estimate.high == pytest.approx(expected["high"], abs=5 * 0.0075 * width), name


def test_probabilities_of_improvement_by_hand() -> None:
    """Of the nine pairs, four are won and two are ties."""
    ours, theirs = np.array([1.0, 2.0, 3.0]), np.array([2.0, 3.0, 0.0])
    assert statistics.probability_of_improvement(ours, theirs) == pytest.approx((4 + 2 / 2) / 9)
    assert statistics.improvement_estimate([[1.0, 2.0]], [[5.0, 6.0]]) == (0.0, 0.0, 0.0)
    assert statistics.iqm([0, 1, 2, 3, 4, 5, 6, 100]) == pytest.approx((2 + 3 + 4 + 5) / 4)


def test_tasks_are_drawn_apart() -> None:
    """With two tasks that have one result each, whatever is drawn has the same mean: strata are kept."""
    estimate = statistics.iqm_estimate([[0.0] * 4, [1.0] * 4])
    assert estimate == (0.5, 0.5, 0.5)


@pytest.mark.parametrize("runs", [5, 20])
def test_intervals_cover_the_mean_as_often_as_they_should(runs: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of normal numbers, about ±1.96 s √((n−1)/n)/√n is the percentile interval, which has Student's coverage."""
    monkeypatch.setattr(statistics, "RESAMPLES", 1_000)
    expected = 1 - 2 * stats.t.sf(1.96 * math.sqrt((runs - 1) / runs), runs - 1)
    trials, rng = 400, np.random.default_rng(1)
    covered = 0
    for _ in range(trials):
        estimate = statistics.mean_estimate(rng.normal(size=runs).tolist())
        assert estimate.low is not None
        assert estimate.high is not None
        covered += estimate.low <= 0 <= estimate.high
    spread = math.sqrt(expected * (1 - expected) / trials)
    # Of five numbers the drawn means are not quite normal, which takes up to two hundredths more.
    assert abs(covered / trials - expected) < 4 * spread + (0.02 if runs == 5 else 0)


def test_a_single_run_has_no_interval() -> None:
    assert statistics.mean_estimate([3.0]) == (3.0, None, None)
    assert statistics.improvement_estimate([[3.0]], [[1.0, 2.0]]) == (1.0, None, None)
    mean, low, high = statistics.curve_interval(np.array([[1.0, 2.0]]))
    assert mean.tolist() == low.tolist() == high.tolist() == [1.0, 2.0]


def test_intervals_of_curves_are_those_of_their_points() -> None:
    curves = np.random.default_rng(0).normal([0.0, 5.0, -5.0], size=(8, 3))
    mean, low, high = statistics.curve_interval(curves)
    for point in range(3):
        estimate = statistics.mean_estimate(curves[:, point].tolist())
        assert mean[point] == pytest.approx(estimate.value)
        # 2,000 samples against 10,000: 0.016 of the width, as above.
        width = high[point] - low[point]
        assert (low[point], high[point]) == pytest.approx((estimate.low, estimate.high), abs=5 * 0.018 * width)


# Plans


def plan_of(tmp_path: Path, *arguments: str, folder: str = "c") -> Any:
    _, config, overrides = parse([f"folder={tmp_path / folder}", *arguments])
    return make_plan(config, overrides)


def test_runs_are_interleaved_over_sides_and_seeds(tmp_path: Path) -> None:
    plan = plan_of(tmp_path, "agent=ppo,dqn", "env=CartPole-v1", "seeds=2", "total_timesteps=2e3")
    assert [(task.group, task.side, task.seed) for task in plan.tasks] == [
        (f"{agent} on CartPole-v1", side, seed)
        for seed in (0, 1)
        for agent in ("ppo", "dqn")
        for side in ("rlkit", "sb3")
    ]
    assert plan.same
    assert len(plan_of(tmp_path, "agent=ppo", "seeds=1e1", "peers=sb3").tasks) == 20
    assert "eval_interval=100" in plan.tasks[0].overrides
    assert len({task.run_dir for task in plan.tasks}) == 8
    assert not plan_of(tmp_path, "agent=ppo", "~tuned").same
    assert plan_of(tmp_path, "agent=ppo", "~tuned", "sb3_values=same").same


def test_agents_of_ours_are_compared_with_each_other(tmp_path: Path) -> None:
    plan = plan_of(tmp_path, "agent=ppo,a2c", "env=CartPole-v1,Acrobot-v1", "peers=[]", "seeds=[7]")
    assert [(task.group, task.side, task.seed) for task in plan.tasks] == [
        *(("CartPole-v1", "ppo", 7), ("CartPole-v1", "a2c", 7)),
        *(("Acrobot-v1", "ppo", 7), ("Acrobot-v1", "a2c", 7)),
    ]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["agent=ppo", "seeds=0"], "seeds=0 is out of range: it must be at least 1"),
        (["agent=ppo", "seeds=[1,1]"], "seeds: 1 is there twice"),
        (["agent=ppo", "seeds=-3"], "seeds=-3 is out of range: it must be at least 1"),
        (["agent=ppo", "seeds=[0.5]"], r"seeds=\[0.5\]: expected a number of seeds"),
        (["agent=ppo,ppo"], "agent: ppo is there twice"),
        (["agent=[ppo,dqn]"], r"agent=\[ppo,dqn\]: expected names with commas between them"),
        (["agent=ppo", "peers=[sb3,sb3]"], "peers: sb3 is there twice"),
        (["agent=ppo", "peers=3"], "peers=3: expected a list of names"),
        (["agent=ppo", "seeds=two"], "expected a number of seeds"),
        (["agent=ppo", "seed=3"], r"seed=3: expected seeds=5, or seeds=\[0,1,2\]"),
        (["agent=ppo", "peers=[sb2]"], "unknown peers 'sb2'; did you mean 'sb3'"),
        (["agent=ppo", "peers=[]"], r"peers=\[\] with one agent leaves nothing to compare"),
        (["agent=ppo", "num_envs=1,2"], r"num_envs=1,2: .* \[1,2\]"),
        (["agent=ppo", "hydra.run.dir=x"], "expected folder=FOLDER"),
        (["agent=pppo"], "unknown agent 'pppo'; did you mean 'ppo'"),
        (["agent=ppo", "env=CartPole-v9"], "unknown env 'CartPole-v9'"),
        (["agent=ppo", "totl_timesteps=5"], "did you mean 'total_timesteps'"),
        (["agent=reinforce"], "agent=reinforce has no counterpart"),
        (["agent=ppo", "sb3_values=sane"], "did you mean 'same'"),
        (["agent=ppo", "-m"], "unknown option '-m'"),
        (["nowhere"], "there is no run folder"),
        ([".", "agent=ppo"], "agent=ppo is for training"),
    ],
)
def test_mistakes_are_one_line(
    arguments: list[str],
    message: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(arguments) == 2
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert line.startswith("error: ")
    assert re.search(message, line), line
    assert list(tmp_path.iterdir()) == []


def finished(task: Any, status: str = "finished") -> None:
    """Writes the folder of a run as it is when it has ended."""
    from rlkit.compare.plan import begin

    begin(task)
    (task.run_dir / "summary.json").write_text(json.dumps({"status": status}))


def test_finished_runs_are_not_run_again(tmp_path: Path) -> None:
    plan = plan_of(tmp_path, "agent=ppo", "env=CartPole-v1", "seeds=2")
    assert missing(plan) == plan.tasks
    finished(plan.tasks[0])
    finished(plan.tasks[1], "interrupted")
    assert [task.title for task in missing(plan)] == [task.title for task in plan.tasks[1:]]
    assert not plan.tasks[1].run_dir.exists()  # a run that was broken off is begun anew
    more = plan_of(tmp_path, "agent=ppo,dqn", "env=CartPole-v1", "seeds=3")
    assert len(missing(more)) == 11


def test_runs_with_other_values_are_not_taken_for_these(tmp_path: Path) -> None:
    plan = plan_of(tmp_path, "agent=ppo", "env=CartPole-v1", "seeds=1", "total_timesteps=1000")
    finished(plan.tasks[1])
    other = plan_of(tmp_path, "agent=ppo", "env=CartPole-v1", "seeds=1", "total_timesteps=1000", "agent.gamma=0.5")
    with pytest.raises(RlkitError, match=r"sb3-seed0 was trained with agent.gamma=0.98, and now it is 0.5"):
        missing(other)
    (plan.tasks[1].run_dir / "request.json").unlink()
    with pytest.raises(RlkitError, match="is no run of a comparison"):
        missing(plan)


# Results


def write_run(folder: Path, **summary: Any) -> StoredRun:
    """Writes a run folder with three evaluations, of which the last is the final one's mean."""
    final = summary.get("eval_return_mean", 3.0)
    folder.mkdir(parents=True)
    lines = ["time/total_timesteps,time/training_time_s,eval/return_mean"]
    lines += [f"{step},{step / 100},{value}" for step, value in ((100, 1.0), (200, 2.0), (300, final))]
    (folder / "metrics.csv").write_text("\n".join(lines) + "\n")
    whole = {
        "status": "finished",
        "agent": "ppo",
        "env": "CartPole-v1",
        "seed": 0,
        "total_timesteps": 300,
        "training_time_s": 3.0,
        "training_cpu_s": 6.0,
        "peak_memory_mib": 100.0,
        "eval_return_mean": final,
        "eval_episodes": 10,
        "versions": {"gymnasium": "1.4.0", "rlkit": "0.1.0"},
        **summary,
    }
    (folder / "summary.json").write_text(json.dumps(whole))
    return StoredRun(folder)


def group_of(tmp_path: Path, ours: list[dict[str, Any]], theirs: list[dict[str, Any]]) -> results.Group:
    sides = {
        name: [write_run(tmp_path / name / str(i), seed=i, **summary) for i, summary in enumerate(runs)]
        for name, runs in (("rlkit", ours), ("sb3", theirs))
    }
    (group,) = results.summarized({"ppo on CartPole-v1": sides}, threshold=2.0)
    return group


def test_numbers_of_two_sides(tmp_path: Path) -> None:
    ours = [{"eval_return_mean": value} for value in (4.0, 5.0, 6.0, 7.0, 8.0)]
    theirs = [{"eval_return_mean": value, "training_time_s": 12.0} for value in (1.0, 2.0, 3.0, 4.0, 1.0)]
    group = group_of(tmp_path, ours, theirs)
    one, other = group.sides
    assert (one.mean.value, one.steps_per_second, one.cpu_s, one.peak_memory_mib) == (6.0, 100.0, 6.0, 100.0)
    assert (one.seconds_to_threshold, one.reached) == (2.0, 5)  # the second evaluation reaches 2.0, after 2 s
    assert one.curve["timesteps"] == [100, 200, 300]
    assert one.curve["mean"] == [1.0, 2.0, 6.0]
    assert one.curve["seconds"] == [1.0, 2.0, 3.0]
    (versus,) = group.versus
    assert versus.speed == 4.0
    assert versus.difference.value == pytest.approx(6.0 - 2.2)
    assert versus.probability_of_improvement.value == pytest.approx(24.5 / 25)
    assert other.mean.low is not None
    assert other.mean.low < 2.2
    assert group.warnings == []


def test_a_threshold_that_most_runs_never_reach(tmp_path: Path) -> None:
    runs = [write_run(tmp_path / str(i), seed=i) for i in range(2)]
    (group,) = results.summarized({"g": {"rlkit": runs}}, threshold=99.0)
    assert (group.sides[0].seconds_to_threshold, group.sides[0].reached) == (None, 0)
    assert results.summarized({"g": {"rlkit": runs}}, threshold=None)[0].threshold == 475.0  # as registered


@pytest.mark.parametrize(
    ("ours", "theirs", "warning"),
    [
        ([{}], [{}], "A SINGLE SEED"),
        ([{}] * 2, [{}] * 2, "only 2 seeds"),
        ([{"total_timesteps": 600}] * 5, [{}] * 5, "DIFFERENT BUDGETS, in timesteps: rlkit: 600; sb3: 300"),
        ([{"env": "CartPole-v0"}] * 5, [{}] * 5, "DIFFERENT ENVIRONMENTS: CartPole-v0, CartPole-v1"),
        ([{"versions": {"gymnasium": "1.3.0"}}] * 5, [{}] * 5, "DIFFERENT VERSIONS of the environments' library"),
        ([{"eval_episodes": 3}] * 5, [{}] * 5, "final evaluations differ in their episodes: 3 and 10"),
        ([{}] * 5 + [{"status": "failed"}], [{}] * 5, "rlkit: 1 of 6 runs have no result (failed)"),
    ],
)
def test_what_is_unequal_is_said_loudly(
    ours: list[dict[str, Any]], theirs: list[dict[str, Any]], warning: str, tmp_path: Path
) -> None:
    group = group_of(tmp_path, ours, theirs)
    assert [text for text in group.warnings if warning in text], group.warnings
    comparison = results.Comparison("command", "today", "a machine", [group], [], ["FAILED: x"], ["a note"], {})
    for text in (terminal_text(comparison), page_html(comparison)):
        assert warning.split("'")[0] in text
        assert "FAILED: x" in text
        assert "a note" in text


def test_whole_comparisons_as_json_and_over_groups(tmp_path: Path) -> None:
    first = group_of(tmp_path / "1", [{"eval_return_mean": 4.0}] * 5, [{"eval_return_mean": 1.0}] * 5)
    second = group_of(tmp_path / "2", [{"eval_return_mean": 4.0}] * 5, [{"eval_return_mean": 6.0}] * 5)
    (whole,) = results.overall([first, second])
    assert whole["probability_of_improvement"].value == 0.5
    assert whole["iqm_ours"].value == 0.5
    found = results.as_json(results.Comparison("c", "t", "m", [first, second], [whole], [], [], {}))
    assert json.loads(json.dumps(found, allow_nan=False)) == found
    assert found["groups"][0]["sides"][0]["mean"] == {"value": 4.0, "low": 4.0, "high": 4.0}
    assert found["overall"][0]["iqm_theirs"]["value"] == 0.5


# Run folders


def test_run_folders_are_compared_by_what_differs(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for gamma in (0.9, 0.99):
        for seed in (0, 1):
            run = write_run(tmp_path / "runs" / f"{gamma}-{seed}", seed=seed, eval_return_mean=gamma + seed)
            (run.path / ".hydra").mkdir()
            text = f"agent:\n  name: ppo\n  gamma: {gamma}\nenv:\n  id: CartPole-v1\nseed: {seed}\n"
            (run.path / ".hydra" / "config.yaml").write_text(text)
    sides = sides_of(find_runs([tmp_path / "runs"]))
    assert {name: [run.seed for run in runs] for name, runs in sides["CartPole-v1"].items()} == {
        "ppo agent.gamma=0.9": [0, 1],
        "ppo agent.gamma=0.99": [0, 1],
    }
    assert main([str(tmp_path / "runs"), f"folder={tmp_path / 'out'}"]) == 0
    assert "ppo agent.gamma=0.99" in capsys.readouterr().out
    found = json.loads((tmp_path / "out" / "comparison.json").read_text())
    assert [side["name"] for side in found["groups"][0]["sides"]] == ["ppo agent.gamma=0.9", "ppo agent.gamma=0.99"]
    assert (tmp_path / "out" / "report.html").read_text().startswith("<!DOCTYPE html>")


def test_folders_without_results_are_an_error(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_run(tmp_path / "a", status="interrupted")
    assert main([str(tmp_path / "a"), f"folder={tmp_path / 'out'}"]) == 2
    assert "no run is finished and has a final evaluation" in capsys.readouterr().err
    (tmp_path / "empty").mkdir()
    assert main([str(tmp_path / "empty")]) == 2
    assert "holds no run" in capsys.readouterr().err
    (tmp_path / "a" / "summary.json").write_text("{")
    assert main([str(tmp_path / "a")]) == 2
    assert "summary.json is damaged" in capsys.readouterr().err


# The whole command


def test_the_command_trains_reports_and_goes_on(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["agent=a2c", "env=CartPole-v1", f"folder={tmp_path / 'c'}", "total_timesteps=160", "num_envs=2"]
    arguments += ["final_eval_episodes=2", "eval_episodes=1", "eval_interval=80", "agent.num_steps=8"]
    assert main([*arguments, "seeds=1", "jobs=2"]) == 0
    printed = capsys.readouterr().out
    assert "2 runs, 0 of them finished" in printed
    assert "A SINGLE SEED" in printed
    found = json.loads((tmp_path / "c" / "comparison.json").read_text())
    (group,) = found["groups"]
    for side in group["sides"]:
        assert side["timesteps"] == [160]
        assert side["curve"]["timesteps"] == [80, 160]
        assert side["cpu_s"] > 0
        run = StoredRun(Path(side["runs"][0]))
        assert side["returns"] == [run.number("eval_return_mean")]
    ours = tmp_path / "c" / "runs" / "a2c" / "CartPole-v1" / "rlkit-seed0"
    assert rlkit.load(ours).steps_per_update == 8
    assert "finished after 160 timesteps" in (ours / "output.txt").read_text()
    before = (ours / "summary.json").stat().st_mtime_ns
    assert main([*arguments, "seeds=1"]) == 0  # nothing is left to be done
    assert "2 runs, 2 of them finished" in capsys.readouterr().out
    assert (ours / "summary.json").stat().st_mtime_ns == before


def test_a_run_that_fails_is_told_and_costs_the_others_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["agent=a2c", "env=user_envs:SometimesNoSuchEnv-v0"]
    assert main([*arguments, f"folder={tmp_path / 'c'}"]) == 2
    assert "unknown env" in capsys.readouterr().err
    arguments = [
        "agent=a2c",
        "env=FrozenLake-v1",
        "seeds=1",
        "total_timesteps=40",
        "num_envs=2",
        "final_eval_episodes=1",
    ]
    assert main([*arguments, f"folder={tmp_path / 'c'}", "env_kwargs={map_name:nowhere}"]) == 2
    captured = capsys.readouterr()
    assert "no run is finished" in captured.err
    assert "FAILED: a2c on FrozenLake-v1, rlkit, seed 0 failed: " in captured.err
    assert "Traceback" not in captured.out + captured.err


def test_options_have_documentation() -> None:
    from rlkit.runs.field_docs import field_docs

    assert all(doc.doc for doc in field_docs(CompareConfig()))
    assert all(
        isinstance(row, Mapped) or row.theirs or row.ours[0].startswith("network.")
        for rows in FIELDS.values()
        for row in rows
    )
