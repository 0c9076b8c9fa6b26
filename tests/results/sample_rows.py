"""One row of each table."""

from fedknow_ray.results import AccuracyRow, EventRow, PlacementRow, RoundRow, VisitRow

VISIT = VisitRow(
    client_id=3,
    device="jetson-nano",
    task_index=0,
    round_index=1,
    kind="train",
    status="ok",
    download_s=0.5,
    compute_s=2.0,
    upload_s=0.25,
    wait_s=0.0,
    download_bytes=500,
    upload_bytes=250,
    flops=10**13,
    moved_bytes=10**9,
    peak_memory_bytes=None,
    energy_j=None,
    loss=0.75,
    integrated_steps=None,
    violated_steps=None,
    host_wall_s=0.125,
    host_cpu_s=0.0625,
    start_s=0.0,
    work=[],
    model_version=0,
    merge_index=None,
)
ROUND = RoundRow(0, 1, 0.0, 2.75, (3,), 250, 500)
ACCURACY = AccuracyRow(3, "own", 0, 0, 7, 8)
EVENT = EventRow(1.5, "drop", None, "nobody")
PLACEMENT = PlacementRow(3, "jetson-nano", "a1", "n1", 4321, '{"CPU": 0.1}')

ALL = (VISIT, ROUND, ACCURACY, EVENT, PLACEMENT)
