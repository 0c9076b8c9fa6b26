"""A comparison as files: one table in two forms and one page, drawn by a real browser."""

from __future__ import annotations

import csv
import json
import re
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from fake_comparison import FakeRun
from html_page import Page, open_in_browser

from fedknow_ray.errors import RunDirectoryError
from fedknow_ray.report.comparison import write_comparison
from fedknow_ray.report.comparison_numbers import TABLE, compute
from fedknow_ray.report.comparison_page import render_comparison

RUNS = {
    "fedavg": {1: FakeRun(40, 60), 2: FakeRun(42, 62), 3: FakeRun(44, 64)},
    "local": {1: FakeRun(40, 60, models=("own",)), 2: FakeRun(41, 62, models=("own",)), 3: None},
    "fedknow, k=1": {1: FakeRun(50, 60, checked=8), 2: FakeRun(50, 62, checked=8), 3: FakeRun(56, 64, checked=8)},
    "fedknow, k=<2>": {1: FakeRun(55, 60), 2: FakeRun(50, 66), 3: FakeRun(56, 64)},
}


@pytest.fixture(scope="module")
def comparison(comparison_of):
    return comparison_of(RUNS, choosing_seeds=(1,))


@pytest.fixture(scope="module")
def told(comparison):
    """What writing it has returned."""
    return write_comparison(comparison)


@pytest.fixture(scope="module")
def html(told):
    return Path(told["page"]).read_text(encoding="utf-8")


def page_of(comparison):
    return render_comparison(compute(comparison)).split("<script")[0]


def test_table_and_page_lie_in_the_folder_of_the_comparison(comparison, told):
    assert told["page"] == str(comparison.path / "comparison.html")
    assert pq.read_table(comparison.path / "comparison.parquet").schema.equals(TABLE)


def test_csv_holds_the_same_rows_as_the_parquet_file(comparison, told):
    rows = pq.read_table(comparison.path / "comparison.parquet").to_pylist()
    with (comparison.path / "comparison.csv").open(newline="", encoding="utf-8") as stream:
        lines = list(csv.DictReader(stream))
    assert list(lines[0]) == TABLE.names
    assert len(lines) == len(rows)
    for line, row in zip(lines, rows, strict=True):
        assert line["case"] == row["case"]
        assert float(line["mean"]) == row["mean"]
        assert line["chosen"] == str(row["chosen"]).lower()
        assert list(map(float, line["values"].split(";"))) == row["values"]
        assert (line["task_index"] == "") == (row["task_index"] is None)


def test_same_runs_give_the_same_files(comparison, told):
    names = ("comparison.parquet", "comparison.csv", "comparison.html")
    before = [(comparison.path / name).read_bytes() for name in names]
    write_comparison(comparison)
    assert [(comparison.path / name).read_bytes() for name in names] == before


def test_json_names_the_files_that_were_written(told):
    assert json.loads(json.dumps(told)) == told
    assert [Path(told[name]).is_file() for name in ("table", "csv", "page")] == [True] * 3
    assert (told["runs"]["missing"], told["choosing_seeds"], told["reporting_seeds"]) == (1, [1], [2, 3])


def test_folder_that_cannot_be_written_is_told(comparison_of):
    comparison = comparison_of({"fedavg": {1: FakeRun(40, 60)}})
    (comparison.path / "comparison.html").mkdir()
    with pytest.raises(RunDirectoryError, match=r"cannot write .*comparison\.html"):
        write_comparison(comparison)


def test_page_is_self_contained_with_every_reference_in_place(html):
    page = Page(html)
    assert page.addresses() == ["data:,"]
    assert page.faults_of_ids() == []


def test_page_says_what_was_compared_and_on_which_seeds(html):
    assert "small.yaml · 4 cases · settings chosen on seed 1, reported on seeds 2, 3" in html
    assert "fedknow, k=&lt;2&gt;" in html
    assert "k=<2>" not in html


def test_page_lists_the_missing_runs(html):
    assert "<strong>1 of 12 runs are missing.</strong>" in html
    assert "<th scope='row'>local</th><td>3</td>" in html


def test_page_counts_the_verdicts_against_the_baseline(comparison_of):
    steady = {seed: FakeRun(50, 60) for seed in (1, 2, 3)}
    page = page_of(comparison_of({"fedavg": {seed: FakeRun(40, 60) for seed in steady}, "a": steady, "b": steady}))
    assert "against <strong>fedavg</strong>: 2 better." in page


def test_page_of_several_baselines_says_so(comparison_of):
    labels = [f"{method}, model.head={head}" for method in ("fedavg", "local") for head in ("local", "global")]
    page = page_of(comparison_of({label: {1: FakeRun(40, 60)} for label in labels}))
    assert "against its baseline, which is the counterpart of <strong>fedavg, model.head=local</strong>" in page
    assert "against <strong>" not in page
    assert "3 with no difference shown" in page


def test_page_warns_of_settings_chosen_on_the_reported_seeds(comparison_of):
    two = {1: FakeRun(40, 60), 2: FakeRun(40, 60)}
    page = page_of(comparison_of({"fedavg": two, "fedknow, k=1": two, "fedknow, k=2": two}))
    assert "No seeds were set aside" in page
    assert "2 settings of fedknow" in page


def test_page_does_not_warn_of_settings_that_are_not_the_methods(comparison_of):
    three = {seed: FakeRun(40, 60) for seed in (1, 2, 3)}
    runs = {f"fedavg, model.head={head}": three for head in ("local", "global")}
    assert "class='banner'" not in page_of(comparison_of(runs))


def test_page_of_one_setting_a_method_does_not_warn(comparison_of):
    three = {seed: FakeRun(40, 60) for seed in (1, 2, 3)}
    assert "class='banner'" not in page_of(comparison_of({"fedavg": three, "fedknow": three}))


def test_page_says_whose_setting_is_not_chosen_yet(comparison_of):
    runs = {"fedavg": {1: None, 2: FakeRun(40, 60), 3: FakeRun(40, 60)}}
    assert "for want of runs: the setting of fedavg." in page_of(comparison_of(runs, choosing_seeds=(1,)))


@pytest.mark.parametrize(("seeds", "said"), [([1], "1 seed."), ([1, 2], "2 seeds.")])
def test_page_of_less_than_three_seeds_says_that_nothing_can_be_shown(comparison_of, seeds, said):
    runs = {"fedavg": dict.fromkeys(seeds, FakeRun(40, 60)), "fedknow": dict.fromkeys(seeds, FakeRun(90, 90))}
    page = page_of(comparison_of(runs))
    assert f"<strong>{said}</strong>" in page
    assert "1 with no difference shown" in page


def test_page_names_the_choosing_runs_that_were_never_asked_for(comparison_of):
    """A comparison that was extended by cases on its reporting seeds alone."""
    both, later = {1: FakeRun(40, 60), 2: FakeRun(40, 60)}, {2: FakeRun(50, 60)}
    page = page_of(comparison_of({"fedavg": both, "fedknow, k=1": both, "fedknow, k=2": later}, choosing_seeds=(1,)))
    assert "for want of runs: the setting of fedknow." in page
    assert "runs are missing" not in page
    never = page.split("never asked for</caption>")[1].split("</table>")[0]
    assert re.findall(r"<th scope='row'>(.*?)</th><td>(.*?)</td>", never) == [("fedknow, k=2", "1")]


def test_page_without_any_run_is_a_page(comparison_of):
    page = page_of(comparison_of({"fedavg": {1: None, 2: None}, "local": {1: None, 2: None}}))
    assert "against <strong>fedavg</strong>: nothing yet." in page
    assert "<strong>4 of 4 runs are missing.</strong>" in page


def test_page_has_a_command_line_for_each_case(html):
    assert "fedknow-ray run small.yaml" in html
    assert "--set method.name=fedknow --set method.k=1" in html


@pytest.mark.browser
def test_browser_draws_every_plot_and_the_legend_hides_a_case(html, tmp_path):
    """The last script does what a reader does: it presses the first button of the first legend."""
    press = "<script>document.querySelector('button[data-case]').click()</script>"
    (tmp_path / "comparison.html").write_text(html.replace("</body>", f"{press}</body>"), encoding="utf-8")
    document, console = open_in_browser(tmp_path / "comparison.html", tmp_path / "profile")
    assert console == []
    assert 'data-plots="drawn"' in document
    assert len(re.findall(r'class="plot js-plotly-plot"', document)) == 7
    pressed = re.findall(r'data-case="(\d)" aria-pressed="(\w+)"', document)
    assert {case for case, shown in pressed if shown == "false"} == {"0"}
    assert pressed.count(("0", "false")) == 4
    curves = document.split('id="accuracy-after-task-own"')[1].split("</figure>")[0]
    # A line and the two edges of its band for each `fedknow`; `local` has one seed to report on, and so no band.
    assert len(re.findall(r'class="trace scatter', curves)) == 3 + 3 + 1
