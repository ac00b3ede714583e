"""Links between the pages of the project lead to files and headings that exist."""

import re
import subprocess

import pytest
from conftest import REPO

_TRACKED = subprocess.run(["git", "ls-files", "*.md"], cwd=REPO, capture_output=True, text=True).stdout.split()
PAGES = [REPO / name for name in _TRACKED] or sorted(REPO.glob("*.md")) + sorted(REPO.glob("[a-z]*/*.md"))


def anchors(page: str) -> set[str]:
    """Return GitHub's anchors of the headings of a page."""
    headings = re.findall(r"^#+ (.*)$", re.sub(r"^```.*?^```$", "", page, flags=re.DOTALL | re.MULTILINE), re.MULTILINE)
    return {re.sub(r"[^a-z0-9_ -]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(REPO)))
def test_links_lead_somewhere(page):
    text = page.read_text()
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        if re.match(r"[a-z]+:", target):
            continue
        file, _, anchor = target.partition("#")
        linked = (page.parent / file).resolve() if file else page
        assert linked.exists(), f"{page}: {target}"
        assert not anchor or anchor in anchors(linked.read_text()), f"{page}: {target}"


def test_anchors_are_those_of_github():
    page = "# Quickstart's own settings\n```\n# no heading\n```\n## RC²L, 2 x 8 GPUs\n"
    assert anchors(page) == {"quickstarts-own-settings", "rcl-2-x-8-gpus"}
