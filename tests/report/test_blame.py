"""Who holds a run up, worked out by hand."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from made_run import a_round, made_run, visit

from fedknow_ray.report.blame import Blame, Share, Total, round_blame, staleness_blame, totals


def shares_of(blame: Blame) -> list[tuple[int | None, str, float]]:
    return [(share.client_id, share.phase, pytest.approx(share.amount)) for share in blame.shares]


def test_a_round_is_as_long_as_the_visit_that_it_waits_for(tmp_path):
    """Client 1 takes 10 s, client 2 waits 4 of them."""
    rows = [visit(1, 5.0, (2, 7, 1, 0)), visit(2, 5.0, (2, 3, 1, 4)), a_round(0, 5.0, 15.0, [1, 2])]
    (blame,) = round_blame(made_run(tmp_path, rows))
    assert (blame.task_index, blame.index, blame.amount, blame.client_ids) == (0, 0, 10.0, [1])
    assert shares_of(blame) == [(1, "download", 2), (1, "compute", 7), (1, "upload", 1)]


def test_clients_that_end_together_share_the_round(tmp_path):
    rows = [visit(0, 0.0, (2, 4, 2, 0)), visit(1, 0.0, (2, 2, 4, 0)), a_round(0, 0.0, 8.0, [0, 1])]
    (blame,) = round_blame(made_run(tmp_path, rows))
    assert [(s.client_id, s.phase, s.amount) for s in blame.shares] == [
        *((0, "download", 1), (0, "compute", 2), (0, "upload", 1)),
        *((1, "download", 1), (1, "compute", 1), (1, "upload", 2)),
    ]


def test_a_round_that_had_its_updates_is_not_blamed_on_those_that_were_stopped(tmp_path):
    """With over-selection client 2 is stopped at 8 s, when the last update that is needed has come."""
    late = visit(2, 0.0, (2, 6, 0, 0), status="late", merge_index=None)
    rows = [visit(0, 0.0, (2, 4, 2, 0)), late, a_round(0, 0.0, 8.0, [0, 2])]
    assert round_blame(made_run(tmp_path, rows))[0].client_ids == [0]


def test_a_deadline_is_blamed_on_those_that_did_not_make_it(tmp_path):
    """At 9 s client 1 has computed for 4 s and is stopped; client 2 goes on, and comes when the round is over."""
    rows = [
        visit(0, 0.0, (1, 1, 1, 6)),
        visit(1, 0.0, (5, 4, 0, 0), status="late", merge_index=None),
        visit(2, 0.0, (1, 1, 20, 0), merge_index=1),
        a_round(0, 0.0, 9.0),
    ]
    (blame,) = round_blame(made_run(tmp_path, rows))
    assert shares_of(blame) == [
        *((1, "download", 2.5), (1, "compute", 2)),
        *((2, "download", 0.5), (2, "compute", 0.5), (2, "upload", 3.5)),
    ]


def test_a_round_may_end_with_a_loss(tmp_path):
    """Client 1 went off after 3 s of computing, and there was nobody else to wait for."""
    lost = visit(1, 0.0, (2, 3, 0, 0), status="offline", merge_index=None)
    rows = [visit(0, 0.0, (1, 1, 1, 2)), lost, a_round(0, 0.0, 5.0, [0, 1])]
    assert shares_of(round_blame(made_run(tmp_path, rows))[0]) == [(1, "download", 2), (1, "compute", 3)]


def test_what_a_client_had_missed_is_part_of_its_round(tmp_path):
    """The end of the task before takes 4 s of the round of 10 s."""
    missed = visit(0, 20.0, (1, 3, 0, 0), kind="finish_task", round_index=2, merge_index=None)
    rows = [missed, visit(0, 24.0, (1, 3, 2, 0), task_index=1), a_round(0, 20.0, 30.0, [0], task=1)]
    assert shares_of(round_blame(made_run(tmp_path, rows))[0]) == [
        *((0, "download", 2), (0, "compute", 6), (0, "upload", 2)),
    ]


def test_time_in_which_nobody_was_on_is_nobodys(tmp_path):
    rows = [visit(0, 3.0, (1, 4, 2, 0)), a_round(0, 0.0, 10.0, [0])]
    (blame,) = round_blame(made_run(tmp_path, rows))
    assert shares_of(blame) == [(0, "download", 1), (0, "compute", 4), (0, "upload", 2), (None, "wait", 3)]


def test_before_and_after_the_merge_each_have_their_own_straggler(tmp_path):
    """Client 1 is the last to send (10 s), client 0 the last to refine (4 s)."""
    refine = {"kind": "refine", "merge_index": None, "model_version": 1}
    rows = [
        visit(0, 0.0, (1, 6, 1, 2)),
        visit(1, 0.0, (1, 8, 1, 0)),
        visit(0, 10.0, (1, 3, 0, 0), **refine),
        visit(1, 10.0, (1, 2, 0, 1), **refine),
        a_round(0, 0.0, 14.0, [0, 1]),
    ]
    assert shares_of(round_blame(made_run(tmp_path, rows))[0]) == [
        *((1, "download", 1), (1, "compute", 8), (1, "upload", 1)),
        *((0, "download", 1), (0, "compute", 3)),
    ]


def test_totals_are_parts_of_all_rounds_and_put_the_worst_first():
    blames = [
        Blame(0, 0, 6.0, (Share(0, "slow", "compute", 6.0),)),
        Blame(0, 1, 10.0, (Share(1, "slow", "upload", 8.0), Share(None, None, "wait", 2.0))),
        Blame(0, 2, 4.0, (Share(2, "fast", "download", 4.0),)),
    ]
    nothing = {"download": 0.0, "compute": 0.0, "upload": 0.0, "wait": 0.0}
    assert totals(blames, "client") == [
        Total(1, "slow", nothing | {"upload": 0.4}),
        Total(0, "slow", nothing | {"compute": 0.3}),
        Total(2, "fast", nothing | {"download": 0.2}),
        Total(None, None, nothing | {"wait": 0.1}),
    ]
    by_device = [(total.device, pytest.approx(total.share)) for total in totals(blames, "device")]
    assert by_device == [("slow", 0.7), ("fast", 0.2), (None, 0.1)]


def test_nothing_to_blame_has_no_totals():
    assert totals([Blame(0, 0, 0.0, ())], "client") == []


def test_staleness_is_blamed_on_what_the_client_did_when_others_merged(tmp_path):
    """Client 0 downloads until 4 s, computes until 16 s and sends until 20 s; others merge at 3, 9, 15 and 18 s."""
    rows = [
        *(
            visit(2, s, (1, 1, 1, 0), round_index=i, model_version=i, merge_index=i)
            for i, s in enumerate((0, 6, 12, 15))
        ),
        visit(0, 0.0, (4, 12, 4, 0), merge_index=4, round_index=9),
        *(a_round(i, s, e, [2]) for i, (s, e) in enumerate(((0.0, 3.0), (3.0, 9.0), (9.0, 15.0), (15.0, 18.0)))),
        a_round(4, 18.0, 20.0, [0]),
    ]
    blames = staleness_blame(made_run(tmp_path, rows, {"policy": {"name": "fedasync"}}))
    assert [blame.amount for blame in blames] == [0, 0, 0, 0, 4]
    assert shares_of(blames[4]) == [(0, "download", 1), (0, "compute", 2), (0, "upload", 1)]


def test_an_update_that_came_too_late_for_a_merge_was_stale_while_it_waited(tmp_path):
    """It came at 5 s; the merge at 8 s had closed its buffer without it."""
    rows = [
        visit(2, 0.0, (1, 6, 1, 0)),
        visit(0, 0.0, (1, 3, 1, 7), merge_index=1),
        a_round(0, 0.0, 8.0, [2]),
        a_round(1, 8.0, 12.0, [0]),
    ]
    assert shares_of(staleness_blame(made_run(tmp_path, rows))[1]) == [(0, "wait", 1)]


seconds = st.floats(0.125, 50.0)


@settings(deadline=None, max_examples=25)
@given(st.lists(st.lists(st.tuples(seconds, seconds, seconds), min_size=1, max_size=3), min_size=1, max_size=4))
def test_shares_add_up_to_the_rounds(tmp_path_factory, rounds):
    """Synchronous rounds of any visits, one after the other: nothing is lost, and nobody waits for nobody."""
    rows, now_s = [], 0.0
    for index, cohort in enumerate(rounds):
        ends_s = now_s + max(map(sum, cohort))
        rows += [
            visit(c, now_s, (*spent, ends_s - now_s - sum(spent)), round_index=index) for c, spent in enumerate(cohort)
        ]
        rows.append(a_round(index, now_s, ends_s, range(len(cohort))))
        now_s = ends_s
    blames = round_blame(made_run(tmp_path_factory.mktemp("any") / "run", rows))
    for blame in blames:
        assert sum(share.amount for share in blame.shares) == pytest.approx(blame.amount)
        assert None not in {share.client_id for share in blame.shares}
    assert sum(total.share for total in totals(blames, "client")) == pytest.approx(1.0)
    assert sum(total.share for total in totals(blames, "device")) == pytest.approx(1.0)
