"""What one forward and one backward pass of a network cost: FLOPs, bytes kept, bytes moved.

FLOPs are counted by torch's own counter on shape-only ("meta") tensors, so nothing is computed and any size is cheap.
It sees matrix products and convolutions, two FLOPs a multiply-add. Activations are what autograd keeps for the backward
pass, counted by its own hooks: the difference between two images and one, so that weights drop out.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

import torch
from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks
from torch.utils.flop_counter import FlopCounterMode

from fedknow_ray.models.catalogue import ModelSpec

FLOAT_BYTES = 4


@dataclass(frozen=True, slots=True)
class Footprint:
    """The cost of the feature extractor for one image, and of its head for one image and class.

    `forward_flops`, `backward_flops` (weights and inputs, without the gradient of the image itself), `kept_bytes`
    (activations that a backward pass needs), `input_bytes`: for one image. `P`, `B`, `F` as in models.network; `nodes`
    are all channels that a convolution gives and all rows of linear layers; `units` is the sum of the first sides of
    all tensors of feature weights, so that a layer with a bias counts twice.
    """

    P: int
    B: int
    F: int
    forward_flops: int
    backward_flops: int
    kept_bytes: int
    input_bytes: int
    nodes: int = 0
    units: int = 0

    @property
    def weight_bytes(self) -> int:
        """Bytes of one copy of the feature weights."""
        return FLOAT_BYTES * self.P

    def head_forward_flops(self, images: int, classes: int) -> int:
        """FLOPs of one linear head for a batch."""
        return 2 * images * self.F * classes

    def head_backward_flops(self, images: int, classes: int) -> int:
        """FLOPs of the head's gradient for its weights and for the features."""
        return 4 * images * self.F * classes


def measure_footprint(spec: ModelSpec, *, height: int, width: int, channels: int) -> Footprint:
    """Return the footprint of a model at an image size; remembered for the process."""
    return _measure(spec, height, width, channels)


@cache
def _measure(spec: ModelSpec, height: int, width: int, channels: int) -> Footprint:
    with torch.device("meta"):
        features = spec.build(height, width, channels).train()
    # Two images, since batch normalisation refuses one value a channel; all costs are linear in the images.
    forward, backward, dimension = _count_flops(features, (2, channels, height, width))
    kept_2 = _count_kept(features, (2, channels, height, width))
    kept_4 = _count_kept(features, (4, channels, height, width))
    return Footprint(
        P=sum(p.numel() for p in features.parameters()),
        B=sum(b.numel() for b in features.buffers() if b.is_floating_point()),
        F=dimension,
        forward_flops=forward // 2,
        backward_flops=backward // 2,
        kept_bytes=(kept_4 - kept_2) // 2,
        input_bytes=FLOAT_BYTES * channels * height * width,
        nodes=sum(p.shape[0] for p in features.parameters() if p.dim() > 1),
        units=sum(p.shape[0] for p in features.parameters()),
    )


def _count_flops(features: nn.Module, shape: tuple[int, ...]) -> tuple[int, int, int]:
    images = torch.zeros(shape, device="meta")
    with FlopCounterMode(display=False) as counter:
        output = features(images)
    forward = counter.get_total_flops()
    with FlopCounterMode(display=False) as counter:
        torch.autograd.grad(output.sum(), list(features.parameters()))
    return forward, counter.get_total_flops(), int(output.shape[1])


def _count_kept(features: nn.Module, shape: tuple[int, ...]) -> int:
    kept: dict[int, int] = {}

    def note(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        kept[storage._cdata] = storage.nbytes()
        return tensor

    with saved_tensors_hooks(note, lambda tensor: tensor):
        output = features(torch.zeros(shape, device="meta"))
        total = sum(kept.values())
    del output
    return total
