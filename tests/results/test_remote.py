"""A folder at a URL: files there are whole, failures are tried again and told without credentials, waits end."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from threading import Event

import pytest
from fsspec.implementations.memory import MemoryFileSystem
from fsspec.registry import register_implementation
from spy_filesystem import SpyFileSystem

from fedknow_ray.errors import UserError
from fedknow_ray.results import remote
from fedknow_ray.results.remote import Remote, RemoteError, is_url, shown

SECRET_URL = "spy://ann:s3cr%40t@host/run"


@pytest.fixture(autouse=True)
def nothing_there(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(remote, "PAUSES_S", (0.0, 0.0, 0.0))
    monkeypatch.setattr(remote, "FIRST_PAUSES_S", (0.0,))
    yield
    SpyFileSystem.reset()
    MemoryFileSystem.store.clear()
    MemoryFileSystem.pseudo_dirs[:] = [""]


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "a.json"
    path.write_text("hello")
    return path


def fail(times: int, error: Exception, act: str = "put") -> list[str]:
    """Have the spy's file system fail so often; returns the list of the times that it was asked."""
    asked: list[str] = []

    def before(what: str, path: str) -> None:
        if what == act:
            asked.append(path)
            if len(asked) <= times:
                raise error

    SpyFileSystem.before = staticmethod(before)
    return asked


@pytest.mark.parametrize(
    ("url", "as_shown"),
    [
        ("s3://bucket/runs/1", "s3://bucket/runs/1"),
        ("sftp://ann@host/runs/1", "sftp://ann@host/runs/1"),
        ("sftp://ann:secret@host/runs/1", "sftp://***@host/runs/1"),
        ("sftp://ann:sec@ret@host/runs/1", "sftp://***@host/runs/1"),
        ("sftp://ann:sec/ret@host/runs/1", "sftp://***@host/runs/1"),
        ("az://box/runs/1?sig=secret", "az://box/runs/1?***"),
        ("abfs://container@account/runs/1", "abfs://container@account/runs/1"),
    ],
)
def test_a_url_is_shown_without_what_nobody_may_see(url: str, as_shown: str):
    assert shown(url) == as_shown


def test_a_url_is_a_text_with_a_protocol():
    assert [is_url(each) for each in ("s3://b/x", "runs/x", Path("s3://b/x"), None)] == [True, False, False, False]


@pytest.mark.parametrize("url", ["memory://runs/1", "spy://runs/1", "file://{}/runs/1/"])
def test_what_is_sent_is_listed_comes_back_and_is_deleted(url: str, file: Path, tmp_path: Path):
    there = Remote(url.format(tmp_path))
    assert there.names_in() == {}
    there.send(file, "b.json")
    there.send(file, "deep/er/a")
    file.write_text("other")
    there.send(file, "b.json")
    assert (there.names_in(), there.names_in("deep/er")) == ({"b.json": 5, "deep": -1}, {"a": 5})
    there.fetch("b.json", tmp_path / "back", 5)
    assert (tmp_path / "back").read_text() == "other"
    assert (there.read("deep/er/a", 5), there.read("none", 5)) == (b"hello", None)
    there.delete(["b.json", "b.json", "none"])
    assert there.names_in() == {"deep": -1}
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith(".")] == []


def test_elsewhere_than_in_an_object_store_a_file_is_moved_to_its_place(file: Path):
    Remote("spy://run").send(file, "deep/b.json")
    assert SpyFileSystem.acts == [("put", "/run/deep/.a.json.tmp"), ("move", "/run/deep/b.json")]


def test_an_unknown_protocol_is_refused_with_the_known_ones():
    with pytest.raises(UserError, match=r"no file system 'sftpp' is known; did you mean 'sftp'"):
        Remote("sftpp://x/run")


def test_a_missing_driver_is_named_with_the_package(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(sys.modules, "s3fs", None)
    with pytest.raises(UserError, match=r"s3://b/run: the driver of s3 is not installed: .*\n  pip install s3fs"):
        Remote("s3://b/run")


@pytest.mark.parametrize(
    "url", ["memory://a*", "memory://a?b", "memory://a[1]", "simplecache::memory://a", "memory://"]
)
def test_a_url_that_is_not_one_folder_is_refused(url: str):
    with pytest.raises(UserError, match=r"cannot be part of a run's URL|names no folder"):
        Remote(url)


def test_the_url_of_a_file_is_refused(file: Path):
    with pytest.raises(RemoteError, match=r"is a file; name a folder"):
        Remote(f"file://{file}").names_in()


def test_a_failure_is_tried_again_and_told(file: Path):
    warned: list[str] = []
    asked = fail(2, OSError("connection reset"))
    there = Remote("spy://run", warned.append)
    there.names_in()
    there.send(file, "b")
    assert len(asked) == 3
    assert warned == ["cannot copy to spy://run/b: OSError: connection reset; trying again in 0 s"] * 2


def test_another_try_has_another_connection(file: Path):
    """Of some drivers a connection that a server has closed is closed for good."""
    broken: list[SpyFileSystem] = []

    class HangsUp(SpyFileSystem):
        protocol = "hangsup"

        def put_file(self, lpath: str, rpath: str, *args: object, **kwargs: object) -> None:
            if not broken:
                broken.append(self)
            if self in broken:
                raise OSError("421 timeout")
            super().put_file(lpath, rpath, *args, **kwargs)

    register_implementation("hangsup", HangsUp, clobber=True)
    there = Remote("hangsup://run")
    there.send(file, "b")
    assert there.names_in() == {"b": 5}


def test_a_failure_that_lasts_ends_with_what_failed_and_why(file: Path):
    asked = fail(100, OSError("connection reset"))
    there = Remote("spy://run")
    there.names_in()
    with pytest.raises(RemoteError, match=r"cannot copy to spy://run/b: OSError: connection reset$"):
        there.send(file, "b")
    assert len(asked) == 4


def test_a_place_that_has_never_answered_is_not_tried_for_long():
    asked = fail(100, OSError("no such host"), act="list")
    with pytest.raises(RemoteError, match="no such host"):
        Remote("spy://run").names_in()
    assert len(asked) == 2


def test_what_another_try_would_not_change_is_not_tried_again(file: Path):
    asked = fail(100, PermissionError("403 Forbidden"))
    with pytest.raises(RemoteError, match="403 Forbidden"):
        Remote("spy://run").send(file, "b")
    assert len(asked) == 1


@pytest.mark.parametrize("said", ["no login for spy://ann:s3cr%40t@host", "wrong password s3cr@t"])
def test_a_driver_that_tells_the_password_is_not_repeated(said: str, file: Path):
    warned: list[str] = []
    fail(100, OSError(said))
    with pytest.raises(RemoteError, match=r"\*\*\*") as refused:
        Remote(SECRET_URL, warned.append).send(file, "b")
    told = "\n".join([str(refused.value), *warned])
    assert "s3cr" not in told
    assert refused.value.__suppress_context__


def test_a_call_without_an_answer_is_given_up_and_the_next_one_waits_for_it(
    file: Path, monkeypatch: pytest.MonkeyPatch
):
    """Two calls at once could write one file, and the older content might win."""
    monkeypatch.setattr(remote, "ANSWER_S", 0.05)
    hangs = Event()

    def before(act: str, path: str) -> None:
        if act == "put":
            hangs.wait(60)

    SpyFileSystem.before = staticmethod(before)
    there = Remote("spy://run")
    for _ in range(2):
        with pytest.raises(RemoteError, match=r"no answer within 0 s"):
            there.send(file, "b")
    assert SpyFileSystem.acts == []
    monkeypatch.setattr(remote, "ANSWER_S", 60.0)
    hangs.set()
    there.send(file, "b")
    assert SpyFileSystem.acts == [("put", "/run/.a.json.tmp"), ("move", "/run/b")] * 2


def test_a_file_that_comes_short_is_refused(file: Path, tmp_path: Path):
    there = Remote("memory://run")
    there.send(file, "b")
    with pytest.raises(RemoteError, match="5 bytes came of 6"):
        there.fetch("b", tmp_path / "back", 6)
    assert [path.name for path in tmp_path.iterdir()] == ["a.json"]


def test_a_content_that_is_too_long_is_not_read_into_memory(file: Path):
    there = Remote("memory://run")
    there.send(file, "b")
    with pytest.raises(RemoteError, match="more than 4 bytes"):
        there.read("b", 4)


def test_a_name_that_would_lead_out_is_not_listed(monkeypatch: pytest.MonkeyPatch):
    """In an object store a name may have any parts."""
    names = ["/run/..", "/run/../../etc/passwd", "/run/good"]
    entries = [{"name": name, "size": 1, "type": "file"} for name in names]
    monkeypatch.setattr(SpyFileSystem, "ls", lambda self, path, detail: entries)
    assert Remote("spy://run").names_in() == {"passwd": 1, "good": 1}
