"""The figures of a grid's points, read from runs whose numbers can be worked out in the head, and their fits."""

from __future__ import annotations

import json

import pytest
from fake_scale import write_fake_scale

from fedknow_ray.experiment.scale_config import PointId
from fedknow_ray.metrics.growth import Observation
from fedknow_ray.report.scale_measures import MEASURES, ScaleFigures, figures_of


@pytest.fixture(scope="module")
def figures(tmp_path_factory: pytest.TempPathFactory) -> ScaleFigures:
    return figures_of(write_fake_scale(tmp_path_factory.mktemp("scale")))


def test_figures_of_a_point_are_those_of_its_run(figures):
    """2 clients and 2 rounds: 4 visits of 300 bytes, 2 x (1 + 2) seconds of the host times clients x tasks."""
    point = next(point for point in figures.points if point.id == PointId("fedknow", 4, 2))
    assert point.values == {
        "virtual_time_s": 26.0,
        "round_s": 13.0,
        "sent_bytes": 1200,
        "peak_memory_bytes": None,
        "kept_bytes": 200,
        "energy_j": None,
        "host_cpu_s": 48.0,
        "average_accuracy": 0.5,
        "average_accuracy_global": 0.5,
        "forgetting": pytest.approx(0.2),
        "forgetting_global": pytest.approx(0.2),
    }
    assert list(point.values) == list(MEASURES)
    assert point.round_s == (13.0, 13.0)


def test_growth_is_fitted_for_each_method_and_measure(figures):
    host, kept = figures.fits["fedavg", "host_cpu_s"], figures.fits["fedknow", "kept_bytes"]
    assert (host.level, host.clients.value, host.tasks.value) == pytest.approx((6.0, 1.0, 1.0))
    assert (kept.level, kept.clients.value, kept.tasks.value) == pytest.approx((100.0, 0.0, 1.0), abs=1e-9)
    assert figures.fits["fedavg", "kept_bytes"].note == "0 at every point"
    assert figures.fits["fedavg", "energy_j"].note == "no point has this figure"
    assert len(figures.fits) == 2 * len(MEASURES)


def test_seconds_of_rounds_are_of_the_tasks_of_the_longest_runs(figures):
    """Each made-up run has two tasks, whatever its point is called."""
    expected = [Observation(clients, task, 13.0) for clients in (2, 4) for task in (1, 2)]
    assert figures.observations("fedavg", "round_s") == expected


def test_points_without_a_run_are_left_out_of_the_fits(tmp_path):
    gone = PointId("fedavg", 4, 4)
    figures = figures_of(write_fake_scale(tmp_path, missing=[gone]))
    assert [point.id for point in figures.missing] == [gone]
    assert figures.fits["fedavg", "host_cpu_s"].n == 5
    assert figures.plain()["points"][5]["made"] is False
    assert figures.plain()["points"][5]["virtual_time_s"] is None


def test_grid_without_any_run_has_no_figure(tmp_path):
    gone = [PointId("fedavg", 2, 1)]
    figures = figures_of(write_fake_scale(tmp_path, clients=[2], tasks=[1], methods=["fedavg"], missing=gone))
    assert {fit.note for fit in figures.fits.values()} == {"no point has this figure"}


def test_plain_figures_are_json(figures):
    plain = json.loads(json.dumps(figures.plain()))
    assert (plain["clients"], plain["tasks"], plain["methods"]) == ([2, 4], [1, 2, 4], ["fedavg", "fedknow"])
    assert plain["points"][0]["run"] == "runs/fedavg-2-clients-1-tasks"
    fit = next(fit for fit in plain["fits"] if (fit["method"], fit["measure"]) == ("fedavg", "host_cpu_s"))
    assert fit["clients"]["value"] == pytest.approx(1.0)
    assert (fit["form"], fit["n"]) == ("power", 6)
