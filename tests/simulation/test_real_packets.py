"""Predicted transfer seconds against real packets: a payload over TCP, through a token bucket of the kernel.

Two network namespaces of this test's own, joined by a veth pair; nothing leaves them, and both are taken down at the
end. `tc tbf` lets so many bytes a second through, Ethernet's header counted, as `Framing` does.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from hashlib import sha256
from pathlib import Path

import numpy as np
import pytest

from fedknow_ray.simulation.framing import Framing
from fedknow_ray.simulation.link import Direction, Link
from fedknow_ray.simulation.network import Network, StreamPosition
from fedknow_ray.transport.payload import encode

pytestmark = pytest.mark.slow

ADDRESSES = ("192.0.2.1", "192.0.2.2")  # RFC 5737: for documentation, so nobody's
BURST_BYTES = 10_000
"""What the bucket lets through at once: 0.1 % of the smallest payload here, and more than one packet."""

RECEIVE = """
import socket, sys, time
from hashlib import sha256
server = socket.create_server(("192.0.2.2", 5001))
print("listening", flush=True)
connection, _ = server.accept()
digest, left = sha256(), int(sys.argv[1])
while left:
    chunk = connection.recv(65536)
    if not chunk:
        sys.exit(f"{left} bytes never came")
    digest.update(chunk)
    left -= len(chunk)
print(time.monotonic(), digest.hexdigest())
"""
SEND = """
import socket, sys, time
from pathlib import Path
payload = Path(sys.argv[1]).read_bytes()
with socket.create_connection(("192.0.2.2", 5001), timeout=60) as connection:
    print(time.monotonic())
    connection.sendall(payload)
"""


def run(*command: str) -> None:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        pytest.skip(f"this machine cannot make the link: {' '.join(command)}: {done.stderr.strip()}")


@pytest.fixture
def namespaces() -> Iterator[tuple[str, str]]:
    """Two namespaces, sender's and receiver's, with a veth pair between them."""
    if os.name != "posix" or os.geteuid() != 0:
        pytest.skip("network namespaces need root")
    missing = [program for program in ("ip", "tc") if shutil.which(program) is None]
    if missing:
        pytest.skip(f"{' and '.join(missing)} not found; install iproute2")
    names = (f"fedknow-a-{os.getpid()}", f"fedknow-b-{os.getpid()}")
    made = []
    try:
        for name in names:
            run("ip", "netns", "add", name)
            made.append(name)
        run("ip", "-n", names[0], "link", "add", "veth0", "type", "veth", "peer", "name", "veth0", "netns", names[1])
        for name, address in zip(names, ADDRESSES, strict=True):
            run("ip", "-n", name, "addr", "add", f"{address}/30", "dev", "veth0")
            run("ip", "-n", name, "link", "set", "veth0", "up")
        yield names
    finally:
        for name in made:
            subprocess.run(["ip", "netns", "del", name], check=True)


def transfer_s(namespaces: tuple[str, str], payload: Path) -> float:
    """Send a file over TCP and return the seconds from the first byte's departure to the last one's arrival.

    Namespaces of one kernel share its monotonic clock.
    """
    sender, receiver = (["ip", "netns", "exec", name, sys.executable, "-c"] for name in namespaces)
    size = str(payload.stat().st_size)
    with subprocess.Popen([*receiver, RECEIVE, size], stdout=subprocess.PIPE, text=True) as listening:
        try:
            assert listening.stdout is not None
            assert listening.stdout.readline() == "listening\n"
            sending = [*sender, SEND, str(payload)]
            sent = subprocess.run(sending, capture_output=True, text=True, check=True, timeout=120)
            arrival, digest = listening.stdout.read().split()
        finally:
            listening.kill()  # where the sender failed, it would wait for ever
    assert digest == sha256(payload.read_bytes()).hexdigest()
    return float(arrival) - float(sent.stdout)


@pytest.mark.parametrize(("bytes_per_s", "values"), [(1_000_000, 2_385_184), (5_000_000, 8_000_000)])
def test_predicted_seconds_are_within_3_per_cent_of_real_packets(namespaces, tmp_path, capsys, bytes_per_s, values):
    """2,385,184 float32 are the features of cnn6. The prediction takes no notice of the bucket's burst."""
    weights = np.random.default_rng(1).standard_normal(values).astype(np.float32)
    payload = tmp_path / "payload"
    payload.write_bytes(encode({"features": weights}).tobytes())
    payload_bytes = payload.stat().st_size
    bucket = f"root tbf rate {8 * bytes_per_s}bit burst {BURST_BYTES} limit 50mb"
    run("tc", "-n", namespaces[0], "qdisc", "add", "dev", "veth0", *bucket.split())

    link = Link(uplink_bytes_per_s=bytes_per_s, downlink_bytes_per_s=bytes_per_s)
    network = Network[int]([link], seed=1, framing=Framing())
    predicted_s = network.duration_s(0.0, 0, Direction.TO_SERVER, payload_bytes, StreamPosition(0, 0, "train"))
    measured_s = transfer_s(namespaces, payload)

    error = predicted_s / measured_s - 1
    with capsys.disabled():
        unframed_s = link.upload_s(payload_bytes)
        print(
            f"\n{payload_bytes} bytes at {bytes_per_s} bytes/s: predicted {predicted_s:.3f} s "
            f"({unframed_s:.3f} s without headers), measured {measured_s:.3f} s, {error:+.2%}"
        )
    assert abs(error) < 0.03
