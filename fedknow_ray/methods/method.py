"""The interface of a method: what a client does in a visit, and what that costs, known before it happens.

A visit is a function (client state, start model, data, seed) -> (client state, update, work, figures). The caller has
loaded the start model into the learner's network; the method trains it in place and returns what it keeps for itself.
It plans the work of a visit exactly from its facts, and the work that is counted while training equals the plan.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar, Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict

from fedknow_ray.simulation.work import Work

if TYPE_CHECKING:
    from fedknow_ray.config.model import CommonConfig, TrainingConfig
    from fedknow_ray.config.yaml import KeyPath
    from fedknow_ray.methods.costs import StepCosts
    from fedknow_ray.methods.learner import Learner
    from fedknow_ray.models.layout import TensorSlice
    from fedknow_ray.transport.compression import Compressor
    from fedknow_ray.transport.update_layout import UpdateLayout


OwnModel: TypeAlias = Literal["last_visit", "final"]
"""What a client's own model is after a task: that of its last training visit, or the final features with its head
trained on them, which a client that was never sampled in the task has in any case."""


class Hyperparameters(BaseModel):
    """Base of a method's hyper-parameters: immutable, unknown keys refused."""

    model_config = ConfigDict(frozen=True, extra="forbid")


@dataclass(frozen=True, slots=True)
class VisitFacts:
    """What is known of a visit before it happens.

    *images* training images of the client for this task; *classes* head rows of one task; *task_index* is also the
    number of past tasks. *trained_this_task*: the client has had a training visit in this task. *test_images* of the
    client in the tasks learnt so far, this one included: what it evaluates its model on at the end of the task.
    *evicted_tasks* of its oldest past tasks the client knows nothing any more (`Method.evicts`); *newly_evicted* of
    them are gone since its last training visit in this task: 0 where it had none, and in visits of other kinds.
    *past_images* training images that it had of each past task, oldest first; where it is empty, as many as now.
    """

    client_id: int
    task_index: int
    round_index: int
    images: int
    classes: int
    trained_this_task: bool
    test_images: int = 0
    evicted_tasks: int = 0
    newly_evicted: int = 0
    past_images: tuple[int, ...] = ()

    @property
    def images_of_remembered_tasks(self) -> tuple[int, ...]:
        """The training images that the client had of each past task that it still has knowledge of, oldest first."""
        return (self.past_images or (self.images,) * self.task_index)[self.evicted_tasks :]

    @property
    def remembered_tasks(self) -> int:
        """How many past tasks, the newest ones, the client still has knowledge of."""
        return self.task_index - self.evicted_tasks


@dataclass(frozen=True, slots=True)
class TaskData:
    """A client's training data of the task at hand.

    *images_NHWC* uint8 (or float32, if normalised already), *labels_N* int64 from 0 within the task, *rows* the task's
    head rows. *past_rows* those of the tasks learnt before, oldest first, and *past_heads* what these rows (R, F + 1)
    hold as the visit starts: they stay as they are while this task is learnt. *past* the data of those tasks, empty
    unless the method sees it (`Method.sees_past_data`). *served* what the method's server part sent beside the model
    that the visit starts from.
    """

    images_NHWC: NDArray[Any]
    labels_N: NDArray[np.int64]
    rows: range
    past_rows: tuple[range, ...] = ()
    past_heads: tuple[NDArray[np.float32], ...] = ()
    past: tuple[TaskData, ...] = ()
    served: Mapping[str, NDArray[np.float32]] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Plan:
    """The work of a visit and the most memory that it holds at once."""

    work: Work
    peak_memory_bytes: int


@dataclass(frozen=True, slots=True)
class ClientState:
    """All that a client keeps between visits; a value that can be stored and sent.

    *head_CF* (C, F + 1) the client's own head; *own_S* the features of its own model, None before the first visit that
    makes one; *memory* the method's own, of what `Method.memory_types` says; *residual_N* what compression has left
    unsent of its updates, None before any.
    """

    head_CF: NDArray[np.float32]
    own_S: NDArray[np.float32] | None = None
    memory: Any = None
    residual_N: NDArray[np.float32] | None = None


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a visit gives besides the trained network: the method's new memory, the mean loss, and its figures.

    *integrated_steps* steps whose gradient was checked against past tasks, None where none was; *violated_steps* those
    that it had to change. *notes* goes into the events table as JSON. *past_heads*: the head rows (R, F + 1) of each
    past task as they are now, where the visit trained them. *sent_S*: the features that a training visit sends where
    they are not the client's own model, None where they are; the network is left as the own model in either case.
    """

    memory: Any
    loss: float | None
    integrated_steps: int | None = None
    violated_steps: int | None = None
    notes: Mapping[str, float] = field(default_factory=dict)
    past_heads: tuple[NDArray[np.float32], ...] | None = None
    sent_S: NDArray[np.float32] | None = None


class Method(ABC):
    """One way to learn; see CONTRIBUTING.md for a walk through adding one."""

    hyperparameters: ClassVar[type[BaseModel]] = Hyperparameters
    #: Whether clients exchange models with the server; False sends no byte.
    federated: ClassVar[bool] = True
    #: The dataclasses that a `ClientState.memory` is made of, those inside others too; see CONTRIBUTING.md.
    memory_types: ClassVar[tuple[type, ...]] = ()
    #: Whether a visit is given the images of earlier tasks again, in `TaskData.past`. That is against the rules of
    #: continual learning: only for a bound on what these can reach.
    sees_past_data: ClassVar[bool] = False
    #: Whether there is a server part: `served_shapes`, `serve` and `proxy_fraction`.
    serves: ClassVar[bool] = False
    #: Whether it shortens its updates itself (`compressor`), and so goes with no other compression.
    shortens_updates: ClassVar[bool] = False

    def __init__(self, hyper: BaseModel, training: TrainingConfig, costs: StepCosts) -> None:
        self.hyper = hyper
        self.training = training
        self.costs = costs

    @classmethod
    def conflicts(cls, hyper: BaseModel, config: CommonConfig) -> Iterator[tuple[KeyPath, str]]:
        """Yield each key of a config that the method cannot go with, and why: the run is refused before it starts."""
        yield from ()

    @abstractmethod
    def plan_train(self, facts: VisitFacts) -> Plan:
        """Return the exact work of a training visit."""

    @abstractmethod
    def train(self, learner: Learner, state: ClientState, data: TaskData, facts: VisitFacts) -> Outcome:
        """Train the learner's network in place."""

    @property
    def own_is_final(self) -> bool:
        """Whether each client's own model, once a task is over, is the final features with its head trained on them."""
        return False

    def takes_final(self, facts: VisitFacts) -> bool:
        """Whether a client ends a task with the final features as its own, and so trains its head on them: where the
        method says so, and where the client had no training visit in the task."""
        return self.own_is_final or not facts.trained_this_task

    def plan_finish(self, facts: VisitFacts) -> Plan:
        """Return the exact work of `finish_task`; nothing unless the method keeps something."""
        return Plan(Work.none(), self.costs.resident_bytes(facts))

    def finish_task(self, learner: Learner, state: ClientState, data: TaskData, facts: VisitFacts) -> Outcome:
        """End a task: return what the method keeps of it. The learner's network holds the client's own model, and may
        be used up: what becomes of it is thrown away.
        """
        return Outcome(state.memory, None)

    def kept_bytes(self, facts: VisitFacts) -> int:
        """Return what a client keeps besides its own model, with `facts.task_index` tasks behind it."""
        return 0

    def stored_bytes(self, facts: VisitFacts) -> int:
        """Return what of `kept_bytes` lies on storage: in memory only in a visit that reads it, as `Plan` says."""
        return 0

    @property
    def evicts(self) -> bool:
        """Whether a client can throw away what it knows of its oldest past tasks, one task after another.

        Then plans, visits and `kept_bytes` follow `VisitFacts.evicted_tasks`. A visit may be ordered with more evicted
        tasks than the last one, never with fewer; what a client's state still holds of them is dropped there.
        """
        return False

    def compressor(self, pieces: Sequence[TensorSlice], layout: UpdateLayout) -> Compressor:
        """Return what shortens its updates, where it `shortens_updates`; *pieces* the tensors of the features."""
        raise NotImplementedError(f"{type(self).__name__} does not shorten its updates")

    def features_of_task(self, learner: Learner, state: ClientState, task_index: int) -> NDArray[np.float32] | None:
        """Return the features (S,) with which a client's own model is used for one of its tasks, None for `own_S`."""
        return None

    @property
    def served_shapes(self) -> Mapping[str, tuple[int, ...]]:
        """Shapes of the float32 arrays that the server sends beside the model; all zeros in the first broadcast."""
        return {}

    @property
    def proxy_fraction(self) -> float:
        """Share of each client's training images of each task that the server has a copy of."""
        return 0.0

    def serve(self, learner: Learner, images_NHWC: NDArray[Any]) -> dict[str, NDArray[np.float32]]:
        """Return what goes down with a merged model, whose features the learner's network holds, from the server's
        images of the tasks seen so far. A function of these alone: the server remembers nothing. Its work is not on
        the virtual clock.
        """
        raise NotImplementedError(f"{type(self).__name__} has no server part")

    @classmethod
    def past_settings(cls, hyper: BaseModel, task_index: int, *, finished: bool) -> dict[str, Any]:
        """Return the part of its settings that can have made a difference by a point of the run, as plain values.

        The point: the rounds of task *task_index* are made, and with *finished* the end of the task too. Two runs that
        agree in this and in all of the config but the method share their past up to there to the bit, so one can start
        from the other's saved state, which must hold no memory that the other cannot read: None is read by all. Unless
        a method says more, all of its settings count from the beginning.
        """
        return {"method": f"{cls.__module__}.{cls.__qualname__}", **hyper.model_dump(mode="json")}

    @property
    def refines(self) -> bool:
        """Whether each client of a round makes a further visit right after aggregation (download, `refine`)."""
        return False

    def plan_refine(self, facts: VisitFacts) -> Plan:
        """Return the exact work of `refine`."""
        raise NotImplementedError(f"{type(self).__name__} does not refine")

    def refine(self, learner: Learner, state: ClientState, data: TaskData, facts: VisitFacts) -> Outcome:
        """Train the fresh aggregate further in place; the result becomes the client's own model and is not sent."""
        raise NotImplementedError(f"{type(self).__name__} does not refine")
