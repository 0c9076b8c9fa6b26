"""The figures of one run, worked out by hand on a made-up one of two tasks (see `fake_comparison`)."""

from __future__ import annotations

import pytest
from fake_comparison import FakeRun, write_fake_run

from fedknow_ray.report.comparison_measures import METRICS, Measure, measures_of, transfer_measures
from fedknow_ray.results import load


@pytest.fixture
def measured(tmp_path):
    """A function: the keyword arguments of `FakeRun` -> the figures of that run."""

    def measure(**fake):
        write_fake_run(tmp_path / "run", FakeRun(**fake))
        return measures_of(load(tmp_path / "run"))

    return measure


def test_every_figure_of_a_run_by_hand(measured):
    """60 % on the first task when learnt, 45 % at the end; 65 % on the second."""
    of_model = {
        ("average_accuracy", None): 0.55,
        ("learnt_accuracy", None): 0.625,
        ("forgetting", None): 0.15,
        ("forgetting_relative", None): 0.25,
        ("backward_transfer", None): -0.15,
        ("accuracy_after_task", 0): 0.60,
        ("accuracy_after_task", 1): 0.55,
        ("accuracy_on_task", 0): 0.45,
        ("accuracy_on_task", 1): 0.65,
    }
    expected = {Measure(name, model, task): v for model in ("own", "global") for (name, task), v in of_model.items()}
    expected |= {
        Measure("upload_bytes"): 400,
        Measure("download_bytes"): 800,
        Measure("virtual_time_s"): 26,
        Measure("wall_s"): 3,
        Measure("host_cpu_s"): 3,  # 4 visits: 0.5 s in the first task, 1 s in the second
        Measure("host_cpu_s_per_visit", None, 0): 0.5,
        Measure("host_cpu_s_per_visit", None, 1): 1.0,
    }
    assert measured(old=45, new=65, cpu_s=0.5) == pytest.approx(expected)


def test_memory_is_the_most_of_any_visit_and_what_is_kept_is_the_manifests(measured):
    """1000 B in the first task's visits, 100 B more in the second's, and a byte more for the second client."""
    found = measured(old=45, new=65, memory_bytes=1000, kept_bytes=64)
    assert (found[Measure("peak_memory_bytes")], found[Measure("kept_bytes")]) == (1101, 64)


def test_violated_steps_before_and_after_are_shares_of_the_checked_ones(measured):
    """4 of 8 steps before the change, 1 of 8 after, in the second task alone."""
    shares = {measure: value for measure, value in measured(old=45, new=65, checked=8).items() if "share" in measure[0]}
    assert shares == {Measure("violated_share_before", None, 1): 0.5, Measure("violated_share_after", None, 1): 0.125}


def test_run_without_a_global_model_has_no_figures_of_it(measured):
    assert {measure.model for measure in measured(old=45, new=65, models=("own",))} == {"own", None}


def test_every_figure_is_of_a_known_metric(measured):
    assert {measure.metric for measure in measured(old=45, new=65, checked=8)} <= set(METRICS)


def test_no_shared_client_gives_no_transfer(tmp_path):
    write_fake_run(tmp_path / "own", FakeRun(45, 65))
    write_fake_run(tmp_path / "global", FakeRun(45, 65, models=("global",)))
    assert transfer_measures(load(tmp_path / "own").accuracy, load(tmp_path / "global").accuracy) == {}


@pytest.mark.parametrize("metric", ["wall_s", "host_cpu_s", "host_cpu_s_per_visit"])
def test_host_seconds_are_of_no_better_direction(metric: str):
    """Runs that share a past have the seconds of the one that made it, so a difference says little of the methods."""
    assert METRICS[metric].higher_is_better is None
