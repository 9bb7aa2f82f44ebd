import pytest
import torch

from law_lightning.data.preparation import permuted_indices, standardize


def test_permutation_depends_on_the_seed_alone():
    before = torch.get_rng_state()
    order = permuted_indices(100, 3)
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.equal(order, permuted_indices(100, 3))
    assert not torch.equal(order, permuted_indices(100, 4))
    assert sorted(order.tolist()) == list(range(100))


@pytest.mark.parametrize(
    ("shape", "per_feature", "over"),
    [((5000, 3, 2, 2), False, (0, 2, 3)), ((5000, 6), True, (0,)), ((5000, 6), False, (0, 1))],
)
def test_standardize_agrees_with_the_plain_formula(shape, per_feature, over):
    torch.manual_seed(0)
    # Channels of different location and scale; 5000 samples are more than one piece.
    scale = torch.arange(1, shape[1] + 1).view(1, -1, *[1] * (len(shape) - 2))
    train, other = torch.randn(shape) * scale + 5 * scale, torch.randn(7, *shape[1:])
    got_train, got_other = standardize(train, other, per_feature=per_feature)
    mean = train.double().mean(over, keepdim=True)
    std = train.double().std(over, correction=0, keepdim=True)
    assert got_train.dtype == torch.float32
    torch.testing.assert_close(got_train, ((train - mean) / std).float(), rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(got_other, ((other - mean) / std).float(), rtol=1e-5, atol=1e-5)


def test_constant_channel_is_only_centred():
    train = torch.rand(100, 2)
    train[:, 0] = 0.3
    got, other = standardize(train, torch.tensor([[1.3, 0.5]]), per_feature=True)
    assert got[:, 0].abs().max() < 1e-6
    assert other[0, 0] == pytest.approx(1.0)
