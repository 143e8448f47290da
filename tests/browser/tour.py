"""A visit to a running Dagster UI in real Chromium, picture by picture: graph, a click, a handoff, loss, report.

    python tests/browser/tour.py http://127.0.0.1:3000 DIRECTORY [--asset ASSET --partition PARTITION]
    python tests/browser/tour.py http://127.0.0.1:3000 DIRECTORY --queue

Needs what `make demo` made, a UI (`make dev`), and Debian's chromium or chromium-headless-shell; playwright brings the
driver alone. Clicks as a person would: `--asset` (one with a simple partition key) is materialized for `--partition`
through the dialog, and the tour waits until its run has ended. Exits 1 with one sentence where the UI does not show
what it should. Not a test of pytest's: it visits an instance with content.

`--queue` visits the run queue instead, while runs are held: its reasons, the largest held gang, and `headrace queue` in
a terminal (DAGSTER_HOME says of which instance).
"""

import argparse
import io
import json
import os
import pty
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from playwright.sync_api import Error, Locator, Page
from rich.console import Console
from rich.terminal_theme import MONOKAI
from rich.text import Text

from tests.browser.chromium import Disappointed, open_browser

WIDTH, HEIGHT = 1600, 1000
# A run's start on two busy cores, and the run itself.
RUN_WAIT_SECONDS = 180
LAUNCH_WAIT_SECONDS = 30
# What the UI loads after its first paint comes in several requests; it has no mark for "settled".
SETTLE_MS = 1_500
TERMINAL_COLUMNS = 120
_WHY_TAG = "headrace/why"

_LATEST = """
query Latest($key: AssetKeyInput!) {
  assetOrError(assetKey: $key) {
    ... on Asset {
      assetMaterializations(limit: 1) {
        metadataEntries { label ... on PathMetadataEntry { path } ... on MarkdownMetadataEntry { mdStr } }
      }
    }
  }
}
"""
_NEWEST_RUN = "{ runsOrError(limit: 1) { ... on Runs { results { id } } } }"
_RUN_STATUS = "query Status($id: ID!) { runOrError(runId: $id) { ... on Run { id status } } }"


class Tour:
    def __init__(self, page: Page, url: str, directory: Path) -> None:
        self._page = page
        self._url = url.rstrip("/")
        self._directory = directory
        self.pictures: list[Path] = []

    def asset_graph(self) -> None:
        """All assets of all groups, with nothing else on the page."""
        page = self._open("/asset-groups")
        page.get_by_text("Materialize all").wait_for()
        page.get_by_text("Hide navigation").click()
        page.get_by_role("img", name="panel_show_right").click()  # the list of assets beside the graph
        self._settle()
        page.mouse.click(WIDTH * 0.8, HEIGHT * 0.75)
        page.keyboard.press("Alt+KeyE")  # expands all groups, and fits them to the page
        self._picture("asset-graph")

    def materialize(self, asset: str, partition: str) -> None:
        """Asset page → Materialize… → partition → Launch run → the run's page, until it is green."""
        page = self._open(f"/assets/{asset}")
        last_run = self._newest_run()
        page.get_by_role("button", name="Materialize").first.click()
        # Asked of an asset whose run makes others too, or whose inputs are not all there.
        confirm = page.get_by_role("button", name="Confirm")
        confirm.or_(page.get_by_text("Partition selection")).first.wait_for()
        if confirm.is_visible():
            confirm.click()
        page.get_by_text("Select a partition or create one").click()
        page.get_by_role("menuitem").filter(has_text=partition).click()
        page.keyboard.press("Escape")  # closes the list
        self._picture("materialize-dialog")
        page.get_by_role("button", name="Launch 1 run").click()
        run_id = self._next_run(after=last_run)
        self._open(f"/runs/{run_id}")
        status = self._wait_for_end(run_id)
        self._picture("materialize-run")
        if status != "SUCCESS":
            raise Disappointed(f"Run {run_id} of {asset}[{partition}] ended as {status}: {self._url}/runs/{run_id}")

    def asset_page(self, asset: str, *, metadata: str) -> None:
        """An asset's page with the latest value of one of its metadata in view."""
        if metadata not in self._metadata(asset):
            raise Disappointed(
                f"{asset} has no materialization with {metadata!r} in its metadata. Run `make demo` first."
            )
        page = self._open(f"/assets/{asset}")
        page.get_by_text(metadata, exact=True).first.scroll_into_view_if_needed()
        self._picture(asset.replace("_", "-"))

    def plots(self, asset: str, *, number: str) -> None:
        """A partitioned asset's numbers over its materializations, with one of them in view."""
        page = self._open(f"/assets/{asset}")
        page.get_by_role("button", name="Plots").first.click()
        page.get_by_role("button", name="Events").first.click()
        self._settle()
        page.get_by_text(number, exact=True).first.evaluate("heading => heading.scrollIntoView({block: 'start'})")
        self._picture(f"{asset.replace('_', '-')}-plots")

    def report(self) -> None:
        """The day's page itself, from the path that its asset names."""
        path = self._metadata("campaign_report").get("path")
        if not path:
            raise Disappointed("campaign_report has no materialization yet. Run `make demo` first.")
        self._page.goto(Path(path).as_uri())
        self._picture("report", full_page=True)

    def queue(self) -> None:
        """Queued runs with their reasons; one of them is pointed at, since the UI cuts long tags."""
        page = self._open("/runs")
        page.get_by_text("Queued (").click()
        self._settle()
        self._point_at(page.get_by_text(f"{_WHY_TAG}: {self._largest_held()[1]}").first)
        self._picture("run-queue")

    def held_gang(self) -> None:
        """The page of the held run that asks for most GPUs, with its tags."""
        run_id, why = self._largest_held()
        page = self._open(f"/runs/{run_id}")
        page.get_by_text("View tags and config").click()
        self._settle()
        self._point_at(page.get_by_text(f"{_WHY_TAG}: {why}").first)
        self._picture("held-gang")

    def terminal(self, name: str, command: Sequence[str]) -> None:
        """What a command shows on a terminal."""
        shown = Text.from_ansi(_on_a_terminal(command))
        console = Console(record=True, width=TERMINAL_COLUMNS, file=io.StringIO(), force_terminal=True)
        console.print(Text(f"$ {' '.join(command)}", style="bold"))
        console.print(shown)
        self._page.goto("about:blank")
        self._page.set_content(console.export_html(theme=MONOKAI, inline_styles=True))
        style = "body { margin: 0; font-size: 15px; } pre { margin: 0; padding: 24px; width: max-content; }"
        self._page.add_style_tag(content=style)
        self._picture(name, only=self._page.locator("pre"))

    def _point_at(self, tag: Locator) -> None:
        tag.scroll_into_view_if_needed()
        tag.hover()

    def _largest_held(self) -> tuple[str, str]:
        """Run id and reason. Raises: Disappointed: nothing is held."""
        queue = json.loads(subprocess.run(["headrace", "queue", "--json"], capture_output=True, check=True).stdout)
        runs = [run for run in queue["queued"] if run["state"] == "held" and run["demand"]]
        held = [(run["demand"]["num_gpus"], run["run_id"], run["why"]) for run in runs]
        if not held:
            raise Disappointed("No run is held with a reason: queue more than the GPUs can take, and come again.")
        _, run_id, why = max(held)
        return run_id, why

    def _open(self, path: str) -> Page:
        self._page.goto(self._url + path)
        return self._page

    def _settle(self) -> None:
        self._page.wait_for_load_state("networkidle")
        self._page.wait_for_timeout(SETTLE_MS)

    def _picture(self, name: str, *, full_page: bool = False, only: Locator | None = None) -> None:
        self._settle()
        file = self._directory / f"{len(self.pictures) + 1:02d}-{name}.png"
        if only:
            only.screenshot(path=file)
        else:
            self._page.screenshot(path=file, full_page=full_page)
        self.pictures.append(file)

    def _newest_run(self) -> str:
        """Its id; empty if there is none."""
        runs = self._ask(_NEWEST_RUN, {})["runsOrError"]["results"]
        return runs[0]["id"] if runs else ""

    def _next_run(self, *, after: str) -> str:
        for _ in range(LAUNCH_WAIT_SECONDS):
            run_id = self._newest_run()
            if run_id != after:
                return run_id
            self._page.wait_for_timeout(1_000)
        raise Disappointed("The click on Launch brought no run.")

    def _wait_for_end(self, run_id: str) -> str:
        for _ in range(RUN_WAIT_SECONDS):
            status = self._ask(_RUN_STATUS, {"id": run_id})["runOrError"]["status"]
            if status in {"SUCCESS", "FAILURE", "CANCELED"}:
                return status
            self._page.wait_for_timeout(1_000)
        raise Disappointed(f"Run {run_id} has not ended after {RUN_WAIT_SECONDS} s: is a daemon running?")

    def _metadata(self, asset: str) -> dict[str, str]:
        entries = self._latest(asset).get("metadataEntries", [])
        return {entry["label"]: entry.get("path") or entry.get("mdStr") or "" for entry in entries}

    def _latest(self, asset: str) -> dict[str, Any]:
        found = self._ask(_LATEST, {"key": {"path": [asset]}})["assetOrError"].get("assetMaterializations", [])
        return found[0] if found else {}

    def _ask(self, query: str, variables: dict[str, Any]) -> dict[str, Any]:
        answer = self._page.request.post(f"{self._url}/graphql", data={"query": query, "variables": variables})
        return answer.json()["data"]


def _on_a_terminal(command: Sequence[str]) -> str:
    """Its output, colours and all."""
    terminal, own = pty.openpty()
    environment = {**os.environ, "COLUMNS": str(TERMINAL_COLUMNS), "TERM": "xterm-256color"}
    process = subprocess.Popen(command, stdout=own, stderr=subprocess.DEVNULL, env=environment)
    os.close(own)
    output = b""
    try:
        while chunk := os.read(terminal, 65_536):
            output += chunk
    except OSError:
        pass  # Linux's way to say that the other end was closed
    finally:
        os.close(terminal)
    if process.wait():
        raise Disappointed(f"{' '.join(command)} ended with {process.returncode}.")
    return output.decode().replace("\r\n", "\n")


def _visit_pipeline(tour: Tour, asset: str, partition: str) -> None:
    tour.asset_graph()
    tour.materialize(asset, partition)
    tour.asset_page(asset, metadata="lineage")
    tour.plots(asset, number="handoff_bytes")
    tour.asset_page("trained_model", metadata="loss")
    tour.asset_page("campaign_report", metadata="summary")
    tour.report()


def _visit_queue(tour: Tour) -> None:
    tour.queue()
    tour.held_gang()
    tour.terminal("headrace-queue", ["headrace", "queue"])


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("url", help="the Dagster UI, such as http://127.0.0.1:3000")
    parser.add_argument("directory", type=Path, help="where the pictures go")
    parser.add_argument("--asset", default="clean_documents", help="what is materialized by clicking")
    parser.add_argument("--partition", default="shard-00")
    parser.add_argument("--queue", action="store_true", help="visit the run queue instead")
    arguments = parser.parse_args()
    arguments.directory.mkdir(parents=True, exist_ok=True)
    try:
        with open_browser() as browser:
            page = browser.new_page(viewport={"width": WIDTH, "height": HEIGHT})
            tour = Tour(page, arguments.url, arguments.directory)
            if arguments.queue:
                _visit_queue(tour)
            else:
                _visit_pipeline(tour, arguments.asset, arguments.partition)
    except (Disappointed, Error) as error:
        print(f"tour: {error}", file=sys.stderr)
        raise SystemExit(1) from None
    print(*tour.pictures, sep="\n")


if __name__ == "__main__":
    main()
