"""What a submitted job does on the cluster: makes the run, and hands its directory back through the job's log.

    python -m fedknow_ray.experiment.job MARK CONFIG [--insecure]

The run is a process of its own, so that what it has recorded comes back whatever becomes of it. Its exit status is the
job's. The directory is a temporary one on the node where the job runs, and goes when it has been handed back.
"""

from __future__ import annotations

import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from types import FrameType
from typing import IO

from fedknow_ray.results.log_lines import MOST_PACKED_BYTES, to_lines
from fedknow_ray.results.packing import pack
from fedknow_ray.units import format_bytes

#: They are for going on and forking; without them a run is whole.
LEFT_BEHIND = ("checkpoints",)


def main(arguments: Sequence[str]) -> int:
    """Make a run and hand it back; returns its exit status, and 1 if a run that went well could not be handed back."""
    mark, config, *options = arguments
    # stopping a job signals every process of it: the run closes its tables, and what it has recorded still goes back
    signal.signal(signal.SIGTERM, _wait_for_the_run)
    folder = Path(tempfile.mkdtemp(prefix="fkr-job-"))
    command = ["-m", "fedknow_ray", "run", config, "--address", "auto", "--out", str(folder / "run"), *options]
    status = subprocess.run([sys.executable, *command], check=False).returncode
    # as a shell tells of a signal: 137 is one that the kernel killed for want of memory
    status = status if status >= 0 else 128 - status
    try:
        hand_back(folder / "run", mark, sys.stdout)
    except OSError as error:
        print(f"error: the run stays in {folder / 'run'}: it cannot be packed: {error}", file=sys.stderr)
        return status or 1
    shutil.rmtree(folder, ignore_errors=True)
    return status


def hand_back(run: Path, mark: str, log: IO[str], *, most_bytes: int = MOST_PACKED_BYTES) -> None:
    """Write a run directory into the log, without its checkpoints where it is too large with them.

    Nothing is written of a run that has not got as far as a directory.

    Raises:
        OSError: if it cannot be packed, or is too large.
    """
    if not run.is_dir():
        return
    with tempfile.TemporaryFile(dir=run.parent) as packed:
        pack(run, packed)
        if packed.tell() > most_bytes:
            told = f"the run takes {format_bytes(packed.tell())} of {format_bytes(most_bytes)} with its checkpoints"
            print(f"warning: {told}, and comes without them", file=sys.stderr)
            packed.seek(0)
            packed.truncate()
            pack(run, packed, without=LEFT_BEHIND)
        size_bytes = packed.tell()
        if size_bytes > most_bytes:
            raise OSError(f"packed it takes {format_bytes(size_bytes)} of {format_bytes(most_bytes)}")
        packed.seek(0)
        for line in to_lines(packed, size_bytes, mark):
            print(line, file=log)
        log.flush()


def _wait_for_the_run(signum: int, frame: FrameType | None) -> None:
    print("stopping: the run closes its tables", file=sys.stderr)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
