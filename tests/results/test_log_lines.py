"""A file comes out of a log as it went in, however the log is cut, and not at all where a byte of it is another."""

from __future__ import annotations

import io
from hashlib import sha256
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedknow_ray.errors import RunDirectoryError
from fedknow_ray.results.log_lines import LONGEST_LINE, PART_BYTES, LineReader, to_lines

ABC = ["fedknow-ray:m:begin 3", "fedknow-ray:m:part 0 YWJj", f"fedknow-ray:m:end 1 {sha256(b'abc').hexdigest()}"]


def read(text: str, **options: int) -> tuple[str, bytes, bool]:
    sink = io.BytesIO()
    reader = LineReader("m", sink, **options)
    shown = reader.feed(text) + reader.close()
    return shown, sink.getvalue(), reader.complete


def test_three_bytes_are_three_lines() -> None:
    assert list(to_lines(io.BytesIO(b"abc"), 3, "m")) == ABC


def test_no_bytes_are_two_lines() -> None:
    assert list(to_lines(io.BytesIO(), 0, "m")) == [
        "fedknow-ray:m:begin 0",
        f"fedknow-ray:m:end 0 {sha256().hexdigest()}",
    ]


def test_what_is_not_ours_is_shown() -> None:
    text = "\n".join(["round 1", ABC[0], "a warning", ABC[1], ABC[2], "fedknow-ray:other:part 0 x", "no end"])
    assert read(text) == ("round 1\na warning\nfedknow-ray:other:part 0 x\nno end", b"abc", True)


@given(st.binary(max_size=2 * PART_BYTES + 3), st.lists(st.integers(0, 40_000), max_size=8))
def test_it_comes_out_wherever_the_log_is_cut(data: bytes, cuts: list[int]) -> None:
    text = "before\n" + "\n".join(to_lines(io.BytesIO(data), len(data), "m")) + "\nafter\n"
    sink = io.BytesIO()
    reader = LineReader("m", sink)
    places = [0, *sorted(min(cut, len(text)) for cut in cuts), len(text)]
    shown = "".join(reader.feed(text[start:end]) for start, end in pairwise(places))
    assert (shown, sink.getvalue(), reader.complete) == ("before\nafter\n", data, True)


@pytest.mark.parametrize(
    ("lines", "told"),
    [
        ([ABC[1]], "after 0 parts came 'part 0"),
        ([ABC[0], ABC[2]], "0 parts and 0 bytes of 1 and 3"),
        ([ABC[0], ABC[1], ABC[1]], "after 1 parts came 'part 0"),
        ([ABC[0], "fedknow-ray:m:part 1 YWJj"], "after 0 parts came 'part 1"),
        ([ABC[0], "fedknow-ray:m:part 0 YWJk", ABC[2]], "its SHA-256 is"),
        ([ABC[0], "fedknow-ray:m:part 0 YWJjZA=="], "more than the 3 bytes"),
        ([ABC[0], "fedknow-ray:m:part 0 YW!j"], "is no base64"),
        ([ABC[0], ABC[0]], "after 0 parts came 'begin 3'"),
        ([*ABC, ABC[2]], "after 1 parts came 'end 1"),
        (["fedknow-ray:m:begin -1"], "came 'begin -1'"),
        (["fedknow-ray:m:begin 11"], "11 B, and 10 B come through a log"),
    ],
)
def test_lines_that_are_not_whole_are_refused(lines: list[str], told: str) -> None:
    with pytest.raises(RunDirectoryError, match=told):
        read("\n".join(lines) + "\n", most_bytes=10)


def test_a_log_that_ends_early_is_not_complete() -> None:
    assert read("\n".join(ABC[:2]) + "\n")[2] is False


def test_a_line_of_ours_has_an_end_and_any_other_is_shown_as_it_comes() -> None:
    with pytest.raises(RunDirectoryError, match="has no end"):
        read("fedknow-ray:m:part 0 " + "A" * LONGEST_LINE)
    assert read("x" * 2 * LONGEST_LINE)[0] == "x" * 2 * LONGEST_LINE


def test_a_line_that_has_begun_otherwise_is_not_ours() -> None:
    reader = LineReader("m", io.BytesIO())
    assert [reader.feed("x"), reader.feed(ABC[1] + "\n"), reader.feed(ABC[0] + "\n")] == ["x", ABC[1] + "\n", ""]
