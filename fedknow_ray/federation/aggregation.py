"""Sums of client updates over a fixed tree in client order: the weighted mean, and those of asynchronous policies.

    w_G = sum_c a_c w_c / sum_c a_c,     a_c = training samples of client c in this task

A merge that is no mean has the same sum of updates, and behind it, as further leaves, the broadcasts that belong to it.

Clients are cut into blocks of 8 in the order of the cohort (client ids ascending); a block is summed from left to
right, then the blocks from left to right, all in float64, and the mean is rounded to float32 once. The order of
arrival plays no part, so one node or many give the same bits, and the tree can be spread over nodes. Memory: one
float64 vector a block that is not yet merged.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from fedknow_ray.errors import FedKnowError
from fedknow_ray.transport.payload import Buffer, decode, encode
from fedknow_ray.transport.update_layout import model_of

BLOCK_CLIENTS = 8
#: Values converted to float64 at a time: 512 kB, so that the temporary stays in the cache.
CHUNK = 65_536

Sums = dict[str, NDArray[np.float64]]


class AggregationError(FedKnowError):
    """Updates that cannot be averaged: none, of different shapes, or of no weight."""


def blocks_of(count: int) -> list[range]:
    """Return the leaves of the tree: runs of `BLOCK_CLIENTS` consecutive places of the cohort."""
    return [range(start, min(start + BLOCK_CLIENTS, count)) for start in range(0, count, BLOCK_CLIENTS)]


@dataclass(frozen=True, slots=True)
class Leaf:
    """One leaf of the tree: places *places* among the payloads *of* a kind, each with its coefficient."""

    of: Literal["update", "base", "present"]
    places: range
    coefficients: tuple[float, ...]


def leaves_of(coefficients: Sequence[float], keep: float, *, from_base: bool) -> list[Leaf]:
    """Return the leaves of a merge (`decisions.Merge`): its updates, then their bases, then the present broadcast."""
    leaves = [Leaf("update", places, tuple(coefficients[p] for p in places)) for places in blocks_of(len(coefficients))]
    if from_base:
        leaves += [Leaf("base", leaf.places, tuple(-c for c in leaf.coefficients)) for leaf in leaves]
    return [*leaves, Leaf("present", range(1), (keep,))] if keep else leaves


def total_of(coefficients: Sequence[float], keep: float, *, from_base: bool) -> float:
    """Return what the sum of a merge is divided by: what its bases take away is not counted."""
    return keep if from_base else sum(coefficients) + keep


def sum_block(payloads: Sequence[Buffer], weights: Sequence[float]) -> Sums:
    """Return the weighted float64 sums of the models in one block's payloads, from left to right."""
    return sum_models((model_of(decode(payload)) for payload in payloads), weights)


def sum_models(models: Iterable[Mapping[str, NDArray[Any]]], weights: Sequence[float]) -> Sums:
    """Return the weighted float64 sums of decoded models, from left to right; each is let go before the next."""
    sums: Sums = {}
    for arrays, weight in zip(models, weights, strict=True):
        if not sums:
            sums = {name: np.zeros(array.shape, np.float64) for name, array in arrays.items()}
        _check_same(sums, arrays)
        for name, array in arrays.items():
            _add_scaled(sums[name].reshape(-1), array.reshape(-1), weight)
    return sums


class TreeMean:
    """Collects block sums in any order and merges them in the order of the tree."""

    def __init__(self, blocks: int) -> None:
        self._waiting: dict[int, Sums] = {}
        self._merged: Sums = {}
        self._next = 0
        self._blocks = blocks

    def add(self, block_index: int, sums: Sums) -> None:
        """Take the sums of one block; those that are next in order are merged at once and freed."""
        self._waiting[block_index] = sums
        while self._next in self._waiting:
            ready = self._waiting.pop(self._next)
            if not self._merged:
                self._merged = ready
            else:
                _check_same(self._merged, ready)
                for name, values in ready.items():
                    self._merged[name] += values
            self._next += 1

    def payload(self, total_weight: float) -> Buffer:
        """Return the mean as the payload of the next broadcast.

        Raises:
            AggregationError: if a block is missing, there was no update, or the weights add up to nothing.
        """
        if self._next != self._blocks or not self._merged:
            raise AggregationError(f"{self._next} of {self._blocks} blocks of updates came")
        if not total_weight > 0:
            raise AggregationError(f"the weights of a round add up to {total_weight}; a mean needs more than 0")
        return encode({name: (sums / total_weight).astype(np.float32) for name, sums in self._merged.items()})


def _add_scaled(sums: NDArray[np.float64], values: NDArray[np.float32], weight: float) -> None:
    scratch = np.empty(min(CHUNK, values.size), np.float64)
    for start in range(0, values.size, CHUNK):
        piece = values[start : start + CHUNK]
        scaled = np.multiply(piece, weight, out=scratch[: piece.size], dtype=np.float64)
        sums[start : start + CHUNK] += scaled


def _check_same(sums: Sums, arrays: Mapping[str, NDArray[np.generic]]) -> None:
    expected = {name: values.shape for name, values in sums.items()}
    got = {name: values.shape for name, values in arrays.items()}
    if got != expected:
        raise AggregationError(f"an update holds {got} where the first one holds {expected}")
