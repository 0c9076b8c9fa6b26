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
