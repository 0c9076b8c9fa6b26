"""`benchmarks/scaling_rows.py` prints what a grid's `scale.json` has."""

from __future__ import annotations

import json
from pathlib import Path
from types import ModuleType

import pytest
from scripts import load_script

from fedknow_ray.experiment.scale_config import Axes, PointId
from fedknow_ray.metrics.growth import Fit, Slope
from fedknow_ray.report.scale_measures import MEASURES, PointFigures, ScaleFigures

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "scaling_rows.py"


@pytest.fixture(scope="module")
def benchmark() -> ModuleType:
    return load_script("scaling_rows", SCRIPT)


@pytest.fixture(scope="module")
def scale() -> dict:
    values = dict.fromkeys(MEASURES, 0.25) | {"sent_bytes": 2_000_000, "energy_j": None}
    fits = {("fedavg", measure): Fit(of.form, 1, note="one point has no growth") for measure, of in MEASURES.items()}
    fits["fedavg", "sent_bytes"] = Fit("power", 4, 1.0, Slope(1.0, 0.9, 1.1), None, 0.99)
    fits["fedavg", "forgetting"] = Fit("doubling", 4, 0.1, None, Slope(0.01))
    figures = ScaleFigures(
        "tiny", Axes((2,), (1,)), ("fedavg",), (PointFigures(PointId("fedavg", 2, 1), "runs/a", values),), fits
    )
    return json.loads(json.dumps(figures.plain()))


def test_points_have_a_row_each(benchmark: ModuleType, scale: dict):
    head, row = benchmark.point_rows(scale)
    told = dict(zip(head, row, strict=True))
    assert (told["clients"], told["sent"], told["energy"], told["accuracy"]) == ("2", "2.00 MB", "-", "0.250")


def test_growth_has_a_row_for_each_figure_of_its_form(benchmark: ModuleType, scale: dict):
    head, *rows = benchmark.growth_rows(scale, "power")
    assert head == ["", "fedavg: clients", "fedavg: tasks", "fedavg: R²"]
    assert ["Bytes sent, both ways", "1.00 [0.90, 1.10]", "-", "0.990"] in rows
    assert ["Forgetting, own model", "-", "1.0", "-"] in list(benchmark.growth_rows(scale, "doubling"))


def test_rows_are_markdown(benchmark: ModuleType):
    assert benchmark.markdown(iter([["a", "b"], ["1", "2"]])) == "| a | b |\n| --- | --- |\n| 1 | 2 |"
