"""The streams of `seeding.stream` for round after round, seeded many at a time: one by itself costs numpy 50 us.

Nearly all of that is `numpy.random.SeedSequence`, which spreads a seed over the 256 bits that PCG64 starts from. Here
the same is done on arrays, for N seeds at once. With 32-bit words, all sums and products modulo 2^32:

    hash(v) = h ^ (h >> 16),  h = (v ^ c_i) c_{i + 1}             c_i one constant after the other, c_{i + 1} = m c_i
    mix(x, y) = r ^ (r >> 16),  r = L x - R y
    pool = (hash(low word), hash(high word), hash(0), hash(0));  pool_j = mix(pool_j, hash(pool_i)), each i, all j != i
    the words of the state: hash with other constants, twice through the pool

O'Neill, "Developing a seed_seq alternative", 2015, https://www.pcg-random.org/posts/developing-a-seed_seq-alternative.html.
numpy keeps what it makes of a seed (NEP 19); the tests compare both.

Shapes: N seeds.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from numpy.random.bit_generator import ISeedSequence
from numpy.typing import NDArray

from fedknow_ray.seeding import derive_seed, stream

Words = NDArray[np.uint32]

_MIX_LEFT, _MIX_RIGHT = np.uint32(0xCA01F9DD), np.uint32(0x4973F715)

#: Rounds of a task that are seeded one by one: fewer cost less so. Later ones as many ahead as have been, to a bound.
_FIRST_ROUNDS, _MOST_AHEAD = 16, 256


class RoundStreams:
    """The streams of one purpose by task and round; quick where the rounds of a task are asked for in their order."""

    def __init__(self, seed: int, purpose: str) -> None:
        self._seed, self._purpose = seed, purpose
        self._task, self._first = -1, 0
        self._states: NDArray[np.uint64] = np.zeros((0, 4), np.uint64)

    def of(self, task: int, round_index: int) -> np.random.Generator:
        """Return a fresh generator that draws what `stream(seed, purpose, task=, round_index=)` draws."""
        place = round_index - self._first
        if task != self._task or not 0 <= place < len(self._states):
            if round_index < _FIRST_ROUNDS:
                return stream(self._seed, self._purpose, task=task, round_index=round_index)
            self._look_ahead(task, round_index)
            place = 0
        # numpy takes any ISeedSequence; its type stubs do not say so
        return np.random.Generator(np.random.PCG64(_Spread(self._states[place])))  # type: ignore[arg-type]

    def _look_ahead(self, task: int, first: int) -> None:
        rounds = range(first, first + min(first, _MOST_AHEAD))
        seeds = [derive_seed(self._seed, self._purpose, task=task, round_index=index) for index in rounds]
        self._task, self._first, self._states = task, first, spread(seeds)


class _Spread(ISeedSequence):
    """A seed that has been spread already over the four words that PCG64 asks for."""

    def __init__(self, state: NDArray[np.uint64]) -> None:
        self._state = state

    def generate_state(self, n_words: int, dtype: Any = np.uint32) -> NDArray[np.uint64]:
        return self._state


def spread(seeds: Sequence[int]) -> NDArray[np.uint64]:
    """Return (N, 4): of each seed below 2^64 what `SeedSequence(seed).generate_state(4, np.uint64)` returns."""
    words = np.array(seeds, "<u8").view("<u4").reshape(-1, 2).astype(np.uint32)
    nothing = np.zeros(len(seeds), np.uint32)
    into = _constants(0x43B0D7E5, 0x931E8875)
    pool = [_hash(word, into) for word in (words[:, 0], words[:, 1], nothing, nothing)]
    for source in range(4):
        for target in range(4):
            if target != source:
                pool[target] = _mix(pool[target], _hash(pool[source], into))
    out = _constants(0x8B51F9DD, 0x58F38DED)
    state = np.stack([_hash(word, out) for word in (*pool, *pool)], axis=1).astype("<u4")
    return state.view("<u8").astype(np.uint64)


def _constants(first: int, factor: int) -> Iterator[np.uint32]:
    """Yield what each hash takes two of: the second is the first of the next hash."""
    constant = first
    while True:
        yield np.uint32(constant)
        constant = constant * factor & 0xFFFFFFFF
        yield np.uint32(constant)


def _hash(word: Words, constants: Iterator[np.uint32]) -> Words:
    hashed = (word ^ next(constants)) * next(constants)
    return hashed ^ (hashed >> np.uint32(16))


def _mix(left: Words, right: Words) -> Words:
    mixed: Words = _MIX_LEFT * left - _MIX_RIGHT * right
    return mixed ^ (mixed >> np.uint32(16))
