"""The pages name nothing that is not there: files, headings, variables, tags, metrics."""

import re
import shutil
import subprocess
import sys
from collections import Counter
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.docs.blocks import CHECKOUT, PAGES, prose

DOCS = CHECKOUT / "docs"
REFERENCE = DOCS / "reference"
_ALL = [*PAGES, CHECKOUT / "CONTEXT.md", CHECKOUT / "CHANGELOG.md"]
_LINK = re.compile(r"\]\(([^)\s]+)\)")
_CODE = re.compile(r"`[^`]*`")


@cache
def anchors(page: Path) -> set[str]:
    """As GitHub makes them of headings. The site's generator makes the same of ours; its strict build checks that."""
    counts, found = Counter[str](), set[str]()
    for heading in re.findall(r"^#+ +(.*)$", prose(page), re.MULTILINE):
        text = re.sub(r"\[([^]]*)\]\([^)]*\)", r"\1", heading).strip().lower()
        slug = re.sub(r"[^\w\- ]", "", text.replace("`", "")).replace(" ", "-")
        found.add(f"{slug}-{counts[slug]}" if counts[slug] else slug)
        counts[slug] += 1
    return found


def links(page: Path) -> list[str]:
    return [link for link in _LINK.findall(_CODE.sub("", prose(page))) if "://" not in link]


def dead_links(page: Path) -> list[str]:
    dead = []
    for link in links(page):
        file, _, anchor = link.partition("#")
        target = (page.parent / file).resolve() if file else page
        if not target.exists() or (anchor and anchor not in anchors(target)):
            dead.append(link)
    return dead


def test_no_link_is_dead() -> None:
    dead = {str(page.relative_to(CHECKOUT)): found for page in _ALL if (found := dead_links(page))}
    assert dead == {}
    assert sum(len(links(page)) for page in _ALL) > 150


def test_a_dead_link_is_found(tmp_path: Path) -> None:
    (tmp_path / "there.md").write_text("# A heading: `with code`\n")
    page = tmp_path / "page.md"
    page.write_text("[a](there.md) [b](there.md#a-heading-with-code) [c](gone.md) [d](there.md#gone) `[e](no.md)`\n")
    assert dead_links(page) == ["gone.md", "there.md#gone"]


def test_pages_of_the_site_link_to_the_site_alone() -> None:
    out = {
        str(page.relative_to(DOCS)): link
        for page in PAGES
        if DOCS in page.parents
        for link in links(page)
        if not (page.parent / link.partition("#")[0]).resolve().is_relative_to(DOCS)
    }
    assert out == {}


def test_every_page_is_in_the_sites_navigation_once() -> None:
    listed = list(_leaves(yaml.safe_load((CHECKOUT / "mkdocs.yml").read_text())["nav"]))
    there = [str(page.relative_to(DOCS)) for page in PAGES if DOCS in page.parents]
    decisions = {one for one in there if one.startswith("decisions/0")}
    assert sorted(listed) == sorted(set(there) - decisions)
    listed_decisions = {f"decisions/{link}" for link in links(DOCS / "decisions/index.md")}
    assert decisions == listed_decisions, "docs/decisions/index.md names each"


def test_the_site_builds_without_a_warning_and_its_pages_fetch_nothing_from_elsewhere(tmp_path: Path) -> None:
    settings = (CHECKOUT / "mkdocs.yml").read_text()
    # Where `make docs` writes stays as it is.
    (tmp_path / "mkdocs.yml").write_text(settings.replace("site_dir: build/site", f"site_dir: {tmp_path / 'site'}"))
    shutil.copytree(DOCS, tmp_path / "docs")
    built = subprocess.run(
        [Path(sys.executable).with_name("zensical"), "build", "--strict"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert built.returncode == 0, built.stdout + built.stderr

    html = list((tmp_path / "site").rglob("*.html"))
    assert len(html) > 40
    for page in html:
        text = page.read_text()
        fetched = re.findall(r"<(?:script|img|iframe|source)\b[^>]*\bsrc=[\"']?([^\"' >]*)", text)
        fetched += re.findall(r"<link\b[^>]*\bhref=[\"']?([^\"' >]*)", text)
        assert fetched
        assert [one for one in fetched if one.startswith(("http:", "https:", "//"))] == [], page.name


def test_every_row_of_a_table_has_as_many_cells_as_its_head() -> None:
    """A bar in a cell's code would begin a cell; the renderers disagree about one behind a backslash."""
    torn = {}
    for page in _ALL:
        width = None
        for number, line in enumerate(prose(page).splitlines(), start=1):
            width = (width or line.count("|")) if line.startswith("|") else None
            if width and (line.count("|") != width or r"\|" in line):
                torn[f"{page.relative_to(CHECKOUT)}:{number}"] = line
    assert torn == {}


@pytest.mark.parametrize(
    ("pattern", "page"),
    [(r"\bHEADRACE_[A-Z_]+[A-Z]", "variables.md"), (r"(?<![\w./])headrace/[a-z]+(?:_[a-z]+)*(?![\w/.])", "tags.md")],
)
def test_what_the_pages_name_is_in_the_reference(pattern: str, page: str) -> None:
    known = set(re.findall(pattern, (REFERENCE / page).read_text()))
    rooms = {f"headrace/{path.name}" for path in (CHECKOUT / "headrace").iterdir()}
    named = {name for one in _ALL for name in re.findall(pattern, one.read_text())}
    assert len(known) > 10
    assert named - known - rooms == set()


def test_options_that_pages_name_are_options() -> None:
    """In sentences; whole calls are read by their program (`test_code_blocks`)."""
    known = set(re.findall(r"--[a-z][a-z0-9-]+", (REFERENCE / "commands.md").read_text()))
    for directory in ("benchmarks", "pipelines"):
        for path in (CHECKOUT / directory).rglob("*.py"):
            known |= set(re.findall(r'"(--[a-z][a-z0-9-]+)"', path.read_text()))
    named = {
        option
        for page in PAGES
        if page.parent == DOCS
        for code in _CODE.findall(prose(page))
        for option in re.findall(r"(?<!\S)--[a-z][a-z0-9-]+", code.strip("`"))
    }
    assert len(named) > 40
    # curl's and dg's
    assert named - known - {"--http2", "--unix-socket", "--assets"} == set()


def _leaves(part: Any) -> Any:
    if isinstance(part, str):
        yield part
    else:
        for one in part.values() if isinstance(part, dict) else part:
            yield from _leaves(one)
