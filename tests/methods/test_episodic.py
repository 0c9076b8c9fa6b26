"""What a client keeps of the images of past tasks, what that takes, and how it is read again."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError
from remembering import memory_of, rng, third_task
from torch.nn import functional as F
from workbench import Bench, make_learner, steps_of, task_data

from fedknow_ray.federation.visit import VisitKind, plan_visit
from fedknow_ray.methods.episodic import (
    EpisodicMemory,
    EpisodicSettings,
    Recall,
    episode_bytes,
    kept_images,
    recall_item,
    remember,
    remembered_images,
    store_item,
)
from fedknow_ray.methods.method import TaskData, VisitFacts
from fedknow_ray.simulation.work import WorkItem

TRAIN, FINISH = VisitKind.TRAIN, VisitKind.FINISH_TASK
#: Methods with an episodic memory and nothing else that depends on its size.
NAMES = ("replay", "gem", "bcn")


@pytest.mark.parametrize(
    ("images", "fraction", "kept"),
    [(240, 0.1, 24), (240, 0.05, 12), (240, 0.15, 36), (3, 0.1, 1), (1, 1.0, 1), (20, 1.0, 20), (20, 0.0, 0)],
)
def test_a_share_of_a_task_is_kept_and_at_least_one_image(images: int, fraction: float, kept: int):
    assert kept_images(images, fraction) == kept


@given(images=st.integers(1, 500), fraction=st.floats(0, 1), seed=st.integers(0, 3))
@settings(deadline=None)
def test_what_is_kept_are_images_of_the_task_each_once(images: int, fraction: float, seed: int):
    data = TaskData(np.arange(images).reshape(images, 1, 1, 1), np.arange(images) % 3, range(3))
    episode = remember(data, 4, fraction, rng(seed))
    kept = episode.images_NHWC.ravel()
    assert len(kept) == kept_images(images, fraction)
    assert (np.diff(kept) > 0).all()
    np.testing.assert_array_equal(episode.labels_N, kept % 3)
    assert episode.task_index == 4


def test_the_choice_follows_from_the_generator():
    data = task_data(images=40)
    first, again, other = (remember(data, 0, 0.25, rng(seed)).images_NHWC for seed in (1, 1, 2))
    np.testing.assert_array_equal(first, again)
    assert not np.array_equal(first, other)


def test_images_are_kept_as_the_data_are():
    data = task_data()
    assert remember(data, 0, 0.5, rng()).images_NHWC.dtype == np.uint8
    floats = replace(data, images_NHWC=data.images_NHWC.astype(np.float32))
    assert remember(floats, 0, 0.5, rng()).images_NHWC.dtype == np.float32


def test_an_image_takes_a_byte_a_value_and_eight_for_its_label():
    """8 x 8 x 1 and 8: 72 bytes an image, 256 more as floats."""
    costs = make_learner().costs
    assert episode_bytes(costs, 3) == 216
    assert store_item(costs, 3) == WorkItem("store", 1, 0, 216, 216)
    assert recall_item(costs, 3) == WorkItem("recall", 1, 0, 216 + 768, 216)


def test_each_past_task_is_remembered_by_its_own_number_of_images():
    facts = VisitFacts(0, 3, 0, 90, 2, trained_this_task=False, past_images=(10, 200, 4))
    assert remembered_images(facts, 0.1) == (1, 20, 1)
    assert remembered_images(replace(facts, evicted_tasks=2), 0.1) == (1,)
    assert remembered_images(facts, 0.0) == ()


@pytest.mark.parametrize("name", NAMES)
def test_the_memory_grows_by_a_share_of_each_task(name: str):
    """Two of 20 images, 72 bytes each, all of it on storage."""
    bench = Bench(name)
    facts = [bench.order(TRAIN, t).facts for t in range(4)]
    assert [bench.method.kept_bytes(one) for one in facts] == [0, 144, 288, 432]
    assert [bench.method.stored_bytes(one) for one in facts] == [0, 144, 288, 432]
    bench.live_through(3)
    episodes = bench.state().memory.episodes
    assert [(one.task_index, len(one.labels_N)) for one in episodes] == [(0, 2), (1, 2), (2, 2)]
    assert sum(one.images_NHWC.nbytes + one.labels_N.nbytes for one in episodes) == 432


@pytest.mark.parametrize("name", [*NAMES, "co2l"])
def test_the_plan_knows_how_many_images_past_tasks_had(name: str):
    """5 images of task 0 and 40 of task 1, of which one and four are kept: step for step."""
    bench = Bench(name, tasks=3)
    sizes = (5, 40, 12)
    for task_index, images in enumerate(sizes):
        bench.images = images
        for kind, trained in ((TRAIN, False), (TRAIN, True), (FINISH, True)):
            order = bench.order(kind, task_index, trained=trained)
            order = replace(order, facts=replace(order.facts, past_images=sizes[:task_index]))
            bench.order = lambda *_, _order=order, **__: _order  # type: ignore[method-assign]
            _, _, report = bench.visit(kind, task_index, trained=trained)
            del bench.order  # type: ignore[method-assign]
            assert steps_of(report.work) == steps_of(plan_visit(order, bench.method).work)
    memory = bench.state().memory
    episodes = memory.episodic.episodes if name == "co2l" else memory.episodes
    assert [len(one.labels_N) for one in episodes] == [1, 4, 1]


@pytest.mark.parametrize("name", NAMES)
def test_evicted_tasks_are_dropped_and_the_plan_follows(name: str):
    bench = Bench(name, tasks=5)
    assert bench.method.evicts
    for task_index in range(3):
        for kind, trained in ((TRAIN, False), (FINISH, True)):
            bench.visit(kind, task_index, trained=trained)
    for kind, trained, evicted, left in (
        (TRAIN, False, 1, [1, 2]),
        (TRAIN, True, 2, [2]),
        (TRAIN, True, 3, []),
        (FINISH, True, 3, [3]),
    ):
        order, _, report = bench.visit(kind, 3, trained=trained, evicted_tasks=evicted)
        assert steps_of(report.work) == steps_of(plan_visit(order, bench.method).work)
        assert [one.task_index for one in bench.state().memory.episodes] == left


@pytest.mark.parametrize("name", NAMES)
def test_without_memory_nothing_is_kept(name: str):
    bench = Bench(name, {"memory_fraction": 0})
    bench.live_through(3)
    assert bench.state().memory is None
    assert bench.method.kept_bytes(bench.order(TRAIN, 3).facts) == 0


def test_images_come_back_with_the_labels_rows_and_head_of_their_task():
    """Two tasks of 20 images, of which five each are kept."""
    first, second, data = task_data(0), task_data(1, task_index=1), third_task()
    learner, memory = make_learner(), memory_of(first, second)
    recall = Recall(learner, memory, data)
    assert len(recall) == 10
    assert [part.tolist() for part in recall.slices] == [[0, 1, 2, 3, 4], [5, 6, 7, 8, 9]]
    assert recall.task_M.tolist() == [0] * 5 + [1] * 5
    labels = np.concatenate([one.labels_N for one in memory.episodes])
    assert recall.labels_M.tolist() == labels.tolist()
    assert recall.rows_M.tolist() == (labels + np.repeat([0, 2], 5)).tolist()
    images = np.concatenate([one.images_NHWC for one in memory.episodes])
    torch.testing.assert_close(
        recall.x_NCHW(np.array([6, 0])), learner.normalisation(images[[6, 0]]).permute(0, 3, 1, 2)
    )
    assert learner.log.work().items == (recall_item(learner.costs, 10),)


def test_a_pull_is_the_gradient_of_the_summed_cross_entropies():
    """Image by image, each under the rows of its task, by automatic differentiation."""
    data = third_task()
    recall = Recall(make_learner(), memory_of(task_data(0), task_data(1)), data)
    places = np.array([7, 0, 3, 9])
    z_MF = torch.randn(4, 5, generator=torch.Generator().manual_seed(1), requires_grad=True)
    expected = torch.zeros(())
    for row, place in enumerate(places):
        head = torch.from_numpy(data.past_heads[0 if place < 5 else 1])
        logits = z_MF[row] @ head[:, :-1].T + head[:, -1]
        expected = expected + F.cross_entropy(logits[None], recall.labels_M[place][None])
    expected.backward()
    loss, dz_MF = recall.pull(z_MF, places)
    assert loss == pytest.approx(expected.item(), rel=1e-6)
    torch.testing.assert_close(dz_MF, z_MF.grad, atol=1e-6, rtol=1e-5)


def test_a_pull_by_hand():
    """One feature, z = 0, rows of weights 1 and -1: p = 1/2, loss ln 2, d loss / d z = (1/2 - 1) - 1/2."""
    episode = remember(TaskData(np.zeros((1, 8, 8, 1), np.uint8), np.array([0]), range(2)), 0, 1.0, rng())
    heads = np.array([[1, 0], [-1, 0]], np.float32)
    data = TaskData(np.zeros((1, 8, 8, 1), np.uint8), np.array([0]), range(2, 4), (range(2),), (heads,))
    recall = Recall(make_learner(), EpisodicMemory((episode,)), data)
    loss, dz_MF = recall.pull(torch.zeros(1, 1), np.array([0]))
    assert loss == pytest.approx(np.log(2))
    assert dz_MF.tolist() == [[-1.0]]


def test_a_draw_takes_each_image_once_and_no_more_than_there_are():
    recall = Recall(make_learner(), memory_of(task_data(0), task_data(1)), third_task())
    assert sorted(recall.draw(rng(), 25).tolist()) == list(range(10))
    assert len(set(recall.draw(rng(), 6).tolist())) == 6
    assert recall.draw(rng(3), 6).tolist() == recall.draw(rng(3), 6).tolist()


@pytest.mark.parametrize("wrong", [{"memory_fraction": -0.1}, {"memory_fraction": 1.5}, {"images": 3}], ids=str)
def test_settings_out_of_range_are_refused(wrong: dict[str, Any]):
    with pytest.raises(ValidationError, match=next(iter(wrong))):
        EpisodicSettings(**wrong)
