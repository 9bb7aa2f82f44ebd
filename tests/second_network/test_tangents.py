"""Batch normalisation of dual numbers, against torch's own forward mode."""

import pytest
import torch
import torch.autograd.forward_ad as fw
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st

from law_lightning.second_network.tangents import batch_norm


def both_ways(x, *others, with_tangents=(True, True, True), training=True):
    """Our batch normalisation and torch's, of the same dual numbers: values, tangents and running statistics."""
    results = []
    for function in (batch_norm, F.batch_norm):
        generator = torch.Generator().manual_seed(1)
        kind = x.dtype if x.dtype == torch.float64 else torch.float32
        running = [torch.zeros(x.shape[1], dtype=kind), torch.ones(x.shape[1], dtype=kind)]
        with fw.dual_level():
            duals = [
                fw.make_dual(each.clone(), torch.randn(each.shape, generator=generator, dtype=each.dtype))
                if wanted and each is not None
                else each
                for each, wanted in zip((x, *others), with_tangents, strict=True)
            ]
            y, tangent = fw.unpack_dual(function(duals[0], *running, *duals[1:], training, 0.1, 1e-5))
        results.append([y, tangent, *running])
    return results


@given(
    seed=st.integers(0, 2**16),
    shape=st.sampled_from([(2, 1), (5, 3), (4, 2, 7), (3, 2, 4, 5)]),
    spread=st.sampled_from([1e-2, 1.0, 30.0]),
)
def test_the_derivative_is_torchs(seed, shape, spread):
    draw = torch.Generator().manual_seed(seed)
    x = 5 + spread * torch.randn(shape, generator=draw, dtype=torch.float64)
    weight, bias = torch.randn(2, shape[1], generator=draw, dtype=torch.float64)
    ours, torchs = both_ways(x, weight, bias)
    for one, other in zip(ours, torchs, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize(
    "with_tangents", [(True, False, False), (False, True, False), (False, False, True), (False, True, True)]
)
def test_not_everything_has_a_tangent(with_tangents, training):
    x, (weight, bias) = torch.randn(6, 3, dtype=torch.float64), torch.randn(2, 3, dtype=torch.float64)
    ours, torchs = both_ways(x, weight, bias, with_tangents=with_tangents, training=training)
    for one, other in zip(ours, torchs, strict=True):
        torch.testing.assert_close(one, other)


def test_without_scale_and_shift():
    ours, torchs = both_ways(torch.randn(6, 3, dtype=torch.float64), None, None)
    torch.testing.assert_close(ours[1], torchs[1])


def test_an_input_in_half_precision():
    x = torch.randn(32, 3, 4, 4).bfloat16()
    ours, torchs = both_ways(x, torch.randn(3), torch.randn(3))
    assert ours[0].dtype == torchs[0].dtype == torch.bfloat16
    torch.testing.assert_close(ours[1].float(), torchs[1].float(), rtol=5e-2, atol=5e-2)


def test_what_is_differentiated_within_the_step_is_left_to_torch():
    """A gradient penalty needs the graph of the normalisation, with its tangents."""
    x = torch.randn(6, 3, dtype=torch.float64, requires_grad=True)
    weight = torch.randn(3, dtype=torch.float64)
    slopes = []
    for function in (batch_norm, F.batch_norm):
        with fw.dual_level():
            y = function(x, None, None, fw.make_dual(weight, torch.ones_like(weight)), None, True)
            (slope,) = torch.autograd.grad(y.square().sum(), x, create_graph=True)
            slopes.append(fw.unpack_dual(slope).tangent)
    torch.testing.assert_close(*slopes)
