"""A client's state as bytes, and back to the bit: how it leaves the process that it lives in.

The memory of a method is its own affair, so the method declares the dataclasses that it is made of
(`Method.memory_types`). What the bytes may be is in `federation.value_bytes`: **reading them runs no code that they
name**, and bytes that are no state of this method are refused with `StateError`. There is no checksum here; what keeps
or sends states has one around them.
"""

from __future__ import annotations

from fedknow_ray.federation.storable import StateError, Types
from fedknow_ray.federation.value_bytes import dump_value, load_value
from fedknow_ray.methods.method import ClientState


def dump_state(state: ClientState, memory_types: Types) -> bytes:
    """Return a client's state as bytes; *memory_types* of the method that made it.

    Raises:
        StateTypeError: if its memory holds what no state can hold, or a dataclass that is not declared.
    """
    return dump_value(state, (ClientState, *memory_types))


def load_state(data: bytes, memory_types: Types) -> ClientState:
    """Return the state that `dump_state` made the bytes of; *memory_types* of the method that goes on from it.

    Raises:
        StateError: if they are no whole state, or one of another method's memory.
    """
    state = load_value(data, (ClientState, *memory_types))
    if not isinstance(state, ClientState):
        raise StateError(f"the bytes hold a {type(state).__name__} and no client's state")
    vectors = [one for one in (state.own_S, state.residual_N) if one is not None]
    if state.head_CF.ndim != 2 or any(one.ndim != 1 for one in vectors):
        raise StateError("a client's state has a head of two dimensions, and vectors of one")
    return state
