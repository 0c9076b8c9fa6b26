"""What a config may say: every key with its default, its bounds and its unit.

`RunConfig` is the resolved config of one run. Six of its parts are *named entries*: `method`, `scenario.partition`,
`training.optimizer`, `compression`, `availability` and `policy` have a `name`, and the name decides which other keys
there are. The keys of a method belong to the method (its `hyperparameters` class in the catalogue); the others' are
here and beside this file.
"""

from __future__ import annotations

import math
from typing import Annotated, Any, Literal

from pydantic import BaseModel, Field, SerializeAsAny

from fedknow_ray.config.arrival import TaskArrivalConfig
from fedknow_ray.config.availability import AlwaysAvailability, AvailabilityConfig, FailuresConfig, OutageConfig
from fedknow_ray.config.compression import CompressionConfig, NoCompression
from fedknow_ray.config.door import DoorConfig
from fedknow_ray.config.fields import (
    Count,
    DurationS,
    Flag,
    Folder,
    Fraction,
    Frozen,
    Index,
    Listed,
    Momentum,
    Name,
    NotNegative,
    Packing,
    Positive,
    Seed,
    SizeBytes,
    TaskSequence,
)
from fedknow_ray.config.network import LinkOverrides, NetworkConfig
from fedknow_ray.config.policy import PolicyConfig, SynchronousPolicy
from fedknow_ray.config.yaml import KeyPath

DEFAULT_NAMES: dict[KeyPath, str] = {
    ("scenario", "partition"): "shards",
    ("method",): "fedknow",
    ("training", "optimizer"): "adam",
    ("compression",): "none",
    ("availability",): "always",
    ("policy",): "synchronous",
}
"""The named entries and the name that each has when a config gives none."""


class ShardsPartition(Frozen):
    """A client sees only some classes of each task: the data is cut into shards by class, and it gets a few shards."""

    name: Literal["shards"] = "shards"
    shards_per_client: Count = 5
    """Shards that a client gets of each task."""
    reuse_across_tasks: Flag = True
    """Whether the shards are dealt once for all tasks (the class positions of a client stay), or anew for each task."""


class IidPartition(Frozen):
    """Each client sees every class of each task in equal shares."""

    name: Literal["iid"] = "iid"


class ScenarioConfig(Frozen):
    """Which data is learnt, in which tasks, by how many clients."""

    dataset: Name = "cifar100"
    data_root: Folder | None = None
    """Folder of the Parquet files, relative to the working directory."""
    source: Literal["auto", "bundled", "parquet", "torchvision"] = "auto"
    """auto: bundled where the data set is bundled, else parquet."""
    setting: Literal["task_incremental"] = "task_incremental"
    tasks: Listed = 10
    classes_per_task: Listed = 10
    clients: Listed = 20
    partition: Annotated[ShardsPartition | IidPartition, Field(discriminator="name")] = ShardsPartition()
    samples_per_client: Count | None = 240
    """Training examples of one client in one task; null takes all that its partition gives."""
    task_order: Literal["same", "shuffled"] | TaskSequence = "same"
    """shuffled: every client learns the tasks in an order of its own; a list of tasks, from 0, is the sequence of all
    clients, in which a task may recur."""

    @property
    def places(self) -> int:
        """How many tasks a client learns one after the other, those that recur counted each time."""
        return len(self.task_order) if isinstance(self.task_order, tuple) else self.tasks


class ModelConfig(Frozen):
    """The network, and whose its head is."""

    name: Name = "cnn6"
    head: Literal["local", "global"] = "local"
    """local: the head never leaves the client; global: it is aggregated with the features."""


class MethodConfig(Frozen):
    """The method's name and its hyper-parameters, an instance of the class that the method registered."""

    name: Name
    hyper: SerializeAsAny[BaseModel]


class AdamOptimizer(Frozen):
    """Adam; the learning rate of local step s is lr / (1 + lr_decay * s)."""

    name: Literal["adam"] = "adam"
    lr: Positive = 0.001
    lr_decay: NotNegative = 1.0e-4
    weight_decay: NotNegative = 0.0


class SgdOptimizer(Frozen):
    """Stochastic gradient descent; the learning rate of local step s is lr / (1 + lr_decay * s)."""

    name: Literal["sgd"] = "sgd"
    lr: Positive = 0.01
    momentum: Momentum = 0.0
    lr_decay: NotNegative = 1.0e-4
    weight_decay: NotNegative = 0.0


class TrainingConfig(Frozen):
    """How long and how a client trains."""

    rounds_per_task: Count = 15
    client_fraction: Fraction = 0.4
    """Share of the clients that visit in a round, rounded to the nearest whole client; policy.cohorts overrides it."""
    local_epochs: Count = 8
    batch_size: Count = 40
    threads: Count = 1
    """Threads of one visit; never derived from the machine, because sums depend on it."""
    shuffle: Flag = True
    """Whether the examples of a visit come in a new order in each epoch."""
    precision: Literal["float32", "bfloat16"] = "float32"
    """Of the host's products and convolutions; bfloat16 is faster where the processor has it. What is emulated, and
    what is sent, is float32 in any case."""
    optimizer: Annotated[AdamOptimizer | SgdOptimizer, Field(discriminator="name")] = AdamOptimizer()


class FleetEntry(LinkOverrides):
    """So many clients on one kind of device; with links of their own where `network` is not theirs."""

    device: Name
    count: Listed
    joins_at_s: DurationS | None = None
    """When its clients join the run; null is from the start."""
    leaves_at_s: DurationS | None = None
    """When they leave it for good; null is never."""


class PlacementConfig(Frozen):
    """How clients are put into actors."""

    clients_per_actor: Packing = 1
    """auto packs clients of one device kind where one to one would not fit, and says so."""
    memory_per_actor: SizeBytes | None = None
    """Bytes that each actor asks of its node; null leaves the number to the placement."""


class RecoveryConfig(Frozen):
    """What is kept on the disk of a run under way, and how long actors and nodes are waited for; changes no bit."""

    checkpoint_every_rounds: Index = 1
    """After so many rounds all that the run needs to go on is saved; 0 is never, and a lost actor then ends the run."""
    keep_task_ends: Flag = True
    """Whether what is saved at the end of each task stays, so that other runs can go on from there."""
    losses_in_a_row: Count = 3
    """An actor that is lost so often without a visit in between ends the run."""
    hung_after_s: DurationS | None = None
    """Host seconds after which a visit's process is taken for hung and replaced; null is 20 times the longest visit so
    far, and two minutes at least."""
    wait_for_node_s: DurationS = 600.0
    """Host seconds that a lost actor waits for a node with room."""


PAPER_FLEET = (
    FleetEntry(device="jetson-nano", count=8),
    FleetEntry(device="jetson-tx2", count=2),
    FleetEntry(device="jetson-xavier-nx", count=8),
    FleetEntry(device="jetson-agx-xavier", count=2),
)
"""The 20 boards of the FedKNOW paper's first experiment (arXiv:2212.01738, section V)."""


class CommonConfig(Frozen):
    """Every section but `method`, whose keys are known only with a catalogue of methods."""

    seed: Seed = 1
    scenario: ScenarioConfig = ScenarioConfig()
    model: ModelConfig = ModelConfig()
    training: TrainingConfig = TrainingConfig()
    devices_path: Folder | None = None
    """Folder of device files, or one such file, beside the devices that ship; relative to the working directory."""
    fleet: Annotated[tuple[FleetEntry, ...], Field(min_length=1)] = PAPER_FLEET
    network: NetworkConfig = NetworkConfig()
    compression: CompressionConfig = NoCompression()
    """How updates are shortened; broadcasts are float32 in any case."""
    availability: AvailabilityConfig = AlwaysAvailability()
    outages: tuple[OutageConfig, ...] = ()
    """Losses of power, each of some clients for a while."""
    failures: FailuresConfig = FailuresConfig()
    door: DoorConfig = DoorConfig()
    """Which updates the server refuses."""
    on_out_of_memory: Literal["fail", "drop_client", "evict_oldest_knowledge"] = "fail"
    """What comes of a visit that its device cannot hold. fail: the visit is lost, and the next one is tried;
    drop_client: its client leaves for good; evict_oldest_knowledge: its client throws away the knowledge of its oldest
    tasks until the visit fits, and else it is lost."""
    policy: PolicyConfig = SynchronousPolicy()
    task_arrival: TaskArrivalConfig = TaskArrivalConfig()
    """When a client comes to its next task: with all others, or at a time of its own."""
    clock: Literal["virtual", "measured"] = "virtual"
    """virtual: seconds follow from the work; measured: from the host's processor seconds, and no two runs agree."""
    host_device: Name | None = None
    """With clock: measured, the device file that `fedknow-ray calibrate` wrote for this host, by its name."""
    placement: PlacementConfig = PlacementConfig()
    recovery: RecoveryConfig = RecoveryConfig()

    @property
    def clients_per_round(self) -> int:
        """Return how many clients a round without policy.cohorts draws: client_fraction x clients, halves up."""
        return math.floor(self.training.client_fraction * self.scenario.clients + 0.5)

    @property
    def devices(self) -> tuple[str, ...]:
        """Return the device name of each client, in client order: the fleet's entries one after the other."""
        return tuple(entry.device for entry in self.fleet for _ in range(entry.count))


class RunConfig(CommonConfig):
    """The resolved config of one run; `load_config` makes it."""

    method: MethodConfig

    def to_dict(self) -> dict[str, Any]:
        """Return the config in the shape of its YAML file: plain values, every key present.

        `devices_path` alone is left out where it is null, so that a run of shipped devices is what it was without it;
        and of the fleet's entries what is null, which is as the rest of the config has it. Of `task_arrival` the one
        key that holds is there.
        """
        plain = self.model_dump(mode="json")
        plain["fleet"] = [entry.model_dump(mode="json", exclude_none=True) for entry in self.fleet]
        plain["task_arrival"] = self.task_arrival.plain()
        method = {"name": self.method.name, **self.method.hyper.model_dump(mode="json")}
        order = (
            "seed",
            "scenario",
            "model",
            "method",
            "training",
            "devices_path",
            "fleet",
            "network",
            "compression",
            "availability",
            "outages",
            "failures",
            "door",
            "on_out_of_memory",
            "policy",
            "task_arrival",
            "clock",
            "host_device",
            "placement",
            "recovery",
        )
        absent = {"devices_path"} if self.devices_path is None else set()
        return {key: method if key == "method" else plain[key] for key in order if key not in absent}
