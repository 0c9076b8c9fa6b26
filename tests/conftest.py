"""For all tests: hypothesis has no deadline, as the machine is shared; Ctrl-C can be tried wherever the tests run."""

from __future__ import annotations

import signal

from hypothesis import settings

settings.register_profile("shared machine", deadline=None)
settings.load_profile("shared machine")

# A shell without job control starts what it puts into the background with SIGINT ignored, and so would be every program
# that a test starts and then interrupts.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)
