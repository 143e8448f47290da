"""Our own pages in real Chromium: axe's findings, a narrow screen, a walk through a report by keyboard alone.

    python tests/browser/pages.py [FILE_OR_URL ...] [--pictures DIRECTORY]

Without files, makes a report of 12,000 rows, one with pictures and recordings, one without rows, and a rollout's page.
Opens each in light and dark, without a network. Needs Debian's chromium or chromium-headless-shell. Exits 1 with a
sentence for each finding. Not a test of pytest's: it needs a browser, and takes half a minute.
"""

import argparse
import re
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Browser, Error, Page, ViewportSize, expect

from headrace.generation.report import render_report
from headrace.rollout.page import render_page
from headrace.rollout.status import read_status
from tests.browser.chromium import Disappointed, open_browser
from tests.generation.days import DAY, seal_day
from tests.generation.media_builders import make_reviewed_site, summary_of
from tests.rollout.scenes import make_long_scene

WIDE: ViewportSize = {"width": 1280, "height": 900}
NARROW: ViewportSize = {"width": 390, "height": 844}
# axe's words for what keeps people out; what is less is printed.
SERIOUS = {"serious", "critical"}
NUM_ROWS, NUM_REJECTED = 12_000, 1_200


def make_pages(directory: Path) -> list[Path]:
    topics = {"topic": ["tools", "water", None] * (NUM_ROWS // 3), "level": list(range(NUM_ROWS))}
    report = seal_day(directory / "store", NUM_ROWS, carried=topics)
    scene = make_long_scene(directory / "rollout")
    texts = {
        "report.html": render_report(DAY, [report], ui_url="http://127.0.0.1:3000"),
        "media-report.html": render_report(DAY, [summary_of(make_reviewed_site(directory / "media", shards=(0, 1)))]),
        "empty-report.html": render_report(DAY, []),
        "rollout.html": render_page(read_status(scene.store, scene.name, scene.clock)),
    }
    for name, text in texts.items():
        (directory / name).write_text(text, encoding="utf-8")
    return [directory / name for name in texts]


def findings(browser: Browser, address: str, pictures: Path | None) -> Iterator[str]:
    """A sentence for each."""
    for theme in ("light", "dark"):
        # axe is a script that the page's own policy would refuse; `complaints` opens it under its policy.
        context = browser.new_context(viewport=WIDE, color_scheme=theme, bypass_csp=True)
        page = context.new_page()
        page.goto(address)
        if (details := page.locator("#table button.more")).count():
            details.first.click()
        for found in Axe().run(page).response["violations"]:
            node = " ".join(found["nodes"][0]["html"].split())
            said = f"{address}, {theme}: {found['id']} ({found['impact']}): {node[:160]}"
            if found["impact"] in SERIOUS:
                yield said
            else:
                print(said)
        if pictures:
            name = re.sub(r"\W+", "-", address.rpartition("/")[2])
            page.screenshot(path=pictures / f"{name}-{theme}.png", full_page=page.locator("#table").count() == 0)
        context.close()


def complaints(browser: Browser, address: str) -> Iterator[str]:
    """What the browser itself says, on a narrow screen: errors, requests, a page that scrolls sideways."""
    page = browser.new_page(viewport=NARROW)
    said: list[str] = []
    page.on("console", lambda message: said.append(message.text) if message.type in {"error", "warning"} else None)
    page.on("pageerror", lambda error: said.append(str(error)))
    page.on("request", lambda request: said.append(f"asks for {request.url}") if _is_afar(request.url) else None)
    started = time.perf_counter()
    page.goto(address)
    print(f"{address}: open after {time.perf_counter() - started:.2f} s")
    if address.startswith("file:"):
        yield from (f"{address}: {one}" for one in said)
    width = page.evaluate("document.documentElement.scrollWidth")
    if width > NARROW["width"]:
        yield f"{address}: {width} pixels wide on a screen of {NARROW['width']}"
    page.close()


def _is_afar(url: str) -> bool:
    return not url.startswith(("file:", "data:", "blob:"))


def walk(page: Page, address: str) -> None:
    """Through `make_pages`'s report with the keyboard alone.

    Raises:
        AssertionError: it did not do what it should.
    """
    page.goto(address)
    count, focused = page.locator("#count"), page.locator(":focus")
    _tab_to(page, "a[href='#rows']")
    page.keyboard.press("Enter")
    _tab_to(page, "input[name=text]")
    expect(count).to_have_text(f"{NUM_ROWS:,} of {NUM_ROWS:,} rows, 90.0% of the reviewed ones kept")
    page.keyboard.type("WORD1199")
    # word1199 and word11990 to word11999
    expect(count).to_have_text(re.compile(rf"^11 of {NUM_ROWS:,} rows"))
    page.keyboard.press("Control+A")
    page.keyboard.press("Delete")
    _tab_to(page, "select[name=verdict]")
    page.keyboard.type("rejected")
    expect(count).to_have_text(f"{NUM_REJECTED:,} of {NUM_ROWS:,} rows, 0.0% of the reviewed ones kept")
    _tab_to(page, "#filters button")
    page.keyboard.press("Enter")
    expect(count).to_have_text(re.compile(rf"^{NUM_ROWS:,} of"))
    _tab_to(page, "#table th:nth-child(4) button")
    expect(focused).to_have_text("level")
    for direction, first in (("ascending", "0"), ("descending", f"{NUM_ROWS - 1}")):
        page.keyboard.press("Enter")
        expect(page.locator("#table th:nth-child(4)")).to_have_attribute("aria-sort", direction)
        expect(page.locator("#table tbody tr:first-child td:nth-child(4)")).to_have_text(first)
    assert page.locator("#table th[aria-sort]").count() == 1
    outline = focused.evaluate("element => getComputedStyle(element).outlineStyle")
    assert outline == "solid", f"what has the focus has the outline {outline}"
    _tab_to(page, "#table button.more")
    page.keyboard.press("Enter")
    expect(focused).to_have_attribute("aria-expanded", "true")
    details = page.locator("#table tr.details")
    row_id = focused.get_attribute("title") or ""
    assert re.fullmatch(r"[0-9a-f]{64}", row_id), row_id
    expect(details.get_by_text(row_id, exact=True)).to_be_visible()
    page.keyboard.press("Enter")
    expect(details).to_have_count(0)
    page.locator("#pages button[data-to=last]").focus()
    page.keyboard.press("Enter")
    expect(page.locator("#page")).to_have_text(f"Page {NUM_ROWS // 50:,} of {NUM_ROWS // 50:,}")
    # It has no next page, and the focus must not be lost with the button.
    expect(focused).to_have_attribute("data-to", "first")
    link = page.locator("#table tbody tr:first-child a").get_attribute("href")
    assert link == f"http://127.0.0.1:3000/assets/generated_content?view=partitions&partition={DAY}%7Cglossary-00", link


def _tab_to(page: Page, selector: str, *, presses_max: int = 60) -> None:
    for _ in range(presses_max):
        if page.evaluate("selector => document.activeElement.matches(selector)", selector):
            return
        page.keyboard.press("Tab")
    raise AssertionError(f"{selector} is not reached by {presses_max} presses of Tab")


def look(browser: Browser, addresses: Sequence[str], pictures: Path | None) -> list[str]:
    found: list[str] = []
    for address in addresses:
        found += complaints(browser, address)
        found += findings(browser, address, pictures)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("pages", nargs="*", help="files, or addresses of running servers")
    parser.add_argument("--pictures", type=Path, help="a directory for a picture of each page in each theme")
    arguments = parser.parse_args()
    try:
        with open_browser() as browser, tempfile.TemporaryDirectory() as directory:
            given = [one if "://" in one else Path(one).absolute().as_uri() for one in arguments.pages]
            made = [] if given else [one.as_uri() for one in make_pages(Path(directory))]
            found = look(browser, given or made, arguments.pictures)
            if made:
                walk(browser.new_page(viewport=WIDE), made[0])
    except (Disappointed, AssertionError, Error) as error:
        print(f"pages: {error}", file=sys.stderr)
        raise SystemExit(1) from None
    print(*found, sep="\n", file=sys.stderr)
    print(f"{len(given or made)} pages, {len(found)} findings")
    raise SystemExit(1 if found else 0)


if __name__ == "__main__":
    main()
