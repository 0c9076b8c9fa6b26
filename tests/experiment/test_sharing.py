"""The prefix tree of runs on keys made by hand: "ax" has the past "a", "ax"; runs share what they begin with."""

from __future__ import annotations

from collections.abc import Collection

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedknow_ray.experiment.sharing import Launch, Schedule


def pasts(*names: str) -> dict[str, tuple[str, ...]]:
    """The run "abc" passes the keys "a", "ab", "abc"."""
    return {name: tuple(name[:length] for length in range(1, len(name) + 1)) for name in names}


def schedule(*names: str, saved: Collection[str] = (), share: bool = True) -> Schedule[str]:
    return Schedule(pasts(*names), saved, share=share)


def make_all(of: Schedule[str], jobs: int = 1) -> list[Launch[str]]:
    """Make all runs, so many at once; each ends, with all that it has to save, when no other can start."""
    launches: list[Launch[str]] = []
    running: list[Launch[str]] = []
    while not of.is_done:
        while len(running) < jobs and (launch := of.next()):
            running.append(launch)
            launches.append(launch)
        ended = running.pop(0)
        for position in ended.saves:
            of.save(ended.run[: position + 1])
        of.end(ended.run)
    return launches


def test_runs_without_a_common_past_start_from_the_beginning_in_their_order():
    assert make_all(schedule("abc", "xyz")) == [Launch("abc", None, ()), Launch("xyz", None, ())]


def test_a_run_starts_where_it_leaves_the_path_of_another():
    assert make_all(schedule("abcd", "abxy")) == [Launch("abcd", None, (1,)), Launch("abxy", 1, ())]


def test_a_run_starts_from_the_deepest_state_that_it_shares():
    made = make_all(schedule("abcd", "axyz", "axyw"))
    assert made == [Launch("abcd", None, (0,)), Launch("axyz", 0, (2,)), Launch("axyw", 2, ())]


def test_one_state_serves_several_runs():
    made = make_all(schedule("abc", "axy", "auv"))
    assert made == [Launch("abc", None, (0,)), Launch("axy", 0, ()), Launch("auv", 0, ())]


def test_equal_runs_share_all_of_their_course():
    runs = {"one": ("a", "b"), "two": ("a", "b")}
    of = Schedule(runs)
    assert of.next() == Launch("one", None, (1,))
    of.save("b")
    assert of.next() == Launch("two", 1, ())


def test_runs_that_others_wait_for_go_first():
    assert [launch.run for launch in make_all(schedule("x", "y", "abc", "abd"))] == ["abc", "x", "y", "abd"]


def test_a_run_waits_for_its_state_while_others_go_on():
    of = schedule("abc", "abd", "x")
    assert of.next() == Launch("abc", None, (1,))
    assert of.promised == {"ab"}
    assert of.next() == Launch("x", None, ())
    assert of.next() is None
    of.save("ab")
    assert of.next() == Launch("abd", 1, ())


def test_a_state_is_needed_until_the_last_run_from_it_has_ended():
    of = schedule("ab", "ac", "ad")
    of.next()
    of.save("a")
    assert of.next() == Launch("ac", 0, ())
    assert of.next() == Launch("ad", 0, ())
    of.end("ab")
    of.end("ac")
    assert of.needed == {"a"}
    of.end("ad")
    assert of.needed == set()


def test_states_that_are_there_are_used():
    made = make_all(schedule("abcd", "abxy", saved=["a", "ab", "q"]))
    assert made == [Launch("abcd", 1, ()), Launch("abxy", 1, ())]


def test_only_states_that_a_run_starts_from_are_needed():
    assert schedule("abcd", "abxy", saved=["a", "ab", "q"]).needed == {"ab"}


def test_after_a_failure_the_next_run_makes_the_past():
    of = schedule("abc", "abd", "abe")
    of.next()
    of.end("abc")
    assert of.next() == Launch("abd", None, (1,))
    of.save("ab")
    assert of.next() == Launch("abe", 1, ())


def test_a_run_whose_state_was_lost_is_tried_from_a_shallower_one():
    of = schedule("abc", saved=["a", "ab"])
    assert of.next() == Launch("abc", 1, ())
    of.end("abc")
    of.lose("ab")
    of.retry("abc")
    assert of.next() == Launch("abc", 0, ())


def test_without_sharing_all_start_from_the_beginning():
    of = schedule("abc", "abd", saved=["ab"], share=False)
    assert make_all(of) == [Launch("abc", None, ()), Launch("abd", None, ())]
    assert of.needed == set()


@pytest.mark.parametrize("jobs", [1, 2, 5])
@given(st.lists(st.text("ab", min_size=4, max_size=4), unique=True, max_size=8))
def test_each_stretch_of_the_tree_is_made_once(jobs: int, names: list[str]):
    launches = make_all(schedule(*names), jobs)
    assert sorted(launch.run for launch in launches) == sorted(names)
    made = [
        key
        for launch in launches
        for key in pasts(launch.run)[launch.run][(launch.start or 0) + (launch.start is not None) :]
    ]
    assert len(made) == len(set(made))


@given(st.lists(st.text("ab", min_size=4, max_size=4), unique=True, max_size=8))
def test_a_state_is_there_before_a_run_starts_from_it(names: list[str]):
    there: set[str] = set()
    for launch in make_all(schedule(*names)):
        assert launch.start is None or launch.run[: launch.start + 1] in there
        there |= {launch.run[: position + 1] for position in launch.saves}
