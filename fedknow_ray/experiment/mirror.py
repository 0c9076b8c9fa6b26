"""Keeps a copy of a run directory at a URL while the run is made, and fetches it back.

A run is always made in a local folder, and that one counts: there a file can be made whole and durable, and rows and
checkpoints agree. The copy follows it after each round. A program that is killed leaves a copy that a run can go on
from, since files go out in this order and what was deleted here goes last:

    config  manifest  tables (`rounds` the last)  blobs  checkpoints (name the blobs, count the rows)  the rest  summary

At most one program may copy to a URL: nothing there can be locked against a second.
"""

from __future__ import annotations

import re
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from weakref import finalize

from fedknow_ray.errors import RunDirectoryError
from fedknow_ray.experiment.checkpoint_file import OBJECTS
from fedknow_ray.experiment.run_checkpoints import CHECKPOINTS
from fedknow_ray.results.remote import Remote, RemoteError, is_url, shown
from fedknow_ray.results.run import Run, load
from fedknow_ray.results.schema import TABLES
from fedknow_ray.results.store import CONFIG_FILE, MANIFEST_FILE, SUMMARY_FILE

_BLOBS = f"{CHECKPOINTS}/{OBJECTS}"
#: What of a run directory is copied, folder by folder, in either direction; nothing else is touched.
_NAMES = {
    "": re.compile(r"[\w-]+\.(yaml|json|parquet|html)"),
    CHECKPOINTS: re.compile(r"[\w-]+\.ckpt"),
    _BLOBS: re.compile(r"[0-9a-f]{64}"),
}
_ROUND = re.compile(rf"{CHECKPOINTS}/round-(\d+)\.ckpt")
_FIRST = (CONFIG_FILE, MANIFEST_FILE, *(f"{table}.parquet" for table in TABLES))
LONGEST_CONFIG_BYTES = 2**24

#: Tells one content of a local file from another: each is written to a new file and renamed.
_Stamp = tuple[int, int, int]


class Mirror:
    """The copy of one run directory. Made with `begin`, `go_on` or `fetch`."""

    def __init__(self, local: Path, remote: Remote, there: dict[str, _Stamp | None]) -> None:
        self.local, self.remote = local, remote
        self._there = there

    @classmethod
    def begin(cls, local: Path, remote: Remote) -> Mirror:
        """Return the copy of a run that begins.

        Raises:
            UserError: if there is something at the URL, or it cannot be reached.
        """
        refuse_taken(remote)
        return cls(local, remote, {})

    @classmethod
    def go_on(cls, local: Path, remote: Remote) -> Mirror:
        """Return the copy of a run that goes on here; what is at the URL may be of the same run, or nothing.

        Raises:
            UserError: if it is something else, has come further than the run has here, or cannot be reached.
        """
        lengths = _lengths(remote)
        if CONFIG_FILE in lengths:
            if remote.read(CONFIG_FILE, LONGEST_CONFIG_BYTES) != (local / CONFIG_FILE).read_bytes():
                raise RunDirectoryError(f"{remote.shown} has another run than {local}; name a URL that is new or empty")
            _refuse_further(local, remote, lengths)
        else:
            refuse_taken(remote)
        # a blob of the same name has the same content
        there = {
            name: _stamp(local / name) if _is_blob(name) and _length(local / name) == length else None
            for name, length in lengths.items()
        }
        return cls(local, remote, there)

    @classmethod
    def fetch(cls, remote: Remote, local: Path, *, checkpoints: bool = True) -> Mirror:
        """Fetch a run into a new local folder, and return its copy there; the config comes last.

        Raises:
            UserError: if there is no run at the URL, it cannot be reached, or the folder is taken.
        """
        lengths = _lengths(remote, checkpoints=checkpoints)
        if CONFIG_FILE not in lengths:
            raise RunDirectoryError(f"{remote.shown} is not a run directory: it has no {CONFIG_FILE}")
        try:
            local.mkdir(parents=True)
        except OSError as error:
            raise RunDirectoryError(f"cannot make the folder {local}: {error.strerror or error}") from error
        try:
            for name in sorted(lengths, key=_rank, reverse=True):
                (local / name).parent.mkdir(parents=True, exist_ok=True)
                remote.fetch(name, local / name, lengths[name])
        except BaseException:
            shutil.rmtree(local, ignore_errors=True)
            raise
        return cls(local, remote, {name: _stamp(local / name) for name in lengths})

    def sync(self) -> None:
        """Bring the copy of a run that has begun to where the local folder is.

        Raises:
            RemoteError: if that does not succeed; what has been copied until then is a whole run, only an older one.
        """
        try:
            self.bring()
        except RemoteError as error:
            raise RemoteError(
                f"{error}\n  the run is in {self.local}, as far as it has come; when the place can be reached, go on "
                f"with it: fedknow-ray resume {self.local} --out {self.remote.shown}"
            ) from None

    def bring(self) -> None:
        """Bring the copy to where the local folder is, or what is left of it.

        Raises:
            RemoteError: as `sync`, and says nothing of where the run is.
        """
        here = {name: _stamp(path) for name, path in _files(self.local)}
        for name in sorted(here, key=_rank):
            if self._there.get(name) != here[name]:
                self.remote.send(self.local / name, name)
                self._there[name] = here[name]
        for name in sorted(set(self._there) - set(here), key=_rank, reverse=True):
            self.remote.delete([name])
            del self._there[name]


@contextmanager
def followed(mirror: Mirror | None, warn: Callable[[str], None]) -> Iterator[Callable[[], None]]:
    """Yield what brings a copy to where its run is. At the end of the block it is brought there if the run has failed:
    what a run leaves behind when it ends early is in its copy as well."""
    if mirror is None:
        yield lambda: None
        return
    try:
        yield mirror.sync
    except RemoteError:
        raise
    except BaseException:
        try:
            mirror.bring()
        except RemoteError as error:
            warn(str(error))
        raise


@contextmanager
def at_hand(place: str | Path, *, checkpoints: bool = True) -> Iterator[Path]:
    """Yield a local folder with the run at a place; what is fetched from a URL goes with the block.

    Raises:
        UserError: if there is no run at the URL, or it cannot be reached.
    """
    if not is_url(place):
        yield Path(place)
        return
    with tempfile.TemporaryDirectory(prefix="fkr-fetched-") as folder:
        local = Path(folder) / last_part(str(place))
        Mirror.fetch(Remote(str(place)), local, checkpoints=checkpoints)
        yield local


def load_fetched(url: str) -> Run:
    """Open the run at a URL; its tables are in a temporary folder that goes with the last use of the run.

    Raises:
        UserError: if there is no run at the URL, it is broken, or cannot be reached.
    """
    folder = tempfile.mkdtemp(prefix="fkr-fetched-")
    try:
        run = load(Mirror.fetch(Remote(url), Path(folder) / last_part(url), checkpoints=False).local)
    except BaseException:
        shutil.rmtree(folder, ignore_errors=True)
        raise
    finalize(run, shutil.rmtree, folder, ignore_errors=True)
    return run


def publish(path: Path, place: str | Path | None) -> str:
    """Copy a file of a run to its place, where that is at a URL, and return where it is now.

    Raises:
        UserError: if it cannot be copied.
    """
    if not is_url(place):
        return str(path)
    Remote(str(place)).send(path, path.name)
    return f"{shown(str(place)).rstrip('/')}/{path.name}"


def refuse_taken(remote: Remote) -> None:
    """Refuse a URL at which there is something, as a folder is refused.

    Raises:
        UserError: if there is something, or it cannot be found out.
    """
    taken = sorted(remote.names_in())
    if taken:
        raise RunDirectoryError(
            f"{remote.shown} is not empty (it holds {taken[0]!r}); name a URL for the run that is new or empty"
        )


def last_part(url: str) -> str:
    """Return a name for a local folder, of the URL's last part.

    >>> last_part("s3://bucket/runs/one/"), last_part("memory://..")
    ('one', 'run')
    """
    name = re.sub(r"[^\w.-]", "_", shown(url).rstrip("/").rpartition("/")[2]).lstrip(".")
    return name or "run"


def _refuse_further(local: Path, remote: Remote, lengths: dict[str, int]) -> None:
    """Refuse to replace a run by an older state of it: the older tables would lack rows that its checkpoints count."""
    if (local / SUMMARY_FILE).exists():
        return
    here = {name for name, _ in _files(local)}
    last = max((int(found[1]) for name in here if (found := _ROUND.fullmatch(name))), default=0)
    further = [
        name
        for name in sorted(set(lengths) - here)
        if name == SUMMARY_FILE or (name.endswith(".ckpt") and _number(name, otherwise=last + 1) > last)
    ]
    if further:
        raise RunDirectoryError(
            f"{remote.shown} has come further than {local} (it has {further[0]}); go on from there: "
            "fedknow-ray resume URL"
        )


def _number(name: str, otherwise: int) -> int:
    found = _ROUND.fullmatch(name)
    return int(found[1]) if found else otherwise


def _lengths(remote: Remote, *, checkpoints: bool = True) -> dict[str, int]:
    """Return the files of a run at a URL, each with its length in bytes."""
    return {
        _joined(folder, name): length
        for folder, known in _NAMES.items()
        if checkpoints or not folder
        for name, length in remote.names_in(folder).items()
        if length >= 0 and known.fullmatch(name)
    }


def _files(local: Path) -> list[tuple[str, Path]]:
    """Return the files of a run that is here, or of what is left of it."""
    return [
        (_joined(folder, path.name), path)
        for folder, known in _NAMES.items()
        if (local / folder).is_dir()
        for path in (local / folder).iterdir()
        if known.fullmatch(path.name) and path.is_file()
    ]


def _joined(folder: str, name: str) -> str:
    return f"{folder}/{name}" if folder else name


def _rank(name: str) -> tuple[int, int, str]:
    """Return the place of a file in the order in which files go out."""
    if name in _FIRST:
        return 0, _FIRST.index(name), name
    if name == SUMMARY_FILE:
        return 4, 0, name
    return (1 if _is_blob(name) else 2 if name.startswith(CHECKPOINTS) else 3), 0, name


def _is_blob(name: str) -> bool:
    return name.startswith(f"{_BLOBS}/")


def _stamp(path: Path) -> _Stamp:
    found = path.stat()
    return found.st_mtime_ns, found.st_size, found.st_ino


def _length(path: Path) -> int | None:
    return path.stat().st_size if path.is_file() else None
