"""The size of a run: tasks, rounds, clients, and how many images each client has of each task."""

from __future__ import annotations

from dataclasses import dataclass

from fedknow_ray.methods.method import VisitFacts


@dataclass(frozen=True, slots=True)
class Course:
    """The size of a run: *images[client][task]* training images, and *test_images*; *classes* head rows of a task.

    All clients have as many *tasks*. *arrives_s[client][task]* when a client comes to its tasks, with *rounds_per_task*
    training visits for each of them; None in lockstep.
    """

    seed: int
    tasks: int
    rounds_per_task: int
    classes: int
    images: tuple[tuple[int, ...], ...]
    test_images: tuple[tuple[int, ...], ...]
    arrives_s: tuple[tuple[float, ...], ...] | None = None

    @property
    def clients(self) -> range:
        """All clients, in order."""
        return range(len(self.images))

    def facts(self, client_id: int, task_index: int, round_index: int, *, trained_this_task: bool) -> VisitFacts:
        """Return what is known of a visit before it happens."""
        return VisitFacts(
            client_id=client_id,
            task_index=task_index,
            round_index=round_index,
            images=self.images[client_id][task_index],
            classes=self.classes,
            trained_this_task=trained_this_task,
            test_images=sum(self.test_images[client_id][: task_index + 1]),
            past_images=self.images[client_id][:task_index],
        )
