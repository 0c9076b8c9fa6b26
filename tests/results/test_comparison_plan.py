"""Opening a comparison: what its plan may say, and which of its runs are there."""

from __future__ import annotations

import json

import pytest

from fedknow_ray.errors import RunDirectoryError
from fedknow_ray.results import ResultStore, RunDirectory
from fedknow_ray.results.comparison import PLAN_FILE, load_comparison

CASE = {
    "label": "fedavg",
    "method": "fedavg",
    "settings": {},
    "overrides": ["method.name=fedavg"],
    "runs": {"1": "runs/fedavg/seed-1", "2": "runs/fedavg/seed-2"},
}
PLAN = {
    "schema_version": 1,
    "name": "small",
    "config": "small.yaml",
    "seeds": [1, 2],
    "choosing_seeds": [],
    "baseline": "fedavg",
    "cases": [CASE],
}


@pytest.fixture
def folder_of(tmp_path):
    """A function: a plan, or what stands in its place -> the folder with it."""

    def write(plan):
        (tmp_path / PLAN_FILE).write_text(plan if isinstance(plan, str) else json.dumps(plan))
        return tmp_path

    return write


def test_plan_is_read_with_seeds_as_numbers(folder_of):
    plan = load_comparison(folder_of(PLAN)).plan
    assert plan.cases[0].runs == {1: "runs/fedavg/seed-1", 2: "runs/fedavg/seed-2"}
    assert (plan.name, plan.baseline, plan.seeds, plan.command) == ("small", "fedavg", (1, 2), None)


def test_choosing_seeds_are_not_reported_on(folder_of):
    assert load_comparison(folder_of(PLAN | {"choosing_seeds": [1]})).plan.reporting_seeds == (2,)


def test_run_is_there_once_it_has_its_summary(folder_of):
    comparison = load_comparison(folder_of(PLAN))
    case = comparison.plan.cases[0]
    directory = RunDirectory.create(comparison.path / case.runs[1])
    directory.write_config("seed: 1\n")
    directory.write_manifest({})
    ResultStore(directory).flush()
    assert comparison.run(case, 1) is None
    directory.write_summary({"wall_s": 1.0})
    assert comparison.is_finished(case, 1)
    assert comparison.run(case, 1).summary == {"wall_s": 1.0}


def test_run_that_is_not_planned_or_not_begun_is_not_there(folder_of):
    comparison = load_comparison(folder_of(PLAN))
    assert comparison.run(comparison.plan.cases[0], 2) is None
    assert comparison.run(comparison.plan.cases[0], 99) is None


def test_finished_run_that_lost_a_table_is_refused(folder_of):
    comparison = load_comparison(folder_of(PLAN))
    directory = RunDirectory.create(comparison.path / "runs/fedavg/seed-1")
    directory.write_manifest({})
    directory.write_summary({})
    with pytest.raises(RunDirectoryError, match=r"lacks visits\.parquet"):
        comparison.run(comparison.plan.cases[0], 1)


def test_folder_without_a_plan_is_no_comparison(tmp_path):
    with pytest.raises(RunDirectoryError, match=r"is not a comparison: it has no comparison\.json"):
        load_comparison(tmp_path)


def test_missing_folder_is_refused(tmp_path):
    with pytest.raises(RunDirectoryError, match="is not a folder"):
        load_comparison(tmp_path / "nowhere")


def test_newer_plan_is_refused_with_both_versions(folder_of):
    with pytest.raises(RunDirectoryError, match="schema version 2, this program knows up to 1; update"):
        load_comparison(folder_of(PLAN | {"schema_version": 2, "cases": "other"}))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"baseline": "local"}, "the baseline 'local' is not among the cases"),
        ({"cases": [CASE, CASE]}, "two cases have the same label"),
        ({"seeds": [1, 1, 2]}, "a seed is named twice"),
        ({"choosing_seeds": [1, 2]}, "leave one to report on"),
        ({"choosing_seeds": [7]}, "must be some of the seeds"),
        ({"seeds": [1]}, r"runs of seeds \[2\], which are not among the seeds"),
        ({"cases": []}, "cases: "),
        ({"cases": [{**CASE, "runs": {"one": "x"}}]}, r"cases\.0\.runs"),
    ],
)
def test_plan_that_does_not_agree_with_itself_is_refused(folder_of, change, message):
    with pytest.raises(RunDirectoryError, match=message):
        load_comparison(folder_of(PLAN | change))


def test_all_faults_of_a_plan_are_told_at_once(folder_of):
    with pytest.raises(RunDirectoryError) as caught:
        load_comparison(folder_of({"schema_version": 1, "seeds": "many"}))
    for key in ("name", "config", "seeds", "baseline", "cases"):
        assert f"  {key}: " in str(caught.value)


@pytest.mark.parametrize("text", ["{", "[]"])
def test_broken_plan_is_refused_with_its_path(folder_of, text):
    with pytest.raises(RunDirectoryError, match=r"comparison\.json"):
        load_comparison(folder_of(text))
