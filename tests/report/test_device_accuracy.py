"""What kinds of device learn and forget, worked out by hand."""

from __future__ import annotations

import numpy as np
from made_run import made_run

from fedknow_ray.report.device_accuracy import accuracy_by_device
from fedknow_ray.results import AccuracyRow

#: Clients 0 and 1 are on "slow", client 2 on "fast".
SCORES = [
    *(AccuracyRow(0, "own", 0, 0, 8, 10), AccuracyRow(1, "own", 0, 0, 6, 10), AccuracyRow(2, "own", 0, 0, 5, 10)),
    *(AccuracyRow(0, "own", 1, 0, 4, 10), AccuracyRow(1, "own", 1, 0, 6, 10), AccuracyRow(2, "own", 1, 0, 7, 10)),
    *(AccuracyRow(0, "own", 1, 1, 10, 10), AccuracyRow(1, "own", 1, 1, 8, 10), AccuracyRow(2, "own", 1, 1, 9, 10)),
    AccuracyRow(2, "global", 0, 0, 3, 10),
]


def test_each_kind_is_the_mean_of_its_clients(tmp_path):
    """slow: 0.7, then (0.5 + 0.9) / 2 with 0.7 - 0.5 forgotten; fast: 0.5, then (0.7 + 0.9) / 2, better by 0.2."""
    slow, fast = accuracy_by_device(made_run(tmp_path, SCORES), "own")
    assert (slow.device, slow.clients, fast.device, fast.clients) == ("slow", 2, "fast", 1)
    np.testing.assert_allclose(slow.accuracy_T, [0.7, 0.7])
    np.testing.assert_allclose(slow.forgetting_T, [np.nan, 0.2])
    np.testing.assert_allclose(fast.accuracy_T, [0.5, 0.8])
    np.testing.assert_allclose(fast.forgetting_T, [np.nan, -0.2])


def test_a_kind_without_scores_of_a_model_is_left_out(tmp_path):
    (fast,) = accuracy_by_device(made_run(tmp_path, SCORES), "global")
    assert (fast.device, fast.accuracy_T.tolist()) == ("fast", [0.3])
