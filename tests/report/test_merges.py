"""When merges were made, worked out by hand."""

from __future__ import annotations

from made_run import a_round, made_run, visit

from fedknow_ray.report.merges import merge_times_s


def test_a_merge_closes_its_round(tmp_path):
    """The second round's update comes at 17.9 s and waits for a deadline at 20 s, which no row but the round's has."""
    rows = [
        visit(0, 0.0, (1, 6, 3, 0)),
        visit(1, 10.0, (1, 3, 3.9, 0), round_index=1, merge_index=1),
        a_round(0, 0.0, 10.0, [0]),
        a_round(1, 10.0, 20.0, [1]),
    ]
    assert merge_times_s(made_run(tmp_path, rows)) == {0: 10.0, 1: 20.0}


def test_visits_that_refine_follow_the_merge(tmp_path):
    """The merge is at 10 s, where the refining visit begins, and the round goes on until 16 s."""
    rows = [
        visit(0, 0.0, (1, 6, 3, 0)),
        visit(0, 10.0, (1, 5, 0, 0), kind="refine", merge_index=None, model_version=1),
        a_round(0, 0.0, 16.0, [0]),
    ]
    assert merge_times_s(made_run(tmp_path, rows)) == {0: 10.0}


def test_rounding_of_sums_moves_no_merge_into_the_next_round(tmp_path):
    """0.1 + 0.2 is a little more than 0.3."""
    rows = [visit(0, 0.0, (0.1, 0.2, 0, 0)), a_round(0, 0.0, 0.3, [0]), a_round(1, 0.3, 5.0, [1])]
    assert merge_times_s(made_run(tmp_path, rows)) == {0: 0.3}


def test_a_merge_whose_round_was_not_recorded_is_as_late_as_its_updates(tmp_path):
    """An interrupted run: the update waited until 12 s."""
    assert merge_times_s(made_run(tmp_path, [visit(0, 0.0, (1, 6, 3, 2))])) == {0: 12.0}


def test_without_merges_there_are_no_times(tmp_path):
    rows = [visit(0, 0.0, (1, 6, 3, 0), merge_index=None), a_round(0, 0.0, 10.0, [0])]
    assert merge_times_s(made_run(tmp_path, rows)) == {}
