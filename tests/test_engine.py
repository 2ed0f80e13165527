"""The fast engine against the plain one: same gradients, same parameters after many steps, same optimiser state."""

from __future__ import annotations

import tracemalloc
from typing import Any

import numpy as np
import pytest
import torch
from gymnasium import spaces
from hypothesis import given, settings
from hypothesis import strategies as st
from training import COMPUTES, make_engine, make_q_engine, needs_native, parameters, setting_of, train

from rlkit.agents.a2c import A2CCoefficients, a2c_loss
from rlkit.agents.dqn import DQNConfig
from rlkit.agents.ppo import OBJECTIVES, PPOCoefficients, PPOConfig, ppo_loss
from rlkit.agents.reinforce import REINFORCECoefficients, reinforce_loss
from rlkit.buffers.batch import PolicyBatch
from rlkit.engine.actor_critic import ActorCriticLoss
from rlkit.engine.descent import flatten_parameters
from rlkit.engine.losses import dqn_loss
from rlkit.engine.make import make_actor_critic, make_q_network
from rlkit.engine.native.optimizers import OPTIMIZERS
from rlkit.engine.native.policy_gradient import a2c_gradient, ppo_gradient, reinforce_gradient
from rlkit.engine.q import QLoss
from rlkit.engine.threads import threads_for
from rlkit.errors import RlkitError
from rlkit.networks.actor_critic import ActorCritic
from rlkit.networks.array_heads import array_head
from rlkit.setting import NetworkConfig, Setting
from rlkit.system.ranks import ALONE

ACTION_SPACES: list[spaces.Space[Any]] = [
    spaces.Discrete(4),
    spaces.MultiDiscrete([3, 2]),
    spaces.MultiBinary(3),
    spaces.Box(-1, 1, (2,)),
]
PPO_LOSS = ActorCriticLoss(ppo_loss, ppo_gradient)
A2C_LOSS = ActorCriticLoss(a2c_loss, a2c_gradient)
REINFORCE_LOSS = ActorCriticLoss(reinforce_loss, reinforce_gradient)
COEFFICIENTS = PPOCoefficients("clip", 0.2, 0.5, None, 0.01, 0.5, True, ALONE)


def make_network(action_space: spaces.Space[Any], obs_size: int = 5, **config: Any) -> ActorCritic:
    observation_space = spaces.Box(-1, 1, (obs_size,))
    setting = Setting(observation_space, action_space, NetworkConfig(**config), device="cpu")
    network = make_actor_critic(setting, np.random.SeedSequence(0))[0]
    with torch.no_grad():  # the small initial policy would leave its gradients tiny
        for parameter in network.parameters():
            parameter.add_(0.3 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(1)))
    return network


def make_batch(network: ActorCritic, rows: int, seed: int, mask: bool = False) -> PolicyBatch:
    """Transitions of a policy a little different from the network's, so that ratios are not one."""
    rng = np.random.default_rng(seed)
    features = rng.normal(size=(rows, network.cnns.num_outputs)).astype(np.float32)
    with torch.no_grad():
        params, values = (out.numpy() for out in network((torch.from_numpy(features),)))
    old = (params + 0.3 * rng.normal(size=params.shape)).astype(np.float32)
    action_mask = None
    if mask:
        action_mask = rng.random(old.shape) < 0.7
        action_mask[:, 0] = True
        old = np.where(action_mask, old, np.float32(-1e8))
    action = network.head.sample(old, rng)
    floats = rng.normal(size=(3, rows)).astype(np.float32)
    return PolicyBatch(
        features=(features,),
        action=action,
        log_prob=array_head(network.head).evaluate(old, action).log_prob,
        advantages=floats[0],
        returns=floats[1],
        values=values + 0.3 * floats[2],
        action_mask=action_mask,
        old_params=old,
    )


def both_engines(action_space: spaces.Space[Any], optimizer: str = "adam", **config: Any) -> dict[str, Any]:
    engines: dict[str, Any] = {}
    for compute in ("torch", "native"):
        network = make_network(action_space, **config)
        engine, chosen = make_engine(network, compute, PPO_LOSS, 0.5, 1e-5, optimizer)
        assert chosen == compute
        engines[compute] = (network, engine)
    return engines


def parameters_of(network: ActorCritic) -> torch.Tensor:
    return torch.cat([p.detach().reshape(-1) for p in network.parameters()])


@needs_native
@pytest.mark.parametrize("action_space", ACTION_SPACES, ids=lambda space: type(space).__name__)
@pytest.mark.parametrize("objective", OBJECTIVES)
def test_both_engines_reach_the_same_parameters_and_metrics(action_space: spaces.Space[Any], objective: str) -> None:
    coefficients = COEFFICIENTS._replace(objective=objective, clip_value_coef=0.2)
    engines = both_engines(action_space)
    history: dict[str, list[dict[str, float]]] = {}
    for compute, (network, engine) in engines.items():
        batch = make_batch(network, 64, seed=0, mask=isinstance(action_space, spaces.Discrete))
        engine.load(batch if objective != "clip" else batch._replace(old_params=None))
        rng = np.random.default_rng(0)
        history[compute] = [engine.step(rng.permutation(64)[:48], coefficients, 1e-3) for _ in range(20)]
    for plain, fast in zip(history["torch"], history["native"], strict=True):
        assert plain.keys() == fast.keys()
        for key, value in plain.items():
            assert fast[key] == pytest.approx(value, abs=2e-5, rel=1e-4), key
    plain_network, fast_network = (engines[compute][0] for compute in ("torch", "native"))
    start = parameters_of(make_network(action_space))
    torch.testing.assert_close(parameters_of(fast_network), parameters_of(plain_network), atol=2e-5, rtol=1e-4)
    assert (parameters_of(plain_network) - start).abs().max() > 5e-3


@pytest.mark.parametrize("compute", ["torch", "native"])
def test_the_critics_learning_rate_is_that_of_a_parameter_group_of_its_own(compute: str) -> None:
    network, reference = (make_network(spaces.Discrete(3)) for _ in range(2))
    engine, _ = make_engine(network, compute, PPO_LOSS, critic_rate=3.0)
    groups: Any = [{"params": reference.actor.parameters()}, {"params": reference.critic.parameters(), "lr": 3e-3}]
    adam = torch.optim.Adam(groups, lr=1e-3, eps=1e-5)
    batch = make_batch(network, 64, seed=0, mask=False)._replace(old_params=None)
    engine.load(batch)
    tensors = batch.map(torch.as_tensor)
    for _ in range(20):
        engine.step(np.arange(64), COEFFICIENTS, 1e-3)
        params, values = reference(tensors.features)
        loss, _ = ppo_loss(reference.head, params, values, tensors, COEFFICIENTS)
        adam.zero_grad()
        torch.autograd.backward(loss)
        adam.step()
    torch.testing.assert_close(parameters_of(network), parameters_of(reference), atol=2e-5, rtol=1e-4)


def gradients_by(
    compute: str, network: ActorCritic, batch: PolicyBatch, c: Any, loss: ActorCriticLoss = PPO_LOSS
) -> torch.Tensor:
    """The gradient before clipping: a step with a learning rate of zero leaves it behind, scaled by no norm."""
    engine, _ = make_engine(network, compute, loss)
    seen = []
    if compute != "torch":
        optimizer = engine.descent.optimizer
        optimizer.step = lambda learning_rate: seen.append(optimizer.gradients.copy())
    engine.load(batch)
    engine.step(np.arange(len(batch.returns)), c, 0.0)
    if seen:
        return torch.from_numpy(seen[0])
    return torch.cat([p.grad.reshape(-1) for p in network.parameters() if p.grad is not None])


@needs_native
@settings(max_examples=40, deadline=None)
@given(
    action_space=st.sampled_from(ACTION_SPACES),
    hidden=st.lists(st.integers(1, 20), max_size=3),
    activation=st.sampled_from(["tanh", "relu"]),
    objective=st.sampled_from(OBJECTIVES),
    rows=st.integers(1, 50),
    obs_size=st.integers(1, 9),
    clip_value_coef=st.sampled_from([None, 0.1]),
    normalize=st.booleans(),
    seed=st.integers(0, 1000),
)
def test_gradients_agree_on_random_networks(
    action_space: spaces.Space[Any],
    hidden: list[int],
    activation: str,
    objective: str,
    rows: int,
    obs_size: int,
    clip_value_coef: float | None,
    normalize: bool,
    seed: int,
) -> None:
    config = {"hidden_sizes": hidden, "activation": activation}
    coefficients = PPOCoefficients(objective, 0.2, 0.5, clip_value_coef, 0.05, 0.5, normalize, ALONE)
    masks = isinstance(action_space, spaces.Discrete)
    batch = make_batch(make_network(action_space, obs_size, **config), rows, seed, mask=masks)
    if objective == "clip":
        batch = batch._replace(old_params=None)
    plain, fast = (
        gradients_by(compute, make_network(action_space, obs_size, **config), batch, coefficients)
        for compute in ("torch", "native")
    )
    scale = max(1.0, float(plain.abs().max()))
    torch.testing.assert_close(fast / scale, plain / scale, atol=1e-5, rtol=1e-4)


@needs_native
@settings(max_examples=20, deadline=None)
@given(
    losses=st.sampled_from([A2C_LOSS, REINFORCE_LOSS]),
    action_space=st.sampled_from(ACTION_SPACES),
    hidden=st.lists(st.integers(1, 20), max_size=2),
    rows=st.integers(1, 50),
    normalize=st.booleans(),
    seed=st.integers(0, 1000),
)
def test_gradients_of_a2c_and_reinforce_agree_on_random_networks(
    losses: Any, action_space: spaces.Space[Any], hidden: list[int], rows: int, normalize: bool, seed: int
) -> None:
    batch = make_batch(make_network(action_space, hidden_sizes=hidden), rows, seed)
    a2c, reinforce = A2CCoefficients(0.05, 0.5, normalize, ALONE), REINFORCECoefficients(7, 0.05, 0.5, normalize, ALONE)
    coefficients = a2c if losses is A2C_LOSS else reinforce
    plain, fast = (
        gradients_by(compute, make_network(action_space, hidden_sizes=hidden), batch, coefficients, losses)
        for compute in ("torch", "native")
    )
    scale = max(1.0, float(plain.abs().max()))
    torch.testing.assert_close(fast / scale, plain / scale, atol=1e-5, rtol=1e-4)


@needs_native
def test_values_that_moved_little_keep_their_gradient_whatever_rounding_does() -> None:
    """old + (new - old) is not always new: the clipped square may be the larger one where nothing was clipped."""
    network = make_network(spaces.Discrete(2))
    batch = make_batch(network, 1000, seed=0)._replace(old_params=None)
    values = np.float32(0.01) * batch.log_prob
    batch = batch._replace(values=values + np.float32(0.09) * np.tanh(batch.advantages))
    c = COEFFICIENTS._replace(clip_value_coef=0.1)
    params = np.zeros((1000, 2), np.float32)
    _, d_values, _ = ppo_gradient(array_head(network.head), params, values, batch, c)
    np.testing.assert_allclose(d_values, (values - batch.returns) / 1000, rtol=1e-5, atol=1e-9)


@needs_native
@pytest.mark.parametrize("name", ["adam", "rmsprop"])
def test_the_optimisers_are_torchs(name: str) -> None:
    rng = np.random.default_rng(0)
    start, gradients = rng.normal(size=30).astype(np.float32), rng.normal(size=(50, 30)).astype(np.float32)
    parameter = torch.nn.Parameter(torch.from_numpy(start.copy()))
    reference: torch.optim.Optimizer = {"adam": torch.optim.Adam, "rmsprop": torch.optim.RMSprop}[name](
        [parameter], lr=0.01, eps=1e-5
    )
    ours, own = start.copy(), np.zeros_like(start)
    optimizer = OPTIMIZERS[name](ours, own, eps=1e-5)
    for gradient in gradients:
        parameter.grad = torch.from_numpy(gradient.copy())
        norm = torch.nn.utils.clip_grad_norm_([parameter], 3.0)
        reference.step()
        own[:] = gradient
        assert optimizer.clip(3.0) == pytest.approx(norm.item(), rel=1e-5)
        optimizer.step(0.01)
    np.testing.assert_allclose(ours, parameter.detach(), atol=2e-6)
    for moment, array in optimizer.moments.items():
        np.testing.assert_allclose(array, reference.state[parameter][moment], atol=1e-6, err_msg=moment)


@pytest.mark.parametrize(("before", "after"), [("torch", "native"), ("native", "torch")])
@pytest.mark.parametrize("optimizer", ["adam", "rmsprop"])
def test_either_engine_goes_on_from_the_others_state(before: str, after: str, optimizer: str) -> None:
    engines = both_engines(spaces.Discrete(3), optimizer)
    batch = make_batch(engines["torch"][0], 32, seed=0)._replace(old_params=None)
    rows = np.arange(32)
    for _, engine in engines.values():
        engine.load(batch)
    (first, first_engine), (second, second_engine) = engines[before], engines[after]
    for _ in range(5):
        first_engine.step(rows, COEFFICIENTS, 1e-3)
    second.load_state_dict(first.state_dict())
    second_engine.load_state_dict(first_engine.state_dict())
    for _ in range(5):
        first_engine.step(rows, COEFFICIENTS, 1e-3)
        second_engine.step(rows, COEFFICIENTS, 1e-3)
    torch.testing.assert_close(parameters_of(second), parameters_of(first), atol=1e-5, rtol=1e-4)


@needs_native
def test_evaluation_in_chunks_equals_one_pass() -> None:
    for compute, (network, engine) in both_engines(spaces.Box(-1, 1, (2,))).items():
        features = np.random.default_rng(0).normal(size=(2500, 5)).astype(np.float32)
        params, values = engine.evaluate((features,))
        with torch.no_grad():
            expected = network((torch.from_numpy(features),))
        np.testing.assert_allclose(params, expected[0], atol=1e-5, err_msg=compute)
        np.testing.assert_allclose(values, expected[1], atol=1e-5, err_msg=compute)


@needs_native
def test_batches_of_ever_new_sizes_do_not_pile_up_in_memory() -> None:
    engine = both_engines(spaces.Discrete(2))["native"][1]
    features = np.zeros((1100, 5), np.float32)

    def allocated_by(sizes: range) -> int:
        tracemalloc.start()
        for size in sizes:
            engine.policy((features[:size],))
        allocated = tracemalloc.get_traced_memory()[0]
        tracemalloc.stop()
        return allocated

    assert allocated_by(range(1000, 1100)) < 10 * allocated_by(range(900, 901))


@needs_native
@pytest.mark.parametrize("activation", ["tanh", "relu", "elu", "silu", "gelu", "leaky_relu"])
def test_agents_with_layer_normalisation_train_alike_in_both_engines(activation: str) -> None:
    network = NetworkConfig(activation=activation, layer_norm=True, hidden_sizes=[24, 24])
    ppo = PPOConfig(num_steps=16, minibatch_size=32, num_epochs=2)
    dqn = DQNConfig(learning_starts=32, num_steps=8)
    for config in (ppo, dqn):
        plain, fast = (
            train("CartPole-v1", config, 4, network=network, compute=compute, num_envs=4)[0] for compute in COMPUTES
        )
        assert (plain.compute, fast.compute) == COMPUTES
        names = [name for name in parameters(plain) if name.endswith("1.weight")]
        assert names
        assert all((parameters(plain)[name] != 1).any() for name in names)
        for name, array in parameters(plain).items():
            np.testing.assert_allclose(parameters(fast)[name], array, atol=2e-4, err_msg=name)


def test_flat_parameters_are_the_modules_own() -> None:
    network = make_network(spaces.Discrete(2))
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    flat, gradients = flatten_parameters(network)
    for name, tensor in network.state_dict().items():
        assert torch.equal(tensor, before[name])
    flat.zero_()
    assert all(not p.any() for p in network.parameters())
    network.load_state_dict(before)
    assert torch.equal(flat, torch.cat([before[name].reshape(-1) for name, _ in network.named_parameters()]))
    torch.autograd.backward(network((torch.ones(1, 5),))[1].sum())
    assert gradients.any()


@pytest.mark.parametrize(
    ("observation_space", "config", "words"),
    [
        (spaces.Box(0, 255, (36, 36, 3), np.uint8), {}, "the network encodes images"),
        (spaces.Box(-1, 1, (3,)), {"state_dependent_std": True}, "the standard deviation depends on the state"),
    ],
)
def test_what_c_cannot_compute_is_said_and_left_to_torch(
    observation_space: spaces.Space[Any], config: dict[str, Any], words: str
) -> None:
    setting = Setting(observation_space, spaces.Box(-1, 1, (2,)), NetworkConfig(**config), device="cpu")
    network, _ = make_actor_critic(setting, np.random.SeedSequence(0))
    with pytest.raises(RlkitError, match=words):
        make_engine(network, "native", PPO_LOSS)
    assert make_engine(network, "auto", PPO_LOSS)[1] == "torch"


def test_a_loss_without_derivatives_runs_by_autograd_on_flat_parameters() -> None:
    """A user's own loss gets the engine, and the optimiser's single call, without knowing of either."""
    network, reference = make_network(spaces.Discrete(3)), make_network(spaces.Discrete(3))
    batch = make_batch(network, 64, seed=0)._replace(old_params=None)
    engine, compute = make_engine(network, "auto", ActorCriticLoss(ppo_loss), 0.5)
    assert compute == "torch"
    with pytest.raises(RlkitError, match="compute=native cannot be used because the loss has no derivatives"):
        make_engine(reference, "native", ActorCriticLoss(ppo_loss))
    plain, _ = make_engine(reference, "torch", PPO_LOSS, 0.5)
    for one in (engine, plain):
        one.load(batch)
        one.step(np.arange(64), COEFFICIENTS, 1e-3)
    assert torch.equal(parameters_of(network), parameters_of(reference))


@pytest.mark.skipif(torch.cuda.is_available(), reason="needs a machine without a GPU")
def test_a_missing_gpu_is_said() -> None:
    with pytest.raises(RlkitError, match="device=cuda, but torch finds no CUDA device"):
        make_actor_critic(setting_of("auto", device="cuda"), np.random.SeedSequence(0))


@pytest.mark.parametrize(("rows", "threads"), [(1, 1), (16, 1), (17, 2)])
def test_few_images_are_acted_on_by_one_thread(rows: int, threads: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("rlkit.engine.threads.FEW_ROWS", 16)
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        with threads_for(rows):
            assert torch.get_num_threads() == threads
        assert torch.get_num_threads() == 2
        with pytest.raises(KeyboardInterrupt), threads_for(rows):
            raise KeyboardInterrupt
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)


def test_torchs_engines_act_on_images_with_one_thread() -> None:
    image, rows = spaces.Box(0, 255, (4, 36, 36), np.uint8), (np.zeros((8, 4, 36, 36), np.uint8),)
    seen = []
    seed, setting = np.random.SeedSequence(0), Setting(image, spaces.Discrete(2), device="cpu")
    network, _ = make_actor_critic(setting, seed)
    engine, _ = make_engine(network, "torch", PPO_LOSS)
    q_network, _ = make_q_network(setting, 2, seed)
    q_engine, _ = make_q_engine(q_network, "torch", QLoss(dqn_loss))
    for module in (network.cnns, q_network.cnns):
        module.register_forward_hook(lambda *_: seen.append(torch.get_num_threads()))
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        engine.policy(rows)
        q_engine.q_values(rows)
    finally:
        torch.set_num_threads(before)
    assert seen == [1, 1]
