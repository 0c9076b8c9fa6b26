"""The program `fedknow-ray`: runs a command and turns its outcome into an exit status.

0 done   1 our own fault, with a traceback   2 the user's fault   3 the fleet cannot be placed   4 below a gate's limit
130 interrupted
"""

from __future__ import annotations

import signal
import sys
from types import FrameType

INTERRUPTED = 130


def main() -> int:
    """Run the command line and return its exit status."""
    import click

    from fedknow_ray.cli.app import app
    from fedknow_ray.errors import FedKnowError

    signal.signal(signal.SIGTERM, _interrupt)
    try:
        return int(app(standalone_mode=False) or 0)
    except click.ClickException as error:
        error.show()
        return error.exit_code
    except (KeyboardInterrupt, click.Abort):
        print("interrupted", file=sys.stderr)
        return INTERRUPTED
    except FedKnowError as error:
        if error.exit_status == 1:
            raise
        print(f"error: {error}", file=sys.stderr)
        return error.exit_status


def _interrupt(signum: int, frame: FrameType | None) -> None:
    """Treat a request to end like Ctrl-C, so that Ray is shut down and the tables are closed."""
    raise KeyboardInterrupt


if __name__ == "__main__":
    sys.exit(main())
