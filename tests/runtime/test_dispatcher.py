"""Jobs in flight: never more actors at work than a node has slots, in their order, and each result once."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedknow_ray.runtime.dispatcher import Dispatcher, Job


class World:
    """Fake actors: *wait* finishes one job that is at work, the oldest unless *pick* says otherwise."""

    def __init__(self, node_of: dict[int, str], slots: dict[str, int]) -> None:
        self.node_of, self.slots = node_of, slots
        self.started: list[str] = []
        self.flying: list[str] = []
        self.most: Counter[str] = Counter()
        self.pick: Callable[[list[str]], str] = lambda refs: refs[0]
        self.dispatcher: Dispatcher[str] = Dispatcher(node_of, slots, self.wait)

    def job(self, key: str, actor: int) -> Job[str]:
        def start() -> str:
            self.started.append(key)
            self.flying.append(f"{actor}:{key}")
            jobs = Counter(int(ref.split(":")[0]) for ref in self.flying)
            assert all(count <= 2 for count in jobs.values())
            working = Counter(self.node_of[actor] for actor in jobs)
            assert all(working[node] <= self.slots[node] for node in working)
            return f"{actor}:{key}"

        return Job(key, actor, start)

    def wait(self, refs: list[str]) -> list[str]:
        assert sorted(refs) == sorted(self.flying)
        at_work = {ref.split(":")[0]: ref for ref in reversed(self.flying)}
        done = self.pick([ref for ref in self.flying if ref in at_work.values()])
        self.flying.remove(done)
        return [done]


def one_node(actors: int, slots: int) -> World:
    return World(dict.fromkeys(range(actors), "n"), {"n": slots})


def test_a_job_starts_at_once_where_there_is_a_slot():
    world = one_node(2, slots=2)
    for actor in range(2):
        world.dispatcher.add(world.job(f"j{actor}", actor))
    assert world.started == ["j0", "j1"]


def test_jobs_beyond_the_slots_wait():
    world = one_node(3, slots=2)
    for actor in range(3):
        world.dispatcher.add(world.job(f"j{actor}", actor))
    assert world.started == ["j0", "j1"]
    world.dispatcher.result("j0")
    assert world.started == ["j0", "j1", "j2"]


def test_an_actor_has_one_job_behind_the_one_at_work():
    world = one_node(2, slots=2)
    for key, actor in (("a", 0), ("b", 0), ("c", 0), ("d", 1)):
        world.dispatcher.add(world.job(key, actor))
    assert world.started == ["a", "b", "d"], "a later job may pass one whose actor has enough"
    world.dispatcher.result("a")
    assert world.started == ["a", "b", "d", "c"]


def test_a_busy_actor_gets_no_job_ahead_of_an_idle_one_that_waits_for_the_processor():
    world = one_node(2, slots=1)
    for key, actor in (("a", 0), ("b", 1), ("c", 0)):
        world.dispatcher.add(world.job(key, actor))
    assert world.started == ["a"]
    world.dispatcher.result("a")
    assert world.started == ["a", "b"]


def test_the_longest_queue_comes_first():
    world = one_node(3, slots=1)
    world.dispatcher.add(*(world.job(key, int(key[0])) for key in ("0a", "1a", "1b", "1c", "2a", "2b")))
    for key in ("1a", "1b", "2a", "0a", "1c", "2b"):
        world.dispatcher.result(key)
    assert world.started == ["1a", "1b", "2a", "0a", "1c", "2b"]


def test_each_node_has_its_own_slots():
    world = World({0: "x", 1: "x", 2: "y"}, {"x": 1, "y": 1})
    for actor in range(3):
        world.dispatcher.add(world.job(f"j{actor}", actor))
    assert world.started == ["j0", "j2"]


def test_waiting_for_one_job_gets_others_done():
    world = one_node(3, slots=1)
    for actor in range(3):
        world.dispatcher.add(world.job(f"j{actor}", actor))
    assert world.dispatcher.result("j2") == "2:j2"
    assert world.started == ["j0", "j1", "j2"]
    assert world.dispatcher.result("j0") == "0:j0"


def test_a_result_is_given_once():
    world = one_node(1, slots=1)
    world.dispatcher.add(world.job("j", 0))
    world.dispatcher.result("j")
    with pytest.raises(KeyError, match="no job 'j' is under way"):
        world.dispatcher.result("j")


def test_a_job_that_nobody_gave_is_no_reason_to_wait_for_ever():
    with pytest.raises(KeyError, match="no job 'x' is under way"):
        one_node(1, slots=1).dispatcher.result("x")


@given(
    st.lists(st.integers(0, 5), min_size=1, max_size=20),
    st.tuples(st.integers(1, 3), st.integers(1, 3)),
    st.randoms(use_true_random=False),
)
def test_all_jobs_are_done_within_the_limits(actors: list[int], slots: tuple[int, int], random: object):
    """Whatever ends first and is asked for first; `World` checks the limits at every start."""
    world = World({a: "x" if a < 3 else "y" for a in range(6)}, {"x": slots[0], "y": slots[1]})
    world.pick = lambda refs: random.choice(refs)  # type: ignore[attr-defined]
    keys = [f"j{index}" for index in range(len(actors))]
    for key, actor in zip(keys, actors, strict=True):
        world.dispatcher.add(world.job(key, actor))
    asked = list(keys)
    random.shuffle(asked)  # type: ignore[attr-defined]
    results = {key: world.dispatcher.result(key) for key in asked}
    assert results == {key: f"{actor}:{key}" for key, actor in zip(keys, actors, strict=True)}
    for own in range(6):
        mine = [key for key in world.started if actors[int(key[1:])] == own]
        assert mine == sorted(mine, key=lambda key: int(key[1:])), "an actor's jobs keep their order"


class Clock:
    """A clock that is set by hand."""

    def __init__(self) -> None:
        self.now_s = 0.0

    def __call__(self) -> float:
        return self.now_s


def timed(clock: Clock, *, slots: int = 2) -> tuple[World, Dispatcher[str]]:
    world = World({0: "n", 1: "n"}, {"n": slots})
    world.dispatcher = Dispatcher(world.node_of, world.slots, world.wait, clock)
    return world, world.dispatcher


def test_an_actor_that_is_long_at_one_job_is_overdue():
    clock = Clock()
    world, dispatcher = timed(clock)
    dispatcher.add(world.job("a", 0))
    clock.now_s = 5.0
    dispatcher.add(world.job("b", 1))
    clock.now_s = 10.0
    assert (dispatcher.overdue(9.0), dispatcher.overdue(4.0), dispatcher.overdue(10.0)) == ([0], [0, 1], [])


def test_a_job_behind_another_counts_from_when_its_turn_came():
    clock = Clock()
    world, dispatcher = timed(clock)
    dispatcher.add(world.job("a", 0), world.job("b", 0))
    clock.now_s = 8.0
    dispatcher.result("a")
    clock.now_s = 10.0
    assert dispatcher.overdue(3.0) == []
    assert dispatcher.overdue(1.0) == [0]


def test_a_dropped_actor_has_no_jobs_and_can_be_given_them_again():
    world, dispatcher = timed(Clock(), slots=1)
    dispatcher.add(world.job("a", 0), world.job("b", 0), world.job("c", 1))
    dispatcher.drop(0)
    world.flying.clear()
    dispatcher.add(world.job("a", 0))
    assert [dispatcher.result(key) for key in ("c", "a")] == ["1:c", "0:a"]


def test_results_of_a_dropped_actor_are_forgotten():
    world, dispatcher = timed(Clock())
    dispatcher.add(world.job("a", 0), world.job("c", 1))
    world.pick = lambda refs: "0:a" if "0:a" in refs else refs[0]
    dispatcher.result("c")
    dispatcher.drop(0)
    with pytest.raises(KeyError):
        dispatcher.result("a")


def test_an_actor_that_has_moved_takes_a_slot_of_its_new_node():
    world, dispatcher = timed(Clock(), slots=1)
    dispatcher.add(world.job("a", 0), world.job("b", 1))
    assert world.started == ["a"]
    dispatcher.move(1, "m", 1)
    world.node_of[1], world.slots["m"] = "m", 1
    dispatcher.add(world.job("b", 1))
    assert world.started == ["a", "b"]


def test_jobs_whose_results_nobody_wants_are_done_all_the_same():
    world, dispatcher = timed(Clock())
    again = world.job("a", 0)
    dispatcher.add(Job("again", 0, again.start, wanted=False), world.job("b", 0))
    assert dispatcher.result("b") == "0:b"
    with pytest.raises(KeyError):
        dispatcher.result("again")


def test_an_actor_settles_when_it_has_done_all_its_jobs():
    world, dispatcher = timed(Clock())
    dispatcher.add(*(world.job(key, 0) for key in "abc"), world.job("d", 1))
    dispatcher.settle(0)
    assert {"a", "b", "c"} <= set(world.started)
    assert not any(ref.startswith("0:") for ref in world.flying)
