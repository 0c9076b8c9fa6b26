"""A client's state as bytes, and back to the bit: how it leaves the process that it lives in.

The memory of a method is its own affair, so the bytes are a pickle: **reading them can run any code, so they are to be
trusted as code is**. Tensors are written as the values that they show: torch's own pickle of a view takes the whole
storage behind it with it, which for one layer's slice of a flat model is the model.
"""

from __future__ import annotations

import io
import pickle
from typing import Any, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from fedknow_ray.methods.method import ClientState


def dump_state(state: ClientState) -> bytes:
    """Return a client's state as bytes."""
    stream = io.BytesIO()
    _Pickler(stream, protocol=pickle.HIGHEST_PROTOCOL).dump(state)
    return stream.getvalue()


def load_state(data: bytes) -> ClientState:
    """Return the state that `dump_state` made the bytes of; runs whatever code they name."""
    return cast(ClientState, pickle.loads(data))


class _Pickler(pickle.Pickler):
    """Pickles plain tensors of the host by value; leaves all others to torch."""

    def reducer_override(self, value: Any) -> Any:
        """Say how a tensor is pickled; the name is the standard library's."""
        plain = type(value) is Tensor and value.layout is torch.strided and value.device.type == "cpu"
        return _reduce(value) if plain and not value.requires_grad else NotImplemented


def _reduce(tensor: Tensor) -> Any:
    # clone keeps the order in memory of a dense tensor: sums of the same numbers in another order are other bits
    owner = tensor if tensor.untyped_storage().nbytes() == tensor.nbytes else tensor.clone()
    stored = owner.as_strided((owner.untyped_storage().nbytes() // owner.itemsize,), (1,), 0)
    place = (tuple(owner.shape), owner.stride(), owner.storage_offset())
    return _restore, (stored.view(torch.uint8).numpy(), owner.dtype, *place)


def _restore(
    stored: NDArray[np.uint8], dtype: torch.dtype, shape: tuple[int, ...], stride: tuple[int, ...], offset: int
) -> Tensor:
    # a copy, so that the tensor lies where torch would have put it: kernels differ in their last bit by alignment
    return torch.from_numpy(stored).clone().view(dtype).as_strided(shape, stride, offset)
