"""Blobs named by their bytes: kept once, read as they were written, or refused."""

from __future__ import annotations

from hashlib import sha256
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fedknow_ray.errors import RunDirectoryError
from fedknow_ray.results.objects import BrokenObject, ObjectFolder


def test_a_blob_is_named_by_its_digest_and_comes_back(tmp_path: Path):
    objects = ObjectFolder(tmp_path / "new" / "objects")
    name = objects.put(b"abc")
    assert name == sha256(b"abc").hexdigest()
    assert ObjectFolder(tmp_path / "new" / "objects").get(name) == b"abc"


def test_equal_blobs_are_one_file(tmp_path: Path):
    objects = ObjectFolder(tmp_path)
    assert objects.put(b"abc") == objects.put(memoryview(b"abc"))
    assert len(list(tmp_path.iterdir())) == 1


@given(data=st.binary(min_size=1, max_size=60), place=st.integers(0, 59), bit=st.integers(0, 7))
@settings(deadline=None)
def test_a_changed_bit_is_refused(data: bytes, place: int, bit: int, tmp_path_factory: pytest.TempPathFactory):
    folder = tmp_path_factory.mktemp("objects")
    name = ObjectFolder(folder).put(data)
    broken = bytearray(data)
    broken[place % len(data)] ^= 1 << bit
    (folder / name).write_bytes(bytes(broken))
    with pytest.raises(BrokenObject, match="is broken: its bytes are not those that were saved"):
        ObjectFolder(folder).get(name)


def test_a_missing_blob_is_named(tmp_path: Path):
    with pytest.raises(BrokenObject, match=rf"cannot read {tmp_path}/{'0' * 64}: No such file"):
        ObjectFolder(tmp_path).get("0" * 64)


def test_one_that_was_cut_off_is_written_again(tmp_path: Path):
    name = ObjectFolder(tmp_path).put(b"abcdef")
    (tmp_path / name).write_bytes(b"abc")
    ObjectFolder(tmp_path).put(b"abcdef")
    assert ObjectFolder(tmp_path).get(name) == b"abcdef"


def test_what_nobody_names_is_swept_away_and_can_come_again(tmp_path: Path):
    objects = ObjectFolder(tmp_path)
    kept, gone = objects.put(b"kept"), objects.put(b"gone")
    (tmp_path / f".{gone}.tmp").write_bytes(b"half")
    objects.sweep({kept})
    assert [entry.name for entry in tmp_path.iterdir()] == [kept]
    assert objects.put(b"gone") == gone
    assert objects.get(gone) == b"gone"


def test_sweeping_where_nothing_was_written_is_no_fault(tmp_path: Path):
    ObjectFolder(tmp_path / "none").sweep(())
    assert not (tmp_path / "none").exists()


def test_a_folder_that_cannot_be_made_is_told(tmp_path: Path):
    (tmp_path / "file").touch()
    with pytest.raises(RunDirectoryError, match="cannot make the folder"):
        ObjectFolder(tmp_path / "file" / "objects").put(b"abc")
