"""The weighted mean over a fixed tree: hand numbers, the plain mean as its twin, and the same bits in any order."""

from __future__ import annotations

from itertools import permutations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from fedknow_ray.federation import aggregation
from fedknow_ray.federation.aggregation import (
    AggregationError,
    Leaf,
    TreeMean,
    blocks_of,
    leaves_of,
    sum_block,
    total_of,
)
from fedknow_ray.transport.payload import Buffer, decode, encode


def payloads(clients: int, seed: int = 0, size: int = 5) -> list[Buffer]:
    rng = np.random.default_rng(seed)
    return [
        encode({"features": rng.normal(size=size).astype(np.float32), "head": rng.random((2, 3), dtype=np.float32)})
        for _ in range(clients)
    ]


def tree_mean(updates: list[Buffer], weights: list[float], arrival: list[int] | None = None) -> Buffer:
    blocks = blocks_of(len(updates))
    mean = TreeMean(len(blocks))
    for index in arrival or range(len(blocks)):
        block = blocks[index]
        mean.add(index, sum_block([updates[c] for c in block], [weights[c] for c in block]))
    return mean.payload(sum(weights))


def test_mean_by_hand():
    """(1 x (1, 2) + 3 x (5, -2)) / 4 = (4, -1)."""
    updates = [encode({"w": np.array(w, np.float32)}) for w in ([1, 2], [5, -2])]
    assert decode(tree_mean(updates, [1.0, 3.0]))["w"].tolist() == [4.0, -1.0]


@pytest.mark.parametrize("clients", [1, 7, 8, 9, 20])
def test_mean_is_the_plain_one_in_float64(clients: int):
    updates, weights = payloads(clients), [float(w) for w in range(1, clients + 1)]
    for name, got in decode(tree_mean(updates, weights)).items():
        values = np.stack([decode(update)[name] for update in updates]).astype(np.float64)
        expected = np.average(values, axis=0, weights=weights)
        assert got.dtype == np.float32
        np.testing.assert_allclose(got, expected, rtol=1e-7, atol=1e-8)


@pytest.mark.parametrize("arrival", list(permutations(range(3))), ids=str)
def test_blocks_may_arrive_in_any_order_to_the_same_bits(arrival: tuple[int, ...]):
    updates, weights = payloads(20), [1.0 + c / 3 for c in range(20)]
    assert tree_mean(updates, weights, list(arrival)).tobytes() == tree_mean(updates, weights).tobytes()


@given(st.lists(st.integers(1, 100), min_size=1, max_size=20), st.integers(0, 99))
def test_the_mean_of_equal_updates_is_that_update(weights: list[int], seed: int):
    """Any weights; float64 sums of float32 values round back to them."""
    update = payloads(1, seed)[0]
    assert tree_mean([update] * len(weights), [float(w) for w in weights]).tobytes() == update.tobytes()


@given(st.permutations(range(11)))
def test_clients_with_their_weights_may_be_renamed(order: list[int]):
    """Up to the rounding of another order of sums."""
    updates, weights = payloads(11), [float(1 + c) for c in range(11)]
    renamed = decode(tree_mean([updates[c] for c in order], [weights[c] for c in order]))
    for name, values in decode(tree_mean(updates, weights)).items():
        np.testing.assert_allclose(renamed[name], values, rtol=1e-6, atol=1e-7)


@given(st.integers(1, 10**6))
def test_only_the_ratio_of_weights_counts(factor: int):
    updates = payloads(3)
    scaled = decode(tree_mean(updates, [1.0 * factor, 2.0 * factor, 3.0 * factor]))
    for name, values in decode(tree_mean(updates, [1.0, 2.0, 3.0])).items():
        np.testing.assert_allclose(scaled[name], values, rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize(
    ("count", "blocks"),
    [(0, []), (1, [(0, 1)]), (8, [(0, 8)]), (9, [(0, 8), (8, 9)]), (17, [(0, 8), (8, 16), (16, 17)])],
)
def test_blocks_are_runs_of_eight(count: int, blocks: list[tuple[int, int]]):
    assert [(block.start, block.stop) for block in blocks_of(count)] == blocks


def test_a_long_vector_is_added_in_pieces(monkeypatch: pytest.MonkeyPatch):
    """Pieces of 4 of 10 values give the bits of one piece."""
    updates, weights = payloads(3, size=10), [1.0, 2.5, 3.25]
    whole = tree_mean(updates, weights)
    monkeypatch.setattr(aggregation, "CHUNK", 4)
    assert tree_mean(updates, weights).tobytes() == whole.tobytes()


def test_a_round_without_updates_has_no_mean():
    with pytest.raises(AggregationError, match="0 of 0 blocks"):
        TreeMean(0).payload(1.0)


def test_a_missing_block_is_told():
    mean = TreeMean(2)
    mean.add(1, sum_block(payloads(1), [1.0]))
    with pytest.raises(AggregationError, match="0 of 2 blocks of updates came"):
        mean.payload(1.0)


@pytest.mark.parametrize("total", [0.0, -1.0, float("nan")])
def test_weights_that_add_up_to_nothing_have_no_mean(total: float):
    mean = TreeMean(1)
    mean.add(0, sum_block(payloads(1), [total]))
    with pytest.raises(AggregationError, match="a mean needs more than 0"):
        mean.payload(total)


def other(name: str = "features", size: int = 5) -> dict[str, NDArray[np.float32]]:
    return {name: np.ones(size, np.float32), "head": np.ones((2, 3), np.float32)}


@pytest.mark.parametrize("odd", [other(size=1), other("body"), {**other(), "more": np.ones(1, np.float32)}])
def test_an_update_of_another_shape_is_refused_in_its_block(odd: dict[str, NDArray[np.float32]]):
    with pytest.raises(AggregationError, match=r"an update holds .* where the first one holds"):
        sum_block([*payloads(1), encode(odd)], [1.0, 1.0])


def test_a_block_of_another_shape_is_refused():
    mean = TreeMean(2)
    mean.add(0, sum_block(payloads(1), [1.0]))
    with pytest.raises(AggregationError, match="an update holds"):
        mean.add(1, sum_block([encode(other(size=6))], [1.0]))


def test_every_update_needs_its_weight():
    with pytest.raises(ValueError, match="zip"):
        sum_block(payloads(2), [1.0])


def test_a_plain_mean_has_the_leaves_of_its_updates_alone():
    assert leaves_of([1.0, 3.0], 0.0, from_base=False) == [Leaf("update", range(2), (1.0, 3.0))]
    assert total_of([1.0, 3.0], 0.0, from_base=False) == 4.0


def test_what_is_kept_of_the_present_broadcast_is_the_last_leaf_and_counts():
    assert leaves_of([0.25], 0.75, from_base=False) == [
        Leaf("update", range(1), (0.25,)),
        Leaf("present", range(1), (0.75,)),
    ]
    assert total_of([0.25], 0.75, from_base=False) == 1.0


def test_bases_are_taken_away_in_the_places_of_their_updates_and_do_not_count():
    coefficients = [float(place) for place in range(1, 10)]
    assert leaves_of(coefficients, 1.0, from_base=True) == [
        Leaf("update", range(8), tuple(coefficients[:8])),
        Leaf("update", range(8, 9), (9.0,)),
        Leaf("base", range(8), tuple(-c for c in coefficients[:8])),
        Leaf("base", range(8, 9), (-9.0,)),
        Leaf("present", range(1), (1.0,)),
    ]
    assert total_of(coefficients, 1.0, from_base=True) == 1.0


def merged(
    updates: list[Buffer], bases: list[Buffer], present: Buffer, coefficients: list[float], keep: float, base: bool
) -> list[float]:
    leaves = leaves_of(coefficients, keep, from_base=base)
    mean = TreeMean(len(leaves))
    for index, leaf in enumerate(leaves):
        payloads_of = {"update": updates, "base": bases, "present": [present]}[leaf.of]
        mean.add(index, sum_block([payloads_of[place] for place in leaf.places], leaf.coefficients))
    values: list[float] = decode(mean.payload(total_of(coefficients, keep, from_base=base)))["w"].tolist()
    return values


def test_the_two_formulas_by_hand():
    """0.75 (8, 4) + 0.25 (0, 8) = (6, 5); (8, 4) + 0.5 ((0, 8) - (4, 4)) + 2 ((9, 4) - (8, 4)) = (8, 6)."""
    fresh, late, base, present = (encode({"w": np.array(w, np.float32)}) for w in ([0, 8], [9, 4], [4, 4], [8, 4]))
    assert merged([fresh], [base], present, [0.25], 0.75, False) == [6.0, 5.0]
    assert merged([fresh, late], [base, present], present, [0.5, 2.0], 1.0, True) == [8.0, 6.0]
