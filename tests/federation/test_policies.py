"""Cohorts: distinct, in client order, the same for the same seed, or as listed."""

from __future__ import annotations

from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from fedknow_ray.federation.policies import Synchronous


def policy(clients: int = 20, cohort_size: int = 8, seed: int = 1) -> Synchronous:
    return Synchronous(clients=clients, cohort_size=cohort_size, seed=seed)


@given(st.data(), st.integers(1, 40), st.integers(0, 2**31), st.integers(0, 20), st.integers(0, 20))
def test_a_cohort_is_distinct_sorted_and_of_the_asked_size(
    data: st.DataObject, clients: int, seed: int, task_index: int, round_index: int
):
    size = data.draw(st.integers(1, clients))
    cohort = policy(clients, size, seed).cohort(task_index, round_index, 21)
    assert len(cohort) == len(set(cohort)) == size
    assert list(cohort) == sorted(cohort)
    assert set(cohort) <= set(range(clients))


def test_the_same_seed_draws_the_same_cohorts():
    draws = [[policy().cohort(t, r, 4) for t in range(3) for r in range(4)] for _ in range(2)]
    assert draws[0] == draws[1]


def test_seed_task_and_round_each_make_a_difference():
    cohorts = {
        policy().cohort(0, 0, 4),
        policy(seed=2).cohort(0, 0, 4),
        policy().cohort(1, 0, 4),
        policy().cohort(0, 1, 4),
    }
    assert len(cohorts) == 4


def test_cohorts_may_be_asked_for_in_any_order():
    one = policy()
    assert one.cohort(1, 1, 4) == policy().cohort(1, 1, 4) == one.cohort(1, 1, 4)


def test_everybody_visits_where_the_cohort_is_everybody():
    assert policy(5, 5).cohort(3, 2, 4) == (0, 1, 2, 3, 4)


def test_every_client_is_drawn_about_as_often():
    """400 rounds of 8 of 20: 160 visits a client, 5 standard deviations are 49."""
    counts = Counter(client for r in range(400) for client in policy().cohort(0, r, 400))
    assert all(abs(counts[client] - 160) < 50 for client in range(20))


def test_listed_cohorts_come_in_client_order_and_start_again():
    listed = Synchronous(clients=5, cohort_size=2, seed=1, cohorts=[(3, 1), (0,), (4, 2)])
    rounds = [listed.cohort(t, r, 2) for t in range(2) for r in range(2)]
    assert rounds == [(1, 3), (0,), (2, 4), (1, 3)]
