"""The tables of a comparison: figures as people read them, with their verdicts."""

from __future__ import annotations

import re

import pytest
from fake_comparison import FakeRun

from fedknow_ray.report import comparison_tables as tables
from fedknow_ray.report.comparison_numbers import compute

RUNS = {
    "fedavg": {1: FakeRun(40, 60), 2: FakeRun(42, 62), 3: FakeRun(44, 64)},
    "fedknow, <b>=1": {1: FakeRun(50, 60), 2: FakeRun(50, 62), 3: FakeRun(56, 64)},
    "local": {1: FakeRun(40, 60, models=("own",)), 2: FakeRun(42, 62, models=("own",)), 3: None},
}


@pytest.fixture(scope="module")
def numbers(comparison_of):
    return compute(comparison_of(RUNS))


def rows_of(table):
    """The text of the cells of each row, tags taken out, with the row's heading first."""
    cells = [re.findall(r"<t[hd][^>]*>(.*?)</t[hd]>", row) for row in table.split("<tr>")[2:]]
    return [[re.sub(r"<[^>]+>", " ", cell).split() for cell in row] for row in cells]


def test_summary_has_means_intervals_and_verdicts(numbers):
    fedavg, fedknow, local = rows_of(tables.summary_table(numbers))
    assert fedavg[0] == ["1", "fedavg", "baseline"]
    assert fedavg[1:4] == [["3"], ["52.0%", "±5.0"], ["52.0%", "±5.0"]]
    assert fedavg[-1] == ["baseline"]
    assert " ".join(fedknow[-1]) == "+5.0 (+2.5 to +7.5) win"
    assert " ".join(local[-2]) == "0.0 (0.0 to 0.0) no difference shown"
    assert local[-1] == ["–"]


MATCHED = {
    "fedavg, model.head=local": {1: FakeRun(40, 60, cpu_s=1)},
    "fedavg, model.head=global": {1: FakeRun(20, 60, cpu_s=2)},
    "local, model.head=global": {1: FakeRun(50, 60, cpu_s=4)},
}


def test_summary_has_the_number_of_each_cases_baseline_where_they_are_several(comparison_of):
    rows = rows_of(tables.summary_table(compute(comparison_of(MATCHED))))
    assert [row[6] for row in rows] == [["1"], ["1"], ["2"]]
    assert [" ".join(row[7]) for row in rows] == [
        "baseline",
        "−10.0 no difference shown",
        "+15.0 no difference shown",
    ]
    assert [row[0][-1] for row in rows] == ["baseline", "model.head=global", "model.head=global"]


def test_costs_have_their_ratio_to_the_cases_own_baseline(comparison_of):
    rows = rows_of(tables.cost_table(compute(comparison_of(MATCHED))))
    assert [row[7][-1] for row in rows] == ["1.00×", "2.00×", "2.00×"]


def test_labels_are_escaped(numbers):
    shown = tables.summary_table(numbers) + tables.legend(numbers) + tables.pair_matrix(numbers, "own")
    assert "<b>" not in shown
    assert "&lt;b&gt;" in shown


def test_forgetting_is_told_with_the_difference_and_a_word_for_a_win(numbers):
    _, fedknow, _ = rows_of(tables.forgetting_table(numbers))
    assert " ".join(fedknow[3]) == "8.0% ±8.6 −10.0 win"


def test_pairs_are_row_minus_column(numbers):
    matrix = rows_of(tables.pair_matrix(numbers, "own"))
    assert [cell[0] for cell in matrix[0][1:]] == ["–", "−5.0", "0.0"]
    assert [cell[0] for cell in matrix[1][1:]] == ["+5.0", "–", "+4.5"]


def test_pair_has_its_interval_and_verdict_at_the_pointer(numbers):
    matrix = tables.pair_matrix(numbers, "own")
    assert "class='pair loss' title='−5.0 (−7.5 to −2.5), 3 seeds: loss'" in matrix
    assert "class='pair open' title='0.0 (0.0 to 0.0), 2 seeds: no difference shown'" in matrix


def test_model_that_a_case_lacks_leaves_it_out_of_the_pairs(numbers):
    assert len(rows_of(tables.pair_matrix(numbers, "global"))) == 2


def test_costs_have_their_ratio_to_the_baseline_over_the_seeds_that_both_have(comparison_of):
    runs = {
        "fedavg": {1: FakeRun(40, 60, cpu_s=1.0), 2: FakeRun(40, 60, cpu_s=9.0)},
        "fedknow": {1: FakeRun(40, 60, cpu_s=1.25), 2: None},
    }
    fedavg, fedknow = rows_of(tables.cost_table(compute(comparison_of(runs))))
    assert [" ".join(cell) for cell in fedknow[1:]] == [
        "400 B 1.00×",
        "800 B 1.00×",
        "26.0 s 1.00×",
        "not known",
        "not known",
        "not known",
        "7.5 s 1.25×",
        "3.0 s 1.00×",
    ]
    assert " ".join(fedavg[7]) == "30.0 s 1.00×"


def test_accuracy_on_each_task_is_shaded_from_the_lowest_to_the_highest(numbers):
    table = tables.task_table(numbers, "own")
    assert re.findall(r"--place:(\d+)%", table) == ["5", "100", "52", "100", "0", "95"]


def test_seeds_are_listed_with_gaps(numbers):
    assert [cell[0] for cell in rows_of(tables.seed_table(numbers))[2][1:]] == ["50.0%", "52.0%", *"––––"]


def test_transfer_is_told_for_the_cases_that_can_be_compared(numbers):
    rows = rows_of(tables.transfer_table(numbers))
    assert [row[0][1] for row in rows] == ["fedavg", "fedknow,"]
    assert rows[0][1] == ["0.0%", "±0.0"]


def test_repeated_legend_of_many_cases_has_numbers_alone(comparison_of):
    numbers = compute(comparison_of({f"fedknow, k={k}": {1: FakeRun(40, 60)} for k in range(9)}))
    assert tables.legend(numbers).count("</span> fedknow, k=8") == 1
    assert "</span> fedknow" not in tables.legend(numbers, repeated=True)
    assert "title='fedknow, k=8'" in tables.legend(numbers, repeated=True)
