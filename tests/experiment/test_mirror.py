"""Runs that are copied to a URL: whenever the program ends, what is there is a run that can go on, to the same bits."""

from __future__ import annotations

import gc
import json
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
from fsspec.implementations.memory import MemoryFileSystem
from small import Recorder, write_config
from spy_filesystem import SpyFileSystem

import fedknow_ray
from fedknow_ray.errors import RunDirectoryError, UserError
from fedknow_ray.experiment import run
from fedknow_ray.experiment.mirror import Mirror, at_hand, last_part, publish
from fedknow_ray.experiment.place import Place
from fedknow_ray.experiment.resume import resume
from fedknow_ray.experiment.run import execute
from fedknow_ray.experiment.run_checkpoints import checkpoints_in, latest_whole
from fedknow_ray.experiment.verify import compare_runs
from fedknow_ray.results import remote
from fedknow_ray.results.remote import Remote, RemoteError
from fedknow_ray.results.run import Run, load, read_table

LOCAL = Place("local")
OVERRIDES: dict[str, Any] = {"training.rounds_per_task": 3, "scenario.samples_per_client": 10, "method.name": "fedknow"}


@pytest.fixture(autouse=True)
def a_folder_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Where no local folder is named, runs are made below the working directory."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(remote, "PAUSES_S", (0.0,))
    monkeypatch.setattr(remote, "FIRST_PAUSES_S", (0.0,))
    yield
    SpyFileSystem.reset()
    MemoryFileSystem.store.clear()
    MemoryFileSystem.pseudo_dirs[:] = [""]


State = dict[str, bytes]


@dataclass(frozen=True)
class Copied:
    """A run that nothing happened to, and what its copying did: the acts, and what was there after each."""

    run: Run
    acts: list[tuple[str, str]]
    states: list[State]

    def at(self, position: int) -> State:
        """What was there right after the checkpoint of a position."""
        return next(state for state in self.states if _newest(state) == position)


def _newest(state: State) -> int:
    return max((int(name[-9:-5]) for name in state if "/round-" in name and name.endswith(".ckpt")), default=0)


@pytest.fixture(scope="module")
def copied(tmp_path_factory: pytest.TempPathFactory) -> Copied:
    folder = tmp_path_factory.mktemp("copied")
    states: list[State] = []
    SpyFileSystem.after = staticmethod(lambda: states.append(there()))
    with pytest.MonkeyPatch.context() as patched:
        patched.chdir(folder)
        run = go("spy://run")
    acts = [*SpyFileSystem.acts]
    SpyFileSystem.reset()
    return Copied(replace(run, path=folder / run.path), acts, states)


@pytest.fixture
def whole(copied: Copied) -> Run:
    return copied.run


def copy_to(url: str, run: Run) -> None:
    Mirror.begin(run.path, Remote(url)).sync()


def go(out: str | Path, **arguments: Any) -> Run:
    return execute(write_config(Path()), OVERRIDES, backend="local", out=out, **arguments)


def contents(folder: Path) -> State:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def there(root: str = "/run/") -> State:
    """The files at spy://run."""
    return {name.removeprefix(root): data for name, data in SpyFileSystem.files().items() if name.startswith(root)}


def put(files: State, folder: Path) -> Path:
    for name, data in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(data)
    return folder


def same_bits(run: Run, whole: Run) -> bool:
    return compare_runs(whole, run).mismatch is None


@pytest.mark.parametrize("url", ["memory://runs/one", "file://{}/far/one", "spy://runs/one"])
def test_a_copy_comes_back_as_the_run(url: str, whole: Run, tmp_path: Path):
    url = url.format(tmp_path)
    copy_to(url, whole)
    with at_hand(url) as fetched:
        assert fetched.name == "one"
        assert contents(fetched) == contents(whole.path)
    assert not fetched.exists()


def test_a_copied_run_is_the_run_that_is_not(whole: Run, tmp_path: Path):
    assert whole.path.parent.name == "runs"
    assert same_bits(go(tmp_path / "run"), whole)


def test_after_each_single_act_the_copy_is_a_run_that_can_go_on(copied: Copied, tmp_path: Path):
    """A program can be killed between any two of them, and in the middle of one."""
    whole, states = copied.run, copied.states
    assert len(states) > 60
    positions = []
    for number, state in enumerate(states):
        folder = put(state, tmp_path / "states" / str(number))
        refused: list[str] = []
        latest = latest_whole(folder, refused.append)
        assert refused == []
        rows = {} if latest is None else {name: count for name, (count, _) in latest.header.stored.tables.items()}
        assert {name for name, count in rows.items() if len(read_table(folder, name)) < count} == set()
        positions.append(0 if latest is None else latest.header.position)
        if "rounds.parquet" in state:
            assert len(read_table(folder, "visits")) >= sum(
                map(len, read_table(folder, "rounds")["clients"].to_pylist())
            )
        assert "summary.json" not in state or contents(whole.path).items() <= state.items()
    assert contents(whole.path) == states[-1]
    assert positions == sorted(positions)
    for number in (len(states) // 3, 2 * len(states) // 3):
        assert same_bits(resume(tmp_path / "states" / str(number), place=LOCAL), whole)


def test_files_go_out_in_the_order_in_which_they_need_each_other(copied: Copied):
    moved = [path.removeprefix("/run/") for act, path in copied.acts if act == "move"]
    assert moved[:2] == ["config.yaml", "manifest.json"]
    assert moved[-1] == "summary.json"
    first_round = moved[2 : moved.index("checkpoints/round-000001.ckpt")]
    tables = ["visits", "accuracy", "events", "placement", "rounds"]
    assert first_round[:5] == [f"{table}.parquet" for table in tables]
    assert {name.rpartition("/")[0] for name in first_round[5:]} == {"checkpoints/objects"}
    at_last = copied.acts[copied.acts.index(("move", "/run/summary.json")) + 1 :]
    assert {act for act, _ in at_last} == {"delete"}
    deleted = [path.removeprefix("/run/checkpoints/").partition("/")[0] for _, path in at_last]
    assert deleted == sorted(deleted, reverse=True), "checkpoints before what they name"


def test_only_what_has_changed_is_copied_again(whole: Run):
    here = put(contents(whole.path), Path("here"))
    copy = Mirror.begin(here, Remote("spy://run"))
    copy.sync()
    SpyFileSystem.acts.clear()
    (here / "summary.json").write_text("{}")
    (here / "report.html").write_text("page")
    (here / "notes.txt").write_text("not of the run")
    copy.sync()
    copy.sync()
    moved = [path for act, path in SpyFileSystem.acts if act == "move"]
    assert moved == ["/run/report.html", "/run/summary.json"]


KILLED = """
import os, signal, sys
from fedknow_ray.experiment.run import execute
from fedknow_ray.experiment.watching import Unwatched

class Killed(Unwatched):
    told = 0
    def advance(self, progress):
        self.told += 1
        if self.told == 3:
            os.kill(os.getpid(), signal.SIGKILL)

execute(sys.argv[1], eval(sys.argv[2]), backend="local", out=sys.argv[3], watcher=Killed())
"""


@pytest.mark.program
def test_a_killed_program_leaves_a_copy_with_which_another_machine_goes_on(
    whole: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    url = f"file://{tmp_path}/far/run"
    command = [sys.executable, "-c", KILLED, str(write_config(tmp_path)), repr(OVERRIDES), url]
    killed = subprocess.run(command, timeout=120, check=False, capture_output=True, text=True)
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    shutil.rmtree(tmp_path / "runs")
    other = tmp_path / "other machine"
    other.mkdir()
    monkeypatch.chdir(other)
    recorder = Recorder()
    done = resume(url, place=LOCAL, watcher=recorder)
    assert same_bits(done, whole)
    assert len(recorder.progress) < 8 - 2, "rounds before the kill are not made again"
    assert list((other / "runs").iterdir()) == [other / done.path]
    assert contents(tmp_path / "far" / "run") == contents(done.path)
    with at_hand(url) as fetched:
        assert same_bits(load(fetched), whole)


def test_a_run_that_is_stopped_has_its_last_rows_in_the_copy():
    with pytest.raises(KeyboardInterrupt):
        go("spy://run", watcher=Recorder(KeyboardInterrupt(), after=2))
    stopped = fedknow_ray.load("spy://run")
    assert stopped.summary is None
    assert stopped.events["kind"].to_pylist()[-1] == "interrupted"


def unreachable_from(name: str) -> None:
    """Nothing can be copied any more from the first time that this file is."""

    def before(act: str, path: str) -> None:
        if act == "put" and path.endswith(f".{name}.tmp"):
            SpyFileSystem.before = staticmethod(refuse)
            refuse(act, path)

    def refuse(act: str, path: str) -> None:
        raise OSError("network is unreachable")

    SpyFileSystem.before = staticmethod(before)


class Warned(Recorder):
    """A watcher that takes warnings."""

    def warn(self, text: str) -> None:
        self.stages.append(text)


@pytest.mark.parametrize("name", ["round-000002.ckpt", "summary.json"])
def test_a_place_that_cannot_be_reached_ends_the_run_which_goes_on_from_here(name: str, whole: Run):
    unreachable_from(name)
    watcher = Warned()
    with pytest.raises(RemoteError, match=r"cannot copy .*: OSError: network is unreachable\n  the run is in") as told:
        go("spy://run", watcher=watcher)
    (left,) = Path("runs").iterdir()
    assert str(told.value).endswith(f"go on with it: fedknow-ray resume {left} --out spy://run")
    assert [text for text in watcher.stages if "trying again" in text] != []
    SpyFileSystem.before = staticmethod(lambda act, path: None)
    done = resume(left, out="spy://run", place=LOCAL)
    assert same_bits(done, whole)
    assert there() == contents(left)


def test_nothing_is_tried_at_a_place_that_has_failed_only_to_say_that_the_run_has_failed():
    unreachable_from("round-000002.ckpt")
    watcher = Warned()
    with pytest.raises(RemoteError):
        go("spy://run", watcher=watcher)
    assert len([text for text in watcher.stages if "cannot" in text]) == 1


def test_a_failure_of_the_run_is_told_where_its_copy_fails_as_well():
    unreachable_from("events.parquet")
    SpyFileSystem.before, refuse = staticmethod(lambda act, path: None), SpyFileSystem.before

    class Fails(Warned):
        def advance(self, progress: Any) -> None:
            SpyFileSystem.before = staticmethod(refuse)
            raise ZeroDivisionError

    watcher = Fails()
    with pytest.raises(ZeroDivisionError):
        go("spy://run", watcher=watcher)
    assert "network is unreachable" in watcher.stages[-1]


def test_a_url_with_something_there_is_refused_before_the_data_are_read(tmp_path: Path):
    (tmp_path / "far").mkdir()
    (tmp_path / "far" / "mine.txt").write_text("precious")
    recorder = Recorder()
    with pytest.raises(RunDirectoryError, match=r"is not empty \(it holds 'mine.txt'\)"):
        go(f"file://{tmp_path}/far", watcher=recorder)
    assert recorder.stages == []
    assert not Path("runs").exists()
    assert contents(tmp_path / "far") == {"mine.txt": b"precious"}


def test_a_run_that_cannot_start_leaves_nothing_at_the_url(monkeypatch: pytest.MonkeyPatch):
    def nowhere(*arguments: Any) -> None:
        assert list(there()) == ["config.yaml"]
        raise UserError("no place")

    monkeypatch.setattr(run, "open_executor", nowhere)
    with pytest.raises(UserError, match="no place"):
        go("spy://run")
    assert there() == {}
    assert not Path("runs").exists()


def test_credentials_are_nowhere_in_what_a_run_leaves(tmp_path: Path):
    unreachable_from("round-000003.ckpt")
    watcher = Warned()
    with pytest.raises(RemoteError) as told:
        go("spy://ann:s3cret@host/run", watcher=watcher)
    (left,) = Path("runs").iterdir()
    run = load(left)
    said = [str(told.value), *watcher.stages, json.dumps(run.manifest), json.dumps(run.config)]
    said += [str(row) for row in run.events.to_pylist()]
    assert "spy://***@host/run" in said[-1], "the failure is recorded"
    assert "s3cret" not in "\n".join(said)
    assert [name for name, data in contents(tmp_path).items() if b"s3cret" in data] == []


def test_another_run_is_not_replaced(whole: Run):
    copy_to("spy://run", whole)
    other = put({"config.yaml": b"seed: 2"}, Path("other"))
    with pytest.raises(RunDirectoryError, match=r"spy://run has another run than other"):
        resume(other, out="spy://run", place=LOCAL)


@pytest.mark.parametrize(("there_at", "here_at"), [(2, 1), (5, 2), (None, 2)])
def test_a_run_is_not_replaced_by_an_older_state_of_it(there_at: int | None, here_at: int, copied: Copied):
    """The older tables would lack rows that the checkpoints there count."""
    state = copied.states[-1] if there_at is None else copied.at(there_at)
    put(state, Path("far"))
    older = put(copied.at(here_at), Path("older"))
    with pytest.raises(RunDirectoryError, match="has come further than older"):
        resume(older, out=f"file://{Path.cwd()}/far", place=LOCAL)
    assert contents(Path("far")) == state


@pytest.mark.parametrize(("there_at", "here_at"), [(1, 2), (2, 5), (5, None)])
def test_an_older_copy_is_brought_to_where_the_run_is_here(there_at: int, here_at: int | None, copied: Copied):
    put(copied.at(there_at), Path("far"))
    here = put(copied.states[-1] if here_at is None else copied.at(here_at), Path("here"))
    Mirror.go_on(here, Remote(f"file://{Path.cwd()}/far")).sync()
    assert contents(Path("far")) == contents(here)


@pytest.mark.parametrize(
    ("run_dir", "out", "message"),
    [
        ("memory://run", "memory://other", "a run at a URL goes on there"),
        ("here", "other", "a run in a local folder goes on there"),
        ("memory://none", None, "memory://none is not a run directory: it has no config.yaml"),
    ],
)
def test_places_that_do_not_go_together_are_refused(run_dir: str, out: str | None, message: str):
    Path("here").mkdir()
    Path("here/config.yaml").write_text("{}")
    with pytest.raises(UserError, match=message):
        resume(run_dir, out=out, place=LOCAL)
    assert not Path("runs").exists()


def test_a_run_at_a_url_goes_on_in_the_folder_that_is_named(whole: Run, tmp_path: Path):
    with pytest.raises(KeyboardInterrupt):
        go("spy://run", watcher=Recorder(KeyboardInterrupt(), after=3))
    done = resume("spy://run", out=tmp_path / "mine", place=LOCAL)
    assert done.path == tmp_path / "mine"
    assert same_bits(done, whole)
    assert there() == contents(done.path)
    with pytest.raises(RunDirectoryError, match=r"cannot make the folder .*mine"):
        resume("spy://run", out=tmp_path / "mine", place=LOCAL)


def test_a_fetch_that_fails_leaves_no_folder(whole: Run):
    copy_to("spy://run", whole)

    def get_file(*arguments: Any, **others: Any) -> None:
        raise OSError("cut off")

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(SpyFileSystem, "get_file", get_file)
        with pytest.raises(RemoteError, match="cut off"):
            Mirror.fetch(Remote("spy://run"), Path("fetched"))
    assert not Path("fetched").exists()


def test_what_is_not_of_a_run_is_not_fetched(whole: Run, tmp_path: Path):
    odd = {
        "evil.py",
        "deep/config.yaml",
        ".config.yaml.tmp",
        "checkpoints/objects/name",
        "checkpoints/round-1.ckpt.tmp",
    }
    put({**contents(whole.path), **dict.fromkeys(odd, b"")}, tmp_path / "far")
    with at_hand(f"file://{tmp_path}/far") as fetched:
        assert contents(fetched) == contents(whole.path)


def test_load_keeps_the_tables_for_as_long_as_the_run_is_used(whole: Run):
    copy_to("memory://run", whole)
    run = fedknow_ray.load("memory://run")
    folder = run.path
    assert run.rounds.equals(whole.rounds)
    assert checkpoints_in(folder / "checkpoints") == [], "they are not needed, and large"
    del run
    gc.collect()
    assert not folder.parent.exists()
    with pytest.raises(RunDirectoryError, match="memory://none is not a run directory"):
        fedknow_ray.load("memory://none")


def test_the_python_interface_copies_the_report_too(whole: Run, monkeypatch: pytest.MonkeyPatch):
    here = replace(whole, path=put(contents(whole.path), Path("here")))
    monkeypatch.setattr("fedknow_ray.report.page.render_report", lambda run: "page")
    monkeypatch.setattr(run, "execute", lambda *arguments, **others: here)
    fedknow_ray.run("small.yaml", out="spy://run")
    assert there() == {"report.html": b"page"}


def test_a_file_is_published_where_its_run_is(tmp_path: Path):
    page = tmp_path / "report.html"
    page.write_text("page")
    assert publish(page, None) == publish(page, tmp_path) == str(page)
    assert publish(page, "spy://a:b@host/run/") == "spy://***@host/run/report.html"
    assert list(SpyFileSystem.files()) == ["/a:b@host/run/report.html"]


def test_a_local_folder_is_named_by_the_last_part_of_a_url():
    urls = ["s3://b/runs/one/", "memory://.hidden", "memory://a/..", "spy://a:b@h"]
    assert list(map(last_part, urls)) == ["one", "hidden", "run", "____h"]
