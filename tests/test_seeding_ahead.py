"""Streams seeded many at a time are those that are seeded one by one, to the bit."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fedknow_ray.seeding import stream
from fedknow_ray.seeding_ahead import RoundStreams, spread

seeds = st.integers(0, 2**64 - 1)


@settings(deadline=None)
@given(st.lists(seeds | st.sampled_from([0, 1, 2**32 - 1, 2**32, 2**63 - 1]), min_size=1, max_size=20))
def test_a_seed_is_spread_as_numpy_spreads_it(some: list[int]):
    one_by_one = [np.random.SeedSequence(seed).generate_state(4, np.uint64) for seed in some]
    np.testing.assert_array_equal(spread(some), np.array(one_by_one))


def test_what_numpy_makes_of_a_seed_never_changes():
    """From numpy 2.4.6: old runs repeat."""
    words = [7434755675892716031, 10007452063617845036, 5266248848659119178, 15045448681910192573]
    assert np.random.SeedSequence(1).generate_state(4, np.uint64).tolist() == words == spread([1])[0].tolist()


def draws(rng: np.random.Generator) -> list[float]:
    return [int(rng.integers(1000)), float(rng.random()), *rng.permutation(5).tolist(), float(rng.exponential())]


@pytest.mark.parametrize("rounds", [range(700), range(690, 0, -13), [5, 300, 301, 17, 16, 15, 600, 2**40]])
def test_each_round_has_the_stream_of_its_own(rounds: list[int] | range):
    """In any order, for two tasks in turn, and as often as it is asked for."""
    streams = RoundStreams(3, "cohort")
    for index in rounds:
        for task in (0, 1, 1) if index % 100 == 0 else (0,):
            alone = stream(3, "cohort", task=task, round_index=index)
            assert draws(streams.of(task, index)) == draws(alone)
