"""The card's numbers, by hand."""

from __future__ import annotations

from dataclasses import asdict, replace

import pyarrow as pa
import pytest

from fedknow_ray.experiment.stress_card import (
    CardRow,
    Outcome,
    Toll,
    below,
    card_row,
    failed_row,
    feels,
    kept,
    mean_accuracy,
    outcome_of,
    toll_of,
)
from fedknow_ray.experiment.stress_file import COLUMNS, Stress
from fedknow_ray.results.schema import ACCURACY, VISITS, AccuracyRow, VisitRow

STRESS = Stress(name="heat", title="Heat", does="It is hot.", differs_in="time_ratio", set={"seed": 2})


def visit(client_id: int, start_s: float, **changes: object) -> dict[str, object]:
    row = VisitRow(
        client_id=client_id, device="nano", task_index=0, round_index=0, kind="train", status="ok", download_s=1.0,
        compute_s=2.0, upload_s=1.0, wait_s=0.0, download_bytes=100, upload_bytes=10, flops=1, moved_bytes=1,
        peak_memory_bytes=5, energy_j=3.0, loss=None, integrated_steps=None, violated_steps=None, host_wall_s=0.0,
        host_cpu_s=0.0, start_s=start_s, work=[], model_version=0, merge_index=0,
    )  # fmt: skip
    return {**asdict(row), **changes}


def table(*visits: dict[str, object]) -> pa.Table:
    return pa.Table.from_pylist(list(visits), schema=VISITS)


def toll(**changes: object) -> Toll:
    calm = Toll(time_s=10.0, energy_j=4.0, sent_bytes=1000, wasted_bytes=0, visits=4, lost={}, survived=0)
    return replace(calm, **changes)  # type: ignore[arg-type]


def test_lost_visits_waste_what_was_sent_for_them_and_are_survived_if_their_client_comes_back():
    """Client 0 is lost at 4 s and back at 5 s; client 1 came at 0 s, is lost at 6 s and never comes again."""
    lost = {"merge_index": None, "upload_bytes": 0}
    told = toll_of(
        table(
            visit(0, 4.0, status="offline", download_bytes=40, **lost),
            visit(0, 5.0),
            visit(1, 0.0),
            visit(1, 6.0, status="failed", download_bytes=60, **lost),
            visit(1, 6.5, status="failed", download_bytes=0, **lost),
        ),
        time_s=9.0,
    )
    assert told == Toll(
        time_s=9.0,
        energy_j=15.0,
        sent_bytes=2 * 110 + 40 + 60,
        wasted_bytes=100,
        visits=5,
        lost={"failed": 2, "offline": 1},
        survived=1,
    )


def test_an_update_that_goes_into_no_merge_is_wasted_and_its_visit_not_lost():
    told = toll_of(table(visit(0, 0.0, merge_index=None), visit(1, 0.0)), time_s=1.0)
    assert (told.wasted_bytes, told.lost) == (110, {})


def test_visits_that_send_nothing_waste_nothing():
    """The end of a task has no merge, nor has training without federation."""
    silent = {"upload_bytes": 0, "download_bytes": 0, "merge_index": None}
    told = toll_of(table(visit(0, 0.0, kind="finish_task", **silent), visit(0, 1.0, **silent)), time_s=1.0)
    assert told.wasted_bytes == 0


def test_joules_are_unknown_where_those_of_one_visit_are():
    assert toll_of(table(visit(0, 0.0), visit(1, 0.0, energy_j=None)), time_s=1.0).energy_j is None


def test_a_row_has_ratios_to_the_calm_run():
    calm = Outcome(toll(), own={(0, 0): 0.8, (1, 0): 0.8}, shared={(0, 0): 0.5})
    stressed = toll(time_s=15.0, energy_j=6.0, wasted_bytes=250, lost={"late": 1, "offline": 2}, survived=2)
    row = card_row(STRESS, calm, Outcome(stressed, own={(0, 0): 0.8, (1, 0): 0.4}, shared={(0, 0): 0.5}))
    assert row == CardRow(
        stress="heat",
        title="Heat",
        differs_in="time_ratio",
        feels=True,
        accuracy_kept=pytest.approx(0.75),
        accuracy_kept_global=1.0,
        time_ratio=1.5,
        energy_ratio=1.5,
        wasted_bytes=250,
        wasted_fraction=0.25,
        lost_visits=3,
        lost_by={"late": 1, "offline": 2},
        survived_visits=2,
    )


def test_what_is_not_known_has_no_ratio():
    calm = Outcome(toll(energy_j=None, sent_bytes=0), own={(0, 0): 0.8}, shared={})
    row = card_row(STRESS, calm, calm)
    assert (row.accuracy_kept, row.accuracy_kept_global, row.energy_ratio, row.wasted_fraction) == (1, None, None, None)


def test_a_client_without_a_model_has_kept_nothing():
    """Task 0: client 1 has lost its model; task 1: client 0 has one that it lacks in the calm run. 0.4 + 0.3 of 0.9."""
    calm = {(0, 0): 0.8, (1, 0): 0.8, (1, 1): 0.2}
    assert kept(calm, {(0, 0): 0.8, (0, 1): 0.6}) == pytest.approx((0.4 + 0.3) / (0.8 + 0.1))


def test_nothing_can_be_kept_of_nothing():
    assert kept({}, {(0, 0): 0.5}) is None
    assert kept({(0, 0): 0.0}, {(0, 0): 0.5}) is None


def test_scores_are_those_after_the_last_task():
    rows = [
        AccuracyRow(4, "own", 0, 0, correct=9, total=10),
        AccuracyRow(4, "own", 1, 0, correct=5, total=10),
        AccuracyRow(4, "own", 1, 1, correct=8, total=10),
        AccuracyRow(4, "global", 1, 1, correct=0, total=0),
    ]
    accuracy = pa.Table.from_pylist([asdict(row) for row in rows], schema=ACCURACY)
    outcome = outcome_of(table(visit(4, 0.0)), accuracy, time_s=1.0)
    assert (outcome.own, outcome.shared) == ({(4, 0): 0.5, (4, 1): 0.8}, {})
    assert mean_accuracy(outcome.own) == pytest.approx(0.65)
    assert mean_accuracy(outcome.shared) is None


@pytest.mark.parametrize("column", COLUMNS)
def test_a_run_feels_a_stress_only_in_the_column_that_differs(column):
    changes = {
        "time_ratio": {"time_s": 11.0},
        "energy_ratio": {"energy_j": 5.0},
        "wasted_bytes": {"wasted_bytes": 1},
        "lost_visits": {"lost": {"late": 1}},
    }
    assert [feels(other, toll(), toll(**changes[column])) for other in COLUMNS] == [c == column for c in COLUMNS]


@pytest.mark.parametrize(("own", "shared", "is_below"), [(0.9, None, False), (0.89, 1.0, True), (1.0, 0.89, True)])
def test_the_gate_takes_the_lower_of_both_models(own, shared, is_below):
    row = CardRow("heat", "Heat", "time_ratio", accuracy_kept=own, accuracy_kept_global=shared)
    assert row.is_below(0.9) is is_below


def test_a_run_that_did_not_finish_is_below_every_limit():
    row = failed_row(STRESS, "nobody comes")
    assert below([row], 0.01) == [row]
    assert row.plain()["failure"] == "nobody comes"
