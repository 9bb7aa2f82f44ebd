import pytest
import torch
from torch import nn

from law_lightning import StrategyAgent
from law_lightning.agent.adam import step
from law_lightning.agent.flat import Flat
from naive_ddpg import FAST, PAPER, filled, make, same


def test_flat_parameters_stay_as_they_were():
    parameters = [nn.Parameter(torch.randn(shape)) for shape in [(3, 5), (1,), (16,), (4, 4, 2)]]
    before = [parameter.detach().clone() for parameter in parameters]
    flat = Flat(parameters)
    for parameter, value in zip(parameters, before, strict=True):
        assert torch.equal(parameter, value)
        assert parameter.data_ptr() % 64 == 0
        assert parameter.is_contiguous()
    flat.values.add_(1)
    assert all(torch.equal(parameter, value + 1) for parameter, value in zip(parameters, before, strict=True))
    assert flat.holds(parameters)
    assert not flat.holds(parameters[:-1])
    parameters[1].data = parameters[1].data.clone()
    assert not flat.holds(parameters)


def test_acting_does_not_depend_on_where_the_parameters_lie():
    apart, together = make(), make()
    together.configure_optimizers()
    for stage in range(4):
        assert torch.equal(apart.act(stage, 0.3, 0.6), together.act(stage, 0.3, 0.6))


@pytest.mark.parametrize("options", [PAPER, FAST])
def test_parameters_that_were_moved_or_replaced_are_found(options):
    plain, moved = make(**options), make(**options)
    for agent in (plain, moved):
        agent.full_data_update(filled())
    for parameter in list(moved.parameters())[::2]:
        parameter.data = parameter.data.clone()
    layer = moved.actor.network[2]
    layer.weight = nn.Parameter(layer.weight.detach().clone())
    for agent in (plain, moved):
        agent.full_data_update(filled(13))
    assert same(plain.full_state(), moved.full_state())


def test_the_optimizers_state_is_that_of_single_parameters():
    """A file does not depend on how the parameters are laid out."""
    agent = make(**FAST)
    agent.full_data_update(filled())
    parts = [agent.critic.parameters(), [*agent.actor.parameters(), *agent.embedding.parameters()]]
    rates = (agent.hparams["critic_lr"], agent.hparams["actor_lr"])
    for state, part, rate in zip(agent.full_state()["optimizers"], parts, rates, strict=True):
        optimizer = torch.optim.Adam(list(part), lr=rate, fused=True)
        optimizer.load_state_dict(state)
        restored = optimizer.state_dict()
        assert same(restored["state"], state["state"])
        assert [entry["step"].item() for entry in state["state"].values()] == [9.0] * len(state["state"])
        assert restored["param_groups"][0]["params"] == state["param_groups"][0]["params"]


@pytest.mark.parametrize(
    "change",
    [
        lambda state: state["state"].pop(1),
        lambda state: state["param_groups"][0]["params"].pop(),
        lambda state: state["state"][0].update(exp_avg=torch.zeros(3)),
    ],
)
def test_an_optimizers_state_of_others_is_named(tmp_path, change):
    agent = make()
    agent.full_data_update(filled())
    state = agent.full_state()
    change(state["optimizers"][1])
    with pytest.raises(ValueError, match="the optimizer's state"):
        make().load_full_state(state)


def test_the_short_way_to_a_step_is_adams():
    values = torch.randn(40)
    short, plain = (nn.Parameter(values.clone()) for _ in range(2))
    optimizers = [torch.optim.Adam([parameter], lr=0.01, fused=True) for parameter in (short, plain)]
    for _ in range(5):
        gradient = torch.randn(40)
        short.grad, plain.grad = gradient.clone(), gradient.clone()
        step(optimizers[0])
        optimizers[1].step()
        assert torch.equal(short, plain)


def test_the_embedding_of_stages_that_a_batch_lacks_moves_on():
    """As Adam does with a gradient of zero."""
    agent = StrategyAgent(num_stages=30, hidden=[4])
    agent.full_data_update(filled(stages=4))
    before = agent.embedding.weight[4:].clone()
    agent.full_data_update(filled(stages=4))
    assert torch.equal(agent.embedding.weight[4:], before)  # never seen: no momentum
