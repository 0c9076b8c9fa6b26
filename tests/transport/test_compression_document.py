"""The lengths in docs/compression.md are those of the code."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from fedknow_ray.transport.compression import make_compressor
from fedknow_ray.transport.payload import encoded_bytes
from fedknow_ray.transport.update_layout import UpdateLayout

PAGE = (Path(__file__).parents[2] / "docs" / "compression.md").read_text(encoding="utf-8")
ROWS = re.findall(r"^\| `(\w+)`(?:, `fraction: ([\d.]+)`)? \| ([\d,]+) \| ([\d.]+) \|$", PAGE, flags=re.MULTILINE)


def test_every_compression_is_in_the_table() -> None:
    assert [row[0] for row in ROWS] == ["none", "float16", "int8", "topk"]


@pytest.mark.parametrize(("name", "fraction", "length", "share"), ROWS, ids=[row[0] for row in ROWS])
def test_the_lengths_of_cnn6_are_those_of_its_updates(name: str, fraction: str, length: str, share: str) -> None:
    """A length depends on the number of tensors, not on their sizes."""
    sizes = re.search(r"N = ([\d,]+), T = (\d+)", PAGE)
    assert sizes is not None
    N, T = (int(text.replace(",", "")) for text in sizes.groups())
    plain = encoded_bytes({"features": ((N,), "float32")})
    layout = UpdateLayout((N - T + 1, *(1,) * (T - 1)))
    compressor = make_compressor(name, layout, **({"fraction": float(fraction)} if fraction else {}))
    got = plain if compressor is None else compressor.update_bytes
    assert int(length.replace(",", "")) == got
    assert float(share) == pytest.approx(got / plain, abs=5e-4)
