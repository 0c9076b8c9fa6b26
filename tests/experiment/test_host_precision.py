"""Processors with and without instructions for bfloat16."""

from __future__ import annotations

from pathlib import Path

import pytest

from fedknow_ray.experiment.host_precision import has_quick_bfloat16, precision_warning


@pytest.mark.parametrize(
    ("line", "quick"),
    [
        ("flags\t\t: fpu fma avx2 avx512f avx512bw avx512dq avx512vl", True),
        ("flags\t\t: fpu fma avx2", False),
        ("flags\t\t: avx512f avx512dq", False),
        ("Features\t: fp asimd bf16 i8mm", True),
        ("Features\t: fp asimd", False),
        ("model name\t: avx512bw avx512dq avx512vl", False),
    ],
)
def test_flags_tell(line: str, quick: bool):
    assert has_quick_bfloat16(f"processor\t: 0\n{line}\n") is quick


def test_only_bfloat16_on_a_processor_without_it_is_warned_of(tmp_path: Path):
    slow, fast = tmp_path / "slow", tmp_path / "fast"
    slow.write_text("flags : avx2\n")
    fast.write_text("flags : avx512bw avx512vl avx512dq\n")
    assert precision_warning("float32", slow) is None
    assert precision_warning("bfloat16", fast) is None
    assert precision_warning("bfloat16", tmp_path / "absent") is None
    assert "some 50 times as long" in (precision_warning("bfloat16", slow) or "")
