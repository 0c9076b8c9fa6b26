"""Weights in a few bits each: symmetric uniform codes with one scale a row of each tensor.

    code_j = clip(round(w_j / s_r), -q, q),     w_j ~ s_r code_j,     q = 2^(bits - 1) - 1

s_r is c max|w| / q over the row r of a tensor (an output channel, or an output of a linear layer), with the c of
`CLIPS` that has the smallest squared error in the row: at 4 bits, cutting off the largest weights pays. Codes are
stored as code + q, two to a byte at 4 bits, the first in the lower half.

Krishnamoorthi, "Quantizing deep convolutional networks for efficient inference", 2018, arXiv:1806.08342: symmetric
codes with a scale a channel.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from fedknow_ray.models.layout import TensorSlice

CLIPS = (1.0, 0.85, 0.7, 0.55)
"""Shares of a row's largest magnitude that are tried as the end of the scale."""
_LEAST = 1e-30  # below, a scale would lose bits to underflow; no weight of a network is that small
BITS = (4, 8)
"""Bits a weight that `encode` knows."""


def encode(w_P: Tensor, chosen_P: Tensor, layout: Sequence[TensorSlice], bits: int) -> tuple[Tensor, Tensor]:
    """Return the packed codes uint8 of the weights that *chosen_P* (P,) marks, in order, and the scales float32.

    Marked weights lie in tensors of two or more dimensions. Weights that are not marked take no part in a row's scale.

    Raises:
        ValueError: if the number of bits is not in `BITS`.
    """
    if bits not in BITS:
        raise ValueError(f"weights are stored in {' or '.join(map(str, BITS))} bits, got {bits}")
    q = 2 ** (bits - 1) - 1
    kept_P = torch.where(chosen_P, w_P, 0.0)
    codes_P, scales = torch.zeros(len(w_P), dtype=torch.uint8), []
    for tensor in _rows(layout):
        w_RC = kept_P[tensor.start : tensor.stop].view(tensor.shape[0], -1)
        scale_R = _best_scales(w_RC, q)
        codes_P[tensor.start : tensor.stop] = (_codes(w_RC, scale_R, q) + q).to(torch.uint8).flatten()
        scales.append(scale_R)
    codes = codes_P[chosen_P]
    # a network may have no tensor with rows
    return _pack_pairs(codes) if bits == 4 else codes, torch.cat([torch.empty(0), *scales])


def decode(codes: Tensor, scales: Tensor, chosen_P: Tensor, layout: Sequence[TensorSlice], bits: int) -> Tensor:
    """Return the weights (P,) float32 that `encode` was given, as far as the codes tell; 0 where not marked."""
    q = 2 ** (bits - 1) - 1
    plain = _unpack_pairs(codes, int(chosen_P.sum())) if bits == 4 else codes
    w_P, start = torch.zeros(len(chosen_P)), 0
    w_P[chosen_P] = plain.float() - q
    for tensor in _rows(layout):
        rows = tensor.shape[0]
        w_P[tensor.start : tensor.stop].view(rows, -1).mul_(scales[start : start + rows, None])
        start += rows
    return w_P


def _rows(layout: Sequence[TensorSlice]) -> Iterator[TensorSlice]:
    """Yield the tensors that have rows."""
    return (tensor for tensor in layout if len(tensor.shape) >= 2)


def _codes(w_RC: Tensor, scale_R: Tensor, q: int) -> Tensor:
    return (w_RC / scale_R[:, None]).round_().clamp_(-q, q)


def _best_scales(w_RC: Tensor, q: int) -> Tensor:
    """Return the scale (R,) with the smallest squared error in each row; about 1 for a row of zeros."""
    largest_R = w_RC.abs().amax(1)
    largest_R = torch.where(largest_R > _LEAST, largest_R, float(q))
    scale_cR = torch.stack([largest_R * (clip / q) for clip in CLIPS])
    error_cR = torch.stack([(_codes(w_RC, s_R, q) * s_R[:, None] - w_RC).square_().sum(1) for s_R in scale_cR])
    return scale_cR.gather(0, error_cR.argmin(0, keepdim=True))[0]


def _pack_pairs(codes: Tensor) -> Tensor:
    even = torch.nn.functional.pad(codes, (0, len(codes) % 2))
    return even[0::2] | (even[1::2] << 4)


def _unpack_pairs(packed: Tensor, count: int) -> Tensor:
    return torch.stack([packed & 15, packed >> 4], dim=1).flatten()[:count]
