import copy
import json
import math
import pickle
import warnings

import numpy as np
import pytest
import torch
from lightning.pytorch.utilities.exceptions import MisconfigurationException
from safetensors import safe_open
from torch.utils.data import DataLoader, TensorDataset

from law_lightning import ReplayBuffer, StrategyAgent, TrainingPhase
from law_lightning import functional as LF
from law_lightning.agent.former import FORMER
from law_lightning.agent.networks import StackedLinear
from law_lightning.agent.resolve import strategy_path
from law_lightning.utilities.files import save_state, save_tensors
from naive_ddpg import FAST, PAPER, STAGES, Naive, compare, filled, make, same, spread
from zoo import make_trainer

# -- Algorithm 1, a second time --------------------------------------------------------------------------------


@pytest.mark.parametrize("members", [1, 3])
@pytest.mark.parametrize(
    "options",
    [
        pytest.param(PAPER, id="paper"),
        pytest.param(PAPER | {"theta_bound": 2.0, "seed": 3}, id="bound"),
        pytest.param(PAPER | {"target_rate": 0.3}, id="target networks"),
        pytest.param(PAPER | {"standardize_rewards": True}, id="standardised"),
        pytest.param(PAPER | {"discount": 0.0}, id="no discount"),
        pytest.param(PAPER | {"n_step": 2}, id="two steps"),
        pytest.param(PAPER | {"n_step": None}, id="returns"),
        pytest.param(PAPER | {"action_penalty": 0.3, "theta_bound": 1.0}, id="penalty"),
        pytest.param(PAPER | {"imitation": 0.5, "noise_decay": 0.3}, id="imitation"),
        pytest.param(PAPER | {"imitation": 2.0, "theta_bound": 1.0, "n_step": None}, id="imitation within bounds"),
        pytest.param(FAST, id="default"),
        pytest.param(FAST | {"target_rate": 0.2, "seed": 11}, id="default with target networks"),
        pytest.param(FAST | {"features": ["margin", *LF.FEATURES[:3]], "init": "general"}, id="from general"),
    ],
)
def test_a_full_data_update_is_algorithm_1(options, members):
    agent = spread(make(**options, members=members), 0.2)
    if agent.hparams["target_rate"] is not None:  # targets that lag behind
        with torch.no_grad():
            for parameter in agent.parameters():
                if parameter.requires_grad:
                    parameter.mul_(1.1)
    naives = [Naive(agent, member) for member in range(members)]
    # The buffer grows between the updates, the optimizers go on; epochs and batch size may be given, gradients be off.
    for count, given in ((3, {}), (10, {}), (13, {"epochs": 2, "batch_size": 3})):
        with torch.set_grad_enabled(count < 13):
            logs = agent.full_data_update(filled(count), **given)
        expected, *_ = [naive.update(filled(count), **{"epochs": 3, "batch_size": 4} | given) for naive in naives]
        assert list(logs) == ["critic_loss", "actor_loss", "q_mean"]
        assert list(logs.values()) == pytest.approx(expected, rel=1e-3, abs=1e-5)
        for naive in naives:
            compare(agent, naive)


def test_an_update_learns_which_theta_pays():
    """Reward is highest at theta = (1, -1): the actor goes there."""
    agent = StrategyAgent(
        1, ["loss"], warmup_stages=0, actor_lr=3e-3, critic_lr=1e-2, hidden=[32, 32, 32], batch_size=64,
        theta_bound=3.0, action_penalty=0.0, imitation=0.0,
    )  # fmt: skip
    buffer, phase = ReplayBuffer(), TrainingPhase(0, 1, 0.5, 0.5)
    for theta in 2 * torch.randn(200, 2, generator=torch.Generator().manual_seed(0)):
        buffer.add(phase, theta, -(theta - torch.tensor([1.0, -1.0])).square().sum().item(), phase, True)
    agent.full_data_update(buffer, epochs=300)
    assert (agent.act(0, 0.5, 0.5) - torch.tensor([1.0, -1.0])).abs().max() < 0.5


def test_imitation_decays_as_exploration_does():
    agent, buffer = make(imitation=0.4, noise_decay=0.5, warmup_stages=1), filled(9)
    for workers in (1, 2):  # the stages of one episode; two workers take two at a time
        buffer.workers = workers
        agent.full_data_update(buffer)
    agent.start_episode()
    agent.start_episode()  # the exploration of the second episode
    assert agent.imitation() == pytest.approx(0.4 * 0.5)
    assert agent.exploration.scale == 0.5


def test_hyperparameters_of_before():
    agent = make(members=1, imitation=0.2, phase_accuracy="training")
    hparams = dict(agent.hparams)
    assert agent.differences(hparams) == []
    assert agent.differences({name: value for name, value in hparams.items() if name not in FORMER}) == []
    assert agent.differences(hparams | {"imitation": 0.0}) == ["imitation=0.0"]
    assert agent.differences(hparams | {"unheard_of": 1}) == ["unheard_of=1"]
    assert "without seed" in agent.differences({})
    before = {name: value for name, value in hparams.items() if name not in ("members", "phase_accuracy")}
    found = make(members=2, imitation=0.2).differences(before)
    assert sorted(found) == ["members=1", "phase_accuracy='training'"]


def test_constant_rewards_are_not_scaled():
    agents, buffer = [make(), make(standardize_rewards=False)], ReplayBuffer()
    phase = TrainingPhase(3, STAGES, 0.5, 0.5)
    for _ in range(3):
        buffer.add(phase, torch.zeros(5), 0.25, phase, True)
    logs = [agent.full_data_update(buffer) for agent in agents]
    assert logs[0] == logs[1]
    assert all(math.isfinite(value) for value in logs[0].values())


@pytest.mark.parametrize("members", [1, 3])
def test_an_update_that_diverges_is_undone_with_a_warning(members):
    agent = make(**PAPER | {"critic_lr": 1e30, "members": members})
    before = agent.full_state()
    with pytest.warns(UserWarning, match=r"diverged.*theta_bound"):
        logs = agent.full_data_update(filled())
    copied = copy.deepcopy(agent)
    with warnings.catch_warnings(action="error"):  # a search may go on so for hours: it warns once
        copied.full_data_update(filled())
    assert all(math.isnan(value) for value in logs.values())
    assert same({**agent.full_state(), "updates": 0, "learned": 0}, before)
    assert (agent.updates, agent.learned) == (1, 1)
    assert agent.act(1, 0.5, 0.5).isfinite().all()


@pytest.mark.filterwarnings("ignore:.*diverged")
def test_a_member_that_diverges_does_not_keep_the_others_from_learning():
    agent, buffer = spread(make(members=2)), filled()
    with torch.no_grad():
        for parameter in agent.critic.parameters():
            parameter[1] = 1e30
    before, naive = agent.full_state(), Naive(agent)
    agent.full_data_update(buffer)
    naive.update(buffer, epochs=3, batch_size=4)
    compare(agent, naive)
    after = agent.full_state()
    for part in ("networks", "optimizers"):
        assert all(torch.equal(after[part][n][1], t[1]) for n, t in before[part].items() if t.ndim)


@pytest.mark.parametrize(
    ("buffer", "options", "message"),
    [
        (ReplayBuffer(), {}, "replay buffer is empty"),
        (filled(width=4), {}, r"of another agent: its theta has 4 entries.*have 5 and 3"),
        (filled(stages=6), {}, r"of another agent: .*stages go up to 5"),
        (filled(), {"epochs": 0}, "epochs must be above 0 and batch_size at least 1, not 0 and 4"),
        (filled(), {"batch_size": 0}, "epochs must be above 0 and batch_size at least 1, not 3 and 0"),
    ],
)
def test_an_impossible_update_is_named_and_changes_nothing(buffer, options, message):
    agent = make()
    before = agent.full_state()
    with pytest.raises(ValueError, match=message):
        agent.full_data_update(buffer, **options)
    assert same(agent.full_state(), before)


# -- the Trainer's way -----------------------------------------------------------------------------------------


def fit(agent, loader, epochs=3, **options):
    trainer = make_trainer(max_epochs=epochs, **options)
    trainer.fit(agent, loader)
    return trainer


@pytest.mark.parametrize("options", [PAPER, FAST | {"members": 2, "epochs": 6}], ids=["paper", "default"])
@pytest.mark.filterwarnings("ignore:.*num_workers.*", "ignore:.*tensorboard.*")
def test_a_trainer_gives_the_same_networks(options):
    looped, fitted = (spread(make(**options, noise_decay=1.0), 0.2) for _ in range(2))
    buffer = filled()
    looped.full_data_update(buffer, batch_size=100)
    fit(fitted, buffer.dataloader(batch_size=100, shuffle=False))
    mine, theirs = looped.state_dict(), fitted.state_dict()
    assert mine.keys() == theirs.keys()
    for name, tensor in mine.items():
        torch.testing.assert_close(theirs[name], tensor, atol=1e-6, rtol=1e-4)
    logs = looped.full_data_update(buffer, epochs=options.get("members", 1), batch_size=100)
    trainer = fit(fitted, buffer.dataloader(batch_size=100, shuffle=False), epochs=1)
    for name, value in logs.items():
        assert trainer.callback_metrics[f"agent/{name}"].item() == pytest.approx(value, rel=1e-3)
    fitted.full_data_update(buffer)  # and the two ways mix
    assert fitted.act(1, 0.5, 0.5).isfinite().all()


TRAINS_ON = r"trains on transitions: .*buffer\.dataloader\(\)"
HALF = {"precision": "bf16-mixed"}


@pytest.mark.parametrize(
    ("loader", "options", "error", "message"),
    [
        (DataLoader(TensorDataset(torch.zeros(4, 2))), {}, MisconfigurationException, TRAINS_ON),
        (DataLoader([torch.zeros(2)] * 4), {}, MisconfigurationException, TRAINS_ON),
        (filled().dataloader(), HALF, MisconfigurationException, r"in float32: .*not 1 processes and 'bf16-mixed'"),
        (filled(width=3).dataloader(), {}, ValueError, "of another agent: its theta has 3 entries"),
    ],
)
def test_what_a_trainer_cannot_train_on_is_named(loader, options, error, message):
    with pytest.raises(error, match=message):
        fit(make(), loader, **options)


# -- acting ----------------------------------------------------------------------------------------------------


def test_theta_is_the_actors():
    agent = spread(make(theta_bound=2.0))
    naive = Naive(agent)
    for stage in range(STAGES):
        theta = agent.act(stage, 0.8, 0.3)
        expected = naive.mu(naive.actor, naive.state(naive.embedding, stage, torch.tensor([0.8, 0.3])))
        torch.testing.assert_close(theta, expected.detach())
        assert theta.shape == (5,)
        assert theta.dtype == torch.float32
        assert not theta.requires_grad


def test_theta_stays_within_its_bound():
    agent = spread(make(theta_bound=0.5, stage_noise=5.0), 5.0)
    agent.start_episode()
    thetas = torch.stack([agent.act(i % STAGES, 1.0, 0.5, explore=i % 2 == 0) for i in range(40)])
    assert thetas.abs().max() <= 0.5
    assert (thetas[::2].abs() == 0.5).any()


def test_exploring_adds_the_exploration():
    a, b = make(), make()
    a.start_episode()
    b.start_episode()
    torch.testing.assert_close(a.act(1, 0.5, 0.5, explore=True), b.exploration(b.act(1, 0.5, 0.5)).clamp(-3, 3))
    greedy = a.act(1, 0.5, 0.5)
    assert torch.equal(a.act(1, 0.5, 0.5), greedy)
    assert not torch.equal(a.act(1, 0.5, 0.5, explore=True), greedy)


@pytest.mark.parametrize("stage", [-1, STAGES, 100])
def test_a_stage_that_does_not_exist_is_named(stage):
    with pytest.raises(ValueError, match=f"stage must be in 0 to {STAGES - 1}, not {stage}"):
        make().act(stage, 1.0, 0.0)


# -- arguments and randomness ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_stages": 0}, "num_stages must be at least 1, not 0"),
        ({"warmup_stages": STAGES}, "warmup_stages must be in 0 to 3, not 4"),
        ({"epochs": 0}, "epochs must be greater than 0"),
        ({"hidden": [8, 0]}, r"hidden must be widths of at least 1, not \[8, 0\]"),
        ({"actor_lr": 0.0}, "actor_lr must be greater than 0"),
        ({"critic_lr": math.nan}, "critic_lr must be greater than 0"),
        ({"theta_bound": 0.0}, "theta_bound must be greater than 0"),
        ({"discount": math.nan}, r"discount must be in \[0, 1\]"),
        ({"target_rate": -0.1}, r"target_rate must be in \[0, 1\]"),
        ({"features": ["loss", "colour"]}, "features must be distinct names .*colour"),
        ({"init": "generic"}, "init must be 'general' or None, not 'generic'"),
        ({"init": "general"}, r"init='general' is a rule for the feature margin: use features=\('margin',\)"),
        ({"n_step": 0}, "n_step must be at least 1, not 0"),
        ({"action_penalty": -0.1}, "action_penalty must be a number of at least 0, not -0.1"),
        ({"imitation": math.inf}, "imitation must be a number of at least 0, not inf"),
        ({"stage_noise": -1.0}, "stage_noise must be a number of at least 0, not -1.0"),
        ({"episode_noise": math.nan}, "episode_noise must be a number of at least 0, not nan"),
        ({"noise_decay": 0.0}, r"noise_decay must be in \(0, 1\], not 0.0"),
        ({"members": 0}, "members must be at least 1, not 0"),
    ],
)
def test_impossible_arguments_are_named(options, message):
    with pytest.raises(ValueError, match=message):
        make(**options)


def experienced(**options):
    agent = make(**options)
    agent.start_episode()
    agent.act(0, 1.0, 0.0, explore=True)
    agent.full_data_update(filled())
    return agent


def test_the_seed_decides_everything():
    states = [experienced(seed=seed).full_state() for seed in (4, 4, 5)]
    assert same(states[0], states[1])
    for part in ("networks", "exploration"):
        assert not same(states[0][part], states[2][part])


def test_the_papers_networks_have_four_layers():
    agent = StrategyAgent()
    for network in (agent.actor, agent.critic):
        assert sum(isinstance(layer, StackedLinear) for layer in network.modules()) == 4


def test_the_global_random_state_is_untouched_and_does_not_matter(tmp_path):
    first = make().full_state()
    torch.manual_seed(42)
    before = torch.get_rng_state()
    assert same(make().full_state(), first)
    saved_and_loaded(experienced(), tmp_path)
    assert torch.equal(torch.get_rng_state(), before)


# -- files -----------------------------------------------------------------------------------------------------


def go_on(agent):
    thetas = [agent.act(1, 0.7, 0.4, explore=True), agent.act(2, 0.7, 0.4)]
    agent.start_episode()
    thetas.append(agent.act(3, 0.7, 0.4, explore=True))
    logs = agent.full_data_update(filled(13, seed=1))
    state = {name: part for name, part in agent.full_state().items() if name != "hparams"}
    return [*thetas, logs, agent.act(0, 0.7, 0.4, explore=True), state]


def saved_and_loaded(agent, folder):
    agent.save(folder / "strategy.safetensors")
    return StrategyAgent.load(folder / "strategy.safetensors")


COPIES = [saved_and_loaded, lambda agent, _: copy.deepcopy(agent), lambda agent, _: pickle.loads(pickle.dumps(agent))]


@pytest.mark.parametrize("copied", COPIES, ids=["file", "deepcopy", "pickle"])
@pytest.mark.parametrize("options", [None, {}, PAPER])
def test_a_copy_goes_on_bit_for_bit_and_alone_and_a_state_stays_as_it_was_taken(tmp_path, copied, options):
    agent = make() if options is None else experienced(**options)
    state, other = agent.full_state(), copied(agent, tmp_path)
    assert same(other.full_state(), state)
    expected = go_on(other)
    assert same(agent.full_state(), state)
    assert same(go_on(agent), expected)
    again = make(**options or {})
    again.exploration.seed = 99  # that of the state counts
    again.load_full_state(state)
    assert same(go_on(again), expected)


def test_any_program_can_read_the_file(tmp_path):
    agent = make(actor_lr=np.float64(1e-3), seed=np.int64(3), theta_bound=np.float32(2), hidden=(np.int64(4),))
    agent.full_data_update(filled())
    agent.save(tmp_path / "strategy.safetensors")
    with safe_open(tmp_path / "strategy.safetensors", "pt") as file:
        assert torch.equal(file.get_tensor("networks/embedding.weight"), agent.embedding.weight)
        header = json.loads(file.metadata()["law_lightning"])
    assert (header["kind"], header["state"]["hparams/theta_bound"]) == ("strategy", 2.0)
    assert StrategyAgent.load(tmp_path / "strategy.safetensors").hparams["theta_bound"] == 2.0


def test_a_strategy_may_be_given_by_its_searchs_folder(tmp_path):
    save_state(tmp_path / "strategy.pt", "strategy", make(seed=1).full_state())
    assert strategy_path(tmp_path) == tmp_path / "strategy.pt"
    assert StrategyAgent.load(strategy_path(tmp_path)).hparams["seed"] == 1
    make(seed=2).save(tmp_path / "strategy.safetensors")
    assert StrategyAgent.load(strategy_path(tmp_path)).hparams["seed"] == 2


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda s: s.pop("hparams"), "not a complete strategy file"),
        (lambda s: s.pop("optimizers"), "not a complete strategy file"),
        (lambda s: s["networks"].pop("actor.network.0.bias"), "not a complete strategy file.*Missing key"),
        (lambda s: s["hparams"].update(num_stages=9), "not a complete strategy file.*size mismatch"),
        (lambda s: s["hparams"].update(unheard=1), "not a complete strategy file.*unheard"),
        (lambda s: s["optimizers"].popitem(), "not a complete strategy file.*optimizers' state is not that of"),
        (lambda s: s.update(updates=torch.zeros(3)), "not a complete strategy file"),
        (lambda s: s["networks"]["actor.network.0.bias"][0].fill_(math.nan), "not a complete .* not finite"),
    ],
)
def test_incomplete_strategies_are_named(tmp_path, change, message):
    state = experienced().full_state()
    change(state)
    save_tensors(tmp_path / "bad.safetensors", "strategy", state)
    with pytest.raises(ValueError, match=rf"(?s)bad\.safetensors is {message}"):
        StrategyAgent.load(tmp_path / "bad.safetensors")


# -- members ---------------------------------------------------------------------------------------------------


def test_members_take_turns_at_exploring_and_the_first_is_the_strategy():
    agent = make(members=3, episode_noise=0.0, stage_noise=0.0)
    agent.actor.network[-1].bias.data.copy_(torch.tensor([[0.1], [0.2], [0.3]]))
    greedy = agent.act(1, 0.5, 0.5)
    explored = []
    for _ in range(4):
        agent.start_episode()
        explored.append(agent.act(1, 0.5, 0.5, explore=True))
        assert torch.equal(agent.act(1, 0.5, 0.5), greedy)
    assert torch.equal(explored[0], greedy)
    assert explored[0][-1] < explored[1][-1] < explored[2][-1]
    assert torch.equal(explored[3], explored[0])


def test_members_begin_differently():
    agent = make(members=3, zero_init=False)
    for parameter in agent.parameters():
        assert len({tuple(own.flatten().tolist()) for own in parameter}) == 3


def test_a_strategy_may_be_saved_without_the_other_members(tmp_path):
    agent = make(members=3)
    agent.full_data_update(filled(13))
    agent.save(tmp_path / "first.pt", resumable=False)
    alone = StrategyAgent.load(tmp_path / "first.pt")
    assert alone.hparams["members"] == 1
    torch.testing.assert_close(alone.act(1, 0.5, 0.5), agent.act(1, 0.5, 0.5))
    assert alone.full_data_update(filled(13))["q_mean"] == pytest.approx(0.0, abs=1.0)


# -- of earlier versions -----------------------------------------------------------------------------------------


def before(agent, folder):
    """An agent read from a file that gives each member networks of its own, and does not name what is newer."""
    state, members = agent.full_state(), []
    left_out = ("imitation", 0.0), ("members", 1)
    hparams = dict(item for item in state.pop("hparams").items() if item not in left_out)
    del state["learned"]
    for member in range(agent.hparams["members"]):
        networks = {
            name: tensor[member].T if ".network." in name and name.endswith("weight") else tensor[member]
            for name, tensor in state["networks"].items()
        }
        parts = {"hparams": hparams, "networks": networks, "optimizers": [{"state": {0: {}}}] * 2, "others": []}
        members.append(state | parts)
    save_state(folder / "old.pt", "strategy", members[0] | {"others": members[1:]})
    return StrategyAgent.load(folder / "old.pt")


@pytest.mark.parametrize("options", [{"members": 3}, {"target_rate": 0.2}])
def test_a_strategy_of_before_goes_on(tmp_path, options):
    agent = spread(make(imitation=0.0, **options))
    assert same(before(agent, tmp_path).full_state(), agent.full_state())
    agent.full_data_update(filled(13))
    again = before(agent, tmp_path)
    assert same(again.full_state()["networks"], agent.full_state()["networks"])
    assert not any(tensor.any() for tensor in again.full_state()["optimizers"].values())  # they begin anew
    assert (again.imitation(), again.learned) == (0.0, again.updates)
    assert math.isfinite(again.full_data_update(filled(13))["q_mean"])


# -- the rule general --------------------------------------------------------------------------------------------------


def test_a_strategy_from_general_is_the_rule_until_it_learns_and_explores_about_it():
    agent = StrategyAgent(features=["loss", "margin"], init="general", theta_bound=0.5)
    for noise, gate in ((0.2, 0.0), (0.575, 0.5), (0.9, 1.0)):
        expected = torch.tensor([0.0, 4.0 * gate, 0.8 * gate])
        torch.testing.assert_close(agent.act(3, 0.5, 0.5, noise_smooth=noise), expected)
        explored = torch.stack([agent.act(3, 0.5, 0.5, True, noise) for _ in range(100)])
        assert (explored - expected).abs().max() <= 0.5 + 1e-6
        assert (explored - expected).abs().amax(0).min() > 0.2
