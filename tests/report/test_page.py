"""The report is one file that holds everything, escapes what the run says, and is drawn by a real browser."""

from __future__ import annotations

import dataclasses
import json
import re
import shutil
import subprocess
from html.parser import HTMLParser

import pytest

from fedknow_ray.report import render_report, write_report
from fedknow_ray.report.page import _headline

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")


class Page(HTMLParser):
    """Collects tags with their attributes, and the text of each script."""

    def __init__(self, html):
        super().__init__()
        self.tags, self.scripts = [], []
        self.feed(html)
        self.close()

    def handle_starttag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))
        if tag == "script":
            self.scripts.append("")

    def handle_data(self, data):
        if self.tags and self.tags[-1][0] == "script":
            self.scripts[-1] += data


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
    addresses = [value for _, attributes in page.tags for name, value in attributes.items() if name in {"src", "href"}]
    assert addresses == ["data:,"]


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
    ids = [attributes["id"] for _, attributes in page.tags if "id" in attributes]
    assert len(ids) == len(set(ids))
    for _, attributes in page.tags:
        for name in ("aria-labelledby", "aria-describedby"):
            assert attributes.get(name, ids[0]) in ids


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


def open_in_browser(path, profile):
    """Return (the document after its scripts ran, what the console said)."""
    if CHROMIUM is None:
        pytest.skip("needs Chromium on the PATH (Debian: apt-get install chromium)")
    command = [CHROMIUM, "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"]
    command += ["--disable-background-networking", "--disable-component-update", "--disable-sync"]
    command += [f"--user-data-dir={profile}", "--host-resolver-rules=MAP * ~NOTFOUND", "--enable-logging=stderr"]
    command += ["--virtual-time-budget=10000", "--dump-dom", path.as_uri()]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
    return done.stdout, [line for line in done.stderr.splitlines() if "CONSOLE" in line]


@pytest.mark.browser
def test_browser_draws_every_plot_without_a_complaint(html, tmp_path):
    """The page's policy turns any request into a console error: a silent console means that nothing was asked."""
    (tmp_path / "report.html").write_text(html, encoding="utf-8")
    document, console = open_in_browser(tmp_path / "report.html", tmp_path / "profile")
    assert console == []
    assert 'data-plots="drawn"' in document
    assert len(re.findall(r'class="plot js-plotly-plot"', document)) == 8
    assert not re.search(r'(?:src|href)="(?!data:)', re.sub(r"<script.*?</script>", "", document, flags=re.DOTALL))


@pytest.mark.browser
def test_browser_refuses_and_reports_a_request_to_elsewhere(html, tmp_path):
    """The control of the test above: with a foreign picture in the page, the console is not silent."""
    foreign = html.replace("<main>", "<main><img alt='' src='http://127.0.0.1:9/x.png'>")
    (tmp_path / "report.html").write_text(foreign, encoding="utf-8")
    _, console = open_in_browser(tmp_path / "report.html", tmp_path / "profile")
    assert any("Content Security Policy" in line for line in console)
