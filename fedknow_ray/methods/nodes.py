"""The nodes of a network: channels that a convolution gives, rows of a linear layer, each with its incoming weights.

A node's incoming weights are one row of its layer's weights and its bias. Layers are taken to follow one another in the
order of the flat vector, each fed by the one before: input channel c of a convolution is node c, and a linear layer
after a convolution has all places of node 0 first. Layers of normalisation have no nodes and change none.

P feature weights, M nodes in all, O nodes of one layer, K incoming weights of each (without the bias).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import torch
from torch import Tensor, nn

from fedknow_ray.errors import UserError
from fedknow_ray.methods.learner import Learner
from fedknow_ray.methods.method import TaskData
from fedknow_ray.models.layout import TensorSlice
from fedknow_ray.models.network import FlatNetwork


@dataclass(frozen=True, slots=True)
class NodeLayer:
    """One layer: *module* its name, *nodes* its places among all nodes, *inputs_K* the node of the layer before (from 0
    in that layer) that each incoming weight comes from; None in the first layer, which images feed."""

    module: str
    nodes: slice
    weight: TensorSlice
    bias: TensorSlice | None
    inputs_K: Tensor | None

    def rows(self, values_P: Tensor) -> Tensor:
        """Return the part (O, K) of a flat vector that belongs to the incoming weights: a view."""
        return values_P[self.weight.start : self.weight.stop].view(self.weight.shape[0], -1)

    def biases(self, values_P: Tensor) -> Tensor | None:
        """Return the part (O,) that belongs to the biases, a view; None in a layer without."""
        return None if self.bias is None else values_P[self.bias.start : self.bias.stop]

    def lengths(self, values_P: Tensor) -> Tensor:
        """Return the length (O,) of each node's incoming weights, bias included."""
        squares_O = self.rows(values_P).square().sum(1)
        biases_O = self.biases(values_P)
        return (squares_O if biases_O is None else squares_O.add_(biases_O.square())).sqrt_()


def node_layers(network: FlatNetwork) -> list[NodeLayer]:
    """Return the layers of a network in their order.

    Raises:
        UserError: if a layer is not fed by the one before.
    """
    pieces = {piece.name: piece for piece in network.layout}
    layers: list[NodeLayer] = []
    for name, piece in pieces.items():
        if name.endswith("weight") and len(piece.shape) > 1:
            first = layers[-1].nodes.stop if layers else 0
            inputs_K = _inputs(piece, layers[-1].weight) if layers else None
            bias = pieces.get(f"{name.removesuffix('weight')}bias")
            nodes = slice(first, first + piece.shape[0])
            layers.append(NodeLayer(name.removesuffix(".weight"), nodes, piece, bias, inputs_K))
    return layers


def shrink(layers: Sequence[NodeLayer], w_P: Tensor, centre_P: Tensor, most_M: Tensor) -> None:
    """Move the incoming weights of each node straight to its centre, by *most_M* or as far as it is.

    This is the proximal step of most_n |w_n - centre_n| for each node n; one that arrives is there exactly.
    """
    way_P = w_P - centre_P
    for layer in layers:
        length_O, most_O = layer.lengths(way_P), most_M[layer.nodes]
        share_O = torch.where(length_O > most_O, most_O / length_O, torch.ones_like(length_O))
        rows_OK = layer.rows(w_P)
        rows_OK.copy_(torch.lerp(rows_OK, layer.rows(centre_P), share_O[:, None]))
        biases_O, centres_O = layer.biases(w_P), layer.biases(centre_P)
        if biases_O is not None and centres_O is not None:
            biases_O.copy_(torch.lerp(biases_O, centres_O, share_O))


def open_edges(layers: Sequence[NodeLayer], important_M: Tensor, P: int) -> Tensor:
    """Return 0 (P,) for each weight from an unimportant node to an important one, and 1 for all others."""
    mask_P = torch.ones(P)
    for before, layer in pairwise(layers):
        assert layer.inputs_K is not None
        from_unimportant_K = ~important_M[before.nodes][layer.inputs_K]
        layer.rows(mask_P).masked_fill_(important_M[layer.nodes][:, None] & from_unimportant_K, 0.0)
    return mask_P


def clear(layers: Sequence[NodeLayer], w_P: Tensor, chosen_M: Tensor) -> None:
    """Set the incoming weights of some nodes to 0."""
    for layer in layers:
        layer.rows(w_P)[chosen_M[layer.nodes]] = 0.0
        biases_O = layer.biases(w_P)
        if biases_O is not None:
            biases_O[chosen_M[layer.nodes]] = 0.0


def redraw(layers: Sequence[NodeLayer], w_P: Tensor, chosen_M: Tensor, order: np.random.Generator) -> None:
    """Draw the incoming weights of some nodes anew, as torch does at the start: within 1 / sqrt(K) of 0, uniformly."""
    for layer in layers:
        chosen_O, rows_OK = chosen_M[layer.nodes], layer.rows(w_P)
        count, K = int(chosen_O.sum()), rows_OK.shape[1]
        bound = K**-0.5
        drawn = order.uniform(-bound, bound, (count, K + 1)).astype(np.float32)
        rows_OK[chosen_O] = torch.from_numpy(drawn[:, :-1])
        biases_O = layer.biases(w_P)
        if biases_O is not None:
            biases_O[chosen_O] = torch.from_numpy(drawn[:, -1])


def mean_activations(learner: Learner, layers: Sequence[NodeLayer], data: TaskData, phase: str) -> Tensor:
    """Return max(0, output) of each node (M,), the mean over places and over the task's images, in evaluation mode."""
    sums_M = torch.zeros(layers[-1].nodes.stop)
    with _listening(learner.network, layers, sums_M):
        learner.features_of(data.images_NHWC, phase)
    return sums_M.div_(len(data.labels_N))


@contextmanager
def _listening(network: FlatNetwork, layers: Sequence[NodeLayer], sums_M: Tensor) -> Iterator[None]:
    """Add up what the nodes give while this is open; nothing stays behind in the network."""
    modules = dict(network.features.named_modules())
    handles = [modules[layer.module].register_forward_hook(_adder(sums_M[layer.nodes])) for layer in layers]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _adder(sums_O: Tensor) -> Callable[[nn.Module, tuple[Tensor, ...], Tensor], None]:
    """Return a hook that adds to the sums of one layer."""

    def add(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        active = torch.relu(output.float())
        sums_O.add_((active.flatten(2).mean(2) if active.dim() > 2 else active).sum(0))

    return add


def _inputs(piece: TensorSlice, before: TensorSlice) -> Tensor:
    """Return the node of the layer before for each incoming weight, in stored order: (kh, kw, I), or (node, place)."""
    columns = torch.arange(piece.size // piece.shape[0])
    inputs, nodes = piece.shape[-1], before.shape[0]
    if len(piece.shape) == 4 and inputs == nodes:
        return columns % inputs
    if len(piece.shape) == 2 and inputs % nodes == 0:
        return columns // (inputs // nodes)
    raise UserError(
        f"this method needs a network whose layers feed one another in turn, and {piece.name} has {inputs} inputs "
        f"after the {nodes} nodes of {before.name}; use one of the cnn6 networks, or another method"
    )
