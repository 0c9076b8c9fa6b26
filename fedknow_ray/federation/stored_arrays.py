"""Arrays and tensors as flat arrays with a few words about each, and back to the bit.

    [kind, dtype]                    in the order of its axes; its shape is that of what is stored
    [kind, dtype, shape, stride]     in another order in memory: stored flat, in that order; strides in values

The order in memory comes back with the values, since sums of the same numbers in another order are other bits. A view
is stored as the values that it shows, without the storage behind it. One with gaps or repetitions comes back without
them, its axes in the same order. bfloat16, which numpy has not, is stored as the uint16 with the same bits.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from reprlib import repr as short
from typing import Any, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from fedknow_ray.federation.storable import StateError, StateTypeError
from fedknow_ray.transport.payload import MOST_DIMENSIONS, MOST_VALUES

DTYPES = (
    *("float64", "float32", "float16", "bool"),
    *("int64", "int32", "int16", "int8", "uint64", "uint32", "uint16", "uint8"),
)
BFLOAT16 = "bfloat16"
ARRAY, SCALAR, TENSOR = "array", "scalar", "tensor"

Stored = NDArray[Any]
Description = list[Any]


def describe(value: Tensor | NDArray[Any] | np.generic, where: str) -> tuple[Description, Stored]:
    """Return what there is to say of an array, tensor or numpy scalar, and its values, mostly without copying them.

    Raises:
        StateTypeError: if it is of a kind that cannot be stored; *where* it stands.
    """
    if isinstance(value, Tensor):
        return _describe_tensor(value, where)
    kind = SCALAR if isinstance(value, np.generic) else ARRAY
    array = np.asarray(value)
    if not array.dtype.isnative or array.dtype.name not in DTYPES:
        raise StateTypeError(f"{where} is an array of {array.dtype}; a state holds {', '.join(DTYPES)}")
    _check_dimensions(array.ndim, where)
    strides = _strides_in_values(array)
    if not _is_dense(array.shape, strides):
        array = array.copy(order="K")
        strides = _strides_in_values(array)
    if array.size == 0 or strides == _plain_strides(array.shape):
        return [kind, array.dtype.name], array.reshape(array.shape)
    return [kind, array.dtype.name, list(array.shape), list(strides)], array.ravel(order="K")


def restore(described: object, stored: Stored) -> Tensor | NDArray[Any] | np.generic:
    """Return what `describe` was given: a tensor in memory of torch's own, an array in what was stored, if writable.

    Raises:
        StateError: if the two do not belong together, or describe nothing.
    """
    kind, dtype, shape, stride = _read(described, stored)
    if kind == TENSOR:
        return _restore_tensor(dtype, shape, stride, stored)
    array = stored if stored.flags.writeable else stored.copy()
    if kind == SCALAR:
        return cast(np.generic, array[()])
    if stride == _plain_strides(shape):
        return array
    return np.ndarray(shape, array.dtype, buffer=array, strides=[step * array.itemsize for step in stride])


def _describe_tensor(tensor: Tensor, where: str) -> tuple[Description, Stored]:
    dtype = str(tensor.dtype).removeprefix("torch.")
    if type(tensor) is not Tensor or tensor.layout is not torch.strided or tensor.device.type != "cpu":
        raise StateTypeError(f"{where} is no plain dense tensor of the host, which is what a state holds")
    if dtype not in (*DTYPES, BFLOAT16):
        raise StateTypeError(f"{where} is a tensor of {dtype}; a state holds {', '.join((*DTYPES, BFLOAT16))}")
    if tensor.requires_grad:
        raise StateTypeError(f"{where} is a tensor that requires a gradient; keep its detach()")
    _check_dimensions(tensor.ndim, where)
    # clone leaves out gaps and repetitions and keeps the order of the axes
    tensor = tensor if _is_dense(tensor.shape, tensor.stride()) else tensor.clone()
    shape, stride = list(tensor.shape), list(tensor.stride())
    plain = tensor.numel() == 0 or tuple(stride) == _plain_strides(shape)
    flat = tensor.resolve_neg() if plain else tensor.resolve_neg().as_strided((tensor.numel(),), (1,))
    values: Stored = flat.view(torch.uint16).numpy() if dtype == BFLOAT16 else flat.numpy()
    return [TENSOR, dtype] if plain else [TENSOR, dtype, shape, stride], values


def _restore_tensor(dtype: str, shape: tuple[int, ...], stride: tuple[int, ...], stored: Stored) -> Tensor:
    # in memory of torch's own: kernels differ in their last bit by alignment
    flat = torch.empty(stored.size, dtype=getattr(torch, stored.dtype.name))
    flat.numpy()[:] = stored.reshape(-1)
    flat = flat.view(torch.bfloat16) if dtype == BFLOAT16 else flat
    return flat.view(shape) if stride == _plain_strides(shape) else flat.as_strided(shape, stride)


def _read(described: object, stored: Stored) -> tuple[str, str, tuple[int, ...], tuple[int, ...]]:
    """Return kind, dtype, shape and strides; nothing of them asks for more memory than what is stored."""
    if not isinstance(described, list) or len(described) not in (2, 4):
        raise StateError(f"no array is described by {short(described)}")
    kind, dtype, *order = described
    bfloat16 = kind == TENSOR and dtype == BFLOAT16
    if kind not in (ARRAY, SCALAR, TENSOR) or stored.dtype.name != ("uint16" if bfloat16 else dtype):
        raise StateError(f"{stored.dtype.name} values are no {short(kind)} of {short(dtype)}")
    if stored.dtype == np.bool_ and bool((stored.view(np.uint8) > 1).any()):
        raise StateError("an array of truth values holds one that is neither true nor false")
    shape, stride = (_sides(one) for one in order) if order else (stored.shape, _plain_strides(stored.shape))
    _check_shape(stored.shape)
    _check_shape(shape)
    fits = len(shape) == len(stride) and math.prod(shape) == stored.size and _is_dense(shape, stride)
    flat = stored.ndim == 1 and stored.size > 0
    if not fits or (order and not flat) or (kind == SCALAR and shape != ()):
        raise StateError(f"{stored.size} values do not lie as {short(shape)} with strides {short(stride)} as {kind}")
    return kind, dtype, shape, stride


def _sides(value: object) -> tuple[int, ...]:
    if not isinstance(value, list) or any(type(side) is not int or not 0 <= side <= MOST_VALUES for side in value):
        raise StateError(f"no array has the shape or the strides {short(value)}")
    return tuple(value)


def _check_shape(shape: Sequence[int]) -> None:
    if len(shape) > MOST_DIMENSIONS or math.prod(side or 1 for side in shape) > MOST_VALUES:
        raise StateError(f"no array has the shape {short(shape)}")


def _check_dimensions(dimensions: int, where: str) -> None:
    if dimensions > MOST_DIMENSIONS:
        raise StateTypeError(f"{where} has {dimensions} dimensions; a state holds {MOST_DIMENSIONS} at most")


def _strides_in_values(array: NDArray[Any]) -> tuple[int, ...]:
    """Return the strides; -1 for one that is no whole number of values, as in a field of a structured array."""
    return tuple(-1 if step % array.itemsize else step // array.itemsize for step in array.strides)


def _plain_strides(shape: Sequence[int]) -> tuple[int, ...]:
    """Return the strides of an array in the order of its axes."""
    return tuple(math.prod(shape[axis + 1 :]) for axis in range(len(shape)))


def _is_dense(shape: Sequence[int], stride: Sequence[int]) -> bool:
    """Return whether an array has each place of its stretch of memory once, in whatever order of its axes."""
    if 0 in shape:
        return True
    if not all(0 <= step <= MOST_VALUES for step in stride):
        return False
    expected = 1
    for step, side in sorted((step, side) for step, side in zip(stride, shape, strict=True) if side > 1):
        if step != expected:
            return False
        expected *= side
    return True
