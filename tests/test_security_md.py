"""SECURITY.md claims nothing that no test holds: every test that it names exists where it says."""

from __future__ import annotations

import ast
import re
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
TEXT = (ROOT / "SECURITY.md").read_text(encoding="utf-8")
NAMED = sorted(set(re.findall(r"\[(test_\w+)\]\((tests/[\w/]+\.py)\)", TEXT)))


@cache
def names_in(file: str) -> frozenset[str]:
    tree = ast.parse((ROOT / file).read_text(encoding="utf-8"))
    return frozenset(node.name for node in tree.body if isinstance(node, ast.FunctionDef))


@pytest.mark.parametrize(("test", "file"), NAMED, ids=lambda value: value.removeprefix("tests/"))
def test_every_test_that_is_named_exists(test: str, file: str) -> None:
    assert test in names_in(file)


def test_every_link_to_a_test_is_one_that_is_checked() -> None:
    assert len(NAMED) > 20
    links = re.findall(r"\]\((tests/[^)]*)\)", TEXT)
    assert len(links) == len(re.findall(r"\[test_\w+\]\(tests/[\w/]+\.py\)", TEXT))


def test_every_claim_has_a_test() -> None:
    """Where the last column is `test`, a row without one says that something is not safe, or rests on another."""
    in_claims = False
    for row in (line for line in TEXT.splitlines() if not line.startswith("|---")):
        cells = [cell.strip() for cell in row.strip("|").split("|")]
        if not row.startswith("|"):
            in_claims = False
        elif cells[-1] == "test":
            in_claims = True
        elif in_claims and "test" not in cells[-1]:
            assert cells[-1] == "the same" or cells[1].startswith(("no: ", "as safe as ")), row
