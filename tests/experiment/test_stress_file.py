"""Stress files: what they may say, and that all of their faults are told at once."""

from __future__ import annotations

from pathlib import Path

import pytest

from fedknow_ray.errors import ConfigError, UnknownNameError
from fedknow_ray.experiment.stress_file import read_stresses, run_share

CONFIGS = Path(__file__).parents[2] / "configs"
SHIPPED = {
    "bandwidth_collapse", "churn", "flapping_link", "memory_squeeze", "power_loss", "slower_half", "straggler_tail",
}  # fmt: skip


def write(folder: Path, **texts: str) -> Path:
    for name, text in texts.items():
        (folder / f"{name}.yaml").write_text(text)
    return folder


def head(differs_in: str = "time_ratio") -> str:
    return f"title: T\ndoes: D.\ndiffers_in: {differs_in}\n"


def test_the_shipped_stresses_are_those_of_the_repositorys_folder():
    assert read_stresses() == read_stresses(folder=CONFIGS / "stress")
    assert set(read_stresses()) == SHIPPED


def test_only_some_are_read_in_the_order_of_their_names():
    assert list(read_stresses(["churn", "bandwidth_collapse"])) == ["churn", "bandwidth_collapse"]


def test_an_unknown_name_is_refused_with_the_nearest_one():
    with pytest.raises(UnknownNameError, match=r"unknown stress 'chrun'; did you mean 'churn'\?"):
        read_stresses(["chrun"])


@pytest.mark.parametrize(
    ("value", "share"), [("0.3 run", 0.3), ("2 run", 2.0), ("run", None), ("3 s", None), (0.3, None), (None, None)]
)
def test_a_share_of_the_run_is_a_text(value, share):
    assert run_share(value) == share


def test_the_faults_of_all_files_are_told_at_once_each_with_its_line_and_key(tmp_path: Path):
    folder = write(
        tmp_path,
        a="title: T\ndiffers_in: accuracy\nset: {seed: 2}\nwhy: no\n",
        b=f"{head()}clients:\n  share: 0\n  speed: fast\n",
        c="- churn\n",
        d="title: [\n",
    )
    with pytest.raises(ConfigError) as caught:
        read_stresses(folder=folder)
    told = [(fault.where.removeprefix(f"{folder}/"), fault.key) for fault in caught.value.faults]
    assert sorted(told) == [
        ("a.yaml:1", "does"),
        ("a.yaml:2", "differs_in"),
        ("a.yaml:4", "why"),
        ("b.yaml:5", "clients.share"),
        ("b.yaml:6", "clients.speed"),
        ("c.yaml:1", ""),
        ("d.yaml:2", ""),
    ]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "does nothing; give set, add or clients"),
        ("clients: {share: 0.5}", "changes nothing; give speed, memory_of_peak or link"),
        ("clients: {share: 0.5, speed: 0.5, repeat_every: 0.1 run}", "repeat_every goes with link"),
        ("clients: {share: 0.5, link: [{at: 0.1 run, factor: 1}]}", "is at 0.1 run and must be at 0 run"),
        ("clients: {share: 0.5, link: [{at: 0 run, factor: 0}]}", "the last factor of link is 0"),
        ("clients: {share: 0.5, link: [{at: 3 s, factor: 1}]}", "such as \"0.3 run\", got '3 s'"),
        (
            "clients: {share: 0.5, link: [{at: 0 run, factor: 1}, {at: 0 run, factor: 2}]}",
            "must come in order of time, each once, got 0, 0 run",
        ),
        (
            "clients: {share: 0.5, repeat_every: 0.1 run, link: [{at: 0 run, factor: 1}, {at: 0.1 run, factor: 2}]}",
            "must come before repeat_every, 0.1 run",
        ),
    ],
)
def test_what_does_not_go_together_is_refused(tmp_path: Path, text: str, message: str):
    with pytest.raises(ConfigError) as caught:
        read_stresses(folder=write(tmp_path, bad=head() + text))
    assert message in str(caught.value)
