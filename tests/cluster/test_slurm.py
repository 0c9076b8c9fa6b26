"""The Slurm script, run with false `srun`, `ray` and `fedknow-ray`: who is started where, and that all of it ends."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path

import pytest
from fleets import PLAN, SOURCE

from fedknow_ray.cluster.render import render

JOB = 77
PORT = 20000 + JOB
#: Runs what it is given here, as if on its node: the job's folder is another one for each.
SRUN = """\
#!/usr/bin/env bash
node=all
while [[ $1 == --* ]]; do
  case $1 in --nodelist=*) node=${1#*=} ;; esac
  shift
done
args=()
for arg in "$@"; do
  [ "$arg" = /tmp/fkr-77 ] && arg=$TOLD/folder-$node
  args+=("$arg")
done
export NODE=$node
exec "${args[@]}"
"""
RAY = """\
#!/usr/bin/env bash
printf '%s\\n' "$@" > "$TOLD/ray-$NODE"
sleep 60 &
trap 'kill $!; echo ended >> "$TOLD/ray-$NODE"; exit 0' TERM
wait
"""
FEDKNOW = """\
#!/usr/bin/env bash
echo "$@" >> "$TOLD/fedknow"
if [ "$1" = doctor ]; then
  # as the real one does: until all nodes are there
  for n in 1 2 3 4; do until [ -s "$TOLD/ray-n$n" ]; do sleep 0.1; done; done
  exit 0
fi
env | grep '^RAY_' > "$TOLD/environment"
if [ -n "$SLOW" ]; then
  sleep 60 &
  trap 'kill $!; echo interrupted >> "$TOLD/fedknow"; exit 130' TERM
  wait
fi
exit 4
"""
HOSTNAME = "#!/bin/sh\necho 10.1.2.3 172.17.0.1\n"
SCONTROL = "#!/bin/sh\nprintf 'n1\\nn2\\nn3\\nn4\\n'\n"


@dataclass(frozen=True)
class Job:
    folder: Path

    def start(self, *arguments: str, slow: bool = False) -> subprocess.Popen[str]:
        programs = self.folder / ".venv" / "bin"
        programs.mkdir(parents=True)
        for name, text in {
            "srun": SRUN, "ray": RAY, "fedknow-ray": FEDKNOW, "hostname": HOSTNAME, "scontrol": SCONTROL,
        }.items():  # fmt: skip
            (programs / name).write_text(text)
            (programs / name).chmod(0o755)
        (programs / "activate").write_text(f"export PATH={programs}:$PATH\n")
        (self.folder / "slurm.sh").write_text(render("slurm", PLAN, SOURCE))
        environment = {name: value for name, value in os.environ.items() if not name.startswith(("RAY_", "FEDKNOW_"))}
        environment |= {
            "SLURM_SUBMIT_DIR": str(self.folder), "SLURM_JOB_ID": str(JOB), "SLURM_JOB_NODELIST": "n[1-4]",
            "SLURM_JOB_NUM_NODES": "4", "TOLD": str(self.folder), "SLOW": "1" if slow else "",
        }  # fmt: skip
        return subprocess.Popen(
            ["bash", "slurm.sh", *arguments], cwd=self.folder, env=environment, text=True,
            stdout=subprocess.DEVNULL, stderr=subprocess.PIPE,
        )  # fmt: skip

    def ray(self, node: str) -> list[str]:
        return (self.folder / f"ray-{node}").read_text().splitlines()

    def commands(self) -> list[str]:
        return (self.folder / "fedknow").read_text().splitlines()

    def all_ended(self) -> bool:
        return all(self.ray(node)[-1] == "ended" for node in ("n1", "n2", "n3", "n4"))


@pytest.fixture
def job(tmp_path: Path) -> Job:
    return Job(tmp_path)


def test_each_node_gets_its_kind_and_the_run_its_cluster(job: Job) -> None:
    """The status is the run's own."""
    done = job.start()
    _, errors = done.communicate(timeout=60)
    assert done.returncode == 4, errors
    assert "--head" in job.ray("n1") and f"--port={PORT}" in job.ray("n1") and "--num-cpus=0" in job.ray("n1")
    for node, resources in (("n2", {"device:nano": 3}), ("n3", {"device:nano": 3}), ("n4", {"device:Pi_4.4GB": 1})):
        options = job.ray(node)
        assert f"--address=10.1.2.3:{PORT}" in options
        (given,) = (option for option in options if option.startswith("--resources="))
        assert json.loads(given.partition("=")[2]) == resources
    assert "--labels=fedknow.io/device=Pi_4.4GB" in job.ray("n4")
    at = f"--address 10.1.2.3:{PORT}"
    assert job.commands() == [
        f"doctor configs/small.yaml {at} --wait 300",
        f"run configs/small.yaml --out runs/small-{JOB} {at} --quiet --json",
    ]
    assert job.all_ended()
    environment = (job.folder / "environment").read_text()
    assert "RAY_AUTH_MODE=token" in environment
    assert "RAY_AUTH_TOKEN=" in environment and "RAY_AUTH_TOKEN_PATH" not in environment


def test_another_command_runs_in_its_place(job: Job) -> None:
    done = job.start("fedknow-ray", "resume", "runs/small-3")
    done.communicate(timeout=60)
    assert job.commands()[1] == f"resume runs/small-3 --address 10.1.2.3:{PORT} --quiet --json"


def test_before_the_time_is_up_the_run_is_interrupted_and_then_the_nodes_are(job: Job) -> None:
    """Slurm tells the script alone (--signal=B:TERM), whose run has something to save."""
    running = job.start(slow=True)
    limit = time.monotonic() + 60
    while not (job.folder / "environment").exists():
        assert time.monotonic() < limit and running.poll() is None
        time.sleep(0.1)
    running.send_signal(signal.SIGTERM)
    running.communicate(timeout=60)
    assert running.returncode == 143
    assert job.commands()[-1] == "interrupted"
    assert job.all_ended()


def test_the_job_asks_for_what_the_largest_node_needs() -> None:
    """4 nodes; the head's driver and store need 2,704 MiB, the nanos' actors with theirs 2,880."""
    text = render("slurm", PLAN, SOURCE)
    for line in ("--nodes=4", "--cpus-per-task=2", "--mem=2880M", "--signal=B:TERM@120"):
        assert f"#SBATCH {line}\n" in text
