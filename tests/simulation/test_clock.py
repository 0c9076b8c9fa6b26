"""The virtual clock: a total order of events, time that never runs backwards."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedknow_ray.simulation.clock import EventQueue

pushes = st.lists(st.tuples(st.sampled_from([0.0, 0.5, 1.0, 7.0]), st.integers(-1, 1)), max_size=30)


class Incomparable:
    """An event that the queue must not try to compare."""

    __slots__ = ()


def drained(queue):
    return [queue.pop() for _ in range(len(queue))]


def test_events_come_in_order_of_time():
    queue = EventQueue()
    queue.push(2.0, "b")
    queue.push(1.0, "a")
    assert drained(queue) == [(1.0, "a"), (2.0, "b")]


def test_events_of_one_moment_come_by_priority_then_by_order_of_pushing():
    queue = EventQueue()
    for event, priority in [("late", 1), ("first", 0), ("second", 0), ("early", -1)]:
        queue.push(3.0, event, priority)
    assert [event for _, event in drained(queue)] == ["early", "first", "second", "late"]


@given(pushes)
def test_the_order_is_total(entries):
    """Popping gives exactly the sort by (time_s, priority, sequence), whatever the events are."""
    queue = EventQueue()
    keyed = [(time_s, priority, queue.push(time_s, Incomparable(), priority)) for time_s, priority in entries]
    times = [time_s for time_s, _ in drained(queue)]
    assert times == [time_s for time_s, _, _ in sorted(keyed)]
    assert len({sequence for _, _, sequence in keyed}) == len(keyed)


@given(pushes)
def test_the_popped_events_are_those_pushed_in_sorted_order(entries):
    queue = EventQueue()
    for number, (time_s, priority) in enumerate(entries):
        queue.push(time_s, (time_s, priority, number), priority)
    assert [event for _, event in drained(queue)] == sorted(
        (time_s, priority, number) for number, (time_s, priority) in enumerate(entries)
    )


def test_the_clock_starts_at_zero_and_stands_at_the_event_popped_last():
    queue = EventQueue()
    assert queue.now_s == 0.0
    queue.push(4.0, "a")
    assert queue.now_s == 0.0
    queue.pop()
    assert queue.now_s == 4.0


def test_an_event_may_be_pushed_at_the_present_moment():
    queue = EventQueue()
    queue.push(4.0, "a")
    queue.pop()
    queue.push(4.0, "b")
    assert queue.pop() == (4.0, "b")


def test_an_event_in_the_past_is_refused_with_both_times():
    queue = EventQueue()
    queue.push(4.0, "a")
    queue.pop()
    with pytest.raises(ValueError, match=r"an event at 3\.5 s lies in the past: the clock stands at 4\.0 s"):
        queue.push(3.5, "b")


@pytest.mark.parametrize("time_s", [float("nan"), float("inf")])
def test_a_time_must_be_finite(time_s):
    with pytest.raises(ValueError, match="an event needs a finite time"):
        EventQueue().push(time_s, "a")


def test_a_refused_event_leaves_no_trace():
    queue = EventQueue()
    with pytest.raises(ValueError, match="past"):
        queue.push(-1.0, "a")
    assert (len(queue), queue.push(0.0, "b")) == (0, 0)


def test_popping_from_an_empty_queue_is_an_index_error():
    with pytest.raises(IndexError, match=r"no event is left at 0\.0 s"):
        EventQueue().pop()


def test_what_comes_before_the_event_that_was_popped_last_is_past():
    queue = EventQueue()
    assert not queue.is_past(0.0, 0)
    queue.push(3.0, "a", (1, 7))
    queue.pop()
    places = [(2.0, (9,)), (3.0, (0, 2.5)), (3.0, (1, 6)), (3.0, (1, 7)), (3.0, (2,)), (4.0, (0,))]
    assert [queue.is_past(*place) for place in places] == [True, True, True, False, False, False]
    assert queue.last_priority == (1, 7)


def test_a_clock_can_begin_later():
    queue = EventQueue(5.0)
    assert queue.now_s == 5.0
    with pytest.raises(ValueError, match=r"4\.0 s lies in the past"):
        queue.push(4.0, "late")
