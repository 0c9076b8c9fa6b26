"""Killing what a run is made of costs time and no bit: a handful of kills here; `chaos.py` itself makes any number."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from chaos_tally import Blow, rounds_repeated, spread

CHAOS = Path(__file__).with_name("chaos.py")
SLOW = pytest.mark.slow


def strike(folder: Path, kinds: str, *options: str, timeout_s: float = 600.0) -> dict[str, Any]:
    command = [sys.executable, str(CHAOS), "--kind", kinds, "--out", str(folder), "--json", *options]
    # the folder of a run that fails is named in its output
    ended = subprocess.run(command, capture_output=True, text=True, timeout=timeout_s)
    assert ended.returncode == 0, ended.stdout[-3000:] + ended.stderr[-3000:]
    found: dict[str, Any] = json.loads(ended.stdout.splitlines()[-1])["kinds"]
    return found


def assert_nothing_lost(found: dict[str, Any], kills: int) -> None:
    for kind, tally in found.items():
        assert tally["kills"] >= kills, kind
        assert (tally["equal"], tally["left_behind"], tally["faults"]) == (tally["runs"], [], []), kind
        assert tally["most_rounds_repeated"] <= 1, kind


@pytest.mark.ray
@pytest.mark.parametrize("kinds", ["client_actor,server_actor,driver", pytest.param("worker_node", marks=SLOW)])
def test_a_kill_changes_no_bit_and_leaves_nothing_behind(kinds: str, tmp_path: Path) -> None:
    """Client actor, server actor and driver in one run, which is then resumed in one process; a node in another."""
    found = strike(tmp_path, kinds, "--kills", "1", "--small")
    assert_nothing_lost(found, 1)
    if "driver" in found:
        assert (found["driver"]["resumed"], found["driver"]["kept"]) == (1, 1)


@pytest.mark.ray
@pytest.mark.slow
@pytest.mark.parametrize(
    ("kinds", "kills"),
    [("client_actor,server_actor,driver", 20), ("worker_node", 20), ("raylet_hang", 5), ("head", 5)],
)
def test_twenty_kills_of_each_kind_change_no_bit(kinds: str, kills: int, tmp_path: Path) -> None:
    assert_nothing_lost(strike(tmp_path, kinds, "--kills", str(kills), "--seed", "7", timeout_s=7200.0), kills)


def test_the_seconds_of_a_kill_are_read_off_what_its_driver_said() -> None:
    """Killed at 10: noticed at 11, good at 15, and again at 17; the visit at 16 was another client's."""
    lines = [(11.0, "noticed"), (15.0, "made good"), (16.0, "visit"), (17.0, "made good"), (18.5, "visit")]
    blow = Blow("client_actor", 10.0, [{"at_s": at_s, "what": what} for at_s, what in lines])
    assert blow.seconds_until("noticed") == 1.0
    assert blow.seconds_until("made good", last=True) == 7.0
    assert blow.seconds_until("visit", behind="made good") == 8.5
    assert Blow("client_actor", 10.0).seconds_until("visit", behind="made good") is None


def test_rounds_are_repeated_of_which_a_visit_is_made_twice() -> None:
    """Client 1 has made its visit of (0, 2) when the driver is killed at 5, and makes it again; client 2 had not."""
    made = [(1.0, [1, 0, 1]), (2.0, [1, 0, 2]), (7.0, [1, 0, 2]), (8.0, [2, 0, 2]), (9.0, [1, 0, 3])]
    lines = [{"at_s": at_s, "what": "visit", "of": ["train", *of]} for at_s, of in made]
    assert rounds_repeated(lines, 5.0) == 1
    assert rounds_repeated(lines, 1.5) == 0


def test_a_spread_has_the_middle_and_the_most() -> None:
    assert spread([3.0, 1.0, 2.0]) == {"count": 3, "median": 2.0, "max": 3.0}
