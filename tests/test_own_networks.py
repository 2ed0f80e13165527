"""Networks of the user's own: what they are given, what is refused, and what becomes of them when they are saved."""

from __future__ import annotations

import json
import os
import random
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
import user_networks
from gymnasium import spaces
from torch import nn
from training import assert_goes_on_from_its_state, assert_same_parameters, parameters, train
from user_networks import Records, Small

import rlkit
from rlkit.agents import VARIANTS
from rlkit.agents.a2c import A2CConfig
from rlkit.agents.dqn import DQNConfig
from rlkit.agents.ppo import PPOConfig
from rlkit.agents.temporal_difference import TemporalDifferenceConfig
from rlkit.engine.make import why_chosen
from rlkit.envs.probes import ProbeActionObs
from rlkit.errors import RlkitError
from rlkit.networks.mlp import activation
from rlkit.networks.own import make_own, probe
from rlkit.registry import make_agent
from rlkit.setting import ACTIVATIONS, NetworkConfig, Setting, activation_key
from rlkit.system.ranks import ALONE

VECTOR, TWO = spaces.Box(-1, 1, (3,)), spaces.Discrete(2)
TESTS = Path(__file__).parent


def own(module: Any = "user_networks:Small", **fields: Any) -> NetworkConfig:
    return NetworkConfig(module=module, **fields)


def make(space: spaces.Space[Any] = VECTOR, config: Any = None, **fields: Any) -> Any:
    return make_agent(config or PPOConfig(), Setting(space, TWO, network=own(**fields)))


# What they learn


@pytest.mark.parametrize("agent", ["ppo", "a2c", "dqn", "a3c", "trpo", "reinforce", "q_learning", "expected_sarsa"])
def test_every_agent_learns_on_them(agent: str, tmp_path: Path) -> None:
    """Of two numbers the one that the observation shows: its probability is above 0.9, whatever agent learns it."""
    fields: dict[str, Any] = {} if agent not in ("q_learning", "expected_sarsa") else {"learning_rate": 3e-3}
    fields |= {**VARIANTS[agent].config.for_probes, **({"num_workers": 1} if agent == "a3c" else {})}
    result = rlkit.train(
        agent=agent,
        env="rlkit/ProbeActionObs-v0",
        total_timesteps=8192,
        run_dir=tmp_path / "run",
        network={"module": Small, "module_args": {"hidden": 16}},
        eval_interval=0,
        final_eval_episodes=50,
        device="cpu",
        **{f"agent.{name}": value for name, value in fields.items()},
    )
    assert result.summary["eval_return_mean"] == 1
    assert result.summary["compute"] == "torch"
    loaded: Any = rlkit.load(result.run_dir)
    assert_same_parameters(result.agent, loaded)
    if agent in ("ppo", "a2c", "a3c", "trpo", "reinforce"):
        probabilities = loaded.action_probabilities(np.array([[-1], [1]], np.float32))
        assert probabilities[[0, 1], [0, 1]].min() > 0.9


@pytest.mark.parametrize("kind", ProbeActionObs.KINDS)
def test_every_kind_of_observation_reaches_them(kind: str) -> None:
    """The policy names what is shown, in spaces of every kind and nesting; for images as well as for numbers."""
    envs = gym.vector.SyncVectorEnv(
        [lambda: ProbeActionObs(kind=kind)] * 8, autoreset_mode=gym.vector.AutoresetMode.SAME_STEP
    )
    scale = 1 / 255 if "image" in kind else 1.0
    network = own(module_args={"scale": scale})
    # Whitened advantages would blow up noise once there is nothing left to learn, and undo what both heads share.
    config = PPOConfig(**{**PPOConfig.for_probes, "normalize_advantages": False})
    agent, episodes = train(envs, config, 16, network=network)
    assert np.mean([episode.episode_return for episode in episodes[-256:]]) > 0.8
    assert isinstance(agent.network.cnns[0], Small)


def test_what_they_are_given() -> None:
    """Nested as the space is, each leaf in its own shape: floats as they are, bytes as floats, numbers from 0."""
    space = spaces.Dict(
        {
            "z": spaces.Box(-5, 5, (2,), np.float64),
            "image": spaces.Box(0, 255, (16, 16, 3), np.uint8),
            "a": spaces.Tuple([spaces.Discrete(3, start=2), spaces.MultiDiscrete([2, 4], start=[1, 0])]),
            "bits": spaces.MultiBinary(2),
        }
    )
    agent: Any = make(space, module=Records)
    obs: Any = {
        "a": (np.array([2, 4]), np.array([[1, 0], [2, 3]])),
        "bits": np.array([[0, 1], [1, 1]], np.int8),
        "image": np.full((2, 16, 16, 3), 200, np.uint8),
        "z": np.array([[0.5, -4], [1, 2]]),
    }
    agent.value(obs)
    given = agent.network.cnns[0].last
    assert list(given) == list(space.spaces)
    assert [given["z"].dtype, given["image"].dtype, given["bits"].dtype] == [torch.float32] * 3
    np.testing.assert_array_equal(given["z"], obs["z"].astype(np.float32))
    np.testing.assert_array_equal(given["image"], obs["image"])
    np.testing.assert_array_equal(given["bits"], obs["bits"])
    discrete, multi = given["a"]
    assert (discrete.dtype, multi.dtype) == (torch.int64, torch.int64)
    np.testing.assert_array_equal(discrete, [0, 2])
    np.testing.assert_array_equal(multi, [[0, 0], [1, 3]])


def test_boxes_that_are_no_images_are_whitened() -> None:
    space = spaces.Dict({"i": spaces.Box(0, 255, (16, 16, 3), np.uint8), "n": spaces.Discrete(2), "v": VECTOR})
    agent: Any = make(space, module=Records, normalize_obs=True)
    rng = np.random.default_rng(0)
    vectors = (3 + 2 * rng.normal(size=(1000, 3))).astype(np.float32)
    images = rng.integers(0, 256, (1000, 16, 16, 3), np.uint8)
    agent.network.features.update((images, np.ones(1000, np.int64), vectors), ALONE)
    agent.value({"i": images, "n": np.ones(1000, np.int64), "v": vectors})
    given = agent.network.cnns[0].last
    np.testing.assert_allclose(given["v"].mean(0), 0, atol=1e-5)
    np.testing.assert_allclose(given["v"].std(0, correction=0), 1, rtol=1e-4)
    np.testing.assert_array_equal(given["i"], images)
    np.testing.assert_array_equal(given["n"], 1)
    assert "network.features.statistics.mean" in agent.model.state_dict()


def test_they_go_on_from_their_state() -> None:
    for config in (PPOConfig(num_steps=8, minibatch_size=8), DQNConfig(learning_starts=20, num_steps=16)):
        assert_goes_on_from_its_state("CartPole-v1", config, network=own(normalize_obs=True))


def test_they_stand_where_encoders_would() -> None:
    """Policy and critic share them and nothing else; hidden layers follow, or none."""
    agent: Any = make(module_args={"hidden": 5}, hidden_sizes=[])
    names = {name.removeprefix("network."): tuple(t.shape) for name, t in agent.model.state_dict().items()}
    assert names == {
        "cnns.0.body.0.weight": (5, 3),
        "cnns.0.body.0.bias": (5,),
        "cnns.0.body.2.weight": (5, 5),
        "cnns.0.body.2.bias": (5,),
        "actor.0.weight": (2, 5),
        "actor.0.bias": (2,),
        "critic.0.weight": (1, 5),
        "critic.0.bias": (1,),
    }
    assert [layer.out_features for layer in make().network.actor if isinstance(layer, nn.Linear)] == [64, 64, 2]


# How they begin


def test_initial_weights_follow_from_the_seed_and_global_generators_stand_still() -> None:
    def weights(seed: int) -> torch.Tensor:
        encoder = make_own(VECTOR, own("user_networks:Fixed"), torch.Generator().manual_seed(seed))[1]
        drawn: torch.Tensor = encoder.state_dict()["0.weight"]
        return drawn

    before = torch.get_rng_state(), np.random.get_state(), random.getstate()
    first = weights(0)
    after = torch.get_rng_state(), np.random.get_state(), random.getstate()
    assert torch.equal(before[0], after[0])
    np.testing.assert_equal(before[1:], after[1:])
    torch.rand(3), np.random.rand(3), random.random()
    assert torch.equal(first, weights(0))
    assert bool((first != weights(1)).all())  # what each library has drawn
    name = "network.cnns.0.weight"
    agents = [
        make_agent(PPOConfig(), Setting(VECTOR, TWO, network=own("user_networks:Fixed"), seed=seed))
        for seed in (3, 3, 4)
    ]
    same, again, other = (parameters(agent)[name] for agent in agents)
    np.testing.assert_array_equal(same, again)
    assert (same != other).all()


def test_a_space_keeps_its_own_generator() -> None:
    space = spaces.Box(-1, 1, (3,), seed=3)
    expected = spaces.Box(-1, 1, (3,), seed=3).sample()
    make(space)
    np.testing.assert_array_equal(space.sample(), expected)


def test_what_is_frozen_does_not_learn_and_is_saved(tmp_path: Path) -> None:
    network = own("user_networks:Fixed", module_args={"frozen": True})
    agent, _ = train("CartPole-v1", A2CConfig(), 5, network=network)
    fresh, _ = train("CartPole-v1", A2CConfig(), 0, network=network)
    name = "network.cnns.0.weight"
    np.testing.assert_array_equal(parameters(agent)[name], parameters(fresh)[name])
    assert name not in dict(agent.model.named_parameters())
    assert (parameters(agent)["network.actor.0.weight"] != parameters(fresh)["network.actor.0.weight"]).any()
    assert_same_parameters(agent, rlkit.load(agent.save(tmp_path)))
    assert why_chosen(agent.model) == (
        "the features are those of user_networks:Fixed, a module of torch, of which no parameter learns"
    )


def test_no_other_engine_computes_them() -> None:
    assert make().compute == "torch"
    assert why_chosen(make().model) == "the features are those of user_networks:Small, a module of torch"
    for config in (PPOConfig(), DQNConfig()):
        with pytest.raises(
            RlkitError, match="compute=native cannot be used because the features are those of user_net"
        ):
            make_agent(config, Setting(VECTOR, TWO, network=own(), compute="native"))


def test_a_network_of_ones_own_takes_the_place_of_a_table() -> None:
    agent: Any = make_agent(TemporalDifferenceConfig(target="greedy"), Setting(spaces.Discrete(5), TWO, network=own()))
    assert "network.cnns.0.body.0.weight" in agent.model.state_dict()


def test_probes_stay_in_bounds_that_are_as_wide_as_float32() -> None:
    widest = np.finfo(np.float32).max
    (leaf,) = probe(spaces.Box(np.array([-4.8, -widest], np.float32), np.array([4.8, widest], np.float32)))
    assert np.abs(leaf[:, 1]).tolist() == [1, 1, 1]
    assert np.abs(leaf[:, 0]).max() <= 4.8
    assert make(spaces.Box(-widest, widest, (3,))).compute == "torch"


# What is refused


FAULTS = {
    "constructor": r"Bad\(observation_space, fault='constructor'\) raised ValueError: boom in two lines$",
    "forward": r"Bad.forward raised ValueError: boom in two lines, of observations of shape \[3, 3\]$",
    "tuple": r"Bad.forward gives a tuple: expected a tensor of shape \(batch, num_features\)$",
    "flat": r"Bad.forward gives shape \[3\] for 3 observations: expected \(3, num_features\)$",
    "no batch": r"Bad.forward gives shape \[4\] for 3 observations: expected \(3, num_features\)$",
    "too deep": r"Bad.forward gives shape \[3, 1, 4\] for 3 observations: expected \(3, num_features\)$",
    "empty": r"Bad.forward gives shape \[3, 0\] for 3 observations: expected \(3, num_features\)$",
    "float64": r"Bad.forward gives float64: expected float32$",
    "bool": r"Bad.forward gives bool: expected float32$",
    "nan": r"Bad.forward gives features that are not finite, of observations drawn from the space$",
    "dropout": r"Bad.forward gives other features the second time \(Dropout and noise do that\); expected",
    "batch norm": r"Bad.forward raised ValueError: Expected more than 1 value per channel",
    "batch mean": r"Bad.forward makes an observation's features depend on the others in its batch \(BatchNorm does",
    "in place": r"Bad.forward changes the observations that it is given: expected a copy$",
    "no gradient": r"Bad has \d parameters, and no gradient of its features reaches any: expected a forward without",
    "num_features": r"Bad.num_features is 5, and Bad.forward gives 4$",
    "float64 parameter": r"Bad's parameter extra is float64: expected float32$",
    "copy": r"Bad cannot be copied for a target network: TypeError: cannot pickle 'generator' object$",
}


@pytest.mark.parametrize("fault", FAULTS)
def test_each_fault_is_one_line(fault: str) -> None:
    with pytest.raises(RlkitError, match=f"^network.module=user_networks:Bad: {FAULTS[fault]}") as caught:
        make(module="user_networks:Bad", module_args={"fault": fault})
    assert "\n" not in str(caught.value)


NAMES = {
    "user_networks": "network.module=user_networks: expected package.module:Class, of a module that can be imported",
    "user networks:Small": "network.module=user networks:Small: expected package.module:Class, of a module",
    "__main__:Small": "network.module=__main__:Small: expected package.module:Class, of a module that can be",
    "user_network:Small": "network.module=user_network:Small: there is no module user_network; did you mean user_netw",
    "qqqqqq:Small": "network.module=qqqqqq:Small: there is no module qqqqqq in Python's path; PYTHONPATH=FOLDER adds",
    "rlkit.networkz:Small": "there is no module rlkit.networkz; did you mean rlkit.networks?",
    "user_networks:Smal": "network.module=user_networks:Smal: unknown class 'Smal'; did you mean 'Small'?",
    "user_networks:not_a_class": "user_networks:not_a_class is a value of type function: expected a class that inherit",
    "user_networks:NotAModule": "network.module=user_networks:NotAModule is a class: expected a class that inherits fr",
}


@pytest.mark.parametrize("name", NAMES)
def test_names_that_lead_nowhere_say_so(name: str) -> None:
    with pytest.raises(RlkitError) as caught:
        make(module=name)
    assert NAMES[name] in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_module_that_cannot_be_imported_says_why(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "own_broken.py").write_text("raise KeyError('x')")
    (tmp_path / "own_incomplete.py").write_text("import absent_package")
    with pytest.raises(RlkitError, match=r"module=own_broken:Net: importing own_broken raised KeyError: 'x'$"):
        make(module="own_broken:Net")
    with pytest.raises(RlkitError, match="importing own_incomplete raised ModuleNotFoundError: No module named 'absen"):
        make(module="own_incomplete:Net")


def test_a_class_that_no_file_could_name_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    class Local(Small):
        pass

    remedy = "put it in a module of its own, my_module.py, and import it from there: network.module=my_module:"
    with pytest.raises(RlkitError, match=f"network.module: .*Local is defined inside a function, .*{remedy}Local$"):
        NetworkConfig(module=Local)
    with pytest.raises(RlkitError, match=f"network.module: .*Local is defined inside a function, .*{remedy}Local$"):
        rlkit.train(network={"module": Local})
    monkeypatch.setattr(Small, "__module__", "__main__")
    with pytest.raises(RlkitError, match=f"network.module: Small is defined in the script that runs, .*{remedy}Small$"):
        NetworkConfig(module=Small)


COMBINATIONS: dict[str, dict[str, Any]] = {
    r"network.module_args=\{'a': 1\} is of use with network.module only": {"module_args": {"a": 1}, "module": None},
    "network.encoder=cnn and network.module=user_networks:Small both encode observations": {"encoder": "cnn"},
    "network.backbone=runs/x and network.module=user_networks:Small both encode": {"backbone": "runs/x"},
    "user_networks:Small: module_args=.* cannot be saved: expected numbers": {"module_args": {"hidden": object()}},
    r"user_networks:Small: module_args=\{'hidden': \(3, 4\)\} cannot be saved": {"module_args": {"hidden": (3, 4)}},
    r"Small\(observation_space, width=3\) raised TypeError: .*'width'": {"module_args": {"width": 3}},
}


@pytest.mark.parametrize("message", COMBINATIONS)
def test_settings_that_do_not_go_together(message: str) -> None:
    with pytest.raises(RlkitError, match=message):
        make(**{"module": "user_networks:Small", **COMBINATIONS[message]})


# Saved and loaded


def saved(folder: Path, module: str = "user_networks:Small") -> Any:
    """An agent that is saved under another name than that of its class, as somebody might forge it."""
    agent = make(module_args={"hidden": 7})
    agent.network_config.module = module
    agent.save(folder)
    return agent


def python(code: str, *path: Path, cwd: Path) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(map(str, (TESTS.parent, *path)))}
    command = [sys.executable, "-c", code]
    return subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True, timeout=120)


LOAD = """
import rlkit
try:
    agent = rlkit.load({folder!r})
except rlkit.RlkitError as error:
    print(error)
else:
    print(type(agent.network.cnns[0]).__module__, float(agent.value([[0.5, 0, 1]])[0]))
"""


def test_a_fresh_process_loads_them_where_the_code_can_be_imported(tmp_path: Path) -> None:
    agent = saved(tmp_path / "saved")
    description = json.loads((tmp_path / "saved/agent.json").read_text())
    assert description["network"]["module"] == "user_networks:Small"
    assert description["network"]["module_args"] == {"hidden": 7}
    load = LOAD.format(folder="saved")
    value = float(agent.value(np.array([[0.5, 0, 1]], np.float32))[0])
    assert python(load, TESTS, cwd=tmp_path).stdout == f"user_networks {value}\n"
    missing = python(load, cwd=tmp_path).stdout
    assert missing.startswith("saved/agent.json: network.module=user_networks:Small: there is no module user_networks")
    assert missing.count("\n") == 1


BOMB = """
from pathlib import Path
Path(__file__).with_name("exploded").touch()
from user_networks import Small
"""


@pytest.mark.parametrize(
    ("checkpoint", "bomb", "working_directory"),
    [
        ("saved", "saved/bomb.py", "saved"),
        ("saved", "saved/bomb/__init__.py", "saved"),
        ("run/checkpoints/last", "run/checkpoints/last/bomb.py", "run/checkpoints/last"),
        ("run/checkpoints/best", "run/bomb.py", "run"),
        ("runs/mine", "runs/mine/bomb.py", "."),
        ("runs/mine", "runs/__init__.py", "."),
    ],
)
def test_code_inside_the_folder_that_is_loaded_is_never_executed(
    checkpoint: str, bomb: str, working_directory: str, tmp_path: Path
) -> None:
    """Also where the working directory, which is on Python's path, is that folder, or one around it."""
    file, folder = tmp_path / bomb, tmp_path / checkpoint
    module = Path(bomb).relative_to(working_directory).with_suffix("").as_posix().replace("/", ".")
    saved(folder, f"{module.removesuffix('.__init__')}:Small")
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(BOMB)
    loaded = python(LOAD.format(folder=str(folder)), TESTS, cwd=tmp_path / working_directory)
    exploded = list(tmp_path.rglob("exploded"))
    if bomb == "runs/__init__.py":  # the user's own code, around the folder and not in it
        assert exploded != [], loaded
        return
    assert "is in the folder that is loaded, and nothing in there is executed" in loaded.stdout, loaded
    assert exploded == []


@pytest.mark.parametrize("name", ["os:system", "__main__:Small", "user_networks:NotAModule", "no_such_thing:Net", 3])
def test_what_a_file_may_not_name(name: Any, tmp_path: Path) -> None:
    saved(tmp_path, name)
    with pytest.raises(RlkitError, match="^[^\n]*network.module[^\n]*$"):
        rlkit.load(tmp_path)


def test_a_run_folder_is_evaluated_by_command(tmp_path: Path) -> None:
    shutil.copy(TESTS / "user_networks.py", tmp_path / "nets.py")
    environment = {**os.environ, "PYTHONPATH": str(TESTS.parent)}

    def command(*arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", *arguments], cwd=tmp_path, env=environment, capture_output=True, text=True
        )

    quick = ("total_timesteps=2048", "eval_interval=0", "final_eval_episodes=1")
    run = ("rlkit", "env=CartPole-v1", "network.module=nets:Small", "network.module_args.hidden=8", *quick)
    trained = command(*run, "hydra.run.dir=run")
    assert trained.returncode == 0, trained.stderr
    assert "torch on cpu: the features are those of nets:Small, a module of torch" in trained.stderr + trained.stdout
    evaluated = command("rlkit.evaluate", "run", "episodes=2")
    assert evaluated.returncode == 0, evaluated.stderr
    (tmp_path / "nets.py").rename(tmp_path / "nets_of_old.py")
    refused = command("rlkit.evaluate", "run", "episodes=2")
    assert refused.returncode == 2
    assert "network.module=nets:Small: there is no module nets" in refused.stderr


def test_a_sweep_over_networks(tmp_path: Path) -> None:
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(map(str, (TESTS.parent, TESTS)))}
    quick = ("total_timesteps=256", "agent.num_steps=8", "agent.minibatch_size=64", "eval_interval=0")
    modules = "network.module=user_networks:Small,user_networks:Fixed,null"
    command = [sys.executable, "-m", "rlkit", "-m", "env=CartPole-v1", modules, *quick, "final_eval_episodes=0"]
    swept = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert swept.returncode == 0, swept.stderr
    files = sorted(tmp_path.rglob("checkpoints/last/agent.json"))
    modules_ = [json.loads(file.read_text())["network"]["module"] for file in files]
    assert modules_ == ["user_networks:Small", "user_networks:Fixed", None]


# Activations, and the critic's own layers


def elementwise() -> set[str]:
    """Torch's activations that need no arguments, map each number by itself, and give the same again."""
    x = torch.linspace(-3, 3, 12).reshape(3, 4)
    names = set()
    for name, kind in vars(nn.modules.activation).items():
        if isinstance(kind, type) and issubclass(kind, nn.Module) and kind is not nn.Module:
            try:
                made = kind()
                out, again, each = made(x), made(x), torch.stack([made(number[None]) for number in x.flatten()])
            except (TypeError, RuntimeError, AssertionError, ValueError):
                continue
            if (
                out.shape == x.shape
                and torch.equal(out, again)
                and torch.allclose(out.flatten(), each.flatten(), atol=1e-6)
            ):
                names.add(activation_key(name))
    return names


@pytest.mark.filterwarnings("ignore:Implicit dimension choice")
def test_the_activations_are_torchs() -> None:
    assert {activation_key(name) for name in ACTIVATIONS} == elementwise()
    assert list(ACTIVATIONS) == sorted(ACTIVATIONS)


@pytest.mark.parametrize("name", [*ACTIVATIONS, "GELU", "LeakyReLU", "Tanh"])
def test_an_activation_by_name(name: str) -> None:
    network = NetworkConfig(activation=name, hidden_sizes=[4])
    agent: Any = make_agent(PPOConfig(), Setting(VECTOR, TWO, network=network))
    assert type(agent.network.actor[1]) is type(activation(name))
    assert activation_key(type(activation(name)).__name__) == activation_key(name)
    fast = activation_key(name) in ("tanh", "relu", "elu", "silu", "gelu", "leakyrelu")
    assert (agent.compute == "torch") is not fast
    if not fast:
        others = "tanh, relu, elu, silu, gelu, leaky_relu"
        why = f"the activation is {type(activation(name)).__name__}, and not one of {others}"
        assert why_chosen(agent.model) == why
        for config in (PPOConfig(), DQNConfig()):
            with pytest.raises(RlkitError, match=f"compute=native cannot be used because {why}"):
                make_agent(config, Setting(VECTOR, TWO, network=network, compute="native"))


def test_an_unknown_activation_names_the_nearest() -> None:
    with pytest.raises(RlkitError, match="unknown network.activation 'gelo'; did you mean 'gelu'"):
        NetworkConfig(activation="gelo").validate()
    with pytest.raises(RlkitError, match="unknown network.activation 'Softmax'"):
        make_agent(PPOConfig(), Setting(VECTOR, TWO, network=NetworkConfig(activation="Softmax")))


def sizes(tower: nn.Sequential) -> list[int]:
    return [layer.out_features for layer in tower if isinstance(layer, nn.Linear)]


@pytest.mark.parametrize("compute", ["torch", "native"])
def test_the_critic_has_layers_of_its_own(compute: str) -> None:
    network = NetworkConfig(hidden_sizes=[8], critic_hidden_sizes=[16, 4])
    agent, episodes = train("CartPole-v1", A2CConfig(), 20, network=network, compute=compute)
    assert sizes(agent.network.actor) == [8, 2]
    assert sizes(agent.network.critic) == [16, 4, 1]
    plain: Any = make_agent(PPOConfig(), Setting(VECTOR, TWO, NetworkConfig(hidden_sizes=[8])))
    assert sizes(plain.network.critic) == [8, 1]
    assert len(episodes) > 0


@pytest.mark.parametrize("agent", ["dqn", "sarsa", "q_learning"])
def test_agents_without_a_critic_refuse_its_layers(agent: str) -> None:
    network = NetworkConfig(critic_hidden_sizes=[16])
    with pytest.raises(RlkitError, match=r"network.critic_hidden_sizes=\[16\] is for agents with a policy and a crit"):
        make_agent(VARIANTS[agent].make(), Setting(VECTOR, TWO, network=network))


def test_sizes_out_of_range_are_named() -> None:
    with pytest.raises(RlkitError, match="network.critic_hidden_sizes=0 is out of range"):
        NetworkConfig(critic_hidden_sizes=[8, 0]).validate()


def test_user_networks_are_as_the_tests_expect() -> None:
    assert user_networks.Small(VECTOR).num_features == 32
