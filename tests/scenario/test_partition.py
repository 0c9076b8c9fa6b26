"""Laws of the two partition rules, and the paper's setting by hand."""

from collections import Counter
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedknow_ray.errors import UnknownNameError
from fedknow_ray.scenario.partition import PARTITIONS, Share, cut, deal_iid, deal_shards

IID = SimpleNamespace(name="iid")


def _shards(shards_per_client, reuse=True):
    return SimpleNamespace(name="shards", shards_per_client=shards_per_client, reuse_across_tasks=reuse)


@given(s=st.integers(1, 6), clients=st.integers(1, 12), classes=st.integers(1, 11), seed=st.integers(0, 9))
def test_shards_are_dealt_once_each_and_as_many_to_every_client(s, clients, classes, seed):
    (deal,) = deal_shards(_shards(s), clients, classes, 1, seed)
    assert [len(hand) for hand in deal] == [s] * clients
    dealt = [share for hand in deal for share in hand]
    assert len(set(dealt)) == len(dealt) == s * clients


@given(s=st.integers(1, 6), clients=st.integers(1, 12), classes=st.integers(1, 11))
def test_shards_of_a_class_are_complete_and_differ_by_at_most_one_between_classes(s, clients, classes):
    (deal,) = deal_shards(_shards(s), clients, classes, 1, seed=3)
    held = {(share.position, share.shard) for hand in deal for share in hand}
    counts = Counter(share.position for hand in deal for share in hand)
    assert held == {(position, shard) for position, count in counts.items() for shard in range(count)}
    assert {share.shards for hand in deal for share in hand} == set(counts.values())
    assert max(counts.values()) - min(counts.get(position, 0) for position in range(classes)) <= 1


def test_shards_that_do_not_divide_go_to_the_first_classes():
    """7 shards over 3 classes: 3, 2, 2."""
    (deal,) = deal_shards(_shards(1), 7, 3, 1, seed=1)
    assert Counter(hand[0].position for hand in deal) == {0: 3, 1: 2, 2: 2}


def test_a_single_client_holds_everything():
    (deal,) = deal_shards(_shards(4), 1, 2, 1, seed=1)
    assert deal == ((Share(0, 0, 2), Share(0, 1, 2), Share(1, 0, 2), Share(1, 1, 2)),)


def test_the_paper_gives_ten_shards_a_class_and_mostly_three_to_five_classes_a_client():
    (deal,) = deal_shards(_shards(5), 20, 10, 1, seed=1)
    assert {share.shards for hand in deal for share in hand} == {10}
    classes = [len({share.position for share in hand}) for hand in deal]
    assert min(classes) >= 2 and max(classes) <= 5
    assert np.mean(classes) > 3.5


def test_one_deal_serves_all_tasks_when_reused():
    deals = deal_shards(_shards(5, reuse=True), 20, 10, 3, seed=1)
    assert deals[0] == deals[1] == deals[2]


def test_each_task_has_a_deal_of_its_own_when_not_reused():
    deals = deal_shards(_shards(5, reuse=False), 20, 10, 3, seed=1)
    assert len({*deals}) == 3


def test_the_deal_depends_on_the_seed_only():
    deal, again, other = (deal_shards(_shards(5), 20, 10, 1, seed) for seed in (1, 1, 2))
    assert deal == again
    assert deal != other


def test_iid_gives_every_client_a_part_of_every_class():
    assert deal_iid(IID, 2, 2, 2, seed=1) == [((Share(0, 0, 2), Share(1, 0, 2)), (Share(0, 1, 2), Share(1, 1, 2)))] * 2


@given(images=st.integers(0, 40), shards=st.integers(1, 12))
def test_the_shares_of_a_class_are_disjoint_equal_parts_of_it(images, shards):
    parts = [cut(np.arange(images), Share(0, shard, shards)) for shard in range(shards)]
    np.testing.assert_array_equal(np.concatenate(parts), np.arange(images))
    assert max(map(len, parts)) - min(map(len, parts)) <= 1


def test_an_unknown_partition_is_told_with_the_nearest_name():
    with pytest.raises(UnknownNameError, match="unknown partition 'shard'; did you mean 'shards'"):
        PARTITIONS.get("shard")
