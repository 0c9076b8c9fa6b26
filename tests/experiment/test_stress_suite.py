"""The suite from a config to its card: real small runs in this process, resumed, refused, and broken."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from inline import InlineWorkers
from small import write_config

from fedknow_ray.errors import RunDirectoryError, UserError, WorkerError
from fedknow_ray.experiment.stress import CARD_FILE, Card, run_suite
from fedknow_ray.experiment.workers import Failure, RunOrder, make_run

ONLY = ["straggler_tail", "memory_squeeze"]


class Recorder:
    """A watcher that remembers."""

    def __init__(self) -> None:
        self.runs = self.made = 0
        self.names: list[str] = []
        self.failed: list[str] = []

    def planned(self, runs: int, made: int) -> None:
        self.runs, self.made = runs, made

    def started(self, name: str) -> None:
        self.names.append(name)

    def ended(self, name: str, failure: Failure | None) -> None:
        if failure is not None:
            self.failed.append(name)


def suite(
    folder: Path, workers: InlineWorkers, only: list[str] | None = None, *overrides: str
) -> tuple[Card, Recorder]:
    watcher = Recorder()
    path = write_config(folder)
    card = run_suite(path, folder / "out", watcher, overrides=overrides, only=only or ONLY, workers=workers)
    return card, watcher


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Card, Recorder]:
    folder = tmp_path_factory.mktemp("suite")
    return folder, *suite(folder, InlineWorkers())


def test_the_calm_run_and_each_stress_are_made_once(made: tuple[Path, Card, Recorder]):
    _, card, watcher = made
    assert (watcher.runs, watcher.made, watcher.names) == (3, 0, ["calm", *ONLY])
    assert [row.stress for row in card.rows] == ONLY
    assert not card.failures


def test_the_card_says_what_was_kept(made: tuple[Path, Card, Recorder]):
    _, card, _ = made
    slow, squeezed = card.rows
    assert slow.feels and slow.accuracy_kept == slow.accuracy_kept_global == 1.0
    assert slow.time_ratio is not None and slow.time_ratio > 1
    assert (slow.lost_visits, slow.wasted_bytes) == (0, 0)
    assert squeezed.feels and set(squeezed.lost_by or {}) == {"out_of_memory"}
    assert squeezed.wasted_bytes is not None and squeezed.wasted_bytes > 0


def test_the_card_is_written(made: tuple[Path, Card, Recorder]):
    folder, card, _ = made
    assert json.loads((folder / "out" / CARD_FILE).read_text()) == card.plain()


def test_the_same_call_again_makes_no_run_and_another_stress_one(made: tuple[Path, Card, Recorder]):
    folder, card, _ = made
    again, watcher = suite(folder, InlineWorkers())
    assert (watcher.made, watcher.names) == (3, [])
    assert again.plain() == card.plain()
    _, watcher = suite(folder, InlineWorkers(), ["slower_half"])
    assert (watcher.made, watcher.names) == (1, ["slower_half"])


def test_another_config_in_the_same_folder_is_refused_with_what_differs(made: tuple[Path, Card, Recorder]):
    folder, _, _ = made
    with pytest.raises(RunDirectoryError, match="another config: seed is 1 there, 2 here"):
        suite(folder, InlineWorkers(), ONLY, "seed=2")


def test_a_folder_of_something_else_is_refused(tmp_path: Path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "thesis.tex").touch()
    with pytest.raises(RunDirectoryError, match="is no stress suite"):
        suite(tmp_path, InlineWorkers())


def test_a_measured_clock_is_refused(tmp_path: Path):
    with pytest.raises(UserError, match="give --set clock=virtual"):
        suite(tmp_path, InlineWorkers(), ONLY, "clock=measured", "host_device=jetson-nano")
    assert not (tmp_path / "out").exists()


def test_a_stressed_run_that_fails_has_a_row_and_the_others_go_on(tmp_path: Path):
    failure = Failure("it is late\nnobody comes")

    def make(order: RunOrder) -> Failure | None:
        return failure if order.out.endswith("straggler_tail") else make_run(order)

    card, watcher = suite(tmp_path, InlineWorkers(make))
    assert (watcher.failed, card.failures) == (["straggler_tail"], {"straggler_tail": failure})
    assert [row.failure for row in card.rows] == ["nobody comes", None]


@pytest.mark.parametrize(("is_ours", "kind"), [(True, WorkerError), (False, UserError)])
def test_without_the_calm_run_there_is_no_card(tmp_path: Path, is_ours: bool, kind: type[Exception]):
    with pytest.raises(kind, match=r"the calm run failed.*\nwhy"):
        suite(tmp_path, InlineWorkers(lambda order: Failure("why", is_ours)))
    assert not (tmp_path / "out" / CARD_FILE).exists()
