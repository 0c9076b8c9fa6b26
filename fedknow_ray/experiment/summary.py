"""The key numbers of a finished run: what `--json` prints and `summary.json` holds."""

from __future__ import annotations

import math
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from fedknow_ray.metrics.continual import (
    accuracy_matrix,
    average_accuracy,
    backward_transfer,
    forgetting,
    forgetting_relative,
)


def summarise(
    accuracy: pa.Table, visits: pa.Table, *, virtual_time_s: float, wall_s: float, parameters_sha256: str
) -> dict[str, Any]:
    """Return the summary; accuracies are means over clients and learnt tasks at the end, None where there is no model.

    Forgetting and backward transfer are of the own model, None with one task; `energy_j` is None where a device's watts
    are not known.
    """
    own, shared = accuracy_matrix(accuracy, "own"), accuracy_matrix(accuracy, "global")
    return {
        "average_accuracy": average_accuracy(own),
        "average_accuracy_global": average_accuracy(shared),
        "forgetting": forgetting(own),
        "forgetting_relative": forgetting_relative(own),
        "backward_transfer": backward_transfer(own),
        "forgetting_global": forgetting(shared),
        "virtual_time_s": virtual_time_s,
        "upload_bytes": pc.sum(visits["upload_bytes"]).as_py(),
        "download_bytes": pc.sum(visits["download_bytes"]).as_py(),
        # rounded once, so that it is the same however the rows were flushed
        "energy_j": None if visits["energy_j"].null_count else math.fsum(visits["energy_j"].to_pylist()),
        "wall_s": wall_s,
        "parameters_sha256": parameters_sha256,
    }
