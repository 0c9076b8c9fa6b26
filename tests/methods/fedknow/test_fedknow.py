"""FedKNOW as a method: what it becomes without a past, when second use happens, what it reports."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
from workbench import SGD, Bench, training

from fedknow_ray.federation.visit import VisitKind
from fedknow_ray.methods.fedknow.settings import FedKnowSettings


def trained(bench: Bench, task_index: int = 0, **where: Any) -> Any:
    return bench.visit(VisitKind.TRAIN, task_index, **where)


@pytest.mark.parametrize("config", [training(), training(optimizer=SGD)], ids=["adam", "sgd"])
def test_without_past_and_second_use_it_is_fedavg_to_the_bit(config: Any):
    ours, fedavg = Bench("fedknow", {"second_use": "off"}, config), Bench("fedavg", config=config)
    for round_index in range(2):
        where = {"round_index": round_index, "trained": round_index > 0}
        (_, one, report), (_, other, expected) = trained(ours, **where), trained(fedavg, **where)
        np.testing.assert_array_equal(one.features_S, other.features_S)
        np.testing.assert_array_equal(ours.state().head_CF, fedavg.state().head_CF)
        assert report == expected


def test_the_first_visit_of_a_task_has_no_second_use():
    """The own model is then of another task, whose loss it was trained for."""
    bench = Bench("fedknow", {"variant": "paper"})
    trained(bench)
    _, _, report = trained(bench, 0, round_index=0)
    assert report.integrated_steps is None


def test_second_use_on_receive_is_one_epoch_of_a_later_visit():
    """20 images in batches of 8: three steps, and none is restored in the first task."""
    bench = Bench("fedknow", {"variant": "paper"})
    trained(bench)
    _, _, report = trained(bench, round_index=1, trained=True)
    assert report.integrated_steps == 3
    assert set(report.notes) == {"own_gradient_norm", "own_gradient_cosine", "violated_after_steps"}


def test_later_tasks_integrate_in_every_step():
    bench = Bench("fedknow", {"variant": "paper", "second_use": "off"})
    bench.live_through(2)
    _, _, report = trained(bench, 2)
    assert report.integrated_steps == 6
    assert 0 <= report.violated_steps <= 6
    assert report.notes.keys() == {"violated_after_steps"}


def test_notes_can_be_written_as_json():
    bench = Bench("fedknow", {"variant": "paper"})
    trained(bench)
    _, _, report = trained(bench, round_index=1, trained=True)
    assert json.loads(json.dumps(dict(report.notes))) == dict(report.notes)


def test_the_end_of_a_task_notes_the_loss_of_the_knowledge_and_the_share_kept_of_each_prunable_tensor():
    """ceil(0.1 * 27) = 3 and ceil(0.1 * 240) = 24 with a threshold for each layer."""
    bench = Bench("fedknow", {"threshold": "layer"})
    trained(bench)
    notes = bench.visit(VisitKind.FINISH_TASK, trained=True)[2].notes
    shares = {name.removeprefix("kept_share/"): share for name, share in notes.items() if name != "knowledge_loss"}
    assert "knowledge_loss" in notes
    assert list(shares.values()) == [3 / 27, 24 / 240]
    assert all(name.endswith("weight") for name in shares)


def test_only_after_aggregation_refines():
    refining = {
        use: Bench("fedknow", {"second_use": use}).method.refines for use in ("on_receive", "after_aggregation", "off")
    }
    assert refining == {"on_receive": False, "after_aggregation": True, "off": False}


def test_refining_changes_the_own_model_and_sends_nothing():
    bench = Bench("fedknow", {"second_use": "after_aggregation"})
    trained(bench)
    before = bench.state().own_S
    _, update, report = bench.visit(VisitKind.REFINE, trained=True)
    assert update is None
    assert report.integrated_steps == 3
    assert set(report.notes) == {"own_gradient_norm", "own_gradient_cosine", "violated_after_steps"}
    assert not np.array_equal(bench.state().own_S, before)


def test_kept_bytes_grow_by_a_knowledge_and_its_labels_with_each_task():
    bench = Bench("fedknow")
    kept = [bench.method.kept_bytes(bench.order(VisitKind.TRAIN, t).facts) for t in range(4)]
    assert np.diff(kept).tolist() == [4 * 28 + 34 + 48 + 4 * 20 * 2] * 3


@pytest.mark.parametrize(
    "wrong",
    [
        {"retained_fraction": 0},
        {"retained_fraction": 1.01},
        {"signature_tasks": 0},
        {"second_use": "sometimes"},
        {"margin": -0.1},
        {"temperature": 0},
        {"retrain_epochs": -1},
        {"rho": 0.1},
    ],
    ids=str,
)
def test_settings_outside_their_bounds_are_refused(wrong: dict[str, Any]):
    with pytest.raises(ValueError, match=next(iter(wrong))):
        FedKnowSettings(**wrong)
