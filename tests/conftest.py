"""For all tests: hypothesis has no deadline, as the machine is shared; modules of this folder can be imported."""

from __future__ import annotations

from hypothesis import settings

settings.register_profile("shared machine", deadline=None)
settings.load_profile("shared machine")
