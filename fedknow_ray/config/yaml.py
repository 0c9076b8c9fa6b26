"""YAML with positions: plain Python values, and the line on which each key was said.

Scalars follow the YAML 1.2 core schema and not PyYAML's 1.1: `off`, `on`, `yes` and `no` are text (`second_use: off`),
1e-4 is a number, 010 is ten, and there are no dates. Anchors, aliases and tags are refused: a config says what it means
in the place where it means it.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import yaml
from yaml.nodes import MappingNode, Node, ScalarNode, SequenceNode

from fedknow_ray.plain_yaml import WithoutAliases

KeyPath: TypeAlias = tuple[str | int, ...]
"""Where a value stands: ("fleet", 0, "device")."""

#: No key of ours is deeper than 6; what walks a value later on must not run out of stack.
MOST_DEPTH = 32
#: No number of a config needs more; Python refuses to print whole numbers of thousands of digits.
MOST_BITS = 1024

_TAG = "tag:yaml.org,2002:"
_DIGITS = "[0-9]+(?:_[0-9]+)*"
_INT = re.compile(rf"[-+]?{_DIGITS}|0x[0-9a-fA-F]+|0o[0-7]+")
_FLOAT = re.compile(
    rf"[-+]?(?:{_DIGITS}(?:\.[0-9]*)?|\.[0-9]+)(?:[eE][-+]?[0-9]+)?|[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN)"
)
_BOOL = re.compile("true|True|TRUE|false|False|FALSE")
_NULL = re.compile("~|null|Null|NULL|")


@dataclass(frozen=True, slots=True)
class Problem:
    """Something in the text that is no good YAML for a config; `line` counts from 1."""

    line: int
    path: KeyPath
    message: str


@dataclass(slots=True)
class Parsed:
    """A YAML text: its plain value, the line of every key path, and what is wrong with it.

    `lines[()]` is the line of the top-level value. A text with a syntax error has the value None.
    """

    value: Any = None
    lines: dict[KeyPath, int] = field(default_factory=dict)
    problems: list[Problem] = field(default_factory=list)


def key_text(path: KeyPath) -> str:
    """Return a key path as messages show it: "fleet.0.device"."""
    return ".".join(str(part) for part in path)


def show(value: Any) -> str:
    """Return a plain value as messages show it: as YAML would write it, shortened."""
    if isinstance(value, dict):
        return "a mapping"
    if isinstance(value, list):
        return "a list"
    if isinstance(value, str):
        return repr(value if len(value) <= 60 else value[:57] + "...")
    return json.dumps(value, default=repr)


def parse_yaml(text: str) -> Parsed:
    """Read one YAML document; what is wrong is told in `problems`, never raised. An empty text is None."""
    parsed = Parsed()
    try:
        loader = _Loader(text)
        try:
            node = loader.get_single_node()
        finally:
            loader.dispose()
        if node is not None:
            parsed.value = _build(node, (), parsed)
    except yaml.MarkedYAMLError as error:
        parsed.problems.append(_syntax_problem(error))
    except yaml.reader.ReaderError as error:
        line = text.count("\n", 0, error.position) + 1
        parsed.problems.append(Problem(line, (), "holds a control character, which YAML does not allow"))
    except RecursionError:
        parsed.problems.append(Problem(1, (), "is nested too deeply"))
    return parsed


def format_yaml(value: Any) -> str:
    """Return a plain value as YAML text that `parse_yaml` (and any YAML 1.1 reader) reads back to an equal value."""
    return yaml.dump(value, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=120)


class _Loader(WithoutAliases):
    """PyYAML's parser with the YAML 1.2 core schema's plain scalars, and without aliases."""

    yaml_implicit_resolvers: dict[str, Any] = {}  # noqa: RUF012  (PyYAML's own class attribute)


class _Dumper(yaml.SafeDumper):
    """PyYAML's dumper; quotes what either schema would take for something else than text."""

    def ignore_aliases(self, data: Any) -> bool:
        return True

    def represent_str(self, data: str) -> ScalarNode:
        # Unicode's line breaks and the byte order mark are folded or lost in any style but the double quoted.
        breaks = any(mark in data for mark in "\x85\u2028\u2029\ufeff")
        return self.represent_scalar(_TAG + "str", data, style='"' if breaks else None)


_Dumper.add_representer(str, _Dumper.represent_str)

# The order matters: the first pattern that matches decides, and every integer is a float to _FLOAT.
for _schema in (_Loader, _Dumper):
    _schema.add_implicit_resolver(_TAG + "null", re.compile(rf"(?:{_NULL.pattern})\Z"), ["~", "n", "N", ""])
    _schema.add_implicit_resolver(_TAG + "bool", re.compile(rf"(?:{_BOOL.pattern})\Z"), list("tTfF"))
    _schema.add_implicit_resolver(_TAG + "int", re.compile(rf"(?:{_INT.pattern})\Z"), list("-+0123456789"))
    _schema.add_implicit_resolver(_TAG + "float", re.compile(rf"(?:{_FLOAT.pattern})\Z"), list("-+.0123456789"))


def _int(text: str) -> int:
    value = int(text, 0) if text[:2] in ("0x", "0o") else int(text)
    if value.bit_length() > MOST_BITS:
        raise ValueError("too many digits")
    return value


def _float(text: str) -> float:
    return float(text.lower().replace(".inf", "inf").replace(".nan", "nan"))


def _text(text: str) -> str:
    text.encode("utf-8")  # raises for half of a surrogate pair ("\\ud800"), which no file could hold
    return text


_SCALARS: dict[str, tuple[re.Pattern[str], Callable[[str], Any]]] = {
    _TAG + "null": (_NULL, lambda text: None),
    _TAG + "bool": (_BOOL, lambda text: text.lower() == "true"),
    _TAG + "int": (_INT, _int),
    _TAG + "float": (_FLOAT, _float),
    _TAG + "str": (re.compile(r"(?s).*"), _text),
}


def _build(node: Node, path: KeyPath, parsed: Parsed) -> Any:
    """Return the plain value of a node; notes the lines and problems of everything below it."""
    parsed.lines.setdefault(path, node.start_mark.line + 1)
    if len(path) > MOST_DEPTH:
        parsed.problems.append(Problem(node.start_mark.line + 1, path[:MOST_DEPTH], "is nested too deeply"))
        return None
    if isinstance(node, MappingNode) and node.tag == _TAG + "map":
        return _build_mapping(node, path, parsed)
    if isinstance(node, SequenceNode) and node.tag == _TAG + "seq":
        return [_build(item, (*path, index), parsed) for index, item in enumerate(node.value)]
    if isinstance(node, ScalarNode) and node.tag in _SCALARS:
        return _build_scalar(node, path, parsed)
    tag = node.tag.replace(_TAG, "!!")
    parsed.problems.append(Problem(node.start_mark.line + 1, path, f"the tag {tag} is not supported"))
    return None


def _build_mapping(node: MappingNode, path: KeyPath, parsed: Parsed) -> dict[str, Any]:
    mapping: dict[str, Any] = {}
    for key_node, value_node in node.value:
        line = key_node.start_mark.line + 1
        if not (isinstance(key_node, ScalarNode) and key_node.tag == _TAG + "str"):
            shown = key_node.value if isinstance(key_node, ScalarNode) else "a collection"
            parsed.problems.append(Problem(line, path, f"a key must be text, got {shown or 'nothing'}"))
            continue
        key: str = key_node.value
        key_path = (*path, key)
        if key in mapping:
            first = parsed.lines[key_path]
            parsed.problems.append(Problem(line, key_path, f"is said twice (first on line {first}); keep one"))
            continue
        parsed.lines[key_path] = line
        mapping[key] = _build(value_node, key_path, parsed)
    return mapping


def _build_scalar(node: ScalarNode, path: KeyPath, parsed: Parsed) -> Any:
    pattern, construct = _SCALARS[node.tag]
    try:
        # Only an explicit tag (!!int x) or thousands of digits can fail here.
        if pattern.fullmatch(node.value):
            return construct(node.value)
    except ValueError:  # includes UnicodeEncodeError
        pass
    kind = node.tag.removeprefix(_TAG)
    shown = node.value if len(node.value) <= 40 else node.value[:40] + "..."
    parsed.problems.append(Problem(node.start_mark.line + 1, path, f"{shown!r} cannot be read as {kind}"))
    return None


def _syntax_problem(error: yaml.MarkedYAMLError) -> Problem:
    mark = error.problem_mark or error.context_mark
    line = mark.line + 1 if mark else 1
    told = error.problem or "it cannot be read"
    if "'\\t'" in told:
        told = "a tab cannot indent or start a value; use spaces"
    if error.context and error.context_mark and error.context_mark.line + 1 != line:
        told += f" ({error.context} that began on line {error.context_mark.line + 1})"
    return Problem(line, (), f"not valid YAML: {told}")
