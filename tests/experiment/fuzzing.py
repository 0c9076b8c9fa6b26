"""Configs with something wrong in them: the shipped ones, cut, spliced, retyped and filled with the extreme."""

from __future__ import annotations

import random
import re
import resource
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

ROOT = Path(__file__).parents[2]
SHIPPED = sorted((ROOT / "configs").glob("*.yaml"))

#: Sections that the shipped configs leave out.
MORE = """
availability: {name: duty_cycle, period_s: 1 d, on_s: 8 h, offset_s: random}
outages: [{from_s: 1 h, to_s: 2 h, fraction: 0.5}, {from_s: 0, to_s: 3, clients: [0, 1]}]
failures: {probability: 0.1, schedule: [{client: 0, task: 0, round: 0, at: 0.5}],
  bad_updates: [{client: 0, task: 0, round: 0, sends: garbage}]}
door: {most_norm_ratio: 10.0}
compression: {name: topk, fraction: 0.1}
policy: {name: deadline, deadline_s: 30}
task_arrival: {every_s: 1 h}
network: {uplink_bytes_per_s: 1 MB/s, downlink_bytes_per_s: 2 MB/s, latency_s: 20 ms, framing: {header_bytes: 40}}
placement: {clients_per_actor: auto, memory_per_actor: 1 GiB}
"""
#: What may stand in the place of any value.
VALUES = (
    *(
        "null",
        "true",
        "~",
        "''",
        "{}",
        "[]",
        "[[]]",
        "{a: b}",
        "random",
        "auto",
        "digits",
        "markov",
        "fedbuff",
        "uniform",
    ),
    *(
        "-1",
        "0",
        "1",
        "0.5",
        "-0.0",
        "1e-320",
        "1e308",
        "1e400",
        ".nan",
        ".inf",
        "-.inf",
        "nan",
        "1e999999",
        "0x10",
        "0o7",
    ),
    *(
        "9" * 30,
        "9" * 5000,
        "0x" + "f" * 5000,
        "1_000",
        "1" + "0" * 300,
        "4294967296",
        "2000000",
        "9223372036854775808",
    ),
    *("1 parsec", "1e9 d", "2001-99-99", "12:30:45", "=", "<<", "!!python/object/apply:os.system [id]", "!x y"),
    *("!!binary aGk=", "&a b", "*a", "&a [*a, *a]", "? x", "|", ">", "'unclosed", "- " * 200 + "x", "jetson-nano"),
    *('"\\0"', '"\\ud800"', '"\\x01"', "\x00", "\x1b[31m", "\u202e", "\ufeff", "\u2028", "\u00e9" * 300, "x" * 5000),
    *("../../../etc/passwd", "/etc/passwd", "/dev/zero", "/", ".", "~nobody/x", "~", "%s%s%n", "${HOME}", "{{ x }}"),
    *("[" * 500, "{" * 500, "[" * 60 + "]" * 60, "{a: " * 60 + "1" + "}" * 60, "[0, 1, 2]", "[-1]"),
)
#: Pieces of text that may come anywhere.
PIECES = (
    *(
        "\t",
        "\n",
        "\r",
        "\r\n",
        " ",
        "  ",
        ":",
        ": ",
        "-",
        "- ",
        "#",
        ",",
        "{",
        "}",
        "[",
        "]",
        "'",
        '"',
        "---\n",
        "...\n",
    ),
    *("%YAML 1.1\n", "&a", "*a", "!!int ", "? ", "| ", "\\", "\x00", "\x07", "\x85", "\ud800", "\ufffe", "\U0001f4a5"),
    "\nbomb: [&b [&a [x, x, x, x, x, x, x, x, x], *a, *a, *a, *a, *a, *a, *a], *b, *b, *b, *b, *b, *b, *b]\n",
    "\nseed: 1\nseed: 2\n",
    "\n? [a]\n: b\n",
    "\nmethod: {name: fedavg}\n",
    "\nscenario: 3\n",
    "\nfleet:\n",
)
#: What overrides may set.
KEYS = (
    *("seed", "scenario.clients", "scenario.tasks", "scenario.task_order", "scenario.data_root", "scenario.dataset"),
    *("fleet.0.count", "fleet.0.device", "fleet.9.count", "fleet.-1", "fleet." + "9" * 5000 + ".count", "devices_path"),
    *("method", "method.name", "policy.name", "training.batch_size", "network.uplink_trace", "availability.file"),
    *("availability", "outages.0.clients", "task_arrival.trace", "failures", "failures.schedule.0.client", "seed.x"),
    *("door.most_norm_ratio", "placement.clients_per_actor", "a." * 50 + "b", "a." * 5000 + "b", ".", "", "x" * 3000),
)


def texts(seed: int) -> list[str]:
    """Return the texts to start from: the shipped configs, for an odd *seed* with all sections that there are."""
    shipped = [path.read_text(encoding="utf-8") for path in SHIPPED]
    if seed % 2 == 0:
        return shipped
    sections = "|".join(re.findall(r"^(\w+):", MORE, flags=re.MULTILINE))
    return [re.sub(rf"^({sections}):.*\n(?:[ #].*\n)*", "", text, flags=re.MULTILINE) + MORE for text in shipped]


def mutated(seed: int) -> tuple[bytes, list[str]]:
    """Return the bytes of a config and overrides, which follow from the seed alone."""
    rng = random.Random(seed)
    text = rng.choice(texts(seed))
    for _ in range(rng.choice((1, 1, 1, 2, 3, 8))):
        text = rng.choice(CHANGES)(rng, text)
    content = text.encode("utf-8", "surrogatepass")
    for _ in range(rng.choice((0, 0, 0, 0, 1, 4))):
        place = rng.randrange(len(content) + 1)
        content = content[:place] + rng.randbytes(rng.randrange(1, 4)) + content[place + rng.randrange(3) :]
    overrides = [
        f"{rng.choice(KEYS)}{rng.choice(('=', '=', '=', '=', ''))}{rng.choice(VALUES)}"
        for _ in range(rng.choice((0, 0, 0, 1, 1, 3)))
    ]
    return content, overrides


def _other_value(rng: random.Random, text: str) -> str:
    places = [match.span(1) for match in re.finditer(r":[ ]+([^\s,{}\[\]#][^,{}\[\]#\n]*)", text)]
    return _replaced(text, rng.choice(places), rng.choice(VALUES)) if places else text


def _other_key(rng: random.Random, text: str) -> str:
    places = [match.span(1) for match in re.finditer(r"(\w+):", text)]
    names = [text[start:stop] for start, stop in places] + ["name", "x", "0", "null", "é"]
    return _replaced(text, rng.choice(places), rng.choice(names)) if places else text


def _piece_anywhere(rng: random.Random, text: str) -> str:
    place = rng.randrange(len(text) + 1)
    return _replaced(text, (place, place), rng.choice(PIECES) * rng.choice((1, 1, 1, 40)))


def _cut(rng: random.Random, text: str) -> str:
    start = rng.randrange(len(text) + 1)
    return _replaced(text, (start, min(len(text), start + rng.choice((1, 2, 5, 30, 400)))), "")


def _line_again(rng: random.Random, text: str) -> str:
    lines = text.splitlines(keepends=True) or [""]
    lines.insert(rng.randrange(len(lines) + 1), rng.choice(lines) * rng.choice((1, 1, 30)))
    return "".join(lines)


def _indented(rng: random.Random, text: str) -> str:
    lines = text.splitlines(keepends=True) or [""]
    place = rng.randrange(len(lines))
    lines[place] = " " * rng.randrange(5) + lines[place].lstrip(" ")
    return "".join(lines)


def _spliced(rng: random.Random, text: str) -> str:
    other = rng.choice(texts(rng.randrange(2)))
    return text[: rng.randrange(len(text) + 1)] + other[rng.randrange(len(other)) :]


def _replaced(text: str, span: tuple[int, int], by: str) -> str:
    return text[: span[0]] + by + text[span[1] :]


CHANGES: tuple[Callable[[random.Random, str], str], ...] = (
    *(_other_value, _other_value, _other_value, _other_value, _other_key, _piece_anywhere),
    *(_piece_anywhere, _cut, _line_again, _indented, _spliced),
)


class TooSlowError(Exception):
    """A call took more processor time than it may."""


@contextmanager
def watched(cpu_s: float, memory_bytes: int) -> Iterator[None]:
    """Raise in a block that takes so much processor time, or so much more memory than there is now (Linux)."""

    def stop(*_: object) -> None:
        raise TooSlowError(f"more than {cpu_s} s")

    pages = int(Path("/proc/self/statm").read_text().split()[0])
    limits = resource.getrlimit(resource.RLIMIT_AS)
    handler = signal.signal(signal.SIGVTALRM, stop)
    signal.setitimer(signal.ITIMER_VIRTUAL, cpu_s)
    resource.setrlimit(resource.RLIMIT_AS, (pages * resource.getpagesize() + memory_bytes, limits[1]))
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_VIRTUAL, 0)
        resource.setrlimit(resource.RLIMIT_AS, limits)
        signal.signal(signal.SIGVTALRM, handler)
