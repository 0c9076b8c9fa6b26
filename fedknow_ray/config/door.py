"""The section `door`: which updates the server refuses."""

from __future__ import annotations

from fedknow_ray.config.fields import Frozen, Positive


class DoorConfig(Frozen):
    """What the server checks of each update before it may be summed. What is no update at all, has other shapes than
    agreed, or holds a value that is no finite number is refused in any case."""

    most_norm_ratio: Positive = 100.0
    """An update further from its broadcast than this many times the norm of the broadcast (or 1, if that is larger) is
    refused. The updates of working runs stay below 1; see docs/bad-updates.md."""
