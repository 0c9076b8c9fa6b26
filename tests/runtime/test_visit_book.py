"""What a backend remembers of visits: as long as somebody may need it, and no longer."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedknow_ray.federation.visit import VisitKind, VisitOrder
from fedknow_ray.methods.method import VisitFacts
from fedknow_ray.runtime.visit_book import VisitBook


def order(client_id: int, round_index: int = 0) -> VisitOrder:
    return VisitOrder(VisitKind.TRAIN, VisitFacts(client_id, 0, round_index, 10, 2, False), 7)


A, B, A_AGAIN = order(0), order(1), order(0, 1)


def test_a_visit_stays_until_it_is_merged_and_saved():
    book = VisitBook(saves=True)
    book.dispatched(A, "base")
    book.reported(A, merged=False)
    book.merged([A])
    assert [o for o, _ in book.to_make_again([0])] == [A]
    assert book.under_way() == []
    book.saved()
    assert len(book) == 0


def test_without_saving_it_goes_when_it_is_merged():
    book = VisitBook(saves=False)
    book.dispatched(A, "base")
    book.reported(A, merged=False)
    assert len(book) == 1
    book.merged([A])
    assert len(book) == 0


def test_a_visit_without_an_update_need_not_wait_for_a_merge():
    book = VisitBook(saves=False)
    book.dispatched(A, "base")
    book.reported(A, merged=True)
    assert len(book) == 0


def test_a_saved_visit_is_not_made_again_but_may_still_wait_for_its_merge():
    book = VisitBook(saves=True)
    book.dispatched(A, "base")
    book[A].update = "update"
    book.reported(A, merged=False)
    book.saved()
    assert book.to_make_again([0]) == []
    assert [(o, e.update) for o, e in book.under_way()] == [(A, "update")]


def test_only_the_clients_of_a_lost_actor_make_visits_again_in_their_order():
    book = VisitBook(saves=True)
    for each in (A, B, A_AGAIN):
        book.dispatched(each, "base")
    book.reported(A, merged=True)
    assert [o for o, _ in book.to_make_again({0})] == [A, A_AGAIN]


def test_the_state_to_save_is_that_after_the_last_visit_that_has_reported():
    book = VisitBook(saves=True)
    for each in (A, A_AGAIN, B):
        book.dispatched(each, "base")
        book[each].state = f"after {each.facts.round_index} of {each.client_id}"
    book.reported(A, merged=True)
    assert {c: entry.state for c, entry in book.last_unsaved().items()} == {0: "after 0 of 0"}
    book.reported(A_AGAIN, merged=True)
    assert {c: entry.state for c, entry in book.last_unsaved().items()} == {0: "after 1 of 0"}
    book.saved()
    assert book.last_unsaved() == {}


def test_updates_that_go_into_no_merge_are_let_go_of_all_at_once():
    book = VisitBook(saves=False)
    for each in (A, B):
        book.dispatched(each, "base")
        book.reported(each, merged=False)
    book.merged()
    assert len(book) == 0


def test_a_visit_that_waits_for_its_merge_can_be_taken_over_from_a_checkpoint():
    book = VisitBook(saves=True)
    book.waits_for_merge(A, "base", "update")
    assert book.to_make_again([0]) == []
    book.merged([A])
    assert len(book) == 0


def test_orders_that_are_gone_are_no_fault():
    VisitBook(saves=True).merged([A])
    with pytest.raises(KeyError):
        VisitBook(saves=True)[A]


@given(st.lists(st.tuples(st.sampled_from("drms"), st.integers(0, 3)), max_size=40), st.booleans())
def test_nothing_is_forgotten_that_may_be_needed(acts: list[tuple[str, int]], saves: bool):
    """A slow twin: sets of what was reported, merged and saved."""
    book, dispatched, reported, merged, saved = VisitBook(saves=saves), [], set(), set(), set()
    for act, client_id in acts:
        each = order(client_id)
        if act == "d" and each not in dispatched:
            dispatched.append(each)
            book.dispatched(each, "base")
        elif act == "r" and each in dispatched and each not in reported:
            reported.add(each)
            book.reported(each, merged=False)
        elif act == "m" and each in reported:
            merged.add(each)
            book.merged([each])
        elif act == "s":
            saved |= reported
            book.saved()
        needed = [o for o in dispatched if o not in merged or (saves and o not in saved)]
        assert len(book) == len(needed)
        assert [o for o, _ in book.under_way()] == [o for o in dispatched if o not in merged]
        assert [o for o, _ in book.to_make_again(range(4))] == [o for o in needed if o not in saved]
