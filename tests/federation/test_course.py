"""The facts of a visit, from the sizes of a run."""

from __future__ import annotations

from dataclasses import replace

from fedknow_ray.federation.course import Course
from fedknow_ray.methods.method import VisitFacts

COURSE = Course(
    seed=1,
    tasks=3,
    rounds_per_task=2,
    classes=5,
    images=((10, 20, 30), (11, 21, 31)),
    test_images=((1, 2, 4), (8, 16, 32)),
)


def test_a_visit_has_the_test_images_of_all_tasks_learnt_so_far():
    """Of client 1: 8 after task 0, 8 + 16 after task 1."""
    facts = COURSE.facts(1, 1, 0, trained_this_task=True)
    assert facts == VisitFacts(1, 1, 0, images=21, classes=5, trained_this_task=True, test_images=24, past_images=(11,))
    assert COURSE.facts(1, 0, 0, trained_this_task=True).test_images == 8
    assert COURSE.facts(0, 2, 0, trained_this_task=False).test_images == 7


def test_a_visit_knows_how_many_images_the_client_had_in_each_earlier_task():
    assert COURSE.facts(0, 0, 0, trained_this_task=True).past_images == ()
    assert COURSE.facts(1, 2, 0, trained_this_task=False).past_images == (11, 21)


def test_a_visit_knows_how_many_images_the_client_had_of_each_past_task():
    facts = COURSE.facts(0, 2, 0, trained_this_task=False)
    assert facts.images_of_remembered_tasks == (10, 20)
    assert replace(facts, evicted_tasks=1).images_of_remembered_tasks == (20,)
    assert COURSE.facts(0, 0, 0, trained_this_task=False).images_of_remembered_tasks == ()


def test_where_nobody_says_past_tasks_had_as_many_images_as_now():
    facts = VisitFacts(0, 3, 0, images=7, classes=5, trained_this_task=False, evicted_tasks=1)
    assert facts.images_of_remembered_tasks == (7, 7)


def test_clients_are_counted_from_0():
    assert list(COURSE.clients) == [0, 1]
