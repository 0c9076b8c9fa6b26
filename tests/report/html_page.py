"""A page as its tests look at it: taken apart into tags and scripts, and drawn by a real browser."""

from __future__ import annotations

import shutil
import subprocess
from collections import Counter
from html.parser import HTMLParser
from pathlib import Path

import pytest

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")


class Page(HTMLParser):
    """Collects tags with their attributes, and the text of each script."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.scripts: list[str] = []
        self.feed(html)
        self.close()

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attributes)))
        if tag == "script":
            self.scripts.append("")

    def handle_data(self, data: str) -> None:
        if self.tags and self.tags[-1][0] == "script":
            self.scripts[-1] += data

    def values(self, *names: str) -> list[str]:
        """The values of these attributes, in the order of the page."""
        return [value or "" for _, attributes in self.tags for name, value in attributes.items() if name in names]

    def addresses(self) -> list[str]:
        """All that the page could load."""
        return self.values("src", "href")

    def faults_of_ids(self) -> list[str]:
        """The ids that two elements have, and those that are named and no element has."""
        ids = Counter(self.values("id"))
        named = self.values("aria-labelledby", "aria-describedby")
        return [one for one, count in ids.items() if count > 1] + [one for one in named if one not in ids]


def open_in_browser(path: Path, profile: Path) -> tuple[str, list[str]]:
    """Return (the document after its scripts ran, what the console said)."""
    if CHROMIUM is None:
        pytest.skip("needs Chromium on the PATH (Debian: apt-get install chromium)")
    command = [CHROMIUM, "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"]
    command += ["--disable-background-networking", "--disable-component-update", "--disable-sync"]
    command += [f"--user-data-dir={profile}", "--host-resolver-rules=MAP * ~NOTFOUND", "--enable-logging=stderr"]
    command += ["--virtual-time-budget=10000", "--dump-dom", path.as_uri()]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
    return done.stdout, [line for line in done.stderr.splitlines() if "CONSOLE" in line]
