"""Knowledge extraction of FedKNOW: what a client keeps of a task that it has learnt.

A past task is remembered by its weights alone, never by its samples. Of the n prunable weights the ceil(rho n) largest
in magnitude are kept, and everything that is not prunable (biases, norms) is kept whole:

    m_j = 1  if j is not prunable or |w_j| is among the ceil(rho n) largest,  else 0
    knowledge = (m, w[m = 1], head rows of the task's classes)

The kept prunable weights are stored exactly, or in a few bits each (quantisation): all of a network at 4 bits take
about what a tenth of it takes at 32.

P feature weights, C classes of the task, F inputs of the head, S batch-norm statistics.

Luopan et al., "FedKNOW: Federated Continual Learning with Signature Task Knowledge Integration at Edge", ICDE 2023,
arXiv:2212.01738. Differs from the authors' code: rho counts *all* prunable weights for every task and masks may
overlap (there, each task has rho of what earlier tasks left: 10 %, 9 %, 8.1 %, ...; `taken_P` makes masks disjoint,
of equal size); scales of normalisation layers are not pruned; a threshold per layer is offered, because one fully
connected layer can hold most of a network (88 % of the 6-layer CNN).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from fedknow_ray.errors import DivergenceError
from fedknow_ray.methods.fedknow import quantisation
from fedknow_ray.models.layout import TensorSlice

EXACT = 32
"""Bits of a weight that is stored as it is."""
_TENSORS = ("mask", "values", "head", "statistics", "codes", "scales")


def prunable_P(layout: Sequence[TensorSlice], P: int) -> Tensor:
    """Return a bool mask (P,) of the weights that may be pruned: those of tensors with two or more dimensions.

    Raises:
        ValueError: if a tensor of the layout does not lie within the P weights.
    """
    mask_P = torch.zeros(P, dtype=torch.bool)
    for tensor in layout:
        if tensor.start < 0 or tensor.stop > P:
            raise ValueError(f"{tensor.name!r} lies at {tensor.start}..{tensor.stop}, outside of {P} weights")
        mask_P[tensor.start : tensor.stop] = _is_prunable(tensor)
    return mask_P


def keep_mask(
    w_P: Tensor,
    layout: Sequence[TensorSlice],
    retained_fraction: float,
    *,
    per_layer: bool = False,
    taken_P: Tensor | None = None,
) -> Tensor:
    """Return the bool mask (P,) of the weights to keep: the largest |w|, and all that is not prunable.

    Exactly ceil(retained_fraction * n) of the n prunable weights are kept, ties by lower index; the fraction is the
    decimal that it is written as (0.07 of 100 is 7, not 8). With `per_layer` the same holds in each tensor by itself.
    `taken_P` marks weights that earlier tasks have taken: they are left out, and where fewer are free than are asked
    for, all free ones are kept.

    Raises:
        ValueError: if the fraction is outside (0, 1].
        DivergenceError: if w holds a NaN.
    """
    if not 0 < retained_fraction <= 1:
        raise ValueError(f"retained_fraction must be above 0 and at most 1, got {retained_fraction}")
    _refuse_nan(w_P, layout)
    P = w_P.numel()
    candidate_P = prunable_P(layout, P)
    free_P = candidate_P if taken_P is None else candidate_P & ~taken_P
    # a magnitude is never negative, so -1 ranks below every free weight
    score_P = w_P.detach().abs().masked_fill_(~free_P, -1.0)
    keep_P = ~candidate_P
    for part in _groups(layout, P, per_layer):
        wanted = math.ceil(Fraction(str(retained_fraction)) * int(candidate_P[part].sum()))
        keep_P[part] |= _largest(score_P[part], min(wanted, int(free_P[part].sum())))
    return keep_P


def kept_share_per_layer(mask_P: Tensor, layout: Sequence[TensorSlice]) -> dict[str, float]:
    """Return the share (0 to 1) of each prunable tensor that the mask keeps, by name, in the order of the layout."""
    return {
        tensor.name: int(mask_P[tensor.start : tensor.stop].sum()) / tensor.size
        for tensor in layout
        if _is_prunable(tensor) and tensor.size
    }


@dataclass(frozen=True, slots=True, eq=False)
class Knowledge:
    """What is kept of one task; a value that can be saved, moved and restored bit for bit."""

    task_index: int
    """The client's place in its task order, from 0."""
    class_rows: tuple[int, int]
    """Head rows of the task's classes: start, and stop (not included)."""
    mask: Tensor
    """uint8 (ceil(P / 8),): which weights are kept, eight to a byte, the first in the lowest bit; unused bits are 0.
    Empty if all are."""
    values: Tensor
    """float32: the kept weights, in order of index; with codes only those that are not prunable."""
    head: Tensor
    """float32 (C, F + 1): weights and bias of the head's rows of this task."""
    statistics: Tensor
    """float32 (S,): batch-norm running statistics that belong to these weights; empty for a network without."""
    codes: Tensor
    """uint8: the kept prunable weights in `bits` bits each; empty where they are stored exactly."""
    scales: Tensor
    """float32: one a row of each prunable tensor; empty where there are no codes."""
    bits: int = EXACT
    """Bits of a prunable weight: 4, 8, or 32 for exact."""

    @property
    def stored_bytes(self) -> int:
        """The bytes that storing this takes: exactly those of `to_arrays`."""
        return sum(array.nbytes for array in self.to_arrays().values())

    def to_arrays(self) -> dict[str, NDArray[Any]]:
        """Return the fields as numpy arrays by name, for saving; tensors are not copied."""
        return {
            "task_index": np.array(self.task_index, dtype=np.int64),
            "class_rows": np.array(self.class_rows, dtype=np.int64),
            "mask": self.mask.numpy(),
            "values": self.values.numpy(),
            "head": self.head.numpy(),
            "statistics": self.statistics.numpy(),
            "codes": self.codes.numpy(),
            "scales": self.scales.numpy(),
            "bits": np.array(self.bits, dtype=np.int64),
        }

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, NDArray[Any]]) -> Knowledge:
        """Return the knowledge that `to_arrays` gave; copies, so read-only arrays (an object store's) will do."""
        start, stop = (int(row) for row in arrays["class_rows"])
        tensors = {name: torch.from_numpy(np.array(arrays[name])) for name in _TENSORS}
        index, bits = int(arrays["task_index"]), int(arrays["bits"])
        return cls(task_index=index, class_rows=(start, stop), bits=bits, **tensors)


def pack(
    task_index: int,
    class_rows: tuple[int, int],
    w_P: Tensor,
    mask_P: Tensor,
    head_CF: Tensor,
    statistics_S: Tensor | None = None,
    *,
    layout: Sequence[TensorSlice] = (),
    bits: int = EXACT,
) -> Knowledge:
    """Return the knowledge of a task: the weights w_P (P,) that mask_P keeps, and head rows (C, F + 1). Copies all.

    With fewer than 32 bits, the kept prunable weights (of the layout) are rounded to codes.

    Raises:
        ValueError: if the mask's length is not that of w_P, if the head's rows are not those of the classes, or if
            weights cannot be stored in so many bits.
    """
    if mask_P.shape != w_P.shape:
        raise ValueError(f"the mask has {mask_P.numel()} entries for {w_P.numel()} weights")
    if head_CF.shape[0] != class_rows[1] - class_rows[0]:
        raise ValueError(f"{head_CF.shape[0]} head rows for classes {class_rows[0]}..{class_rows[1]}")
    w_P, exact_P, codes, scales = w_P.detach(), mask_P, torch.empty(0, dtype=torch.uint8), torch.empty(0)
    if bits != EXACT:
        coded_P = mask_P & prunable_P(layout, len(w_P))
        codes, scales = quantisation.encode(w_P, coded_P, layout, bits)
        exact_P = mask_P & ~coded_P
    packed = np.packbits(mask_P.numpy(), bitorder="little") if not bool(mask_P.all()) else np.empty(0, np.uint8)
    return Knowledge(
        task_index=task_index,
        class_rows=class_rows,
        mask=torch.from_numpy(packed),
        values=w_P[exact_P],
        codes=codes,
        scales=scales,
        bits=bits,
        head=head_CF.detach().clone(),
        statistics=torch.empty(0) if statistics_S is None else statistics_S.detach().clone(),
    )


def restore_mask(knowledge: Knowledge, P: int) -> Tensor:
    """Return the bool mask (P,) of the kept weights.

    Raises:
        ValueError: if the knowledge is not that of a network with P weights.
    """
    if knowledge.mask.numel() == 0:
        return torch.ones(P, dtype=torch.bool)
    if knowledge.mask.numel() != -(-P // 8):
        raise ValueError(f"the knowledge of task {knowledge.task_index} is not that of a network with {P} weights")
    bits = np.unpackbits(knowledge.mask.numpy(), count=P, bitorder="little")
    return torch.from_numpy(bits.astype(np.bool_))


def restore_weights(knowledge: Knowledge, P: int, layout: Sequence[TensorSlice] = ()) -> Tensor:
    """Return the pruned weights w_P (P,) float32: the kept values in their places, 0 elsewhere.

    *layout* of the network is needed where the weights are stored as codes.

    Raises:
        ValueError: if the knowledge is not that of a network with P weights.
    """
    mask_P = restore_mask(knowledge, P)
    coded_P = mask_P & prunable_P(layout, P) if knowledge.bits != EXACT else torch.zeros_like(mask_P)
    exact_P = mask_P & ~coded_P
    if int(exact_P.sum()) != knowledge.values.numel():
        raise ValueError(f"the knowledge of task {knowledge.task_index} is not that of a network with {P} weights")
    w_P = torch.zeros(P)
    if knowledge.bits != EXACT:
        w_P = quantisation.decode(knowledge.codes, knowledge.scales, coded_P, layout, knowledge.bits)
    w_P[exact_P] = knowledge.values
    return w_P


def _is_prunable(tensor: TensorSlice) -> bool:
    return len(tensor.shape) >= 2


def _groups(layout: Sequence[TensorSlice], P: int, per_layer: bool) -> list[slice]:
    """Return the parts of the vector within which weights compete: all of it, or each prunable tensor."""
    if not per_layer:
        return [slice(0, P)]
    return [slice(tensor.start, tensor.stop) for tensor in layout if _is_prunable(tensor)]


def _largest(score: Tensor, count: int) -> Tensor:
    """Return the bool mask of exactly `count` largest scores, ties by lower index."""
    if count == 0:
        return torch.zeros_like(score, dtype=torch.bool)
    threshold = score.kthvalue(score.numel() - count + 1).values
    mask = score > threshold
    ties = (score == threshold).nonzero().flatten()
    mask[ties[: count - int(mask.sum())]] = True
    return mask


def _refuse_nan(w_P: Tensor, layout: Sequence[TensorSlice]) -> None:
    if not bool(w_P.isnan().any()):
        return
    names = [tensor.name for tensor in layout if bool(w_P[tensor.start : tensor.stop].isnan().any())]
    raise DivergenceError(f"the weights hold a NaN (in {', '.join(names) or 'no tensor'})")
