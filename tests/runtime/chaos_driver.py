"""`fedknow-ray` with a witness: a line in a file when a loss is noticed, is made good, and when a visit has reported.

    FKR_WITNESS=FILE python tests/runtime/chaos_driver.py run CONFIG ...

The moments are `time.monotonic()`, one clock for all processes of the machine; a run itself keeps none of them.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from fedknow_ray.__main__ import main
from fedknow_ray.experiment.run_checkpoints import RunCheckpoints
from fedknow_ray.runtime.client_link import ClientLink
from fedknow_ray.runtime.local import LocalExecutor
from fedknow_ray.runtime.losses import Losses


def tell(what: str, **more: Any) -> None:
    with Path(os.environ["FKR_WITNESS"]).open("a", encoding="utf-8") as file:
        print(json.dumps({"at_s": time.monotonic(), "what": what, **more}), file=file)


def before(owner: type, name: str, say: Callable[..., None]) -> None:
    """Have something said before a method is called."""
    method = getattr(owner, name)

    def told(self: Any, *arguments: Any, **named: Any) -> Any:
        say(*arguments)
        return method(self, *arguments, **named)

    setattr(owner, name, told)


def after(owner: type, name: str, say: Callable[..., None]) -> None:
    """Have something said when a method has returned."""
    method = getattr(owner, name)

    def told(self: Any, *arguments: Any, **named: Any) -> Any:
        answer = method(self, *arguments, **named)
        say(*arguments)
        return answer

    setattr(owner, name, told)


def reported(order: Any) -> None:
    tell("visit", of=[str(order.kind), order.client_id, order.facts.task_index, order.facts.round_index])


if __name__ == "__main__":
    before(Losses, "refuse_too_many", lambda actor, clients, cause: tell("noticed", of=str(actor), cause=str(cause)))
    before(Losses, "tell", lambda loss: tell("made good", of=loss.what, again=loss.visits_again))
    before(ClientLink, "start", lambda *given: tell("placing"))
    after(ClientLink, "start", lambda *given: tell("started"))
    after(ClientLink, "report", reported)
    after(LocalExecutor, "report", reported)
    after(
        RunCheckpoints, "after", lambda progress, *rest: tell("saved", of=[progress.task_index, progress.round_index])
    )
    sys.exit(main())
