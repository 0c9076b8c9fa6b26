import math

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from fedknow_ray.config.yaml import Problem, format_yaml, key_text, parse_yaml, show


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1e-4", 1e-4),
        ("1.0e-4", 1e-4),
        ("1E4", 1e4),
        (".5", 0.5),
        ("5.", 5.0),
        ("-3", -3),
        ("+3", 3),
        ("1_000", 1000),
        ("010", 10),
        ("0x1f", 31),
        ("0o17", 15),
        (".inf", math.inf),
        ("-.inf", -math.inf),
        ("off", "off"),
        ("yes", "yes"),
        ("on", "on"),
        ("true", True),
        ("False", False),
        ("null", None),
        ("~", None),
        ("", None),
        ("2026-01-01", "2026-01-01"),
        ("1:30", "1:30"),
        ('"3"', "3"),
        ("1 MB/s", "1 MB/s"),
        ("!!str 3", "3"),
        ("!!float 3", 3.0),
        ("[1, [a], {b: }]", [1, ["a"], {"b": None}]),
    ],
)
def test_scalars_follow_the_core_schema(text, value):
    parsed = parse_yaml(text)
    assert (parsed.value, parsed.problems) == (value, [])
    assert type(parsed.value) is type(value)


def test_every_key_and_item_has_its_line():
    text = "# comment\na: 1\nb:\n  c: 2\n  d:\n    - x\n    - {e: 3}\n"
    assert parse_yaml(text).lines == {
        (): 2,
        ("a",): 2,
        ("b",): 3,
        ("b", "c"): 4,
        ("b", "d"): 5,
        ("b", "d", 0): 6,
        ("b", "d", 1): 7,
        ("b", "d", 1, "e"): 7,
    }


def test_a_key_said_twice_is_told_at_its_second_line_and_the_first_value_stays():
    parsed = parse_yaml("a:\n  b: 1\n  c: 2\n  b: 3\n")
    assert parsed.value == {"a": {"b": 1, "c": 2}}
    assert parsed.problems == [Problem(4, ("a", "b"), "is said twice (first on line 2); keep one")]


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("a: 1\n\tb: 2\n", Problem(2, (), "not valid YAML: a tab cannot indent or start a value; use spaces")),
        ("a: 1\nb: x: y\n", Problem(2, (), "not valid YAML: mapping values are not allowed here")),
        ("a: 1\n---\nb: 2\n", None),
        ("a: [1,\n  2\nb: 3\n", None),
        ("a: 'x\n", None),
        ("a: &x 1\nb: *x\n", Problem(2, (), "not valid YAML: an alias (*name) is not supported; write it out")),
        ("a: 1\nb: \x01\n", Problem(2, (), "holds a control character, which YAML does not allow")),
        ("a: !thing 3\n", Problem(1, ("a",), "the tag !thing is not supported")),
        ("a:\n  - !!python/tuple [1]\n", Problem(2, ("a", 0), "the tag !!python/tuple is not supported")),
        ("a: !!int x\n", Problem(1, ("a",), "'x' cannot be read as int")),
        ('a: "\\ud800"\n', Problem(1, ("a",), "'\\ud800' cannot be read as str")),
        ("a: 1\n3: 4\n", Problem(2, (), "a key must be text, got 3")),
        ("? [1]\n: 4\n", Problem(1, (), "a key must be text, got a collection")),
        ("? \n: 4\n", Problem(1, (), "a key must be text, got nothing")),
        ("[" * 3000, Problem(1, (), "is nested too deeply")),
    ],
)
def test_bad_text_is_a_problem_with_its_line(text, problem):
    problems = parse_yaml(text).problems
    assert len(problems) == 1
    if problem is not None:
        assert problems == [problem]


def test_an_unclosed_bracket_is_told_with_the_line_on_which_it_opened():
    (problem,) = parse_yaml("a: 1\nb: [1,\n  2\nc: 3\n").problems
    assert problem.line == 4
    assert "began on line 2" in problem.message


def test_an_integer_of_thousands_of_digits_is_a_problem():
    (problem,) = parse_yaml("a: " + "9" * 5000).problems
    assert problem.message.endswith("...' cannot be read as int")


PLAIN = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(10**20), 10**20)
    | st.floats(allow_nan=False)
    | st.text(st.characters(blacklist_categories=["Cs"]))
    | st.sampled_from(["off", "yes", "1e-4", "0o17", "010", "null", "~", "1_000", ".5", "2026-01-01", "<<", "="]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text("abnoy~1.e ", min_size=1), inner, max_size=3),
    max_leaves=8,
)


@given(PLAIN)
@example("a\x85b")
@example("\u2028")
@example("\ufeffa")
def test_what_is_written_is_read_back(value):
    parsed = parse_yaml(format_yaml(value))
    assert (parsed.value, parsed.problems) == (value, [])


def test_equal_parts_are_written_out_and_not_aliased():
    part = {"b": 1}
    assert format_yaml({"x": part, "y": part}) == "x:\n  b: 1\ny:\n  b: 1\n"


@pytest.mark.parametrize(
    ("value", "shown"),
    [(None, "null"), (True, "true"), (0, "0"), (1, "1"), (2.5, "2.5"), ("a", "'a'"), ({}, "a mapping"), ([], "a list")],
)
def test_values_are_shown_as_yaml_would_write_them(value, shown):
    assert show(value) == shown


def test_long_text_is_shown_shortened():
    assert show("x" * 100) == repr("x" * 57 + "...")


def test_key_paths_are_shown_with_dots():
    assert key_text(("fleet", 0, "device")) == "fleet.0.device"
