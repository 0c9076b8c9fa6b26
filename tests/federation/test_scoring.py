"""Scores of a hand-made case: features that are pixels, heads that read them off."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from workbench import training

from fedknow_ray.federation.scoring import Score, score_client
from fedknow_ray.federation.visit import SharedModel
from fedknow_ray.methods.costs import StepCosts
from fedknow_ray.methods.learner import Learner, Normalisation
from fedknow_ray.methods.method import ClientState, TaskData
from fedknow_ray.models.catalogue import ModelSpec
from fedknow_ray.models.footprint import measure_footprint
from fedknow_ray.models.network import FlatNetwork


class OnePixel(nn.Module):
    """The feature of an image is its one pixel times the one weight."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(1, 1))

    def forward(self, x_NCHW: Tensor) -> Tensor:
        return x_NCHW.flatten(1) @ self.weight


@pytest.fixture
def learner() -> Learner:
    spec, config = ModelSpec("pixel", "small_cnn", 1, 8, lambda *_: OnePixel()), training()
    network = FlatNetwork(spec, height=1, width=1, channels=1, rows=2)
    costs = StepCosts(measure_footprint(spec, height=1, width=1, channels=1), config)
    return Learner(network, config, costs, Normalisation.of((0.0,), (1.0,)))


def splits_of(*tasks: tuple[range, list[int], list[float]]) -> list[TaskData]:
    return [
        TaskData(np.array(pixels, np.float32).reshape(-1, 1, 1, 1), np.array(labels, np.int64), rows)
        for rows, labels, pixels in tasks
    ]


#: Rows (weight, bias): task 0 says class 1 above a pixel of 0, task 1 class 1 below 2.
HEAD = np.array([[0, 0], [1, 0], [0, 0], [-1, 2]], np.float32)
TESTS = splits_of((range(2), [1, 1, 0, 0], [3.0, -1.0, -2.0, 5.0]), (range(2, 4), [1, 0, 0], [1.0, 1.0, 3.0]))


def features(weight: float) -> np.ndarray:
    return np.array([weight], np.float32)


def test_own_model_by_hand(learner: Learner):
    """Task 0 guesses 1, 0, 0, 1 of 1, 1, 0, 0; task 1 guesses 1, 1, 0 of 1, 0, 0."""
    state = ClientState(HEAD, own_S=features(1))
    assert list(score_client(3, learner, state, None, TESTS)) == [Score(3, "own", 0, 2, 4), Score(3, "own", 1, 2, 3)]


def test_the_global_model_is_scored_under_the_clients_head(learner: Learner):
    """With a weight of -1: task 0 guesses 0, 1, 1, 0; task 1 sees -1, -1, -3 and guesses 1, 1, 1."""
    shared = SharedModel(features(-1), None)
    scores = list(score_client(0, learner, ClientState(HEAD), shared, TESTS))
    assert scores == [Score(0, "global", 0, 2, 4), Score(0, "global", 1, 1, 3)]


def test_a_global_head_replaces_the_clients(learner: Learner):
    """Rows the other way round give the other answers."""
    shared = SharedModel(features(1), np.ascontiguousarray(HEAD[[1, 0, 3, 2]]))
    scores = list(score_client(0, learner, ClientState(HEAD), shared, TESTS))
    assert [score.correct for score in scores] == [2, 1]


def test_both_models_are_scored_own_first(learner: Learner):
    state = ClientState(HEAD, own_S=features(1))
    scores = list(score_client(0, learner, state, SharedModel(features(1), None), TESTS))
    assert [(score.model, score.task_index) for score in scores] == [
        ("own", 0),
        ("own", 1),
        ("global", 0),
        ("global", 1),
    ]
    assert [s.correct for s in scores[:2]] == [s.correct for s in scores[2:]]


def test_a_client_without_a_model_has_no_own_scores(learner: Learner):
    assert list(score_client(0, learner, ClientState(HEAD), None, TESTS)) == []


def test_only_the_rows_of_the_task_compete(learner: Learner):
    """A row of another task with a logit of 100 changes nothing."""
    loud = np.concatenate([HEAD[:2], np.array([[0, 100], [0, 100]], np.float32)])
    state = ClientState(loud, own_S=features(1))
    assert next(score_client(0, learner, state, None, TESTS[:1])) == Score(0, "own", 0, 2, 4)


class Restoring:
    """A method whose own model has other features for task 0: the sign of the pixel turned round."""

    def features_of_task(self, learner: Learner, state: ClientState, task_index: int) -> np.ndarray | None:
        return features(-1) if task_index == 0 else None


def test_a_method_may_have_features_of_its_own_for_each_task(learner: Learner):
    """Task 0 guesses 0, 1, 1, 0 with a weight of -1, as above; task 1 is what it is with the own features."""
    state = ClientState(HEAD, own_S=features(1))
    scores = list(score_client(3, learner, state, SharedModel(features(1), None), TESTS, Restoring()))
    assert scores == [
        Score(3, "own", 0, 2, 4),
        Score(3, "own", 1, 2, 3),
        Score(3, "global", 0, 2, 4),
        Score(3, "global", 1, 2, 3),
    ]
    (other,) = score_client(3, learner, state, None, TESTS[1:], Restoring())
    assert other == Score(3, "own", 0, 1, 3)
