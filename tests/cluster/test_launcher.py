"""The launcher's file: against Ray's own schema and what that lacks, and its start commands run with a false `ray`."""

from __future__ import annotations

import importlib.util
import json
import os
import secrets
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml
from fleets import PLAN, SOURCE

from fedknow_ray.cluster.plan import ClusterPlan
from fedknow_ray.cluster.render import Places, render
from fedknow_ray.errors import UserError


def rendered(plan: ClusterPlan = PLAN, **places: Any) -> Any:
    return yaml.safe_load(render("launcher", plan, SOURCE, Places(**places)))


def check(config: Any) -> None:
    """Hold a file to Ray's schema, and to what Ray would find out only on the machines."""
    found = importlib.util.find_spec("ray")
    assert found is not None and found.origin is not None
    jsonschema.validate(config, json.loads((Path(found.origin).parent / "autoscaler" / "ray-schema.json").read_text()))
    provider = config["provider"]
    if provider["type"] == "local":
        # the provider refuses kinds of node, and takes what is too many as a mistake
        assert "available_node_types" not in config and "head_node_type" not in config
        assert config["max_workers"] == len(provider["worker_ips"])
        assert provider["head_ip"] not in provider["worker_ips"]
    else:
        types = config["available_node_types"]
        assert config["head_node_type"] in types
        for kind in types.values():
            assert kind.get("min_workers", 0) <= kind.get("max_workers", config["max_workers"])
            assert all(type(amount) is int for amount in kind["resources"].values())


def test_the_file_is_as_rays_schema_has_it():
    check(rendered())
    check(rendered(hosts=["10.0.0.1", "10.0.0.2", "10.0.0.3", "10.0.0.4"], user="lab"))


def test_the_check_catches_a_typing_error_and_a_worker_too_many():
    config = rendered()
    with pytest.raises(jsonschema.ValidationError, match="'providr' was unexpected"):
        check({**config, "providr": {}})
    with pytest.raises(AssertionError):
        check({**config, "max_workers": 4})


def test_no_command_stops_a_ray_that_it_did_not_start():
    config = rendered()
    for command in config["head_start_ray_commands"] + config["worker_start_ray_commands"]:
        assert "ray stop" not in command
        assert "pkill" not in command


def test_hosts_must_be_one_a_node():
    message = r"--hosts gives 2 addresses, and there are 4 nodes: the head, nano, nano, Pi_4\.4GB"
    with pytest.raises(UserError, match=message):
        rendered(hosts=["10.0.0.1", "10.0.0.2"])


RAY = """\
#!/bin/sh
printf '%s\\n' "$@" > "$HOME/told.$$"
env | grep '^RAY_' >> "$HOME/told.$$"
echo "Ray runtime started"
sleep 60 &
trap 'kill $!' TERM
wait
"""


@dataclass(frozen=True)
class Machine:
    """A home with a false `ray`, and an address; the plan's name is its own, as folders in /tmp have it."""

    home: Path
    plan: ClusterPlan

    def run(self, command: str, ips: str) -> subprocess.CompletedProcess[str]:
        self.put("hostname", f"#!/bin/sh\necho {ips}\n")
        environment = {"HOME": str(self.home), "PATH": os.environ["PATH"]}
        # as the launcher does it (ray/autoscaler/_private/command_runner.py)
        wrapped = f"export RAY_HEAD_IP=192.0.2.10; ({command})"
        return subprocess.run(["bash", "-c", wrapped], env=environment, capture_output=True, text=True, timeout=60)

    def put(self, name: str, text: str) -> None:
        path = self.home / "fedknow-ray" / ".venv" / "bin" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        path.chmod(0o755)

    @property
    def pid_file(self) -> Path:
        return self.home / ".fedknow-ray" / self.plan.name / "pid"

    def started(self) -> tuple[int, list[str]]:
        pid = int(self.pid_file.read_text())
        return pid, (self.home / f"told.{pid}").read_text().splitlines()


@pytest.fixture
def machine(tmp_path: Path) -> Iterator[Machine]:
    machine = Machine(tmp_path, ClusterPlan(f"t{secrets.token_hex(4)}", PLAN.groups))
    machine.put("ray", RAY)
    yield machine
    for told in tmp_path.glob("told.*"):
        with suppress(ProcessLookupError):
            os.kill(int(told.suffix[1:]), signal.SIGTERM)
    shutil.rmtree(f"/tmp/fkr-{os.getuid()}-{machine.plan.name}")


def test_a_worker_finds_out_what_it_is(machine: Machine):
    """By any of its addresses; the second machine of the nanos here."""
    (command,) = rendered(machine.plan)["worker_start_ray_commands"]
    done = machine.run(command, "172.17.0.1 192.0.2.12")
    assert done.returncode == 0, done.stderr
    _, told = machine.started()
    assert "--address=192.0.2.10:6379" in told
    assert "--node-ip-address=192.0.2.12" in told
    assert json.loads(next(word for word in told if word.startswith("--resources=")).partition("=")[2]) == {
        "device:nano": 3
    }
    assert "--labels=fedknow.io/device=nano" in told
    assert "RAY_AUTH_MODE=token" in told
    assert f"RAY_AUTH_TOKEN_PATH={machine.home}/.fedknow-ray/{machine.plan.name}.token" in told


def test_a_machine_that_nothing_is_said_of_is_refused(machine: Machine):
    (command,) = rendered(machine.plan)["worker_start_ray_commands"]
    done = machine.run(command, "172.17.0.1")
    assert done.returncode == 1
    assert "no kind of device is given for this machine (172.17.0.1)" in done.stderr
    assert not machine.pid_file.exists()


def test_starting_again_ends_what_was_started_before_and_nothing_else(machine: Machine):
    """Another Ray of the user goes on, and so does a process that has got the number of one that is gone."""
    (command,) = rendered(machine.plan)["head_start_ray_commands"]
    with subprocess.Popen(["sleep", "60"]) as other:
        machine.pid_file.parent.mkdir(parents=True)
        machine.pid_file.write_text(str(other.pid))
        assert machine.run(command, "192.0.2.10").returncode == 0
        first, told = machine.started()
        assert "--head" in told and "--num-cpus=0" in told
        assert machine.run(command, "192.0.2.10").returncode == 0
        second, _ = machine.started()
        assert second != first
        wait_until_gone(first)
        assert other.poll() is None
        os.kill(second, 0)
        other.kill()


def wait_until_gone(pid: int) -> None:
    for _ in range(100):
        if not Path(f"/proc/{pid}").exists() or "Z" in Path(f"/proc/{pid}/stat").read_text().split()[2]:
            return
        time.sleep(0.1)
    pytest.fail(f"process {pid} goes on")


def test_a_ray_that_does_not_start_is_told(machine: Machine):
    machine.put("ray", "#!/bin/sh\necho broken >&2\nexit 3\n")
    (command,) = rendered(machine.plan)["head_start_ray_commands"]
    done = machine.run(command.replace("seq 240", "seq 3"), "192.0.2.10")
    assert done.returncode == 1
    assert "broken" in done.stderr
