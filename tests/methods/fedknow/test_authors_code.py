"""FedKNOW as its authors' code has it: phases, past models, who trains the pack net, and its settings."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from pydantic import ValidationError
from workbench import ADAM, CLASSES, DRY, NORMED, SGD, TINY, Bench, steps_of, training, twin_of

from fedknow_ray.errors import ConfigError
from fedknow_ray.experiment.run import execute, read_config
from fedknow_ray.federation.visit import VisitKind, VisitReport, plan_visit
from fedknow_ray.methods.fedknow.authors_code import AuthorsCodeMemory
from fedknow_ray.methods.fedknow.settings import FedKnowSettings
from fedknow_ray.models.catalogue import ModelSpec

#: 20 images in batches of 8: three steps an epoch. One epoch of the head phase and of retraining, two of the others.
STEPS, EPOCHS, RETRAINING = 3, 3, 1
CONFIGS = Path(__file__).parents[3] / "configs"


def bench_of(spec: ModelSpec = TINY, *, optimizer: Any = ADAM, head_global: bool = False, **settings: Any) -> Bench:
    hyper = {"variant": "authors_code", "retrain_epochs": RETRAINING, **settings}
    config = training(local_epochs=EPOCHS, optimizer=optimizer)
    return Bench("fedknow", hyper, config, spec, head_global=head_global)


def train(bench: Bench, task_index: int = 0, round_index: int = 0) -> VisitReport:
    return bench.visit(VisitKind.TRAIN, task_index, round_index=round_index, trained=round_index > 0)[2]


def learn(bench: Bench, tasks: int) -> Bench:
    """One training visit in each task, and its end."""
    for task_index in range(tasks):
        train(bench, task_index)
        bench.visit(VisitKind.FINISH_TASK, task_index, round_index=1, trained=True)
    return bench


def memory(bench: Bench) -> AuthorsCodeMemory:
    kept = bench.state().memory
    assert isinstance(kept, AuthorsCodeMemory)
    return kept


def counts(report: VisitReport) -> Counter[str]:
    found: Counter[str] = Counter()
    for item in report.work.items:
        found[item.phase] += item.count
    return found


@pytest.mark.parametrize("optimizer", [ADAM, SGD], ids=["adam", "sgd"])
@pytest.mark.parametrize("head_global", [False, True], ids=["local head", "global head"])
def test_with_one_task_it_is_fedavg_to_the_bit(optimizer: Any, head_global: bool):
    """Dropout is on: the pack net's draws are none of the federated model's business."""
    ours = bench_of(NORMED, optimizer=optimizer, head_global=head_global)
    fedavg = Bench("fedavg", config=ours.config, spec=NORMED, head_global=head_global)
    for round_index in range(3):
        where = {"round_index": round_index, "trained": round_index > 0}
        (_, one, report), (_, other, expected) = (b.visit(VisitKind.TRAIN, **where) for b in (ours, fedavg))
        assert one is not None and other is not None
        np.testing.assert_array_equal(one.features_S, other.features_S)
        np.testing.assert_array_equal(ours.state().head_CF, fedavg.state().head_CF)
        # the mean of the same losses, reached in another order: the last bit is the processor's
        assert report.loss == pytest.approx(expected.loss, rel=1e-12)
        ours.broadcast = fedavg.broadcast = other


@pytest.mark.parametrize("spec", [TINY, NORMED], ids=["plain", "batch norm"])
@pytest.mark.parametrize("optimizer", [ADAM, SGD], ids=["adam", "sgd"])
@pytest.mark.parametrize("k", [1, 2, 10])
def test_the_work_counted_is_the_work_planned(spec: ModelSpec, optimizer: Any, k: int):
    """Also with more past tasks than k, where the shipped code stops with an IndexError."""
    bench = bench_of(spec, optimizer=optimizer, signature_tasks=k)
    for order, report in bench.live_through(4):
        assert steps_of(report.work) == steps_of(plan_visit(order, bench.method).work), order


def test_the_head_phase_makes_two_steps_a_batch():
    """One epoch of it: three steps more than in task 0."""
    bench = bench_of()
    first = counts(train(bench))
    bench.visit(VisitKind.FINISH_TASK, round_index=1, trained=True)
    second = counts(train(bench, 1))
    assert first["optimize"] == 2 * EPOCHS * STEPS
    assert second["optimize"] - first["optimize"] == RETRAINING * STEPS


def test_the_rep_phase_checks_every_step():
    report = train(learn(bench_of(), 1), 1)
    assert report.integrated_steps == (EPOCHS - RETRAINING) * STEPS
    assert report.notes.keys() == {"missed_steps"}


def test_task_0_checks_nothing():
    report = train(bench_of())
    assert (report.integrated_steps, report.violated_steps, dict(report.notes)) == (0, 0, {})


def test_the_old_model_is_the_start_of_the_tasks_first_visit():
    """Its features with the client's own rows of both past tasks, dense, in evaluation mode."""
    bench = learn(bench_of(NORMED), 2)
    order = bench.order(VisitKind.TRAIN, 2)
    twin = twin_of(bench.learner, NORMED, bench.broadcast.features_S).eval()
    head_CF = torch.tensor(bench.state().head_CF[: 2 * CLASSES])
    x_NCHW = bench.learner.normalisation(bench.data(order).images_NHWC).permute(0, 3, 1, 2)
    with torch.no_grad():
        expected = twin(x_NCHW) @ head_CF[:, :-1].T + head_CF[:, -1]
    train(bench, 2)
    torch.testing.assert_close(memory(bench).logits_NC[0], expected, atol=1e-5, rtol=1e-5)


def test_teacher_i_is_the_union_of_masks_0_to_i_with_the_packs_own_head():
    bench = learn(bench_of(NORMED), 3)
    pack = memory(bench).pack
    assert pack is not None
    order = bench.order(VisitKind.TRAIN, 3)
    x_NCHW = bench.learner.normalisation(bench.data(order).images_NHWC).permute(0, 3, 1, 2)
    train(bench, 3)
    for task in range(3):
        kept_P = torch.stack([pack.owner_P == owner for owner in range(-1, task + 1)]).any(0)
        twin = twin_of(bench.learner, NORMED, torch.cat([pack.weights_P * kept_P, pack.statistics_B]).numpy()).eval()
        with torch.no_grad():
            expected = twin(x_NCHW) @ pack.heads_RF[task][:, :-1].T + pack.heads_RF[task][:, -1]
        torch.testing.assert_close(memory(bench).logits_NC[1 + task], expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(("k", "shapes"), [(1, [6]), (2, [6, 2]), (3, [6, 2, 2]), (10, [6, 2, 2, 2])])
def test_k_past_gradients_are_of_the_old_model_and_the_oldest_tasks(k: int, shapes: list[int]):
    """Classes that each past model answers for, with three past tasks of two."""
    bench = learn(bench_of(signature_tasks=k), 3)
    train(bench, 3)
    assert [logits.shape[1] for logits in memory(bench).logits_NC] == shapes


def test_past_models_label_once_a_task():
    bench = learn(bench_of(), 1)
    assert counts(train(bench, 1))["teach"] > 0
    said = memory(bench).logits_NC
    assert counts(train(bench, 1, round_index=1))["teach"] == 0
    assert all(one is other for one, other in zip(said, memory(bench).logits_NC, strict=True))


def test_every_visit_trains_the_pack_net_anew():
    bench = bench_of()
    train(bench)
    first = memory(bench).pack
    train(bench, round_index=1)
    second = memory(bench).pack
    assert first is not None and second is not None
    assert not torch.equal(first.weights_P, second.weights_P)
    assert (first.owner_P == 0).sum() == (second.owner_P == 0).sum()


def test_the_pack_net_never_sees_the_aggregate():
    """Another broadcast, another federated model, the same pack net."""
    one, other = bench_of(), bench_of()
    other.broadcast = type(other.broadcast)(other.broadcast.features_S * 2, None)
    for bench in (one, other):
        train(learn(bench, 1), 1)
    assert not np.array_equal(one.state().own_S, other.state().own_S)
    for name in ("weights_P", "owner_P"):
        np.testing.assert_array_equal(getattr(memory(one).pack, name), getattr(memory(other).pack, name))


def test_a_client_that_was_not_sampled_trains_its_pack_net_at_the_tasks_end():
    bench = learn(bench_of(), 1)
    _, _, report = bench.visit(VisitKind.FINISH_TASK, 1, round_index=1)
    pack = memory(bench).pack
    assert pack is not None
    assert len(pack.heads_RF) == 2
    assert int((pack.owner_P == 1).sum()) == 24
    assert counts(report)["optimize"] == EPOCHS * STEPS


def test_the_end_of_a_task_costs_a_sampled_client_nothing_and_drops_what_past_models_said():
    bench = learn(bench_of(), 1)
    train(bench, 1)
    assert memory(bench).logits_NC
    _, _, report = bench.visit(VisitKind.FINISH_TASK, 1, round_index=1, trained=True)
    assert report.work.items == ()
    assert memory(bench).logits_NC == ()


def test_the_same_visits_give_the_same_pack_net():
    first, second = (memory(learn(bench_of(), 2)).pack for _ in range(2))
    for name in ("weights_P", "statistics_B", "owner_P"):
        np.testing.assert_array_equal(getattr(first, name), getattr(second, name))


def test_kept_bytes_are_a_pack_net_and_what_past_models_say():
    """275 weights of 4 bytes and owners of 2, a head of 2 x 6 a task, and 20 images x (2 t + 2 min(t, k - 1))."""
    bench = bench_of(DRY, signature_tasks=2)
    kept = [bench.method.kept_bytes(bench.order(VisitKind.TRAIN, t).facts) for t in range(4)]
    weights, head, said = 6 * 275, 48, 4 * 20 * 2
    assert kept == [0, *(weights + t * head + (t + 1) * said for t in (1, 2, 3))]


def test_the_first_visit_counts_the_pack_net_that_it_makes():
    bench = bench_of()
    order = bench.order(VisitKind.TRAIN)
    fedavg = Bench("fedavg", config=bench.config)
    more = plan_visit(order, bench.method).peak_memory_bytes - plan_visit(order, fedavg.method).peak_memory_bytes
    # the pack net; while it trains the federated model, two copies, Adam's two states, who owns what and what moves
    assert more == 6 * 275 + 48 + 5 * 4 * 275 + 3 * 275


def test_the_variant_gives_the_shipped_values():
    settings = FedKnowSettings(variant="authors_code")
    assert (settings.margin, settings.selection, settings.second_use) == (0.5, "oldest", "off")
    assert (settings.violation_test, settings.masks, settings.retrain_epochs) == ("oldest_task", "disjoint", 4)


def test_the_papers_values_are_not_touched():
    papers = {"margin": 0.0, "selection": "wasserstein", "retrain_epochs": 2, "masks": "overlapping"}
    assert FedKnowSettings(variant="paper") == FedKnowSettings(variant="paper", **papers)


def test_a_resolved_config_is_a_config():
    resolved = FedKnowSettings(variant="authors_code", margin=0.1).model_dump()
    assert FedKnowSettings(**resolved).model_dump() == resolved


@pytest.mark.parametrize(
    "wrong",
    [
        {"variant": "authors_code", "selection": "wasserstein"},
        {"variant": "authors_code", "second_use": "on_receive"},
        {"variant": "authors_code", "labels": "hard"},
        {"variant": "authors_code", "threshold": "layer"},
        {"variant": "authors_code", "masks": "overlapping"},
        {"variant": "paper", "violation_test": "oldest_task"},
        {"violation_test": "oldest_task"},
    ],
    ids=str,
)
def test_what_a_variant_cannot_do_is_refused(wrong: dict[str, Any]):
    *_, key = wrong
    with pytest.raises(ValidationError) as caught:
        FedKnowSettings(**wrong)
    (fault,) = caught.value.errors()
    assert fault["loc"] == (key,)
    assert f"with variant {wrong.get('variant', 'tuned')}, got '{wrong[key]}'; leave it out" in fault["msg"]


def test_a_fixed_value_of_no_sense_is_told_as_what_it_must_be():
    with pytest.raises(ValidationError, match=r"must be 'oldest' with variant authors_code, got 3"):
        FedKnowSettings(variant="authors_code", selection=3)  # type: ignore[arg-type]


CONFIG = """\
seed: 3
scenario:
  {dataset: digits, tasks: 3, classes_per_task: 2, clients: 3, samples_per_client: 16,
   partition: {name: shards, shards_per_client: 2}}
method: {name: fedknow, variant: authors_code, signature_tasks: 2}
training: {rounds_per_task: 2, client_fraction: 0.67, local_epochs: 2, batch_size: 8}
policy: {name: synchronous, cohorts: [[0, 1], [0, 1], [1, 2], [1, 2]]}
fleet: [{device: jetson-nano, count: 3}]
"""


def config_file(folder: Path, text: str = CONFIG) -> Path:
    path = folder / "authors.yaml"
    path.write_text(text)
    return path


@pytest.mark.parametrize("name", ["authors_kode", "1"])
def test_an_unknown_variant_is_refused_where_it_is_said(tmp_path: Path, name: str):
    hint = "; did you mean 'authors_code'?" if name == "authors_kode" else "; known: authors_code, paper, tuned"
    with pytest.raises(ConfigError) as caught:
        read_config(config_file(tmp_path, CONFIG.replace("authors_code", name)))
    (fault,) = caught.value.faults
    assert fault.key == "method.variant"
    assert fault.message.startswith("unknown variant")
    assert fault.message.endswith(hint)


def test_all_that_the_variant_refuses_is_told_at_once_each_with_its_key_and_place(tmp_path: Path):
    text = CONFIG.replace("signature_tasks: 2", "selection: cosine, second_use: on_receive, signature: 3")
    path = config_file(tmp_path, text)
    with pytest.raises(ConfigError) as caught:
        read_config(path, ["method.masks=overlapping", "method.retained_fraction=7"])
    assert [str(fault) for fault in caught.value.faults] == [
        f"{path}:5: method.second_use: must be 'off' with variant authors_code, got 'on_receive'; "
        "leave it out, or use --set method.second_use=off",
        f"{path}:5: method.selection: must be 'oldest' with variant authors_code, got 'cosine'; "
        "leave it out, or use --set method.selection=oldest",
        f"{path}:5: method.signature: unknown key; did you mean 'signature_tasks'?",
        "--set method.masks=overlapping: method.masks: must be 'disjoint' with variant authors_code, "
        "got 'overlapping'; leave it out, or use --set method.masks=disjoint",
        "--set method.retained_fraction=7: method.retained_fraction: must be at most 1, got 7",
    ]


@pytest.mark.parametrize("name", ["quickstart", "cifar100-small", "cifar100"])
def test_a_shipped_config_takes_the_variant(name: str):
    config = read_config(CONFIGS / f"{name}.yaml", ["method.variant=authors_code"])
    assert config.to_dict()["method"]["variant"] == "authors_code"


def test_the_setting_that_a_fault_names_mends_it(tmp_path: Path):
    path = config_file(tmp_path, CONFIG.replace("signature_tasks: 2", "second_use: on_receive"))
    with pytest.raises(ConfigError, match=r"use --set method.second_use=off$"):
        read_config(path)
    assert read_config(path, ["method.second_use=off"]).to_dict()["method"]["second_use"] == "off"


def test_three_tasks_of_digits_end_to_end(tmp_path: Path):
    """More past tasks than k; one client is not sampled in each task; every visit does what it planned."""
    run = execute(config_file(tmp_path), backend="local", out=tmp_path / "run")
    trained = [row for row in run.visits.to_pylist() if row["kind"] == "train"]
    sampled = {(row["task_index"], row["client_id"]) for row in trained}
    assert sampled == {(0, 0), (0, 1), (1, 1), (1, 2), (2, 0), (2, 1)}
    assert {row["integrated_steps"] for row in trained if row["task_index"]} == {2}
    again = execute(config_file(tmp_path), backend="local", out=tmp_path / "again")
    assert run.summary["parameters_sha256"] == again.summary["parameters_sha256"]
