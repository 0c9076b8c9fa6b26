"""The parts of a run before it starts."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from small import write_config

from fedknow_ray.errors import DataError
from fedknow_ray.experiment.assembly import Parts, open_data, put_together
from fedknow_ray.experiment.run import read_config
from fedknow_ray.federation.engine import Engine
from fedknow_ray.federation.steps import RoundClosed
from fedknow_ray.transport.payload import decode


def parts_of(folder: Path, **overrides: Any) -> Parts:
    config = read_config(write_config(folder), overrides)
    return put_together(config, open_data(config))


def test_the_broadcast_holds_the_features_that_everybody_starts_with(tmp_path: Path):
    parts = parts_of(tmp_path)
    start, broadcast = decode(parts.start), decode(parts.broadcast)
    assert (start.keys(), broadcast.keys()) == ({"features", "head"}, {"features"})
    np.testing.assert_array_equal(start["features"], broadcast["features"])


def test_a_global_head_is_broadcast_too(tmp_path: Path):
    parts = parts_of(tmp_path, **{"model.head": "global"})
    np.testing.assert_array_equal(decode(parts.broadcast)["head"], decode(parts.start)["head"])


@pytest.mark.parametrize("head", ["local", "global"])
def test_visits_are_priced_at_the_length_of_the_broadcast(head: str, tmp_path: Path):
    parts = parts_of(tmp_path, **{"model.head": head})
    assert parts.ledger.broadcast_bytes == parts.ledger.model_bytes == parts.broadcast.nbytes


def test_the_start_depends_on_the_seed_and_not_on_the_method(tmp_path: Path):
    first = parts_of(tmp_path).start.tobytes()
    assert parts_of(tmp_path, **{"method.name": "local"}).start.tobytes() == first
    assert parts_of(tmp_path, seed=2).start.tobytes() != first


def test_the_course_knows_how_many_images_each_client_has(tmp_path: Path):
    parts = parts_of(tmp_path)
    assert np.shape(parts.course.images) == (3, 2)
    assert max(map(max, parts.course.images)) <= 20
    assert (parts.course.tasks, parts.course.rounds_per_task, parts.course.classes) == (2, 1, 2)


def test_each_client_has_its_device(tmp_path: Path):
    names = [device.name for device in parts_of(tmp_path).ledger.devices]
    assert names == ["jetson-nano", "jetson-nano", "raspberry-pi-4-4gb"]


def test_a_client_keeps_more_where_the_method_does(tmp_path: Path):
    plain, knowing = (parts_of(tmp_path, **{"method.name": name}).client_bytes for name in ("fedavg", "fedknow"))
    assert plain == 4 * 418_528 + 4 * 4 * 1025
    assert knowing > plain


def test_listed_cohorts_reach_the_policy(tmp_path: Path):
    parts = parts_of(tmp_path, policy={"name": "synchronous", "cohorts": [[2, 0], [1]]})
    engine = Engine(parts.course, parts.ledger, parts.make_policy(), parts.conditions)
    steps = [step for task_index in range(2) for step in engine.rounds(task_index)]
    assert [step.clients for step in steps if isinstance(step, RoundClosed)] == [(0, 2), (1,)]


def test_images_that_do_not_suit_the_model_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """The size of own data is known only when it is opened."""
    config = read_config(write_config(tmp_path))
    monkeypatch.setattr("fedknow_ray.models.catalogue.ModelSpec.unsuitable", lambda *_: "cnn6 takes larger images")
    with pytest.raises(
        DataError, match=r"cnn6 takes larger images \(data set digits\); choose another model or data set"
    ):
        open_data(config)
