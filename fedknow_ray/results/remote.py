"""A folder at a URL, through fsspec: what is in it, and how a file gets there and back whole.

An object store (s3, gs, az, ...) puts an object in one step; anywhere else a file is written under a temporary name and
moved. A call that fails is tried again for two minutes (`PAUSES_S`), unless the answer would be the same. One that
gives no answer is not: it may still be under way, and what it writes late must not replace what is newer.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from functools import partial
from pathlib import Path, PurePosixPath
from queue import Empty, SimpleQueue
from threading import Event, Thread
from typing import Any, TypeVar
from urllib.parse import unquote

from fedknow_ray.errors import RunDirectoryError, UserError, did_you_mean

Answer = TypeVar("Answer")

#: Protocols in whose stores an object appears whole, or not at all.
ONE_STEP = frozenset(("s3", "s3a", "gs", "gcs", "az", "abfs", "abfss", "oss", "oci", "tos", "memory"))
#: What is waited between the tries of a call; the first ones bridge a lost packet, all of them a router that restarts.
PAUSES_S = (1.0, 2.0, 4.0, 8.0, 15.0, 30.0, 60.0)
#: The same before a place has ever answered: a wrong name is likelier there than a network that fails.
FIRST_PAUSES_S = (1.0, 2.0)
#: How long a call may take, and how slow a transfer may be beside that.
ANSWER_S, SLOWEST_BYTES_PER_S = 120.0, 50_000.0
#: Answers that another try would not change: no permission, no such bucket, a file system that cannot be written.
FINAL = (PermissionError, FileNotFoundError, NotADirectoryError, IsADirectoryError, NotImplementedError, TypeError)


class RemoteError(RunDirectoryError):
    """A place at a URL that cannot be reached, read or written; the message has no credentials."""


def is_url(place: object) -> bool:
    """Return whether a place is at a URL, and not in a local folder.

    >>> is_url("s3://bucket/run"), is_url("runs/one")
    (True, False)
    """
    return isinstance(place, str) and "://" in place


def shown(url: str) -> str:
    """Return a URL as it may be printed and stored, without a password or what is behind its `?`.

    >>> shown("sftp://ann:secret@host/runs/1?token=x"), shown("abfs://container@account/run")
    ('sftp://***@host/runs/1?***', 'abfs://container@account/run')
    """
    protocol, mark, rest = url.partition("://")
    place, asks, _ = rest.partition("?")
    if _password(place):
        place = f"***@{place.rpartition('@')[2]}"
    return f"{protocol}{mark}{place}{asks and '?***'}"


class Remote:
    """The folder at a URL. Names in it have `/` between their parts; nothing of them leads out of it."""

    def __init__(self, url: str, warn: Callable[[str], None] = lambda text: None) -> None:
        """Find the driver of the URL's protocol; nothing is asked of the network yet.

        Raises:
            UserError: if there is no such protocol, its driver is not installed, or the URL names no folder.
        """
        self.url, self.shown, self._warn = url, shown(url), warn
        _refuse_odd(url)
        self._files, self._root = _file_system(url)
        if not self._root.strip("/"):
            raise UserError(
                f"{self.shown} names no folder; put the run's behind it, as in {self.shown.rstrip('/')}/run"
            )
        self._in_one_step = url.split("://")[0] in ONE_STEP
        self._folders: set[str] = set()
        self._reached = False
        self._last: Thread | None = None

    def names_in(self, folder: str = "") -> dict[str, int]:
        """Return what is directly in the folder, or in a folder of it: names, each with its length in bytes.

        Folders have the length -1. Empty where there is no such folder.

        Raises:
            RemoteError: if it cannot be found out, or the URL is that of a file.
        """
        place = self._place(folder)
        entries = self._call(f"list {self._named(folder)}", lambda: self._entries(place))
        found = {}
        for entry in entries:
            name = PurePosixPath(str(entry["name"])).name
            is_folder = entry.get("type") == "directory"
            if PurePosixPath(str(entry["name"]).strip("/")) == PurePosixPath(place.strip("/")):
                # of a file the list is the file itself; of some stores' folders there is an empty object of that name
                if not is_folder and entry.get("size"):
                    raise RemoteError(f"{self._named(folder)} is a file; name a folder for the run")
                continue
            if name not in ("", ".", ".."):
                found[name] = -1 if is_folder else int(entry.get("size") or 0)
        return found

    def send(self, path: Path, name: str) -> None:
        """Put a local file there, in place of an older one, whole or not at all.

        Raises:
            RemoteError: if it cannot be put there.
        """
        target = self._place(name)

        def put() -> None:
            if self._in_one_step:
                self._files.put_file(str(path), target)
                return
            folder = target.rpartition("/")[0]
            if folder not in self._folders:
                self._files.makedirs(folder, exist_ok=True)
                self._folders.add(folder)
            temporary = f"{folder}/.{path.name}.tmp"
            self._files.put_file(str(path), temporary)
            self._files.mv(temporary, target)

        self._call(f"copy to {self._named(name)}", put, path.stat().st_size)

    def fetch(self, name: str, path: Path, length: int) -> None:
        """Write a file of there to a local path, through a temporary name beside it.

        Raises:
            RemoteError: if it cannot be had, or has another length than it was listed with.
        """
        temporary = path.with_name(f".{path.name}.tmp")

        def get() -> None:
            self._files.get_file(self._place(name), str(temporary))
            if temporary.stat().st_size != length:
                raise OSError(f"{temporary.stat().st_size} bytes came of {length}")

        try:
            self._call(f"copy {self._named(name)} to {path}", get, length)
            temporary.replace(path)
        except OSError as error:
            raise RemoteError(f"cannot write {path}: {error.strerror or error}") from error
        finally:
            temporary.unlink(missing_ok=True)

    def read(self, name: str, longest_bytes: int) -> bytes | None:
        """Return the content of a small file of there, None where there is none.

        Raises:
            RemoteError: if it cannot be had, or is longer than it may be.
        """

        def get() -> bytes | None:
            try:
                return bytes(self._files.cat_file(self._place(name), start=0, end=longest_bytes + 1))
            except FileNotFoundError:
                return None

        data = self._call(f"read {self._named(name)}", get)
        if data is not None and len(data) > longest_bytes:
            raise RemoteError(f"{self._named(name)} has more than {longest_bytes} bytes; it is not of a run")
        return data

    def delete(self, names: Iterable[str]) -> None:
        """Delete files there; those that are not there any more are no mistake.

        Raises:
            RemoteError: if one cannot be deleted.
        """
        for name in names:
            self._call(f"delete {self._named(name)}", partial(self._remove, self._place(name)))

    def _remove(self, place: str) -> None:
        try:
            self._files.rm_file(place)
        except FileNotFoundError:
            return

    def _entries(self, place: str) -> list[Mapping[str, Any]]:
        self._files.invalidate_cache()
        try:
            return list(self._files.ls(place, detail=True))
        except FileNotFoundError:
            return []

    def _place(self, name: str) -> str:
        return f"{self._root.rstrip('/')}/{name}" if name else self._root

    def _named(self, name: str) -> str:
        return f"{self.shown.rstrip('/')}/{name}" if name else self.shown

    def _call(self, what: str, call: Callable[[], Answer], length: int = 0) -> Answer:
        """Do something over there, in a thread of its own so that it can be given up, and again where that may help."""
        limit_s = ANSWER_S + length / SLOWEST_BYTES_PER_S
        attempt = call
        for pause_s in (*(PAUSES_S if self._reached else FIRST_PAUSES_S), None):
            try:
                answer = self._within(limit_s, attempt)
                self._reached = True
                return answer
            except _NoAnswer:
                raise RemoteError(f"cannot {what}: no answer within {limit_s:.0f} s") from None
            except Exception as error:
                # drivers raise whatever their client library does
                said = _without(_secrets(self.url), f"{type(error).__name__}: {error}".rstrip(": "))
                if pause_s is None or isinstance(error, FINAL):
                    # not "from error": its text may have the credentials, and some tracebacks are printed
                    raise RemoteError(f"cannot {what}: {said}") from None
                self._warn(f"cannot {what}: {said}; trying again in {pause_s:g} s")
                Event().wait(pause_s)
                attempt = partial(self._anew, call)
        raise AssertionError("the last try returns or raises")

    def _anew(self, call: Callable[[], Answer]) -> Answer:
        # a server that hangs up on idle clients leaves some drivers with a connection that never works again
        self._files, _ = _opened(self.url)
        self._folders.clear()
        return call()

    def _within(self, limit_s: float, call: Callable[[], Answer]) -> Answer:
        answers: SimpleQueue[tuple[Answer | None, BaseException | None]] = SimpleQueue()

        def work() -> None:
            try:
                answers.put((call(), None))
            except BaseException as error:
                answers.put((None, error))

        if self._last is not None and self._last.is_alive():
            # of a call that was given up, or left by Ctrl-C: two must not write one file
            self._last.join(limit_s)
            if self._last.is_alive():
                raise _NoAnswer
        self._last = Thread(target=work, daemon=True, name="fedknow-ray remote")
        self._last.start()
        try:
            answer, error = answers.get(timeout=limit_s)
        except Empty:
            raise _NoAnswer from None
        if error is not None:
            raise error
        return answer  # type: ignore[return-value]  # None only where the call returned it


class _NoAnswer(Exception):
    """A call that may still be under way."""


def _refuse_odd(url: str) -> None:
    """Refuse what fsspec would take for something else than one folder: a pattern, or one file system on another."""
    if "::" in url or any(sign in url.partition("://")[2] for sign in "*?["):
        raise UserError(f"{shown(url)}: '::', '*', '?' and '[' cannot be part of a run's URL")


def _file_system(url: str) -> tuple[Any, str]:
    from fsspec.registry import available_protocols, get_filesystem_class, registry

    protocol = url.split("://")[0]
    if protocol not in {*available_protocols(), *registry}:
        raise UserError(f"{shown(url)}: no file system {protocol!r} is known{did_you_mean(protocol, _USUAL)}")
    try:
        get_filesystem_class(protocol)
        return _opened(url)
    except ImportError as error:
        raise UserError(
            f"{shown(url)}: the driver of {protocol} is not installed: {error}"
            + (f"\n  pip install {_DRIVERS[protocol]}, here only: no node needs it" if protocol in _DRIVERS else "")
        ) from error
    except Exception as error:
        said = _without(_secrets(url), f"{type(error).__name__}: {error}")
        raise UserError(f"{shown(url)} cannot be opened: {said}") from None


def _opened(url: str) -> tuple[Any, str]:
    """Return a file system with a connection of its own, and the path in it."""
    from fsspec.core import url_to_fs

    found: tuple[Any, str] = url_to_fs(url, skip_instance_cache=True)
    return found


_USUAL = ("s3", "gs", "az", "abfs", "sftp", "ssh", "ftp", "hdfs", "smb", "webdav", "file", "memory")
_DRIVERS = {
    **dict.fromkeys(("s3", "s3a"), "s3fs"),
    **dict.fromkeys(("gs", "gcs"), "gcsfs"),
    **dict.fromkeys(("az", "abfs", "abfss"), "adlfs"),
    **dict.fromkeys(("sftp", "ssh"), "paramiko"),
    "smb": "smbprotocol",
    "oss": "ossfs",
    "oci": "ocifs",
}


def _secrets(url: str) -> list[str]:
    """Return what of a URL nobody may see, as it stands there and as a driver may tell it, the longest first."""
    place, _, query = url.partition("://")[2].partition("?")
    password = _password(place)
    hidden = [query, *([place.rpartition("@")[0], password] if password else [])]
    return sorted({form for each in hidden if each for form in (each, unquote(each))}, key=len, reverse=True)


def _password(place: str) -> str:
    # up to the last @: a password may have one, or a slash, though it should not
    return place.rpartition("@")[0].partition(":")[2]


def _without(secrets: Iterable[str], text: str) -> str:
    for secret in secrets:
        text = text.replace(secret, "***")
    return text
