"""What a step of FedKNOW costs, side by side in one process and on one thread.

    python benchmarks/fedknow_step.py            k = 1, 3, 9 past tasks, about 4 min
    python benchmarks/fedknow_step.py --quick    k = 3, few repetitions

Ways to make the same visit (cnn6, images of 32 x 32 x 3, 10 classes a task, Adam), in seconds per step:

    ours      a client's first visit in a task: labels of all its images by the past models once, then 48 steps of
              `ProjectionRule` and the optimizer; the labelling is spread over the steps
    sum       the same with `SummingRule`: one backward pass for all losses (`integration: sum`, the default)
    plain     a step without past tasks: FedAvg's
    lower     (a) one forward pass, k + 1 backward passes, the same optimizer: what any way must spend, no integration
    obvious   (b) as the authors' code does it: for every batch and past task a deep-copied model, a forward pass of it,
              a forward and a backward pass of the student, all gradients in one matrix, the quadratic program in
              float64, and torch's Adam over the model's tensors

They take turns, so that a busy neighbour hits all alike; medians over the turns are printed, with ratios.
"""

from __future__ import annotations

import argparse
import copy
import statistics
import time
from collections.abc import Callable
from types import SimpleNamespace

import numpy as np
import torch
from torch import Tensor, nn

from fedknow_ray.config.model import TrainingConfig
from fedknow_ray.methods.costs import StepCosts
from fedknow_ray.methods.fedknow.extractor import Knowledge, keep_mask, pack, restore_weights
from fedknow_ray.methods.fedknow.integrator import solve_dual
from fedknow_ray.methods.fedknow.knowledge import FedKnowMemory, hear_past_tasks
from fedknow_ray.methods.fedknow.past_tasks import PastTasks
from fedknow_ray.methods.fedknow.restorer import distillation_loss, soft_labels
from fedknow_ray.methods.fedknow.rules import ProjectionRule, Tally
from fedknow_ray.methods.fedknow.settings import FedKnowSettings
from fedknow_ray.methods.fedknow.summing import SummingRule
from fedknow_ray.methods.learner import Batch, GradientRule, Learner, Normalisation, cross_entropy_rule, head_pass
from fedknow_ray.methods.method import TaskData, VisitFacts
from fedknow_ray.models.catalogue import MODELS
from fedknow_ray.models.footprint import measure_footprint
from fedknow_ray.models.network import FlatNetwork

SIZE = {"height": 32, "width": 32, "channels": 3}
CLASSES, BATCH, IMAGES, EPOCHS = 10, 40, 240, 8
STEPS_OF_VISIT = EPOCHS * IMAGES // BATCH
SETTINGS = FedKnowSettings(variant="paper")
TRAINING = TrainingConfig(local_epochs=EPOCHS, batch_size=BATCH)
CNN6 = MODELS.get("cnn6")


class Bench:
    """A learner that has been through k tasks, an epoch each, and stands before the next.

    Images are patterns of their class in noise. As on real data (86 to 93 % of steps on the digits, with 2 past tasks
    and more), most steps go against a past task, so that the quadratic programme is solved and the gradient combined.
    """

    def __init__(self, k: int) -> None:
        self.k, self._rng = k, np.random.default_rng(k)
        network = FlatNetwork(CNN6, **SIZE, rows=CLASSES)
        costs = StepCosts(measure_footprint(CNN6, **SIZE), TRAINING)
        self.learner = Learner(network, TRAINING, costs, Normalisation.of((0.5,) * 3, (0.25,) * 3))
        self.knowledge = tuple(self._learn(task) for task in range(k))
        self.data = self._new_task(k)
        self.facts = VisitFacts(0, k, 0, IMAGES, CLASSES, trained_this_task=False)
        self._start = network.theta.clone()

    def begin(self) -> None:
        """Start the visit again, with the weights from before it."""
        self.learner.network.theta.copy_(self._start)
        self.learner.begin(np.random.default_rng(1))
        self.learner.network.features.train()

    def _new_task(self, task: int) -> TaskData:
        labels_N = self._rng.integers(0, CLASSES, IMAGES)
        patterns = self._rng.integers(64, 192, (CLASSES, 4, 4, 3)).repeat(8, axis=1).repeat(8, axis=2)
        images_NHWC = patterns[labels_N] + self._rng.integers(-64, 64, (IMAGES, 32, 32, 3))
        self.learner.network.head.normal_(std=0.03, generator=torch.Generator().manual_seed(task))
        return TaskData(images_NHWC.astype(np.uint8), labels_N, range(task * CLASSES, (task + 1) * CLASSES))

    def _learn(self, task: int) -> Knowledge:
        data, network = self._new_task(task), self.learner.network
        self.learner.begin(self._rng)
        self.learner.train(data, 1, cross_entropy_rule)
        w_P = network.theta[: network.P]
        mask_P = keep_mask(w_P, network.layout, SETTINGS.retained_fraction)
        return pack(task, (data.rows.start, data.rows.stop), w_P, mask_P, network.head)

    def batches(self, steps: int) -> list[Batch]:
        """Return the first batches of a visit, in order."""
        x_NCHW = self.learner.normalisation(self.data.images_NHWC).permute(0, 3, 1, 2)
        y_N = torch.from_numpy(self.data.labels_N)
        places = [np.arange(s, s + BATCH) for s in range(0, IMAGES, BATCH)]
        return [Batch(i, x_NCHW[i], y_N[i]) for i in (places[step % len(places)] for step in range(steps))]


class Ours:
    """The package's own steps; labelling counts with its share of a visit."""

    def __init__(self, bench: Bench) -> None:
        self.bench, self.tally = bench, Tally()

    def labelling_s(self) -> float:
        """Seconds of labelling all images by all past models, once a task."""
        return timed_s(self._labels)

    def prepare(self) -> Callable[[Batch], None]:
        """Return the step of a fresh visit that projects."""
        return self._step(ProjectionRule(self._past_tasks(SETTINGS), self.tally))

    def prepare_sum(self) -> Callable[[Batch], None]:
        """Return the step of a fresh visit that sums."""
        return self._step(SummingRule(self._past_tasks(FedKnowSettings()), Tally()))

    def prepare_plain(self) -> Callable[[Batch], None]:
        """Return the step of a fresh visit without past tasks."""
        return self._step(cross_entropy_rule)

    def _labels(self) -> tuple[Tensor, ...]:
        b = self.bench
        return hear_past_tasks(b.learner, FedKnowMemory(b.knowledge), b.data, b.facts, SETTINGS).labels_NC

    def _past_tasks(self, settings: FedKnowSettings) -> PastTasks:
        heads = [one.head for one in self.bench.knowledge]
        return PastTasks(self._labels(), heads, settings, TRAINING)

    def _step(self, rule: GradientRule) -> Callable[[Batch], None]:
        learner = self.bench.learner
        self.bench.begin()

        def step(batch: Batch) -> None:
            rule(learner, batch)
            learner.optimize()

        return step


def prepare_lower(bench: Bench) -> Callable[[Batch], None]:
    """Return (a): the passes that k + 1 gradients need, and the optimizer, on the same network."""
    learner, network = bench.learner, bench.learner.network
    bench.begin()

    def step(batch: Batch) -> None:
        z_NF = network.features(batch.x_NCHW)
        _, d_logits_NR = head_pass(network.head, z_NF, batch.y_N, network.head_grad)
        dz_NF = d_logits_NR @ network.head[:, :-1]
        for _ in range(bench.k + 1):
            torch.autograd.grad(z_NF, network.feature_parameters, dz_NF, retain_graph=True)
        learner.optimize()

    return step


def prepare_obvious(bench: Bench) -> Callable[[Batch], None]:
    """Return (b): plain torch modules in torch's own layout, everything again for every batch and past task."""
    features = CNN6.build(*SIZE.values()).train()
    student = nn.Sequential(features, nn.Linear(bench.learner.network.feature_dim, CLASSES))
    optimizer = torch.optim.Adam(student.parameters(), lr=TRAINING.optimizer.lr)
    past = [(plain_weights(bench, one), one.head) for one in bench.knowledge]

    def step(batch: Batch) -> None:
        x_NCHW = batch.x_NCHW.contiguous()
        gradients = []
        for weights, head_RF in past:
            teacher = copy.deepcopy(features)
            teacher.load_state_dict(weights)
            with torch.no_grad():
                labels = soft_labels(head_logits(teacher(x_NCHW), head_RF), SETTINGS.temperature)
            features.zero_grad()
            distillation_loss(head_logits(features(x_NCHW), head_RF), labels, SETTINGS.temperature).backward()
            gradients.append(flat_gradient(features))
        optimizer.zero_grad()
        nn.functional.cross_entropy(student(x_NCHW), batch.y_N).backward()
        G_RP = torch.stack([flat_gradient(features), *gradients]).double()
        multipliers = solve_dual((G_RP @ G_RP.T).numpy())
        start, g_P = 0, (torch.from_numpy(np.concatenate(([1.0], multipliers))) @ G_RP).float()
        for parameter in features.parameters():
            parameter.grad.copy_(g_P[start : start + parameter.numel()].view_as(parameter))
            start += parameter.numel()
        optimizer.step()

    return step


def plain_weights(bench: Bench, knowledge: Knowledge) -> dict[str, Tensor]:
    network = bench.learner.network
    tensors = network.as_tensors(restore_weights(knowledge, network.P))
    return {name: tensor.contiguous() for name, tensor in tensors.items()}


def head_logits(z_NF: Tensor, head_RF: Tensor) -> Tensor:
    return nn.functional.linear(z_NF, head_RF[:, :-1], head_RF[:, -1])


def flat_gradient(model: nn.Module) -> Tensor:
    return torch.cat([parameter.grad.reshape(-1) for parameter in model.parameters()])


def timed_s(work: Callable[[], object]) -> float:
    start_s = time.perf_counter()
    work()
    return time.perf_counter() - start_s


def compare(k: int, steps: int, repeats: int) -> SimpleNamespace:
    """Return the seconds per step of all ways: medians over turns of *steps* steps each."""
    bench = Bench(k)
    ours = Ours(bench)
    prepare = {
        "ours": ours.prepare,
        "sum": ours.prepare_sum,
        "plain": ours.prepare_plain,
        "lower": lambda: prepare_lower(bench),
        "obvious": lambda: prepare_obvious(bench),
    }
    turns: dict[str, list[float]] = {way: [] for way in (*prepare, "labelling")}
    for _ in range(repeats):
        turns["labelling"].append(ours.labelling_s() / STEPS_OF_VISIT)
        for way, make_step in prepare.items():
            step = make_step()
            first, *batches = bench.batches(steps + 1)
            step(first)  # buffers are made and caches filled before the clock runs
            turns[way].append(timed_s(lambda step=step, batches=batches: [step(batch) for batch in batches]) / steps)
    medians = {way: statistics.median(seconds) for way, seconds in turns.items()}
    for way in ("ours", "sum"):
        medians[way] += medians["labelling"]
    return SimpleNamespace(k=k, tally=ours.tally, **medians)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=6, help="steps of one way before the next one's turn")
    parser.add_argument("--repeats", type=int, default=7, help="turns of each way")
    parser.add_argument("--tasks", type=int, nargs="+", default=[1, 3, 9], help="numbers of past tasks, k")
    parser.add_argument("--quick", action="store_true", help="k = 3, two steps, three turns")
    args = parser.parse_args()
    if args.quick:
        args.steps, args.repeats, args.tasks = 2, 3, [3]
    torch.set_num_threads(1)
    print(
        "| k | ours, ms a step | of it labelling | (a), ms | (b), ms | ours / (a) | (b) / ours | steps violated "
        "| sum, ms | plain, ms | sum / plain |"
    )
    print("|---" * 11 + "|")
    for k in args.tasks:
        r = compare(k, args.steps, args.repeats)
        share = r.tally.violated_steps / r.tally.integrated_steps
        print(
            f"| {k} | {1e3 * r.ours:.0f} | {1e3 * r.labelling:.1f} | {1e3 * r.lower:.0f} | {1e3 * r.obvious:.0f} "
            f"| {r.ours / r.lower:.2f} | {r.obvious / r.ours:.2f} | {share:.0%} "
            f"| {1e3 * r.sum:.0f} | {1e3 * r.plain:.0f} | {r.sum / r.plain:.2f} |",
            flush=True,
        )


if __name__ == "__main__":
    main()
