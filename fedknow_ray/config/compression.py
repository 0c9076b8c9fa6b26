"""How updates are shortened on their way to the server: the keys of each `compression`."""

from __future__ import annotations

from typing import Annotated, Literal, TypeAlias

from pydantic import Field

from fedknow_ray.config.fields import Fraction, Frozen


class NoCompression(Frozen):
    """Updates are sent as they are, in float32."""

    name: Literal["none"] = "none"


class Float16Compression(Frozen):
    """The weights in 2 bytes each."""

    name: Literal["float16"] = "float16"


class Int8Compression(Frozen):
    """The difference to the broadcast in 1 byte a weight, and a scale a tensor; with error feedback."""

    name: Literal["int8"] = "int8"


class TopKCompression(Frozen):
    """The largest values of the difference to the broadcast, and their places; with error feedback."""

    name: Literal["topk"] = "topk"
    fraction: Fraction = 0.01
    """Share of the values that is sent, rounded up to a whole value."""


CompressionConfig: TypeAlias = Annotated[
    NoCompression | Float16Compression | Int8Compression | TopKCompression, Field(discriminator="name")
]
