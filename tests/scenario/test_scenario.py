"""Who holds which image of which task: laws over both splits, the paper's numbers, and what is refused."""

from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedknow_ray.errors import DataError
from fedknow_ray.scenario.images import DatasetInfo, ImageSet, build_dataset
from fedknow_ray.scenario.scenario import build_scenario

IID = SimpleNamespace(name="iid")


def _config(**changes):
    partition = SimpleNamespace(name="shards", shards_per_client=5, reuse_across_tasks=True)
    config = {"tasks": 10, "classes_per_task": 10, "clients": 20, "partition": partition}
    return SimpleNamespace(**{**config, "samples_per_client": 240, "task_order": "same", **changes})


def _labels_only(classes, train_per_class, test_per_class):
    """A data set of 1x1 images whose labels are interleaved: 0, 1, ..., 0, 1, ..."""

    def split(count):
        return ImageSet(np.zeros((classes * count, 1, 1, 1), np.uint8), np.tile(np.arange(classes), count))

    names = tuple(map(str, range(classes)))
    return build_dataset(DatasetInfo("fake", 1, 1, 1, classes), names, split(train_per_class), split(test_per_class))


@pytest.fixture(scope="module")
def cifar100_labels():
    return _labels_only(100, 500, 100)


@pytest.fixture(scope="module")
def paper(cifar100_labels):
    return build_scenario(_config(), cifar100_labels, seed=1)


def _everyones(scenario, which, task_index):
    return np.concatenate([getattr(scenario, which)(client, task_index) for client in range(scenario.clients)])


def test_the_paper_gives_240_of_250_training_and_50_test_images(paper):
    sizes = {
        (len(paper.train_indices(client, task)), len(paper.test_indices(client, task)))
        for client in range(20)
        for task in range(10)
    }
    assert sizes == {(240, 50)}


def test_without_a_limit_a_client_of_the_paper_has_250_images(cifar100_labels):
    scenario = build_scenario(_config(samples_per_client=None), cifar100_labels, seed=1)
    assert {len(scenario.train_indices(client, 3)) for client in range(20)} == {250}


def test_a_client_holds_two_to_five_classes_the_same_in_both_splits(paper, cifar100_labels):
    for client in range(20):
        learned = set(cifar100_labels.train.labels[paper.train_indices(client, 0)])
        assert 2 <= len(learned) <= 5
        assert learned == set(cifar100_labels.test.labels[paper.test_indices(client, 0)])


def test_reuse_across_tasks_keeps_a_clients_class_positions(paper, cifar100_labels):
    for client in range(20):
        positions = [
            set(cifar100_labels.train.labels[paper.train_indices(client, task)] - 10 * task) for task in (0, 9)
        ]
        assert positions[0] == positions[1]


def test_a_deal_per_task_changes_a_clients_class_positions(cifar100_labels):
    partition = SimpleNamespace(name="shards", shards_per_client=5, reuse_across_tasks=False)
    scenario = build_scenario(_config(partition=partition), cifar100_labels, seed=1)
    labels = cifar100_labels.train.labels
    held = [{frozenset(labels[scenario.train_indices(c, t)] - 10 * t) for t in range(10)} for c in range(20)]
    assert all(len(positions) > 1 for positions in held)


def test_task_classes_are_consecutive_and_map_to_their_own_head_rows(paper, cifar100_labels):
    assert paper.class_rows(7, 3) == range(30, 40)
    labels = cifar100_labels.train.labels[_everyones(paper, "train_indices", 3)]
    assert set(paper.label_to_row[labels]) == set(range(30, 40))


def test_unused_classes_have_no_head_row():
    scenario = build_scenario(_config(tasks=2, classes_per_task=2, clients=2), _labels_only(5, 20, 10), seed=1)
    assert scenario.label_to_row.tolist() == [0, 1, 2, 3, -1]


SMALL = {
    "clients": st.integers(1, 6),
    "classes_per_task": st.integers(1, 4),
    "partition": st.one_of(
        st.just(IID),
        st.builds(
            SimpleNamespace,
            name=st.just("shards"),
            shards_per_client=st.integers(4, 6),
            reuse_across_tasks=st.booleans(),
        ),
    ),
    "task_order": st.sampled_from(["same", "shuffled"]),
}
UNEVEN = _labels_only(9, 31, 25)


@given(changes=st.fixed_dictionaries(SMALL), seed=st.integers(0, 99))
def test_before_the_limit_every_image_of_a_task_is_dealt_exactly_once(changes, seed):
    """Shards are at least as many as classes here, so no class is left out."""
    config = _config(tasks=2, samples_per_client=None, **changes)
    scenario = build_scenario(config, UNEVEN, seed)
    for which, labels in (("train_indices", UNEVEN.train.labels), ("test_indices", UNEVEN.test.labels)):
        dealt = np.sort(np.concatenate([_everyones(scenario, which, task) for task in range(2)]))
        np.testing.assert_array_equal(dealt, np.flatnonzero(labels < 2 * config.classes_per_task))


@given(limit=st.integers(1, 40), seed=st.integers(0, 99))
def test_the_limit_takes_a_subset_of_the_training_images_and_leaves_the_test_images(limit, seed):
    whole, limited = (
        build_scenario(_config(tasks=1, clients=6, classes_per_task=4, samples_per_client=n), UNEVEN, seed)
        for n in (None, limit)
    )
    for client in range(6):
        assert set(limited.train_indices(client, 0)) <= set(whole.train_indices(client, 0))
        assert len(limited.train_indices(client, 0)) == min(limit, len(whole.train_indices(client, 0)))
        np.testing.assert_array_equal(limited.test_indices(client, 0), whole.test_indices(client, 0))


def test_equal_seeds_give_equal_arrays_and_another_seed_gives_others(paper, cifar100_labels):
    again, other = (build_scenario(_config(), cifar100_labels, seed) for seed in (1, 2))
    for client in range(20):
        np.testing.assert_array_equal(paper.train_indices(client, 4), again.train_indices(client, 4))
        np.testing.assert_array_equal(paper.test_indices(client, 4), again.test_indices(client, 4))
        assert not np.array_equal(paper.train_indices(client, 4), other.train_indices(client, 4))


def test_a_longer_sequence_keeps_the_images_of_the_earlier_tasks(paper, cifar100_labels):
    """So that a small run is the beginning of the large one."""
    short = build_scenario(_config(tasks=4), cifar100_labels, seed=1)
    for client in range(20):
        np.testing.assert_array_equal(short.train_indices(client, 3), paper.train_indices(client, 3))


def test_indices_are_sorted_read_only_int64(paper):
    indices = paper.train_indices(0, 0)
    assert indices.dtype == np.int64
    assert (np.diff(indices) > 0).all()
    with pytest.raises(ValueError, match="read-only"):
        indices[0] = 1


def test_in_the_same_order_the_task_index_is_the_task_id(paper):
    assert [paper.task_id(5, index) for index in range(10)] == list(range(10))


def test_in_shuffled_order_each_client_has_its_own_permutation_of_the_same_tasks(paper, cifar100_labels):
    scenario = build_scenario(_config(task_order="shuffled"), cifar100_labels, seed=1)
    orders = {tuple(scenario.task_id(client, index) for index in range(10)) for client in range(20)}
    assert len(orders) > 15
    assert all(sorted(order) == list(range(10)) for order in orders)
    place = scenario.sequences[3].index(6)
    np.testing.assert_array_equal(scenario.train_indices(3, place), paper.train_indices(3, 6))
    assert scenario.class_rows(3, place) == range(60, 70)


def test_too_many_classes_are_refused_with_the_product():
    with pytest.raises(DataError, match=r"10 x 10 = 100 classes, but data set 'fake' has 9"):
        build_scenario(_config(), UNEVEN, seed=1)


def test_more_clients_than_training_images_are_refused():
    with pytest.raises(DataError, match=r"more clients than data: client .* no training image of task 0, which has 4"):
        build_scenario(_config(tasks=1, classes_per_task=2, clients=5, partition=IID), _labels_only(2, 2, 9), seed=1)


def test_more_clients_than_test_images_are_refused():
    with pytest.raises(DataError, match=r"no test image of task 0.*fewer scenario.clients"):
        build_scenario(_config(tasks=1, classes_per_task=2, clients=5, partition=IID), _labels_only(2, 9, 2), seed=1)


def test_labels_alone_give_the_same_scenario(paper, cifar100_labels):
    again = build_scenario(_config(), cifar100_labels.labels, seed=1)
    assert all(
        np.array_equal(again.train_indices(c, t), paper.train_indices(c, t)) for c in range(20) for t in range(10)
    )
