"""The visit that docs/time-model.md works out by hand is what the code says."""

import re
from dataclasses import replace
from pathlib import Path

import pytest

from fedknow_ray.config.loading import load_config
from fedknow_ray.experiment.catalogue import CATALOGUE, DEVICES
from fedknow_ray.experiment.conditions import build_links
from fedknow_ray.federation.ledger import Ledger, PricedVisit
from fedknow_ray.federation.visit import VisitKind, VisitOrder, shared_shapes
from fedknow_ray.methods.catalogue import METHODS
from fedknow_ray.methods.costs import StepCosts
from fedknow_ray.methods.method import VisitFacts
from fedknow_ray.models.catalogue import MODELS
from fedknow_ray.models.footprint import Footprint, measure_footprint
from fedknow_ray.simulation.cost import compute_s, energy_j
from fedknow_ray.simulation.work import Work
from fedknow_ray.transport.payload import encoded_bytes

ROOT = Path(__file__).parents[1]
EXAMPLE = (
    (ROOT / "docs" / "time-model.md").read_text(encoding="utf-8").split("## One visit by hand")[1].split("\n## ")[0]
)
PROSE = " ".join(EXAMPLE.split())
FACTS = VisitFacts(client_id=0, task_index=1, round_index=0, images=240, classes=10, trained_this_task=False)


def table_below(heading: str) -> list[list[str]]:
    """Return the cells of the table whose first heading this is, without commas in numbers."""
    lines = EXAMPLE.split(f"| {heading} |")[1].split("\n\n")[0].splitlines()[2:]
    return [[cell.strip().replace(",", "") for cell in line.strip("|").split("|")] for line in lines]


@pytest.fixture(scope="module")
def footprint() -> Footprint:
    return measure_footprint(MODELS.get("cnn6"), height=32, width=32, channels=3)


def price(
    footprint: Footprint,
    method_name: str,
    kind: VisitKind = VisitKind.TRAIN,
    facts: VisitFacts = FACTS,
    **hyper: str,
) -> PricedVisit:
    overrides = {"method": {"name": method_name, **hyper}}
    config = load_config(ROOT / "configs" / "cifar100.yaml", overrides, catalogue=CATALOGUE)
    method = METHODS.get(method_name)(config.method.hyper, config.training, StepCosts(footprint, config.training))
    payload_bytes = encoded_bytes(shared_shapes(footprint.P, 100, footprint.F, head_global=False))
    ledger = Ledger(
        method=method,
        devices=tuple(DEVICES.get(name) for name in config.devices),
        broadcast_bytes=payload_bytes,
        model_bytes=payload_bytes,
        kind="small_cnn",
    )
    return ledger.price(VisitOrder(kind, facts, config.seed))


@pytest.fixture(scope="module")
def visit(footprint: Footprint) -> PricedVisit:
    return price(footprint, "fedknow", variant="paper")


def test_the_layers_multiply_to_the_flops_beside_them() -> None:
    *layers, _ = table_below("layer")
    for name, inputs, outputs, pixels, flops in layers:
        window = 9 if name.startswith("convolution") else 1
        assert 2 * window * int(inputs) * int(outputs) * int(pixels) == int(flops), name


def test_the_layers_add_up_to_what_is_counted(footprint: Footprint) -> None:
    *layers, total = table_below("layer")
    counted = sum(int(row[-1]) for row in layers)
    assert (counted, 2 * counted - int(layers[0][-1])) == (footprint.forward_flops, footprint.backward_flops)
    assert int(total[-1]) == counted


def test_the_sizes_are_those_of_the_network(footprint: Footprint) -> None:
    named = re.search(r"P = ([\d,]+), so w = ([\d,]+); F = ([\d,]+), R = 10, x = ([\d,]+), a = ([\d,]+)", PROSE)
    assert named is not None
    sizes = (footprint.P, footprint.weight_bytes, footprint.F, footprint.input_bytes, footprint.kept_bytes)
    assert tuple(int(text.replace(",", "")) for text in named.groups()) == sizes


def test_the_items_are_those_of_the_plan(visit: PricedVisit) -> None:
    rows = [(row[0].split()[0], *map(int, row[1:5])) for row in table_below("item")]
    plan = [(item.phase, item.count, item.flops, item.moved_bytes, item.stored_bytes) for item in visit.plan.work.items]
    assert sorted(rows) == sorted(plan)


def test_each_item_takes_as_long_as_the_table_says(visit: PricedVisit) -> None:
    seconds = {row[0].split()[0] + row[2]: row[8] for row in table_below("item")}
    for item in visit.plan.work.items:
        expected = f"{compute_s(Work((item,)), visit.device, 'small_cnn'):.6f}"
        assert seconds[f"{item.phase}{item.flops}"] == expected, item.phase


def test_each_items_times_are_its_work_over_the_boards_rates() -> None:
    for row in table_below("item"):
        flops_s, moved_s, stored_s = int(row[2]) / (115e9 * 0.5), int(row[3]) / 25.6e9, int(row[4]) / 60e6
        assert [f"{seconds:.6f}" for seconds in (flops_s, moved_s, stored_s)] == row[5:8], row[0]
        assert f"{int(row[1]) * (max(flops_s, moved_s, stored_s) + 0.0021):.6f}" == row[8], row[0]


def test_the_boards_numbers_are_those_of_its_profile() -> None:
    nano = DEVICES.get("jetson-nano")
    rates = (nano.sustained_flops_per_s, nano.utilisation["small_cnn"], nano.memory_bandwidth_bytes_per_s)
    assert rates == (115e9, 0.5, 25.6e9)
    assert (nano.storage_bandwidth_bytes_per_s, nano.step_overhead_s) == (60e6, 0.0021)
    assert "r = 115e9 and u = 0.5, b = 25.6e9, s = 60e6 and o = 0.0021" in PROSE


def test_the_sums_are_those_of_the_priced_visit(visit: PricedVisit) -> None:
    config = load_config(ROOT / "configs" / "cifar100.yaml", catalogue=CATALOGUE)
    link = build_links(config.network, config.fleet)[0]
    down_s, up_s = link.download_s(visit.download_bytes), link.upload_s(visit.upload_bytes)
    joules = energy_j(visit.device, compute_s=visit.compute_s, idle_s=down_s + up_s)
    for text in (
        f"`compute_s` = {visit.compute_s:.6f}",
        f"{visit.download_bytes:,} / 1,000,000 = {down_s:.4f}",
        f"the visit takes {down_s + visit.compute_s + up_s:.6f} s and {joules:.3f} J",
        f"10 W x {visit.compute_s:.6f} s + 1.022 W x {down_s + up_s:.4f} s",
    ):
        assert text in PROSE
    assert up_s == down_s


def test_the_sum_of_the_tuned_variant_is_one_row_in_place_of_two(footprint: Footprint) -> None:
    tuned = price(footprint, "fedknow")
    (item,) = [item for item in tuned.plan.work.items if item.phase in ("restore", "integrate")]
    seconds = compute_s(Work((item,)), tuned.device, "small_cnn")
    assert f"{item.count} times 4 x 40 x 1,024 x 10 = {item.flops:,} FLOPs" in PROSE
    assert f"8 x 10 x 1,025 = {item.moved_bytes:,} bytes, which are {seconds:.6f} s." in PROSE
    assert f"computes for {tuned.compute_s:.6f} s." in PROSE


def test_fedavgs_visit_is_the_first_two_rows(footprint: Footprint) -> None:
    assert f"{price(footprint, 'fedavg').compute_s:.6f} s." in PROSE


@pytest.mark.parametrize("method_name", ["fedavg", "fedknow"])
def test_the_evaluation_at_a_tasks_end_is_what_the_page_says(footprint: Footprint, method_name: str) -> None:
    """100 test images of two tasks, in batches of 40, 40 and 20."""
    finish = price(footprint, method_name, VisitKind.FINISH_TASK, replace(FACTS, test_images=100))
    items = [item for item in finish.plan.work.items if item.phase == "evaluate"]
    seconds = compute_s(Work(tuple(items)), finish.device, "small_cnn")
    assert [item.count for item in items] == [2, 1]
    assert f"evaluates 100 test images in {seconds:.6f} s" in PROSE
