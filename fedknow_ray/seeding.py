"""Random streams: each is derived from (seed, purpose, client, task, round) and from nothing else.

The derivation is a SHA-256 of the labelled tuple, so streams are independent of each other, of the order in which they
are asked for, and of Python's hash seed. This module is the one owner of torch's global generator, which dropout uses:
`torch_stream` seeds it for the length of a visit and puts the old state back, `torch_mark` lets draws be repeated.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from hashlib import sha256

import numpy as np


def derive_seed(seed: int, purpose: str, *, client: int = -1, task: int = -1, round_index: int = -1) -> int:
    """Return the 63-bit seed of one stream; -1 stands for "not of one client / task / round".

    >>> derive_seed(1, "shuffle", client=3) == derive_seed(1, "shuffle", client=3)
    True
    >>> derive_seed(1, "shuffle", client=3) == derive_seed(1, "shuffle", client=4)
    False
    """
    label = f"{seed}/{purpose}/client={client}/task={task}/round={round_index}"
    return int.from_bytes(sha256(label.encode()).digest()[:8], "big") >> 1


def stream(seed: int, purpose: str, *, client: int = -1, task: int = -1, round_index: int = -1) -> np.random.Generator:
    """Return a fresh numpy generator for one stream (PCG64)."""
    return np.random.Generator(
        np.random.PCG64(derive_seed(seed, purpose, client=client, task=task, round_index=round_index))
    )


@contextmanager
def torch_stream(seed: int) -> Iterator[None]:
    """Run a block with torch's global CPU generator seeded, and restore the state that it had before."""
    import torch

    state = torch.get_rng_state()
    torch.manual_seed(seed)
    try:
        yield
    finally:
        torch.set_rng_state(state)


def torch_mark() -> Callable[[], None]:
    """Remember where torch's global CPU generator stands; calling the result goes back, to draw the same again."""
    import torch

    state = torch.get_rng_state()
    return lambda: torch.set_rng_state(state)
