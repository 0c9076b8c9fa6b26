"""A network whose trainable weights and gradients are one flat float32 vector each.

Legend: P feature weights, B feature buffers (batch-norm means and variances), S = P + B, F features, C head rows in
all, R head rows of the task being learnt.

    theta (P + R (F + 1))   feature weights, then the R head rows being learnt: what the optimizer steps
    grad                    the same shape: what a backward pass fills
    buffers (B)             running statistics; averaged by the server like weights, counters skipped

The modules' parameters are views of `theta`, so loading a model is one copy and the optimizer is one kernel. Weights of
convolutions lie in channels-last order (O, kh, kw, I), which is 1.3 x faster than the default layout for cnn6 on a CPU
(80 against 104 ms a step of 40 images). A head row is F weights and its bias, so the rows of one task are contiguous,
and rows of other tasks cannot move: they are not in `theta`.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal, TypeAlias, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from fedknow_ray.models.catalogue import ModelSpec
from fedknow_ray.models.layout import TensorSlice
from fedknow_ray.seeding import torch_stream

Array = NDArray[np.float32]
Precision: TypeAlias = Literal["float32", "bfloat16"]


class FlatNetwork:
    """One working copy of a network; clients of one process take turns in it.

    *rows* is R. `layout` says which part of the first P values is which tensor; `shape` there is the stored order.
    *precision* is that of the products and convolutions; weights, gradients and results are float32 in any case.
    """

    def __init__(self, spec: ModelSpec, *, height: int, width: int, channels: int, rows: int) -> None:
        self.features = spec.build(height, width, channels)
        self.feature_dim = _feature_dim(self.features, height, width, channels)
        self.rows = rows
        self.precision: Precision = "float32"
        self.layout = tuple(_layout(self.features))
        self.P = sum(piece.size for piece in self.layout)
        floats = list(_float_buffers(self.features))
        self.B = sum(buffer.numel() for _, _, buffer in floats)
        self._buffer_shapes = {n: b.shape for n, b in self.features.named_buffers() if b.is_floating_point()}
        size = self.P + rows * (self.feature_dim + 1)
        self.theta = torch.zeros(size)
        self.grad = torch.zeros(size)
        self.buffers = torch.zeros(self.B)
        self._adopt_parameters()
        self._adopt_buffers(floats)

    @property
    def S(self) -> int:
        """Values of one feature state: weights and buffers."""
        return self.P + self.B

    @property
    def feature_parameters(self) -> list[nn.Parameter]:
        """The feature weights as modules see them: views of `theta`, in the order of `layout`."""
        return list(self.features.parameters())

    @property
    def head(self) -> Tensor:
        """The head rows being learnt (R, F + 1), bias last: a view of `theta`."""
        return self.theta[self.P :].view(self.rows, self.feature_dim + 1)

    @property
    def head_grad(self) -> Tensor:
        """Their gradient (R, F + 1): a view of `grad`."""
        return self.grad[self.P :].view(self.rows, self.feature_dim + 1)

    def load(self, state_S: Array, head_RF: Array | None = None) -> None:
        """Copy a feature state, and head rows where given, into the working copy."""
        self.theta.numpy()[: self.P] = state_S[: self.P]
        self.buffers.numpy()[:] = state_S[self.P :]
        if head_RF is not None:
            self.theta.numpy()[self.P :] = head_RF.reshape(-1)

    def state(self) -> Array:
        """Return a copy of the feature state (S,)."""
        return np.concatenate([self.theta.numpy()[: self.P], self.buffers.numpy()])

    def head_rows(self) -> Array:
        """Return a copy of the head rows being learnt (R, F + 1)."""
        return self.head.numpy().copy()

    def __call__(self, x_NCHW: Tensor) -> Tensor:
        """Return the features (N, F), float32, of images."""
        with self._arithmetic():
            return cast(Tensor, self.features(x_NCHW)).float()

    def as_tensors(self, flat_P: Tensor) -> dict[str, Tensor]:
        """Return views of other feature weights (P,) under the names and shapes that the modules use."""
        return {piece.name: _as_stored(flat_P[piece.start : piece.stop], piece.shape) for piece in self.layout}

    def call_with(self, weights: dict[str, Tensor], buffers_B: Tensor, x_NCHW: Tensor) -> Tensor:
        """Return the features (N, F) of other weights (from `as_tensors`) and statistics; the network stays as it
        is."""
        named, start = dict(weights), 0
        for name, shape in self._buffer_shapes.items():
            named[name] = buffers_B[start : start + shape.numel()].view(shape)
            start += shape.numel()
        with self._arithmetic():
            return cast(Tensor, torch.func.functional_call(self.features, named, (x_NCHW,))).float()

    def write_gradients(self, gradients: tuple[Tensor, ...], out_P: Tensor) -> None:
        """Copy per-tensor gradients, in the order of `layout`, into a flat vector."""
        for piece, gradient in zip(self.layout, gradients, strict=True):
            _as_stored(out_P[piece.start : piece.stop], piece.shape).copy_(gradient)

    def _arithmetic(self) -> torch.autocast:
        return torch.autocast("cpu", dtype=torch.bfloat16, enabled=self.precision == "bfloat16")

    def _adopt_parameters(self) -> None:
        with torch.no_grad():
            for piece, parameter in zip(self.layout, self.feature_parameters, strict=True):
                view = _as_stored(self.theta[piece.start : piece.stop], piece.shape)
                view.copy_(parameter)
                parameter.data = view
                parameter.grad = _as_stored(self.grad[piece.start : piece.stop], piece.shape)

    def _adopt_buffers(self, floats: list[tuple[nn.Module, str, Tensor]]) -> None:
        start = 0
        for module, name, buffer in floats:
            view = self.buffers[start : start + buffer.numel()].view(buffer.shape)
            view.copy_(buffer)
            module._buffers[name] = view
            start += buffer.numel()


def initial_model(
    spec: ModelSpec, *, height: int, width: int, channels: int, classes: int, seed: int
) -> tuple[Array, Array]:
    """Return the seeded start of every client: feature state (S,) and head (C, F + 1) as torch initialises them."""
    with torch_stream(seed):
        network = FlatNetwork(spec, height=height, width=width, channels=channels, rows=1)
        linear = nn.Linear(network.feature_dim, classes)
    head = torch.cat([linear.weight, linear.bias[:, None]], dim=1).detach().numpy().copy()
    return network.state(), head


def feature_layout(spec: ModelSpec, *, height: int, width: int, channels: int) -> tuple[TensorSlice, ...]:
    """Return the `layout` of a network without its weights."""
    with torch.device("meta"):
        return tuple(_layout(spec.build(height, width, channels)))


def _feature_dim(features: nn.Module, height: int, width: int, channels: int) -> int:
    training = features.training
    with torch.no_grad():
        dimension = int(features.eval()(torch.zeros(1, channels, height, width)).shape[1])
    features.train(training)
    return dimension


def _layout(features: nn.Module) -> Iterator[TensorSlice]:
    start = 0
    for name, parameter in features.named_parameters():
        shape = tuple(parameter.shape)
        piece = TensorSlice(name, start, (shape[0], *shape[2:], shape[1]) if len(shape) == 4 else shape)
        start = piece.stop
        yield piece


def _as_stored(flat: Tensor, stored_shape: tuple[int, ...]) -> Tensor:
    """View a flat piece with the shape that torch expects: (O, kh, kw, I) lies in memory, (O, I, kh, kw) is seen."""
    view = flat.view(stored_shape)
    return view.permute(0, 3, 1, 2) if len(stored_shape) == 4 else view


def _float_buffers(features: nn.Module) -> Iterator[tuple[nn.Module, str, Tensor]]:
    """Yield running statistics; integer counters (num_batches_tracked) are no statistics and stay out."""
    for module in features.modules():
        for name, buffer in module._buffers.items():
            if buffer is not None and buffer.is_floating_point():
                yield module, name, buffer
