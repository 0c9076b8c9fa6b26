"""Who is picked: the cohorts of earlier runs where everybody is on, and only those that each selection allows."""

from __future__ import annotations

import math
from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fedknow_ray.errors import UnknownNameError
from fedknow_ray.federation.selection import SELECTIONS, Selection, Turn, make_selection
from fedknow_ray.seeding import stream
from fedknow_ray.simulation.availability import AlwaysOn, Availability, Markov, Patterned
from fedknow_ray.simulation.availability_gaps import Membership, Outage, Outages
from fedknow_ray.simulation.availability_pattern import Pattern

each_selection = pytest.mark.parametrize("name", SELECTIONS)


def selection(name: str, availability: Availability | None = None, seed: int = 1) -> Selection:
    return make_selection(name, availability=availability or AlwaysOn(), seed=seed)


def turn(clients: int = 20, task_index: int = 0, round_index: int = 0, **known: object) -> Turn:
    return Turn(**{"task_index": task_index, "round_index": round_index, "time_s": 0.0, "free": range(clients)} | known)


@pytest.mark.parametrize("name", ["uniform", "available"])
@pytest.mark.parametrize(
    ("task_index", "round_index", "cohort"),
    [
        (0, 0, (0, 1, 3, 4, 6, 9, 13, 16)),
        (0, 1, (2, 3, 4, 7, 11, 14, 16, 19)),
        (3, 2, (2, 5, 8, 10, 13, 14, 17, 18)),
    ],
)
def test_the_cohorts_of_the_runs_before_there_was_a_choice_stay(
    name: str, task_index: int, round_index: int, cohort: tuple[int, ...]
):
    """8 of 20 clients with seed 1, as runs drew them before clients could be off."""
    assert selection(name).pick(turn(20, task_index, round_index), 8) == cohort


@settings(deadline=None)
@given(st.data(), st.sampled_from(["uniform", "available"]), st.integers(1, 60), st.integers(0, 2**31))
def test_with_everybody_on_the_draw_is_one_over_all_client_ids(data: st.DataObject, name: str, clients: int, seed: int):
    size = data.draw(st.integers(1, clients))
    drawn = stream(seed, "cohort", task=3, round_index=2).choice(clients, size=size, replace=False)
    expected = range(clients) if size == clients else sorted(map(int, drawn))
    assert selection(name, seed=seed).pick(turn(clients, 3, 2), size) == tuple(expected)


@settings(deadline=None)
@given(
    st.sampled_from(sorted(SELECTIONS)),
    st.sets(st.integers(0, 30)).map(sorted),
    st.integers(0, 40),
    st.floats(0, 1e4),
    st.integers(0, 2**31),
)
def test_a_pick_is_distinct_sorted_free_and_no_larger_than_asked(
    name: str, free: list[int], count: int, time_s: float, seed: int
):
    picks = selection(name, Markov(mean_on_s=300, mean_off_s=100, seed=seed), seed)
    picked = picks.pick(turn(free=free, time_s=time_s), count)
    assert list(picked) == sorted(set(picked))
    assert set(picked) <= set(free)
    assert len(picked) <= count


@each_selection
def test_picks_do_not_depend_on_the_order_of_calls(name: str):
    turns = [turn(round_index=r) for r in range(6)]
    one, other = selection(name), selection(name)
    assert [one.pick(t, 5) for t in turns] == [other.pick(t, 5) for t in reversed(turns)][::-1]


@each_selection
def test_seed_task_and_round_each_make_a_difference(name: str):
    picks = selection(name)
    first = picks.pick(turn(), 8)
    others = [
        picks.pick(turn(task_index=1), 8),
        picks.pick(turn(round_index=1), 8),
        selection(name, seed=2).pick(turn(), 8),
    ]
    assert len({first, *others}) == 4


@each_selection
def test_clients_that_have_not_joined_or_have_left_are_not_picked(name: str):
    model = Membership(AlwaysOn(), {0: 10.0}, {1: 5.0})
    assert selection(name, model).pick(turn(4), 4) == (1, 2, 3)
    assert selection(name, model).pick(turn(4, time_s=7.0), 4) == (2, 3)
    assert selection(name, model).pick(turn(4, time_s=10.0), 4) == (0, 2, 3)


def test_uniform_picks_who_is_off_and_the_others_do_not():
    dark = Outages(AlwaysOn(), [Outage(frozenset({0, 1}), 0.0, 10.0)])
    assert selection("uniform", dark).pick(turn(4), 4) == (0, 1, 2, 3)
    assert selection("available", dark).pick(turn(4), 4) == (2, 3)
    assert selection("longest_waiting", dark).pick(turn(4), 4) == (2, 3)


def test_nobody_is_picked_where_nobody_is_on():
    dark = Outages(AlwaysOn(), [Outage(frozenset(range(4)), 0.0, 10.0)])
    assert selection("available", dark).pick(turn(4), 2) == ()
    assert selection("longest_waiting", dark).pick(turn(4), 2) == ()


def test_available_picks_those_that_stay_on_for_the_whole_visit():
    """On until 5, 10, 20 s and for good; visits take 10 s, that of client 2 takes 30 s."""
    model = Patterned([Pattern([(0.0, end_s)]) for end_s in (5.0, 10.0, 20.0)] + [Pattern([(0.0, 1.0)], period_s=1.0)])
    visit_s = {0: 10.0, 1: 10.0, 2: 30.0, 3: 1e9}
    assert model.on_until(3, 0.0) == math.inf
    picks = selection("available", model)
    assert picks.pick(turn(4, planned_s=visit_s.__getitem__), 4) == (1, 3)
    assert picks.pick(turn(4), 4) == (0, 1, 2, 3)


def test_available_takes_any_that_are_on_where_none_stays_long_enough():
    model = Patterned([Pattern([(0.0, 5.0)]), Pattern([(0.0, 6.0)]), Pattern([(7.0, 9.0)])])
    assert selection("available", model).pick(turn(3, planned_s=lambda client_id: 10.0), 3) == (0, 1)


def test_longest_waiting_takes_those_without_a_visit_first_and_then_by_the_end_of_the_last():
    last_visit_s = {0: 30.0, 1: 10.0, 2: 20.0, 4: 40.0}
    picks = selection("longest_waiting")
    picked = [picks.pick(turn(5, time_s=50.0, last_visit_s=last_visit_s), count) for count in range(1, 6)]
    assert picked == [(3,), (1, 3), (1, 2, 3), (0, 1, 2, 3), (0, 1, 2, 3, 4)]


def test_longest_waiting_visits_everybody_before_anybody_twice():
    picks, last_visit_s, visits = selection("longest_waiting"), dict[int, float](), Counter[int]()
    for r in range(10):
        cohort = picks.pick(turn(20, round_index=r, time_s=float(r), last_visit_s=last_visit_s), 4)
        visits.update(cohort)
        last_visit_s.update(dict.fromkeys(cohort, float(r)))
    assert visits == dict.fromkeys(range(20), 2)


def test_ties_of_longest_waiting_are_drawn_evenly():
    """400 turns of 4 of 20: 80 picks a client, 5 standard deviations are 40."""
    picks = selection("longest_waiting")
    counts = Counter(client for r in range(400) for client in picks.pick(turn(round_index=r), 4))
    assert all(abs(counts[client] - 80) < 40 for client in range(20))


def test_an_unknown_selection_is_refused_with_the_nearest():
    with pytest.raises(UnknownNameError, match="unknown client selection 'availble'; did you mean 'available'"):
        selection("availble")
