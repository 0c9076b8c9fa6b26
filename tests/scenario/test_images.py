"""Splits are read-only and consistent; statistics and digest are exact."""

import numpy as np
import pytest

from fedknow_ray.scenario.images import DatasetInfo, ImageSet, build_dataset, channel_statistics, dataset_digest


def _dataset(pixel=0, label=0):
    images = np.full((2, 1, 1, 1), pixel, np.uint8)
    train = ImageSet(images, np.array([label, 1], np.int64))
    test = ImageSet(images.copy(), np.array([0, 1], np.int64))
    return build_dataset(DatasetInfo("tiny", 1, 1, 1, 2), ("a", "b"), train, test)


def test_image_set_makes_its_arrays_read_only():
    split = ImageSet(np.zeros((1, 2, 2, 1), np.uint8), np.zeros(1, np.int64))
    with pytest.raises(ValueError, match="read-only"):
        split.images[0] = 1
    with pytest.raises(ValueError, match="read-only"):
        split.labels[0] = 1


def test_image_set_refuses_as_many_labels_as_there_are_not_images():
    with pytest.raises(ValueError, match=r"\(N, H, W, C\)"):
        ImageSet(np.zeros((2, 1, 1, 1), np.uint8), np.zeros(3, np.int64))


def test_channel_statistics_of_two_channels_by_hand():
    """Channel 0 holds 0 and 255 (mean 1/2, deviation 1/2), channel 1 holds 51 throughout (mean 1/5)."""
    images = np.array([[[[0, 51]]], [[[255, 51]]]], np.uint8)
    mean, std = channel_statistics(images)
    assert mean == pytest.approx((0.5, 0.2))
    assert std == pytest.approx((0.5, 1.0)), "a channel that never varies must not be divided by 0"


def test_channel_statistics_equal_the_obvious_ones_over_more_than_one_chunk():
    images = np.random.default_rng(0).integers(0, 256, (2345, 3, 2, 3), dtype=np.uint8)
    mean, std = channel_statistics(images)
    np.testing.assert_allclose(mean, (images / 255).mean(axis=(0, 1, 2)), rtol=1e-12)
    np.testing.assert_allclose(std, (images / 255).std(axis=(0, 1, 2)), rtol=1e-12)


def test_channel_statistics_leave_normalised_images_alone():
    assert channel_statistics(np.full((2, 1, 1, 2), 7.0, np.float32)) == ((0.0, 0.0), (1.0, 1.0))


def test_digest_is_equal_for_equal_data():
    assert dataset_digest(_dataset()) == dataset_digest(_dataset())


@pytest.mark.parametrize("changed", [{"pixel": 1}, {"label": 1}])
def test_digest_changes_with_images_and_labels(changed):
    assert dataset_digest(_dataset()) != dataset_digest(_dataset(**changed))


def test_digest_is_computed_once(monkeypatch):
    dataset = _dataset()
    first = dataset_digest(dataset)
    monkeypatch.setattr("fedknow_ray.scenario.images._digest", lambda _: pytest.fail("computed again"))
    assert dataset_digest(dataset) == first
