"""A packed run directory is the same again, and no archive writes beside the folder that was named."""

from __future__ import annotations

import io
import tarfile
from pathlib import Path

import pytest

from fedknow_ray.errors import RunDirectoryError
from fedknow_ray.results.packing import pack, unpack


def contents(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.fixture
def run(tmp_path: Path) -> Path:
    run = tmp_path / "run"
    (run / "checkpoints" / "blobs").mkdir(parents=True)
    (run / "summary.json").write_text("{}")
    (run / "checkpoints" / "blobs" / "a").write_bytes(b"\0\1")
    return run


def packed(folder: Path, **options: tuple[str, ...]) -> io.BytesIO:
    stream = io.BytesIO()
    pack(folder, stream, **options)
    stream.seek(0)
    return stream


def archive_of(*members: tuple[tarfile.TarInfo, bytes]) -> io.BytesIO:
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w:gz") as archive:
        for member, data in members:
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))
    stream.seek(0)
    return stream


def test_a_run_comes_out_as_it_went_in(run: Path, tmp_path: Path) -> None:
    (tmp_path / "back").mkdir()
    unpack(packed(run), tmp_path / "back")
    assert contents(tmp_path / "back") == {"summary.json": b"{}", "checkpoints/blobs/a": b"\0\1"}


def test_folders_can_stay_behind_and_links_do(run: Path, tmp_path: Path) -> None:
    (run / "link").symlink_to("/etc/passwd")
    (tmp_path / "back").mkdir()
    unpack(packed(run, without=("checkpoints",)), tmp_path / "back")
    assert contents(tmp_path / "back") == {"summary.json": b"{}"}


@pytest.mark.parametrize("name", ["../x", "/x", "a/../../x", "..", "a\\x"])
def test_a_name_that_leads_out_is_refused(tmp_path: Path, name: str) -> None:
    (tmp_path / "back").mkdir()
    with pytest.raises(RunDirectoryError, match="leads out of its folder"):
        unpack(archive_of((tarfile.TarInfo(name), b"x")), tmp_path / "back")
    assert [path.name for path in tmp_path.iterdir()] == ["back"]
    assert contents(tmp_path / "back") == {}


@pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.FIFOTYPE, tarfile.CHRTYPE, tarfile.DIRTYPE])
def test_what_is_no_file_is_refused(tmp_path: Path, kind: bytes) -> None:
    member = tarfile.TarInfo("x")
    member.type, member.linkname = kind, "/etc/passwd"
    with pytest.raises(RunDirectoryError, match="'x', which is no file"):
        unpack(archive_of((member, b"")), tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_more_bytes_than_a_run_may_have_are_refused(tmp_path: Path) -> None:
    with pytest.raises(RunDirectoryError, match="more than 10 bytes"):
        unpack(archive_of((tarfile.TarInfo("x"), b"12345678901")), tmp_path, most_bytes=10)


def test_a_name_that_comes_twice_is_refused(tmp_path: Path) -> None:
    with pytest.raises(RunDirectoryError, match="File exists"):
        unpack(archive_of((tarfile.TarInfo("x"), b"1"), (tarfile.TarInfo("x"), b"2")), tmp_path)


@pytest.mark.parametrize("data", [b"", b"no archive", b"\x1f\x8b\x08broken"])
def test_what_is_no_archive_is_refused(tmp_path: Path, data: bytes) -> None:
    with pytest.raises(RunDirectoryError, match=r"no archive of it|cannot write"):
        unpack(io.BytesIO(data), tmp_path)
