"""The report is one file that holds everything, escapes what the run says, and is drawn by a real browser."""

from __future__ import annotations

import dataclasses
import json
import re

import pytest
from html_page import Page, open_in_browser

from fedknow_ray.report import render_report, write_report
from fedknow_ray.report.page import _headline


@pytest.fixture(scope="module")
def html(fake_run):
    return render_report(fake_run)


@pytest.fixture(scope="module")
def page(html):
    return Page(html)


def test_report_is_written_into_the_run_directory_in_place_of_an_older_one(run_of):
    run = run_of(tasks=1, rounds=1)
    (run.path / "report.html").write_text("old")
    assert write_report(run) == run.path / "report.html"
    assert (run.path / "report.html").read_text(encoding="utf-8").startswith("<!DOCTYPE html>")


def test_same_run_gives_the_same_page(fake_run, html):
    assert render_report(fake_run) == html


def test_nothing_is_loaded_from_elsewhere(page):
    assert page.addresses() == ["data:,"]


def test_style_asks_for_nothing(html):
    style = html.split("<style>")[1].split("</style>")[0]
    assert not re.search(r"url\(|@import|@font-face", style)


def test_content_security_policy_forbids_every_request(page):
    policy = next(a["content"] for tag, a in page.tags if tag == "meta" and "http-equiv" in a)
    assert policy.startswith("default-src 'none';")
    assert "http" not in policy


def test_plotly_is_inlined_once(page):
    assert sum("plotly.js v" in script[:200] for script in page.scripts) == 1
    assert len(page.scripts) == 3


def test_figures_travel_as_json_for_the_plots_of_the_page(page):
    drawn = [attributes["id"] for _, attributes in page.tags if attributes.get("class") == "plot"]
    assert list(json.loads(page.scripts[0])) == drawn
    assert "<" not in page.scripts[0]


def test_config_is_shown_escaped(html):
    assert "&lt;b&gt;bold &amp; &#x27;quoted&#x27;&lt;/b&gt;" in html
    assert "<b>bold" not in html


def test_ids_are_unique_and_references_exist(page):
    assert page.faults_of_ids() == []


def test_ids_that_are_used_twice_or_by_none_are_found():
    page = Page("<p id='a'></p><p id='a' aria-labelledby='b' aria-describedby='a'></p>")
    assert page.faults_of_ids() == ["a", "b"]


def test_title_and_line_below_tell_what_was_run(html):
    assert "<title>fake - fedknow_ray report</title>" in html
    assert "fedknow · on cifar100 · with cnn6 · 10 clients · 4 tasks · seed 1" in html


def test_title_is_the_name_in_the_manifest_where_there_is_one(fake_run):
    named = dataclasses.replace(fake_run, manifest={"name": "Nano <1>"})
    assert "<h1>Nano &lt;1&gt;</h1>" in render_report(named)


def test_headline_shows_the_key_numbers(fake_run):
    headline = _headline(fake_run)
    for text in ("64.5%", "61.2%", "10.1 points", "−10.0 points", "307 MB", "403 MB", "not known", "1 min 23 s"):
        assert text in headline


def test_headline_with_one_task_says_that_nothing_can_be_forgotten(run_of):
    assert "with a single task nothing can be forgotten" in _headline(run_of(tasks=1, rounds=1, finished=False))


def test_unfinished_run_is_called_so(run_of, html):
    assert "This run did not finish" in render_report(run_of(tasks=1, rounds=1, finished=False))
    assert "This run did not finish" not in html


@pytest.mark.browser
def test_browser_draws_every_plot_without_a_complaint(html, tmp_path):
    """The page's policy turns any request into a console error: a silent console means that nothing was asked."""
    (tmp_path / "report.html").write_text(html, encoding="utf-8")
    document, console = open_in_browser(tmp_path / "report.html", tmp_path / "profile")
    assert console == []
    assert 'data-plots="drawn"' in document
    assert len(re.findall(r'class="plot js-plotly-plot"', document)) == 12
    assert not re.search(r'(?:src|href)="(?!data:)', re.sub(r"<script.*?</script>", "", document, flags=re.DOTALL))


@pytest.mark.browser
def test_browser_refuses_and_reports_a_request_to_elsewhere(html, tmp_path):
    """The control of the test above: with a foreign picture in the page, the console is not silent."""
    foreign = html.replace("<main>", "<main><img alt='' src='http://127.0.0.1:9/x.png'>")
    (tmp_path / "report.html").write_text(foreign, encoding="utf-8")
    _, console = open_in_browser(tmp_path / "report.html", tmp_path / "profile")
    assert any("Content Security Policy" in line for line in console)
