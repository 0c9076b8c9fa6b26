"""Nodes and their incoming weights: by hand, and against loops over channels and places."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional as F
from workbench import DRY, NORMED, SIZE, TINY, make_learner, task_data, twin_of

from fedknow_ray.errors import UserError
from fedknow_ray.methods.nodes import NodeLayer, clear, mean_activations, node_layers, open_edges, redraw, shrink
from fedknow_ray.models.catalogue import MODELS, ModelSpec
from fedknow_ray.models.footprint import measure_footprint
from fedknow_ray.models.layout import TensorSlice
from fedknow_ray.models.network import FlatNetwork

#: Two nodes of two incoming weights, the biases after them.
PAIR = NodeLayer("pair", slice(0, 2), TensorSlice("w", 0, (2, 2)), TensorSlice("b", 4, (2,)), None)
BARE = NodeLayer("bare", slice(0, 2), TensorSlice("w", 0, (2, 2)), None, None)


def shrunk(w: list[float], centre: list[float], most: list[float], layer: NodeLayer = BARE) -> list[float]:
    w_P = torch.tensor(w)
    shrink([layer], w_P, torch.tensor(centre), torch.tensor(most))
    return w_P.tolist()


def test_a_node_is_shortened_by_its_amount():
    """(3, 4) is 5 long and (6, 8) is 10."""
    assert shrunk([3.0, 4.0, 6.0, 8.0], [0.0] * 4, [1.0, 5.0]) == pytest.approx([2.4, 3.2, 3.0, 4.0])


def test_a_node_that_is_shorter_is_zero_to_the_bit():
    assert shrunk([0.3, -0.4, 0.0, 0.0], [0.0] * 4, [0.5, 0.1]) == [0.0, 0.0, 0.0, 0.0]


def test_a_node_goes_to_its_centre_and_stops_there():
    """The ways are (0, 4) and (0.1, 0)."""
    assert shrunk([3.0, 4.0, 1.1, 7.0], [3.0, 0.0, 1.0, 7.0], [1.0, 2.0]) == [3.0, 3.0, 1.0, 7.0]


def test_no_amount_moves_nothing_to_the_bit():
    w = torch.rand(4, generator=torch.Generator().manual_seed(0)).tolist()
    assert shrunk(w, [0.1, 0.2, 0.3, 0.4], [0.0, 0.0]) == w


def test_the_bias_belongs_to_its_node():
    """(2, 3, 6) is 7 long; the other node is (0, 0, 1)."""
    assert shrunk([2.0, 3.0, 0.0, 0.0, 6.0, 1.0], [0.0] * 6, [3.5, 0.25], PAIR) == [1.0, 1.5, 0.0, 0.0, 3.0, 0.75]


@settings(deadline=None, max_examples=50)
@given(st.integers(0, 10_000), st.floats(0.01, 3.0))
def test_nothing_near_it_is_better_than_the_proximal_point(seed: int, most: float):
    """It minimises 1/2 |u - w|^2 + most |u - centre|, which is convex: no small change in any direction lowers it."""
    generator = torch.Generator().manual_seed(seed)
    w_P, centre_P = (torch.randn(4, generator=generator, dtype=torch.float64) for _ in range(2))
    u_P = w_P.clone()
    shrink([BARE], u_P, centre_P, torch.full((2,), most, dtype=torch.float64))

    def cost(v_P: Tensor) -> float:
        lengths = (v_P - centre_P).view(2, 2).norm(dim=1)
        return float((v_P - w_P).square().sum() / 2 + most * lengths.sum())

    steps = 1e-3 * torch.randn(20, 4, generator=generator, dtype=torch.float64)
    assert all(cost(u_P) <= cost(u_P + step_P) + 1e-12 for step_P in steps)


def test_the_layers_of_a_small_network():
    """3 channels of 9 weights from images, then 5 rows of 3 channels times 16 places; normalisation has no nodes."""
    for spec in (TINY, NORMED):
        first, second = node_layers(make_learner(spec).network)
        assert (first.module, first.nodes, first.weight.shape) == ("conv", slice(0, 3), (3, 3, 3, 1))
        assert (second.module, second.nodes, second.weight.shape) == ("linear", slice(3, 8), (5, 48))
        assert first.inputs_K is None and second.inputs_K is not None
        assert second.inputs_K.tolist() == [0] * 16 + [1] * 16 + [2] * 16
        assert measure_footprint(spec, **SIZE).nodes == 8


def test_the_inputs_of_a_convolution_are_the_channels_before():
    """Stored as (O, kh, kw, I)."""
    spec = MODELS.get("cnn6_quarter")
    network = FlatNetwork(spec, height=8, width=8, channels=3, rows=2)
    layers = node_layers(network)
    assert [layer.weight.shape[0] for layer in layers] == [8, 8, 16, 16, 32, 32, 256]
    assert layers[1].inputs_K is not None and layers[1].inputs_K.tolist() == list(range(8)) * 9
    assert measure_footprint(spec, height=8, width=8, channels=3).nodes == 368


class Branching(nn.Module):
    """Two layers that both see the image."""

    def __init__(self, height: int, width: int, channels: int) -> None:
        super().__init__()
        self.left, self.right = nn.Linear(height * width * channels, 3), nn.Linear(height * width * channels, 5)

    def forward(self, x_NCHW: Tensor) -> Tensor:
        x = x_NCHW.flatten(1)
        return torch.cat([self.left(x), self.right(x)], dim=1)


def test_a_network_whose_layers_do_not_feed_one_another_is_refused():
    learner = make_learner(ModelSpec("branching", "small_cnn", 4, 64, Branching))
    with pytest.raises(UserError, match=r"right\.weight has 64 inputs after the 3 nodes of left\.weight"):
        node_layers(learner.network)


@pytest.mark.parametrize("spec", [DRY, MODELS.get("cnn6_quarter")], ids=lambda spec: spec.name)
def test_closed_edges_are_those_from_unimportant_to_important_nodes(spec: ModelSpec):
    """Against a loop over the tensors as torch shows them: output, input, and place."""
    network = FlatNetwork(spec, height=8, width=8, channels=1, rows=2)
    layers = node_layers(network)
    important_M = torch.from_numpy(np.random.default_rng(0).random(layers[-1].nodes.stop) < 0.5)
    mask = network.as_tensors(open_edges(layers, important_M, network.P))
    assert not mask[layers[0].weight.name].eq(0).any(), "images have no importance"
    for before, layer in pairwise(layers):
        seen = mask.pop(layer.weight.name)
        nodes = before.weight.shape[0]
        seen_OIX = seen.reshape(len(seen), nodes, -1)
        for o in range(len(seen)):
            for i in range(nodes):
                closed = bool(important_M[layer.nodes.start + o]) and not bool(important_M[before.nodes.start + i])
                assert seen_OIX[o, i].eq(0).all() if closed else seen_OIX[o, i].eq(1).all()
    assert all(one.eq(1).all() for one in mask.values()), "biases stay"


def test_important_nodes_do_not_feel_what_unimportant_ones_become():
    """With the edges closed: the unimportant channel 1 is changed at will."""
    learner = make_learner(DRY)
    network, layers = learner.network, node_layers(learner.network)
    important_M = torch.tensor([True, False, True, True, True, False, True, False])
    x_NCHW = learner.normalisation(task_data().images_NHWC).permute(0, 3, 1, 2)
    network.theta[: network.P].mul_(open_edges(layers, important_M, network.P))
    with torch.no_grad():
        before_NF = network(x_NCHW).clone()
        layers[0].rows(network.theta)[1] = 5.0
        after_NF = network(x_NCHW)
    important_F = important_M[3:]
    assert torch.equal(before_NF[:, important_F], after_NF[:, important_F])
    assert not torch.equal(before_NF[:, ~important_F], after_NF[:, ~important_F])


def test_clearing_takes_a_nodes_weights_and_bias():
    w_P = torch.arange(1.0, 7.0)
    clear([PAIR], w_P, torch.tensor([False, True]))
    assert w_P.tolist() == [1.0, 2.0, 0.0, 0.0, 5.0, 0.0]


def test_redrawn_nodes_are_within_the_bound_and_others_stay():
    """1000 nodes of 4 incoming weights: within 1/2, with a mean square of 1/12."""
    layer = NodeLayer("x", slice(0, 1000), TensorSlice("w", 0, (1000, 4)), TensorSlice("b", 4000, (1000,)), None)
    w_P, chosen_M = torch.full((5000,), 9.0), torch.arange(1000) % 2 == 0
    redraw([layer], w_P, chosen_M, np.random.default_rng(0))
    drawn = torch.cat([layer.rows(w_P), w_P[4000:, None]], dim=1)
    assert bool((drawn[~chosen_M] == 9.0).all())
    assert float(drawn[chosen_M].abs().max()) <= 0.5
    assert float(drawn[chosen_M].square().mean()) == pytest.approx(1 / 12, rel=0.05)


def test_to_redraw_none_draws_nothing_and_changes_nothing():
    w_P, order = torch.arange(6.0), np.random.default_rng(0)
    redraw([PAIR], w_P, torch.tensor([False, False]), order)
    assert w_P.tolist() == [0, 1, 2, 3, 4, 5]
    assert order.random() == np.random.default_rng(0).random()


@pytest.mark.parametrize("spec", [TINY, NORMED], ids=lambda spec: spec.name)
def test_activations_are_those_of_an_ordinary_forward_pass(spec: ModelSpec):
    """The mean over 20 images, in batches of 8, 8 and 4, and over 64 places of a channel; dropout is off."""
    learner, data = make_learner(spec), task_data()
    module = twin_of(learner, spec).eval()
    x_NCHW = learner.normalisation(data.images_NHWC).permute(0, 3, 1, 2)
    with torch.no_grad():
        first = module.conv(x_NCHW)
        second = module.linear(F.max_pool2d(F.relu(module.norm(first)), 2).flatten(1))
    expected = [*F.relu(first).mean((0, 2, 3)).tolist(), *F.relu(second).mean(0).tolist()]
    found_M = mean_activations(learner, node_layers(learner.network), data, "importance")
    np.testing.assert_allclose(found_M, expected, rtol=1e-5)


def test_no_hook_stays_behind():
    learner = make_learner()
    mean_activations(learner, node_layers(learner.network), task_data(), "importance")
    assert all(not module._forward_hooks for module in learner.network.features.modules())
