"""Plans of small fleets, and what a rendered file says as plain values."""

from __future__ import annotations

from fedknow_ray.cluster.plan import ClusterPlan, NodeGroup
from fedknow_ray.cluster.render import Source

SOURCE = Source("configs/small.yaml", "seed: 1\nfleet:\n- device: nano\n", "fedknow-ray cluster render")
NANO = NodeGroup("nano", nodes=2, clients=3, cpus=2, actor_bytes=1200 * 2**20)
PI = NodeGroup("Pi_4.4GB", nodes=1, clients=1, cpus=1, actor_bytes=500 * 2**20)
PLAN = ClusterPlan("small", (NANO, PI))
