"""The visits that a backend has been given and may still need: what each starts from, and where what it leaves is.

    dispatched -> started -> reported -> saved (its client, after it) and merged (its update, or there is none) -> gone

Pure logic: references are any values. What is not saved can be made again from the last state that is; so a visit stays
here until it is saved, and without saving until it is merged.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass
from typing import Any

from fedknow_ray.federation.visit import VisitOrder


@dataclass(slots=True, eq=False)
class Entry:
    """One visit. *base* the broadcast that it starts from; *update* and *state* what it leaves, once it is started.

    *merged*: nobody needs its update any more.
    """

    base: Any
    update: Any = None
    state: Any = None
    reported: bool = False
    saved: bool = False
    merged: bool = False

    @property
    def under_way(self) -> bool:
        """Whether it is still to be made, or waits for its merge."""
        return not (self.reported and self.merged)


class VisitBook:
    """Keeps the visits in the order in which they were dispatched; *saves* whether clients are saved at all."""

    def __init__(self, *, saves: bool) -> None:
        self._saves = saves
        self._entries: dict[VisitOrder, Entry] = {}

    def __getitem__(self, order: VisitOrder) -> Entry:
        return self._entries[order]

    def __len__(self) -> int:
        return len(self._entries)

    def dispatched(self, order: VisitOrder, base: Any) -> None:
        """Take down a visit that is to be made from a broadcast."""
        self._entries[order] = Entry(base)

    def waits_for_merge(self, order: VisitOrder, base: Any, update: Any) -> None:
        """Take down a visit that was made and saved before, and whose update waits for its merge."""
        self._entries[order] = Entry(base, update, reported=True, saved=True)

    def reported(self, order: VisitOrder, *, merged: bool) -> None:
        """Note that a visit is made; *merged* where there is no update that anybody needs."""
        entry = self._entries[order]
        entry.reported, entry.merged = True, merged
        self._let_go([order])

    def merged(self, orders: Collection[VisitOrder] | None = None) -> None:
        """Note that updates have gone into a merge, or never will; without *orders* all of them."""
        known = [order for order in (self._entries if orders is None else orders) if order in self._entries]
        for order in known:
            self._entries[order].merged = True
        self._let_go(known)

    def saved(self) -> None:
        """Note that every client was saved after its last visit that has reported."""
        for entry in self._entries.values():
            if entry.reported:
                entry.saved, entry.state = True, None
        self._let_go(list(self._entries))

    def clear(self) -> None:
        """Forget all visits."""
        self._entries.clear()

    def under_way(self) -> list[tuple[VisitOrder, Entry]]:
        """Return the visits that are still to be made, or wait for their merge."""
        return [(order, entry) for order, entry in self._entries.items() if entry.under_way]

    def last_unsaved(self) -> dict[int, Entry]:
        """Return the last visit that has reported of each client that has not been saved since."""
        return {o.client_id: e for o, e in self._entries.items() if e.reported and not e.saved}

    def to_make_again(self, client_ids: Collection[int]) -> list[tuple[VisitOrder, Entry]]:
        """Return the visits that some clients have to make again if they go back to where they were saved."""
        return [(o, e) for o, e in self._entries.items() if o.client_id in client_ids and not e.saved]

    def _let_go(self, orders: Iterable[VisitOrder]) -> None:
        for order in orders:
            entry = self._entries[order]
            if not entry.under_way and (entry.saved or not self._saves):
                del self._entries[order]
