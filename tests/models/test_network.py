"""The flat network: views, round trips, gradients, and the same numbers as an ordinary module."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor
from workbench import CLASSES, DRY, NORMED, SIZE, TINY, flat_gradient, make_learner, twin_of

from fedknow_ray.models.catalogue import ModelSpec
from fedknow_ray.models.network import FlatNetwork, initial_model


def make_network(spec: ModelSpec = TINY) -> FlatNetwork:
    return make_learner(spec).network


def images(n: int = 6) -> Tensor:
    x_NHWC = torch.rand(n, 8, 8, 1, generator=torch.Generator().manual_seed(1))
    return x_NHWC.permute(0, 3, 1, 2)


def test_sizes_by_hand():
    """Convolution 3 x 9 + 3, linear 5 x 48 + 5; two head rows of 5 + 1."""
    network = make_network()
    assert (network.P, network.B, network.S, network.feature_dim) == (275, 0, 275, 5)
    assert network.theta.shape == network.grad.shape == (275 + 2 * 6,)


def test_the_layout_covers_the_weights_in_order():
    layout = make_network().layout
    assert [piece.name for piece in layout] == ["conv.weight", "conv.bias", "linear.weight", "linear.bias"]
    assert [(piece.start, piece.stop) for piece in layout] == [(0, 27), (27, 30), (30, 270), (270, 275)]


def test_convolution_weights_lie_in_channels_last_order():
    """(O, kh, kw, I) in memory, (O, I, kh, kw) for torch."""
    spec = ModelSpec("three", "small_cnn", 4, 64, lambda h, w, c: TINY.build(h, w, 3))
    network = FlatNetwork(spec, height=8, width=8, channels=3, rows=1)
    assert network.layout[0].shape == (3, 3, 3, 3)
    weight = network.feature_parameters[0]
    assert weight.is_contiguous(memory_format=torch.channels_last)
    output, channel, row, column = 2, 1, 0, 2
    network.theta[output * 27 + (row * 3 + column) * 3 + channel] = 7.0
    assert weight[output, channel, row, column] == 7.0


def test_parameters_are_views_of_theta():
    network = make_network()
    network.theta.fill_(2.5)
    assert all(bool((parameter == 2.5).all()) for parameter in network.feature_parameters)
    assert bool((network.head == 2.5).all())


def test_gradients_land_in_grad():
    network = make_network()
    network.grad.zero_()
    network.features(images()).sum().backward()
    assert bool(network.grad[: network.P].any())
    assert not bool(network.head_grad.any())


@pytest.mark.parametrize("spec", [TINY, NORMED], ids=lambda spec: spec.name)
def test_state_and_head_come_back_as_they_were_loaded(spec: ModelSpec):
    network = make_network(spec)
    rng = np.random.default_rng(0)
    state_S = rng.random(network.S, dtype=np.float32)
    head_RF = rng.random((CLASSES, 6), dtype=np.float32)
    network.load(state_S, head_RF)
    np.testing.assert_array_equal(network.state(), state_S)
    np.testing.assert_array_equal(network.head_rows(), head_RF)


def test_loading_features_alone_leaves_the_head():
    network = make_network()
    before = network.head_rows()
    network.load(np.zeros(network.S, np.float32))
    np.testing.assert_array_equal(network.head_rows(), before)


def test_what_is_read_out_is_a_copy():
    network = make_network()
    state, head = network.state(), network.head_rows()
    network.theta.fill_(9.0)
    assert 9.0 not in state
    assert 9.0 not in head


@pytest.mark.parametrize("mode", [True, False], ids=["train", "eval"])
@pytest.mark.parametrize("spec", [DRY, NORMED], ids=lambda spec: spec.name)
def test_features_are_those_of_an_ordinary_module(spec: ModelSpec, mode: bool):
    learner = make_learner(spec)
    twin = twin_of(learner, spec).train(mode)
    torch.manual_seed(0)
    expected = twin(images())
    torch.manual_seed(0)
    torch.testing.assert_close(learner.network.features.train(mode)(images()), expected)


@pytest.mark.parametrize("spec", [DRY, NORMED], ids=lambda spec: spec.name)
def test_gradients_are_those_of_an_ordinary_module(spec: ModelSpec):
    learner = make_learner(spec)
    twin = twin_of(learner, spec)
    torch.manual_seed(0)
    twin(images()).square().sum().backward()
    torch.manual_seed(0)
    learner.network.grad.zero_()
    learner.network.features(images()).square().sum().backward()
    P = learner.network.P
    torch.testing.assert_close(learner.network.grad[:P], flat_gradient(learner.network, twin))


def test_gradients_written_from_tensors_lie_where_backward_puts_them():
    network = make_network(DRY)
    network.grad.zero_()
    network.features(images()).sum().backward()
    out_P = torch.full((network.P,), torch.nan)
    gradients = torch.autograd.grad(network.features(images()).sum(), network.feature_parameters)
    network.write_gradients(gradients, out_P)
    torch.testing.assert_close(out_P, network.grad[: network.P])


def test_batch_norm_statistics_are_state():
    """3 means and 3 variances; the counter of batches is none."""
    network = make_network(NORMED)
    assert network.B == 6
    before = network.state()
    network.features.train()(images())
    after = network.state()
    np.testing.assert_array_equal(after[: network.P], before[: network.P])
    assert not np.array_equal(after[network.P :], before[network.P :])
    np.testing.assert_array_equal(network.features.norm.running_mean.numpy(), after[network.P : network.P + 3])


def test_loaded_statistics_are_used_in_evaluation():
    network = make_network(NORMED)
    state = network.state()
    state[network.P : network.P + 3] += 1
    before = network.features.eval()(images())
    network.load(state)
    assert not torch.equal(network.features(images()), before)


@pytest.mark.parametrize("spec", [DRY, NORMED], ids=lambda spec: spec.name)
def test_calling_with_other_weights_equals_loading_them(spec: ModelSpec):
    network, other = make_network(spec), make_learner(spec, seed=9).network
    state = other.state()
    state[network.P :] += 0.5
    weights = network.as_tensors(torch.tensor(state[: network.P]))
    network.features.eval()
    before = network.state()
    got = network.call_with(weights, torch.tensor(state[network.P :]), images())
    np.testing.assert_array_equal(network.state(), before)
    network.load(state)
    torch.testing.assert_close(got, network.features(images()))


def in_both_precisions(spec: ModelSpec) -> tuple[FlatNetwork, Tensor, Tensor]:
    """A network set to bfloat16, and its features in float32 and in bfloat16, with the same dropout mask."""
    network = make_network(spec)
    torch.manual_seed(0)
    exact = network(images())
    network.precision = "bfloat16"
    torch.manual_seed(0)
    return network, exact, network(images())


@pytest.mark.parametrize("spec", [DRY, TINY, NORMED], ids=lambda spec: spec.name)
def test_features_in_bfloat16_are_near_those_in_float32_and_not_the_same(spec: ModelSpec):
    """8 bits of significand: a rounding moves a value by 2^-9 = 0.2 % at most, and each goes through a handful."""
    _, exact, rounded = in_both_precisions(spec)
    assert not torch.equal(rounded, exact)
    assert (rounded - exact).norm().item() / exact.norm().item() < 0.02


@pytest.mark.parametrize("spec", [DRY, NORMED], ids=lambda spec: spec.name)
def test_features_in_bfloat16_come_out_as_float32_from_float32_weights(spec: ModelSpec):
    network, _, rounded = in_both_precisions(spec)
    assert rounded.dtype == network.theta.dtype == network.buffers.dtype == torch.float32


def test_gradients_of_bfloat16_are_float32_and_near_the_exact_ones():
    """The same handful of roundings, forward and backward."""
    network, exact, rounded = in_both_precisions(DRY)
    gradients = []
    for z_NF in (exact, rounded):
        network.grad.zero_()
        z_NF.square().sum().backward()
        gradients.append(network.grad.clone())
    assert gradients[1].dtype == torch.float32
    assert not torch.equal(*gradients)
    assert float((gradients[1] - gradients[0]).norm() / gradients[0].norm()) < 0.02


def test_bfloat16_gives_the_same_bits_again():
    network, _, rounded = in_both_precisions(NORMED)
    torch.manual_seed(0)
    assert torch.equal(network(images()), rounded)


@pytest.mark.parametrize("spec", [DRY, NORMED], ids=lambda spec: spec.name)
def test_other_weights_are_called_in_the_networks_precision(spec: ModelSpec):
    network, exact, rounded = in_both_precisions(spec)
    own = network.as_tensors(network.theta[: network.P].clone())
    torch.manual_seed(0)
    again = network.call_with(own, network.buffers.clone(), images())
    assert again.dtype == torch.float32
    assert torch.equal(again, rounded)
    assert not torch.equal(again, exact)


def test_calling_a_network_in_float32_is_calling_its_modules():
    network = make_network(DRY)
    assert torch.equal(network(images()), network.features(images()))


def test_the_initial_model_follows_from_the_seed():
    first, again, other = (initial_model(TINY, **SIZE, classes=4, seed=seed) for seed in (1, 1, 2))
    for a, b, c in zip(first, again, other, strict=True):
        np.testing.assert_array_equal(a, b)
        assert not np.array_equal(a, c)


def test_the_initial_model_has_a_head_row_a_class():
    features_S, head_CF = initial_model(NORMED, **SIZE, classes=4, seed=1)
    assert (features_S.shape, head_CF.shape) == ((275 + 6 + 6,), (4, 6))
    assert features_S.dtype == head_CF.dtype == np.float32


def test_the_initial_model_leaves_torchs_generator_alone():
    before = torch.get_rng_state()
    initial_model(TINY, **SIZE, classes=4, seed=1)
    assert torch.equal(torch.get_rng_state(), before)
