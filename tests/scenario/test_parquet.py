"""Own data in two Parquet files: what is read, what is found by name, and how each fault is told."""

import json
from io import BytesIO

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from fedknow_ray.errors import DataError
from fedknow_ray.scenario.images import DatasetInfo
from fedknow_ray.scenario.parquet import find_stem, load_parquet, read_labels

KNOWN = {
    "cifar10": DatasetInfo("cifar10", 4, 4, 3, 10, torchvision_name="CIFAR10"),
    "cifar100": DatasetInfo("cifar100", 4, 4, 3, 100, torchvision_name="CIFAR100"),
    "miniimagenet": DatasetInfo("miniimagenet", 4, 4, 3, 2),
}
RAW = {"height": "4", "width": "4", "channels": "1", "encoding": "raw uint8 HW bytes"}


def _png(shade, shape=(4, 4)):
    buffer = BytesIO()
    Image.fromarray(np.full(shape, shade, np.uint8)).save(buffer, "PNG")
    return buffer.getvalue()


def _write(folder, stem, split, labels, images=None, metadata=None, image_type=None, label_type=None):
    if images is None:
        images = [_png(10 * index) for index in range(len(labels))]
    table = pa.table(
        {"image": pa.array(images, image_type or pa.binary()), "label": pa.array(labels, label_type or pa.int32())}
    )
    path = folder / f"{stem}-{split}.parquet"
    pq.write_table(table.replace_schema_metadata(metadata or {}), path)
    return path


def _write_both(folder, stem="own", labels=(0, 1, 2), **options):
    for split in ("train", "test"):
        _write(folder, stem, split, labels, **options)


def test_encoded_images_without_metadata_are_read(tmp_path):
    _write_both(tmp_path, labels=[2, 0, 1])
    dataset = load_parquet("own", tmp_path, KNOWN)
    assert dataset.info == DatasetInfo("own", 4, 4, 1, 3)
    assert dataset.class_names == ("0", "1", "2")
    assert dataset.train.labels.tolist() == [2, 0, 1]
    assert dataset.train.images[:, 0, 0, 0].tolist() == [0, 10, 20]


def test_arrays_are_contiguous_read_only_uint8_and_int64(tmp_path):
    _write_both(tmp_path)
    train = load_parquet("own", tmp_path, KNOWN).train
    assert (train.images.dtype, train.labels.dtype) == (np.uint8, np.int64)
    assert train.images.flags.c_contiguous
    assert not train.images.flags.writeable


@pytest.mark.parametrize("image_type", [pa.binary(), pa.large_binary(), pa.binary(16)])
def test_raw_images_are_read_from_every_binary_type(tmp_path, image_type):
    images = [bytes(range(16)), bytes(16)]
    _write_both(tmp_path, labels=[1, 0], images=images, image_type=image_type, metadata=RAW)
    dataset = load_parquet("own", tmp_path, KNOWN)
    np.testing.assert_array_equal(dataset.train.images[0, ..., 0], np.arange(16).reshape(4, 4))


def test_class_names_come_from_the_metadata(tmp_path):
    _write_both(tmp_path, labels=[0, 1], metadata={"class_names": json.dumps(["cat", "dog", "emu"])})
    dataset = load_parquet("own", tmp_path, KNOWN)
    assert dataset.class_names == ("cat", "dog", "emu")
    assert dataset.info.classes == 3


def test_a_registered_name_lends_its_number_of_classes(tmp_path):
    _write_both(tmp_path, stem="cifar10")
    assert load_parquet("cifar10", tmp_path, KNOWN).info.classes == 10


def test_only_the_images_of_the_first_classes_are_decoded(tmp_path):
    """The image of class 2 is broken, and nobody asks for it."""
    _write_both(tmp_path, labels=[1, 2, 0], images=[_png(1), b"broken", _png(3)], metadata={"channels": "1"})
    dataset = load_parquet("own", tmp_path, KNOWN, classes=2)
    assert dataset.train.labels.tolist() == [1, 0]
    assert dataset.train.images[:, 0, 0, 0].tolist() == [1, 3]
    assert dataset.info.classes == 3


def test_a_data_set_has_three_channels_as_soon_as_one_image_has_colour(tmp_path):
    _write(tmp_path, "own", "train", [0])
    _write(tmp_path, "own", "test", [0], images=[_png(7, (4, 4, 3))])
    assert load_parquet("own", tmp_path, KNOWN).train.images.shape == (1, 4, 4, 3)


def test_a_stem_with_the_size_is_found_by_the_name(tmp_path):
    _write_both(tmp_path, stem="miniimagenet4", labels=[0, 1])
    assert load_parquet("miniimagenet", tmp_path, KNOWN).info.name == "miniimagenet"


def test_the_name_itself_wins_over_a_stem_with_the_size(tmp_path):
    for stem in ("own", "own4"):
        _write_both(tmp_path, stem=stem)
    assert find_stem("own", tmp_path, KNOWN) == "own"


def test_cifar100_is_not_cifar10_at_size_0(tmp_path):
    _write_both(tmp_path, stem="cifar100")
    with pytest.raises(DataError, match=r"data set 'cifar10' not found.*holds cifar100"):
        find_stem("cifar10", tmp_path, KNOWN)


def test_a_number_behind_the_name_that_is_not_the_size_is_refused(tmp_path):
    _write_both(tmp_path, stem="own7")
    with pytest.raises(DataError, match=r"images are 4x4; .*scenario\.dataset=own7"):
        load_parquet("own", tmp_path, KNOWN)


def test_several_sizes_are_refused_by_name(tmp_path):
    for stem in ("own4", "own64"):
        _write_both(tmp_path, stem=stem)
    with pytest.raises(DataError, match=r"at several sizes \(own4, own64\)"):
        find_stem("own", tmp_path, KNOWN)


def test_without_a_data_root_the_message_names_files_and_both_ways_out():
    with pytest.raises(DataError) as caught:
        load_parquet("cifar100", None, KNOWN)
    message = str(caught.value)
    assert "cifar100-train.parquet and cifar100-test.parquet" in message
    assert "scenario.data_root is not set" in message
    assert "--set scenario.data_root=DIR" in message
    assert "--set scenario.source=torchvision" in message


def test_a_missing_data_root_is_told_with_the_full_paths(tmp_path):
    root = tmp_path / "nowhere"
    with pytest.raises(DataError) as caught:
        load_parquet("miniimagenet", root, KNOWN)
    message = str(caught.value)
    assert f"{root / 'miniimagenet-train.parquet'} and {root / 'miniimagenet-test.parquet'}" in message
    assert f"the data root {root} is not a folder" in message
    assert "torchvision" not in message


def test_a_mistyped_name_without_data_root_is_told_the_nearest():
    with pytest.raises(DataError, match=r"did you mean 'miniimagenet'"):
        load_parquet("minimagenet", None, KNOWN)


def test_the_stems_that_are_there_are_named(tmp_path):
    _write_both(tmp_path, stem="birds")
    _write(tmp_path, "own", "train", [0])
    with pytest.raises(DataError, match=r"holds birds, own \(without its own-test\.parquet\)"):
        load_parquet("own", tmp_path, KNOWN)


def test_an_empty_folder_is_told(tmp_path):
    with pytest.raises(DataError, match=r"holds no data set"):
        load_parquet("own", tmp_path, KNOWN)


@pytest.mark.parametrize("kept", [0, 3, 200, -1])
def test_a_truncated_file_is_told_by_its_name(tmp_path, kept):
    _write_both(tmp_path)
    path = tmp_path / "own-test.parquet"
    path.write_bytes(path.read_bytes()[:kept])
    with pytest.raises(DataError, match=r"own-test\.parquet cannot be read as Parquet, it is truncated or corrupt"):
        load_parquet("own", tmp_path, KNOWN)


def test_a_file_with_overwritten_pages_is_told_by_its_name(tmp_path):
    _write_both(tmp_path)
    path = tmp_path / "own-train.parquet"
    content = bytearray(path.read_bytes())
    content[4:200] = bytes(196)
    path.write_bytes(content)
    with pytest.raises(DataError, match=r"own-train\.parquet"):
        load_parquet("own", tmp_path, KNOWN)


def test_a_broken_image_is_told_by_file_and_row(tmp_path):
    _write_both(tmp_path, images=[_png(1), _png(2), b"\x89PNG"])
    with pytest.raises(DataError, match=r"own-train\.parquet, row 2: broken image"):
        load_parquet("own", tmp_path, KNOWN)


def test_the_row_of_a_broken_image_counts_the_rows_left_out(tmp_path):
    _write_both(tmp_path, labels=[2, 2, 0, 1], images=[_png(1), _png(2), _png(3), b"broken"])
    with pytest.raises(DataError, match=r"row 3: broken image"):
        load_parquet("own", tmp_path, KNOWN, classes=2)


def test_images_of_different_sizes_are_refused_with_the_row(tmp_path):
    _write_both(tmp_path, images=[_png(1), _png(2, (4, 5)), _png(3)])
    with pytest.raises(DataError, match=r"row 1: the image is 4x5 \(height x width\), the data set is 4x4"):
        load_parquet("own", tmp_path, KNOWN)


@pytest.mark.parametrize(
    ("labels", "fault"),
    [
        ([0, -1, 1], r"row 1: label -1 is outside 0\.\.1"),
        ([0, 1, 2], r"row 2: label 2 is outside 0\.\.1 \(2 classes\)"),
    ],
)
def test_a_label_that_is_no_class_is_refused(tmp_path, labels, fault):
    _write_both(tmp_path, labels=labels, metadata={"class_names": '["a", "b"]'})
    with pytest.raises(DataError, match=fault):
        load_parquet("own", tmp_path, KNOWN)


@pytest.mark.parametrize(
    ("options", "fault"),
    [
        ({"labels": [0, None, 1]}, "row 1: the label is null"),
        ({"images": [_png(1), _png(2), None]}, "row 2: the image is null"),
        ({"labels": []}, "holds no images"),
        ({"label_type": pa.float32()}, "column label is float, it must be an integer"),
        ({"images": ["a", "b", "c"], "image_type": pa.string()}, "column image is string, it must be binary"),
        ({"metadata": {"class_names": "cat"}}, "class_names in the schema's metadata must be a JSON list"),
        ({"metadata": {"height": "tall"}}, "height in the schema's metadata is 'tall'"),
        ({"metadata": {"encoding": "raw"}}, "raw images need height, width and channels"),
        ({"metadata": RAW}, "row 0: .* bytes, but a raw 4x4x1 image has 16"),
    ],
)
def test_a_fault_in_a_file_is_told_with_its_name(tmp_path, options, fault):
    _write_both(tmp_path, **options)
    with pytest.raises(DataError, match=f"own-train\\.parquet.*{fault}"):
        load_parquet("own", tmp_path, KNOWN)


def test_a_missing_column_is_told_with_the_columns_there(tmp_path):
    for split in ("train", "test"):
        pq.write_table(pa.table({"picture": [b""], "label": [0]}), tmp_path / f"own-{split}.parquet")
    with pytest.raises(DataError, match=r"has no column image; its columns are picture, label"):
        load_parquet("own", tmp_path, KNOWN)


def test_different_class_names_in_the_two_files_are_refused(tmp_path):
    _write(tmp_path, "own", "train", [0], metadata={"class_names": '["a"]'})
    _write(tmp_path, "own", "test", [0], metadata={"class_names": '["b"]'})
    with pytest.raises(DataError, match=r"different class_names"):
        load_parquet("own", tmp_path, KNOWN)


@pytest.mark.parametrize("options", [{}, {"metadata": RAW, "images": [bytes([i] * 16) for i in range(4)]}])
def test_labels_alone_are_those_of_the_data_set(tmp_path, options):
    """Without metadata the images have to be looked at for their size."""
    _write_both(tmp_path, labels=[2, 0, 1, 2], **options)
    for classes in (None, 2):
        dataset = load_parquet("own", tmp_path, KNOWN, classes)
        labels = read_labels("own", tmp_path, KNOWN, classes)
        assert labels.info == dataset.info
        assert labels.train_N.tolist() == dataset.train.labels.tolist()
        assert labels.test_N.tolist() == dataset.test.labels.tolist()


def test_labels_are_read_without_decoding_an_image(tmp_path):
    _write_both(tmp_path, images=[b"no image"] * 3, metadata={"height": "4", "width": "4", "channels": "3"})
    assert read_labels("own", tmp_path, KNOWN).info == DatasetInfo("own", 4, 4, 3, 3)
