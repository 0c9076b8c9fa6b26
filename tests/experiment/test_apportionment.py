"""Sharing out by largest remainder: by hand, and its laws."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fedknow_ray.experiment.apportionment import apportion

COUNTS = st.lists(st.integers(0, 50), min_size=1, max_size=8).filter(any)


@pytest.mark.parametrize(
    ("counts", "wanted", "shares"),
    [
        # quotas 1.6 0.4 1.6 0.4: the rest of 2 goes to the two of .6
        ([8, 2, 8, 2], 4, [2, 0, 2, 0]),
        # the paper's fleet at 10 and at 50
        ([8, 2, 8, 2], 10, [4, 1, 4, 1]),
        ([8, 2, 8, 2], 50, [20, 5, 20, 5]),
        # quotas 1.33 0.67 1.33 0.67, as configs/cifar100-micro.yaml at 4
        ([2, 1, 2, 1], 4, [1, 1, 1, 1]),
        # quotas 2.67 1.33 2.67 1.33
        ([2, 1, 2, 1], 8, [3, 1, 3, 1]),
        # quotas 10.67 5.33 10.67 5.33
        ([2, 1, 2, 1], 32, [11, 5, 11, 5]),
        ([2, 2, 2, 2], 4, [1, 1, 1, 1]),
        # equal remainders: the first
        ([5, 5], 1, [1, 0]),
        ([1, 1, 1], 5, [2, 2, 1]),
        ([1, 2], 3, [1, 2]),
        ([3, 0, 1], 8, [6, 0, 2]),
        ([7], 3, [3]),
        ([1, 2], 0, [0, 0]),
    ],
)
def test_shares_by_hand(counts: list[int], wanted: int, shares: list[int]):
    assert apportion(counts, wanted) == shares


@settings(deadline=None)
@given(COUNTS, st.integers(0, 500))
def test_shares_add_up_and_are_within_one_of_their_quotas(counts: list[int], wanted: int):
    shares = apportion(counts, wanted)
    assert sum(shares) == wanted
    for count, share in zip(counts, shares, strict=True):
        # |share - count * wanted / total| < 1, in whole numbers
        assert abs(share * sum(counts) - count * wanted) < sum(counts)


@settings(deadline=None)
@given(COUNTS, st.integers(0, 500))
def test_who_has_more_gets_no_less_and_of_equals_the_first_no_less(counts: list[int], wanted: int):
    """In the number shared out itself largest remainder is not monotone: the Alabama paradox."""
    shares = apportion(counts, wanted)
    for first in range(len(counts)):
        for second in range(first + 1, len(counts)):
            if counts[first] >= counts[second]:
                assert shares[first] >= shares[second]
            else:
                assert shares[first] <= shares[second]


@settings(deadline=None)
@given(COUNTS, st.integers(0, 9))
def test_multiples_of_the_sum_are_exact(counts: list[int], times: int):
    assert apportion(counts, times * sum(counts)) == [times * count for count in counts]


@settings(deadline=None)
@given(COUNTS, st.data())
def test_part_of_the_sum_is_never_more_than_the_count(counts: list[int], data: st.DataObject):
    wanted = data.draw(st.integers(0, sum(counts)))
    assert all(share <= count for share, count in zip(apportion(counts, wanted), counts, strict=True))


@pytest.mark.parametrize(("counts", "wanted"), [([], 1), ([0, 0], 1), ([1, -1, 2], 1), ([1], -1)])
def test_what_cannot_be_shared_is_refused(counts: list[int], wanted: int):
    with pytest.raises(ValueError, match="cannot share"):
        apportion(counts, wanted)
