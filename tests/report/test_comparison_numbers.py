"""The figures of a comparison, worked out by hand on made-up runs of two tasks (see `fake_comparison`)."""

from __future__ import annotations

import json

import pytest
from fake_comparison import FakeRun

from fedknow_ray.report.comparison_measures import METRICS, Measure
from fedknow_ray.report.comparison_numbers import TABLE, comparison_table, compute, summary

OWN = Measure("average_accuracy", "own")
THREE_SEEDS = {
    "fedavg": {1: FakeRun(40, 60), 2: FakeRun(42, 62), 3: FakeRun(44, 64)},
    "fedknow": {1: FakeRun(50, 60), 2: FakeRun(50, 62), 3: FakeRun(56, 64)},
}
"""Average accuracies 50, 52, 54 and 55, 56, 60: paired differences 5, 4, 6 points."""


def close(value):
    return pytest.approx(value, abs=1e-6)


def row_of(table, case, metric, model=None, task_index=None):
    wanted = {"case": case, "metric": metric, "model": model, "task_index": task_index}
    rows = [row for row in table.to_pylist() if {key: row[key] for key in wanted} == wanted]
    assert len(rows) == 1
    return rows[0]


@pytest.fixture(scope="module")
def table(comparison_of):
    return comparison_table(compute(comparison_of(THREE_SEEDS)))


def test_average_accuracy_with_its_interval_and_values(table):
    """52 -/+ 4.302653 * 2 / sqrt(3) points."""
    row = row_of(table, "fedavg", "average_accuracy", "own")
    assert (row["n"], row["mean"], row["seeds"], row["unit"]) == (3, close(0.52), [1, 2, 3], "share")
    assert row["values"] == close([0.50, 0.52, 0.54])
    assert (row["ci_low"], row["ci_high"]) == (close(0.52 - 0.04968275), close(0.52 + 0.04968275))


def test_difference_is_paired_by_seed(table):
    """5 -/+ 4.302653 * 1 / sqrt(3) points."""
    row = row_of(table, "fedknow", "average_accuracy", "own")
    assert (row["baseline"], row["difference"], row["verdict"]) == ("fedavg", close(0.05), "win")
    assert (row["difference_ci_low"], row["difference_ci_high"]) == (close(0.02515863), close(0.07484137))


def test_baseline_has_no_difference_to_itself(table):
    row = row_of(table, "fedavg", "average_accuracy", "own")
    assert (row["baseline"], row["difference"], row["difference_ci_low"], row["verdict"]) == (
        "fedavg",
        None,
        None,
        None,
    )


MATCHED = {
    "fedavg, own_model=final, model.head=local": {1: FakeRun(40, 60)},
    "fedavg, own_model=final, model.head=global": {1: FakeRun(20, 60)},
    "fedavg, own_model=last_visit, model.head=global": {1: FakeRun(30, 60)},
    "fedknow, own_model=last_visit, model.head=global": {1: FakeRun(50, 60)},
    "local, model.head=local": {1: FakeRun(60, 60)},
    "local, model.head=shared": {1: FakeRun(70, 60)},
}
"""Average accuracies 50, 40, 45, 55, 60, 65; no baseline has the third head."""


def test_case_is_compared_with_the_baselines_counterpart_among_its_other_settings(comparison_of):
    """And the counterpart itself with the baseline: 40 against 50."""
    numbers = compute(comparison_of(MATCHED))
    local, shared = list(MATCHED)[:2]
    assert numbers.baselines == dict(zip(MATCHED, [local, local, shared, shared, local, local], strict=True))
    differences = [numbers.difference(label, OWN) for label in MATCHED]
    assert differences[0] is None
    assert [one.interval.mean for one in differences[1:]] == close([-0.10, 0.05, 0.15, 0.10, 0.15])
    assert numbers.one_baseline is None


def test_settings_of_one_method_are_compared_with_the_first_of_them(comparison_of):
    runs = {f"fedavg, model.head={head}": {1: FakeRun(40, 60)} for head in ("local", "global", "shared")}
    assert compute(comparison_of(runs)).one_baseline == "fedavg, model.head=local"


def test_table_and_summary_name_the_baseline_of_each_case(comparison_of):
    numbers = compute(comparison_of(MATCHED))
    table = comparison_table(numbers).to_pylist()
    assert {row["case"]: row["baseline"] for row in table} == numbers.baselines
    assert {case["label"]: case["baseline"] for case in summary(numbers)["cases"]} == numbers.baselines


def test_methods_settings_alone_leave_one_baseline(comparison_of):
    runs = {label: {1: FakeRun(40, 60)} for label in ("fedavg, a=1", "fedavg, a=2", "fedknow, a=2", "local")}
    assert compute(comparison_of(runs)).one_baseline == "fedavg, a=1"


@pytest.mark.parametrize(
    ("metric", "mean"),
    [
        ("learnt_accuracy", 0.61),  # (60 + 62) / 2 in the second seed, the mean of the three
        ("forgetting", 0.18),
        ("forgetting_relative", 0.30),  # 18 of the 60 points that were learnt
        ("backward_transfer", -0.18),
    ],
)
def test_measures_of_learning_and_forgetting(table, metric, mean):
    for model in ("own", "global"):
        assert row_of(table, "fedavg", metric, model)["mean"] == close(mean)


def test_less_forgetting_is_a_win_and_its_difference_negative(table):
    """Forgetting 20, 18, 16 and 10, 10, 4: differences -10, -8, -12."""
    row = row_of(table, "fedknow", "forgetting", "own")
    assert (row["difference"], row["verdict"]) == (close(-0.10), "win")


def test_accuracy_after_each_task_and_on_each_task(table):
    assert row_of(table, "fedavg", "accuracy_after_task", "own", 0)["mean"] == close(0.60)
    assert row_of(table, "fedavg", "accuracy_after_task", "own", 1)["mean"] == close(0.52)
    assert row_of(table, "fedavg", "accuracy_on_task", "own", 0)["mean"] == close(0.42)
    assert row_of(table, "fedavg", "accuracy_on_task", "own", 1)["mean"] == close(0.62)


def test_equal_costs_are_no_difference_shown(table):
    row = row_of(table, "fedknow", "upload_bytes")
    assert (row["difference"], row["difference_ci_low"], row["difference_ci_high"]) == (0, 0, 0)
    assert row["verdict"] == "no difference shown"


def test_what_no_run_knows_has_no_row(table):
    """The profiles of these runs give no power."""
    assert "energy_j" not in table["metric"].to_pylist()


def test_table_has_its_columns_and_known_metrics(table):
    assert table.schema == TABLE
    assert set(table["metric"].to_pylist()) <= set(METRICS)
    assert table["case"].unique().to_pylist() == ["fedavg", "fedknow"]


def test_missing_runs_are_listed_and_differences_taken_over_the_pairs_that_are_left(comparison_of):
    runs = THREE_SEEDS | {"local": {1: FakeRun(40, 60), 2: None, 3: FakeRun(46, 66, finished=False)}}
    numbers = compute(comparison_of(runs))
    assert numbers.missing == (("local", 2), ("local", 3))
    assert numbers.difference("local", OWN).seeds == (1,)
    row = row_of(comparison_table(numbers), "local", "average_accuracy", "own")
    assert (row["n"], row["ci_low"], row["verdict"]) == (1, None, "no difference shown")


def test_run_that_is_not_planned_is_not_missing(comparison_of):
    numbers = compute(comparison_of({"fedavg": {1: FakeRun(40, 60), 2: FakeRun(40, 60)}, "local": {1: FakeRun(1, 1)}}))
    assert numbers.missing == ()
    assert numbers.planned_runs == 3


def test_comparison_without_any_run_is_an_empty_table(comparison_of):
    numbers = compute(comparison_of({"fedavg": {1: None}}))
    assert comparison_table(numbers).num_rows == 0
    assert numbers.labels == ("fedavg",)


CHOICES = {
    "fedavg": {1: FakeRun(40, 60), 2: FakeRun(40, 60)},
    "fedknow, margin=0": {1: FakeRun(70, 70), 2: FakeRun(10, 10)},
    "fedknow, margin=1": {1: FakeRun(60, 60), 2: FakeRun(90, 90)},
}


def test_settings_are_chosen_on_choosing_seeds_and_reported_on_the_others(comparison_of):
    """Margin 0 is the best on seed 1, and bad luck on seed 2 does not change that."""
    table = comparison_table(compute(comparison_of(CHOICES, choosing_seeds=(1,))))
    chosen = {row["case"]: row["chosen"] for row in table.to_pylist()}
    assert chosen == {"fedavg": True, "fedknow, margin=0": True, "fedknow, margin=1": False}
    row = row_of(table, "fedknow, margin=0", "average_accuracy", "own")
    assert (row["seeds"], row["values"]) == ([2], close([0.10]))


def test_nothing_is_chosen_without_choosing_seeds(comparison_of):
    assert compute(comparison_of(CHOICES)).chosen == frozenset()


def test_first_of_equal_settings_is_chosen(comparison_of):
    same = {1: FakeRun(50, 50), 2: FakeRun(50, 50)}
    numbers = compute(comparison_of({"fedknow, k=1": same, "fedknow, k=2": same}, choosing_seeds=(1,)))
    assert numbers.chosen == {"fedknow, k=1"}


def test_only_settings_of_a_method_are_chosen_anew_for_each_other_setting(comparison_of):
    scores = {"k=1, model.head=a": 50, "k=2, model.head=a": 60, "k=1, model.head=b": 90, "k=2, model.head=b": 80}
    runs = {f"fedknow, {settings}": {1: FakeRun(old, 60), 2: FakeRun(50, 50)} for settings, old in scores.items()}
    numbers = compute(comparison_of(runs, choosing_seeds=(1,)))
    assert numbers.chosen == {"fedknow, k=2, model.head=a", "fedknow, k=1, model.head=b"}


def test_method_with_a_choosing_run_missing_has_no_choice_yet(comparison_of):
    runs = CHOICES | {"fedknow, margin=1": {1: None, 2: FakeRun(90, 90)}}
    assert compute(comparison_of(runs, choosing_seeds=(1,))).chosen == {"fedavg"}


def test_method_with_a_case_that_was_never_run_on_the_choosing_seeds_has_no_choice(comparison_of):
    runs = CHOICES | {"fedknow, margin=1": {2: FakeRun(90, 90)}}
    numbers = compute(comparison_of(runs, choosing_seeds=(1,)))
    assert (numbers.chosen, numbers.missing) == ({"fedavg"}, ())
    assert numbers.never_planned == (("fedknow, margin=1", 1),)


def test_negative_transfer_counts_the_clients_that_do_better_alone(comparison_of):
    """Alone both clients end at (50 + 60) / 2; together one of them at (30 + 60) / 2."""
    numbers = compute(
        comparison_of(
            {
                "fedavg": {1: FakeRun(50, 60, old_of_last_client=30)},
                "local": {1: FakeRun(50, 60, models=("own",))},
            }
        )
    )
    assert numbers.values("fedavg", Measure("negative_transfer_share", "own")) == {1: 0.5}
    assert numbers.values("fedavg", Measure("negative_transfer_mean", "own")) == {1: close(0.05)}
    assert numbers.values("local", Measure("negative_transfer_share", "own")) == {}


def test_negative_transfer_is_against_local_with_the_same_other_settings(comparison_of):
    """`method.` settings are the method's own; a length of training must agree."""
    one = {1: FakeRun(50, 60)}
    runs = {
        "fedknow, margin=1, training.local_epochs=2": one,
        "fedknow, margin=1, training.local_epochs=3": one,
        "local, training.local_epochs=1": {1: FakeRun(90, 90)},
        "local, training.local_epochs=2": {1: FakeRun(80, 90)},
    }
    numbers = compute(comparison_of(runs))
    loss = Measure("negative_transfer_mean", "own")
    assert numbers.values("fedknow, margin=1, training.local_epochs=2", loss) == {1: close(0.85 - 0.55)}
    assert numbers.values("fedknow, margin=1, training.local_epochs=3", loss) == {}


def test_summary_holds_cases_with_figures_of_the_whole_run(comparison_of):
    told = summary(compute(comparison_of(THREE_SEEDS | {"local": {1: None, 2: None, 3: None}})))
    assert json.loads(json.dumps(told, allow_nan=False)) == told
    assert told["runs"] == {"planned": 9, "finished": 6, "missing": 3}
    fedavg, fedknow, local = told["cases"]
    assert fedknow["metrics"]["average_accuracy"]["own"]["difference"] == close(0.05)
    assert fedknow["metrics"]["average_accuracy"]["own"]["verdict"] == "win"
    assert fedavg["metrics"]["upload_bytes"]["run"]["mean"] == 400
    assert "accuracy_after_task" not in fedavg["metrics"]
    assert (local["missing_seeds"], local["metrics"]) == ([1, 2, 3], {})
