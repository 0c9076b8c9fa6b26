"""What is timed without training: positive rates of the sizes asked for, and nothing left in the folder."""

from __future__ import annotations

from pathlib import Path

import pytest

from fedknow_ray.errors import RunDirectoryError
from fedknow_ray.experiment.host_speed import matmul_flops_per_s, memory_bandwidth, storage


def test_storage_leaves_no_file_behind(tmp_path: Path):
    found = storage(tmp_path, 2**20)
    assert min(found.write_bytes_per_s, found.read_bytes_per_s) > 0
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_cannot_be_written_is_the_users_fault(tmp_path: Path):
    with pytest.raises(RunDirectoryError, match=r"cannot write 1\.05 MB in .*none to time the storage: No such file"):
        storage(tmp_path / "none", 2**20)


@pytest.mark.parametrize("threads", [1, 2])
def test_arrays_take_no_more_than_half_of_the_memory(threads: int):
    found = memory_bandwidth(0.001, threads, cache_bytes=8 * 2**20, available_bytes=6 * 2**20)
    assert found.array_bytes == 2**20
    assert min(found.copy_bytes_per_s, found.triad_bytes_per_s) > 0


def test_arrays_are_four_caches_long():
    found = memory_bandwidth(0.001, 1, cache_bytes=20 * 2**20, available_bytes=None)
    assert found.array_bytes == 80 * 2**20


def test_matrices_have_a_rate():
    assert matmul_flops_per_s(0.001, 1) > 0
