"""The section on stragglers: who sets the length of the rounds, or without rounds who holds the merges' staleness."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from fedknow_ray.report.blame import PHASES, Blame, Total, round_blame, staleness_blame, totals
from fedknow_ray.report.document import Plot, Section
from fedknow_ray.report.figures import Figure, base_layout, time_unit
from fedknow_ray.report.recorded import has_rounds, round_name
from fedknow_ray.report.tables import html_table
from fedknow_ray.results import Run
from fedknow_ray.units import format_duration

MOST_CLIENTS = 12
"""Clients with a bar and a row of their own; the others are added up."""
MOST_PARTS = 400
"""More rounds than this have a bar each, and no table."""


@dataclass(frozen=True, slots=True)
class _Words:
    """What a section says, with rounds and without."""

    title: str
    text: str
    part: str
    """What an amount is of: a round, or a merge."""
    amount: str
    form: Callable[[float], str]
    """How an amount is called, and written."""
    whole: str
    per_part: str
    nobody: str
    wait: str
    none: str


_ROUNDS = _Words(
    title="Who holds up the rounds",
    text="A round ends with the visit that it waits for, and its seconds are that client's: what it spent on "
    "downloading, computing and uploading from the start of the round to its end. Clients that end together share a "
    "round; one that ends at a deadline is shared by those that did not make it. The ends of tasks are not rounds.",
    part="round",
    amount="length",
    form=format_duration,
    whole="the length of all rounds",
    per_part="The length of each round, by what the client that it waited for was doing.",
    nobody="nobody was on",
    wait="nobody on",
    none="No round was finished.",
)
_MERGES = _Words(
    title="Who holds the staleness of the merges",
    text="Without rounds nobody waits for anybody, and a slow client's update is stale instead: other updates were "
    "merged while its visit went on. Each merge that an update missed is that client's, and of the phase that it was "
    "in.",
    part="merge",
    amount="merges missed",
    form="{:.0f}".format,
    whole="the staleness of all merged updates",
    per_part="The staleness of the updates of each merge, added up, by what their clients were doing when others "
    "were merged.",
    nobody="nobody",
    wait="waiting to be merged",
    none="No update was stale: none missed a merge.",
)


def blame_section(run: Run) -> Section:
    """Return the section of a run; its policy decides which of the two it is."""
    words, blames = (_ROUNDS, round_blame(run)) if has_rounds(run) else (_MERGES, staleness_blame(run))
    by_client = totals(blames, "client")
    shown = _shown(by_client)
    per_client, per_part = (_per_client(shown, words), _per_part(blames, words)) if by_client else (None, None)
    return Section(
        words.title,
        words.text,
        (
            Plot(
                "blame-per-client",
                "Client by client",
                f"In per cent of {words.whole}.",
                per_client,
                words.none,
                height_px=150 + 30 * len(shown),
            ),
            Plot(
                f"blame-per-{words.part}",
                f"{words.part.capitalize()} by {words.part}",
                words.per_part,
                per_part,
                words.none,
            ),
        ),
        _tables(run, blames, shown, words) if by_client else "",
    )


def _shown(by_client: Sequence[Total]) -> list[Total]:
    """Return the worst clients, the others added up, and what is nobody's; the others have neither id nor device."""
    clients = [total for total in by_client if total.client_id is not None]
    nobodys = [total for total in by_client if total.client_id is None]
    if len(clients) > MOST_CLIENTS:
        rest = clients[MOST_CLIENTS - 1 :]
        phases = {phase: sum(total.phases[phase] for total in rest) for phase in PHASES}
        clients = [*clients[: MOST_CLIENTS - 1], Total(None, f"{len(rest)} other clients", phases)]
    return clients + nobodys


def _name(total: Total, words: _Words) -> str:
    if total.client_id is None:
        return total.device or words.nobody
    return f"client {total.client_id} ({total.device})"


def _phases(shown: Sequence[Total], words: _Words) -> dict[str, str]:
    """Return the phases that there are, and what they are called; of waiting nothing is said where there is none."""
    names = {phase: phase for phase in PHASES} | {"wait": words.wait}
    waited = any(total.phases["wait"] for total in shown)
    return {phase: name for phase, name in names.items() if phase != "wait" or waited}


def _per_client(shown: Sequence[Total], words: _Words) -> Figure:
    labels = [_name(total, words) for total in shown]
    traces = [
        {
            "type": "bar",
            "orientation": "h",
            "name": name,
            "y": labels,
            "x": [round(total.phases[phase], 6) for total in shown],
            "marker": {"color": f"${phase}"},
            "hovertemplate": f"%{{y}}, {name}: %{{x:.1%}}<extra></extra>",
        }
        for phase, name in _phases(shown, words).items()
    ]
    layout = base_layout(f"share of {words.whole}", "") | {"barmode": "stack", "bargap": 0.3}
    layout["xaxis"] |= {"tickformat": ".0%"}
    layout["yaxis"] |= {"autorange": "reversed", "showgrid": False, "type": "category"}
    return {"data": traces, "layout": layout}


def _per_part(blames: Sequence[Blame], words: _Words) -> Figure:
    scale, unit = time_unit(max(blame.amount for blame in blames)) if words is _ROUNDS else (1.0, "merges missed")
    labels = [f"{_part(blame, words)}: {_clients(blame, words)}" for blame in blames]
    traces = [
        {
            "type": "bar",
            "name": name,
            "x": list(range(1, len(blames) + 1)),
            "y": [round(blame.of_phase(phase) / scale, 6) for blame in blames],
            "text": labels,
            "textposition": "none",
            "marker": {"color": f"${phase}"},
            "hovertemplate": f"%{{text}}, {name}: %{{y:.3~g}} {unit}<extra></extra>",
        }
        for phase, name in _phases(totals(blames, "client"), words).items()
    ]
    layout = base_layout(f"{words.part}, counted over the run", unit) | {"barmode": "stack", "bargap": 0.15}
    return {"data": traces, "layout": layout}


def _part(blame: Blame, words: _Words) -> str:
    return round_name(blame.task_index, blame.index, words.part, first=1)


def _clients(blame: Blame, words: _Words) -> str:
    ids = blame.client_ids
    return f"client{'s' * (len(ids) > 1)} {', '.join(map(str, ids))}" if ids else words.nobody


def _tables(run: Run, blames: Sequence[Blame], shown: Sequence[Total], words: _Words) -> str:
    head = [*_phases(shown, words).values(), "all phases"]
    clients = html_table(
        f"Clients, in per cent of {words.whole}",
        ["client", *head],
        [[_name(total, words), *_shares(total.phases, shown, words)] for total in shown],
    )
    parts = "" if len(blames) > MOST_PARTS else _parts_table(blames, shown, words)
    return _kinds_table(run, totals(blames, "device"), words) + clients + parts


def _kinds_table(run: Run, by_device: Sequence[Total], words: _Words) -> str:
    """Return the table of device kinds; one that is to blame for nothing has its row as well."""
    kinds = run.visits.select(["device", "kind"]).to_pylist()
    trained = Counter(visit["device"] for visit in kinds if visit["kind"] == "train")
    guilty = {total.device for total in by_device}
    nothing = dict.fromkeys(PHASES, 0.0)
    rows = [
        [
            total.device or words.nobody,
            f"{trained[total.device] / trained.total():.1%}" if total.device in trained else "",
            *_shares(total.phases, by_device, words),
        ]
        for total in [*by_device, *(Total(None, device, nothing) for device in trained if device not in guilty)]
    ]
    everything = {phase: sum(total.phases[phase] for total in by_device) for phase in PHASES}
    rows.append(["all", "", *_shares(everything, by_device, words)])
    head = ["device", "share of training visits", *_phases(by_device, words).values(), "all phases"]
    return html_table(f"Kinds of device, in per cent of {words.whole}", head, rows)


def _parts_table(blames: Sequence[Blame], shown: Sequence[Total], words: _Words) -> str:
    """Return who each round or merge is blamed on, in a block that opens."""
    phases = _phases(shown, words)
    head = [words.part, "whose", words.amount, *phases.values()]
    rows = [
        [
            _part(blame, words),
            _clients(blame, words) if blame.shares else "",
            words.form(blame.amount),
            *(f"{blame.of_phase(phase) / blame.amount:.1%}" if blame.amount else "" for phase in phases),
        ]
        for blame in blames
    ]
    title = f"{words.part.capitalize()} by {words.part}"
    return f"<details><summary>{title}</summary>{html_table(title, head, rows)}</details>"


def _shares(of: dict[str, float], shown: Sequence[Total], words: _Words) -> list[str]:
    return [*(f"{of[phase]:.1%}" for phase in _phases(shown, words)), f"{sum(of.values()):.1%}"]
