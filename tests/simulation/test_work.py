"""Work: totals, and addition as an algebra."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedknow_ray.simulation.work import Work, WorkItem

sizes = st.integers(0, 10**12)
items = st.builds(WorkItem, st.sampled_from(["train", "prune"]), st.integers(0, 1000), sizes, sizes, sizes)
works = st.lists(items, max_size=5).map(lambda many: Work(tuple(many)))


def test_totals_multiply_one_step_by_the_count():
    work = Work((WorkItem("train", 3, 100, 7, 2), WorkItem("prune", 1, 0, 50)))
    assert (work.flops, work.moved_bytes, work.stored_bytes) == (300, 71, 6)


def test_no_work_has_no_items_and_zero_totals():
    assert (Work.none().items, Work.none().flops, Work.none().moved_bytes) == ((), 0, 0)


@given(works, works)
def test_totals_of_a_sum_are_the_sums_of_the_totals(left, right):
    both = left + right
    assert (both.flops, both.moved_bytes) == (left.flops + right.flops, left.moved_bytes + right.moved_bytes)


@given(works, works, works)
def test_addition_is_associative_and_none_is_neutral(a, b, c):
    assert (a + b) + c == a + (b + c)
    assert a + Work.none() == Work.none() + a == a


@pytest.mark.parametrize("field", ["count", "flops", "moved_bytes", "stored_bytes"])
def test_negative_number_is_refused_with_field_phase_and_value(field):
    numbers = {"count": 1, "flops": 1, "moved_bytes": 1, "stored_bytes": 1, field: -2}
    with pytest.raises(ValueError, match=f"{field} of phase 'train' must not be negative, got -2"):
        WorkItem("train", **numbers)


@pytest.mark.parametrize("value", [1.0, True, None])
def test_a_number_that_is_not_an_int_is_refused(value):
    with pytest.raises(TypeError, match="flops of phase 'train' must be an int"):
        WorkItem("train", 1, value, 0)


def test_a_phase_without_a_name_is_refused():
    with pytest.raises(ValueError, match="name of its phase"):
        WorkItem("", 1, 1, 1)
