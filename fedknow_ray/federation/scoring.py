"""Scores of one client: its own model and the global features under its head, on its test images of each learnt task.

With a global head the global model is scored with the global head, since that is what the server has. A method that
does not federate has no global model. Logits are restricted to the classes of the task: task-incremental scoring.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from fedknow_ray.federation.visit import SharedModel
from fedknow_ray.methods.method import ClientState, Method, TaskData

if TYPE_CHECKING:
    from fedknow_ray.methods.learner import Learner


@dataclass(frozen=True, slots=True)
class Score:
    """Right answers of one client's *model* ("own" or "global") on its test images of one task."""

    client_id: int
    model: str
    task_index: int
    correct: int
    total: int


def score_client(
    client_id: int,
    learner: Learner,
    state: ClientState,
    shared: SharedModel | None,
    tests: Sequence[TaskData],
    method: Method | None = None,
) -> Iterator[Score]:
    """Yield the scores of all learnt tasks, own model first; *shared* None where there is no global model.

    The own model may be another one for each task (`Method.features_of_task`).
    """
    if state.own_S is not None:
        of_task = [
            None if method is None else method.features_of_task(learner, state, task_index)
            for task_index in range(len(tests))
        ]
        if all(features_S is None for features_S in of_task):
            yield from _scores(client_id, "own", learner, state.own_S, state.head_CF, tests)
        else:
            for task_index, features_S in enumerate(of_task):
                used_S = state.own_S if features_S is None else features_S
                one = tests[task_index : task_index + 1]
                yield from _scores(client_id, "own", learner, used_S, state.head_CF, one, task_index)
    if shared is not None:
        head_CF = state.head_CF if shared.head_CF is None else shared.head_CF
        yield from _scores(client_id, "global", learner, shared.features_S, head_CF, tests)


def _scores(
    client_id: int,
    model: str,
    learner: Learner,
    features_S: NDArray[np.float32],
    head_CF: NDArray[np.float32],
    tests: Sequence[TaskData],
    first: int = 0,
) -> Iterator[Score]:
    learner.network.load(features_S)
    images = np.concatenate([test.images_NHWC for test in tests])
    z_NF = learner.features_of(images, "score").numpy()
    start = 0
    for task_index, test in enumerate(tests, first):
        z = z_NF[start : start + len(test.labels_N)]
        head_RF = head_CF[test.rows.start : test.rows.stop]
        guesses = (z @ head_RF[:, :-1].T + head_RF[:, -1]).argmax(axis=1)
        yield Score(client_id, model, task_index, int((guesses == test.labels_N).sum()), len(test.labels_N))
        start += len(z)
