"""`cluster render` and `doctor` as a person calls them: where the text goes, statuses, and faults in one message."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml
from click.testing import CliRunner, Result

from fedknow_ray.cli.app import app
from fedknow_ray.errors import UserError
from fedknow_ray.experiment.checkup import Check

TINY = """\
scenario: {dataset: digits, tasks: 1, classes_per_task: 2, clients: 3}
method: {name: fedavg}
fleet: [{device: jetson-nano, count: 2}, {device: jetson-tx2, count: 1}]
placement: {memory_per_actor: 1GiB}
"""


@pytest.fixture
def config(tmp_path: Path) -> Path:
    path = tmp_path / "my tiny.yaml"
    path.write_text(TINY)
    return path


def call(*arguments: object) -> Result:
    return CliRunner().invoke(app, [*map(str, arguments)], catch_exceptions=False)


def render(config: Path, *arguments: object) -> Result:
    return call("cluster", "render", "--fleet", config, *arguments)


def test_render_prints_the_file_or_writes_it(config: Path, tmp_path: Path) -> None:
    printed = render(config, "--kind", "launcher")
    assert yaml.safe_load(printed.output)["cluster_name"] == "my-tiny"
    assert f"# Made by: fedknow-ray cluster render --fleet '{config}' --kind launcher\n" in printed.output
    written = render(config, "--kind", "launcher", "--out", tmp_path / "out.yaml")
    assert written.output == ""
    assert (tmp_path / "out.yaml").read_text() == printed.output


def test_render_tells_the_nodes_as_json(config: Path) -> None:
    told = json.loads(render(config, "--kind", "local", "--json", "--clients-per-node", 1).output)
    assert [(group["device"], group["nodes"], group["clients"]) for group in told["groups"]] == [
        ("jetson-nano", 2, 1),
        ("jetson-tx2", 1, 1),
    ]
    assert told["groups"][0]["resources"] == {"device:jetson-nano": 1}
    assert told["text"].startswith("#!/usr/bin/env bash")
    assert (told["kind"], told["name"], told["file"]) == ("local", "my-tiny", None)


def test_a_path_with_a_blank_is_quoted_in_the_scripts(config: Path) -> None:
    for kind in ("local", "slurm"):
        assert f"fedknow-ray run '{config}'" in render(config, "--kind", kind).output


def test_what_is_given_for_another_kind_or_cannot_be_written_is_refused(config: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="--image goes with --kind kuberay, and not with slurm"):
        render(config, "--kind", "slurm", "--image", "x")
    with pytest.raises(UserError, match="cannot write"):
        render(config, "--kind", "slurm", "--out", tmp_path / "no" / "where")


@pytest.fixture
def found(monkeypatch: pytest.MonkeyPatch) -> list[Check]:
    checks = [Check("nodes", "ok", "2 answered")]
    monkeypatch.setattr("fedknow_ray.experiment.doctor.examine", lambda *args, **kwargs: checks)
    return checks


def test_the_doctor_lists_what_it_found_and_what_to_do(found: list[Check], config: Path) -> None:
    found.append(Check("fleet nano", "fail", "none", "add one", of_fleet=True))
    done = call("doctor", config)
    assert done.output == "ok    nodes       2 answered\nfail  fleet nano  none\n                  -> add one\n"
    assert done.exit_code == 3


def test_the_doctors_json_is_one_object_and_its_status_the_same(found: list[Check]) -> None:
    assert call("doctor").exit_code == 0
    found.append(Check("version of ray", "fail", "another", "install it"))
    done = call("doctor", "--address", "a:1", "--json")
    assert done.exit_code == 2
    told = json.loads(done.output)
    assert (told["status"], told["exit_status"]) == ("fail", 2)
    assert told["checks"][0] == {"name": "nodes", "status": "ok", "found": "2 answered", "todo": "", "of_fleet": False}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [(["--insecure"], "--insecure goes with --address"), (["--set", "seed=1"], "--set goes with a config")],
)
def test_the_doctor_refuses_what_does_not_go_together(arguments: list[str], message: str) -> None:
    with pytest.raises(UserError, match=message):
        call("doctor", *arguments)
