"""`python -m pipelines.demo`: the whole pipeline on the demo's corpus, as queued runs of this checkout's instance."""

import json
import os
import shutil
import signal
import time
from pathlib import Path
from typing import Annotated

import dagster as dg
import typer
from dagster._core.definitions.data_version import DATA_VERSION_TAG

from headrace.clock import SystemClock
from headrace.command_line.project import find_project
from headrace.errors import HeadraceError, StoreRefused
from headrace.generation.day_summary import shown_digest
from headrace.generation.freshness import is_made_from, is_rolled_back
from headrace.handoff.versions import HandoffStore
from headrace.rollout.journal import Journal
from headrace.rollout.states import RolloutState, fold
from headrace.text.drawing import Terminal
from headrace.text.terminal import say
from headrace.version_sets.sets import VersionSets
from headrace_dagster.launchers.process_launcher import fail_runs_of_dead_workers
from headrace_dagster.partition_keys import register_keys
from headrace_dagster.project.services import services
from headrace_dagster.project.webserver import Webserver
from pipelines.demo import story, summary
from pipelines.demo.memory import MemoryPeak
from pipelines.demo.throughput import throughput
from pipelines.demo.view import View
from resources.partition_keys import keys_of_files
from resources.settings import CHECKOUT, Settings, settings_from_environment

# Two checkpoints, two sets of weights and logs: the most disk space that a demo uses.
FREE_BYTES_MIN = 6 * 10**9


class Demo:
    """Everything that the demo reads, in this checkout's instance and store."""

    def __init__(self, settings: Settings, instance: dg.DagsterInstance) -> None:
        self.settings = settings
        self.instance = instance
        self.days = story.fix_days(settings)
        objects = settings.open_store()
        self.handoffs = HandoffStore(objects, SystemClock())
        self.journals = {name: Journal(objects, name, SystemClock()) for name in story.NUM_SHARDS}
        self.sets = VersionSets(objects)
        self.chapters = story.chapters(self.days, self)
        self.summary_path = settings.home / "demo/summary.json"

    def rollout(self, campaign: str) -> RolloutState | None:
        return fold(self.journals[campaign].entries())

    def has_begun(self, campaign: str) -> bool:
        return self.rollout(campaign) is not None

    def is_on_trial(self, campaign: str) -> bool:
        state = self.rollout(campaign)
        return state is not None and state.candidate is not None

    def is_judged(self, campaign: str, recipe: str) -> bool:
        """Its settings may be on trial again (a changed campaign file); the model itself is judged."""
        sealed, state = self.handoffs.newest("trained_model", recipe), self.rollout(campaign)
        if sealed is None or state is None:
            return False
        digest = sealed.table(columns=["weights_digest"])["weights_digest"][0].as_py()
        judged = {state.stable, *state.aborted, *state.withdrawn} - {state.candidate}
        return any(digest == member.weights_digest for one in judged for member in self.sets.get(one).members)

    def is_current(self, campaign: str, day: str) -> bool:
        state, partitions = self.rollout(campaign), story.content_partitions(campaign, day)
        content = [self.handoffs.newest("generated_content", key) for key in partitions]
        reviewed = [self.handoffs.newest("reviewed_content", key) for key in partitions]
        for rows, review in zip(content, reviewed, strict=True):
            if rows is None or review is None or is_rolled_back(rows.manifest, state):
                return False
            if not is_made_from(review.manifest, rows.manifest):
                return False
        return self._is_reported(day)

    def _is_reported(self, day: str) -> bool:
        partitions = [key for campaign in story.NUM_SHARDS for key in story.content_partitions(campaign, day)]
        assets = ("generated_content", "reviewed_content")
        sealed = [self.handoffs.newest(asset, key) for asset in assets for key in partitions]
        event = self.instance.get_latest_data_version_record(dg.AssetKey("campaign_report"), partition_key=day)
        shown = (event.asset_materialization if event else None) or dg.AssetMaterialization("campaign_report")
        return (shown.tags or {}).get(DATA_VERSION_TAG) == shown_digest(handoff for handoff in sealed if handoff)

    def recompute(self) -> dict[str, object]:
        """Raises: HeadraceError: the demo is not finished."""
        state = self.rollout(story.CAMPAIGN)
        if state is None:
            raise summary.HandoffMissing("The demo has no rollout yet; `make demo` goes on.")
        return summary.recompute(
            instance=self.instance,
            handoffs=self.handoffs,
            state=state,
            journal_lines=self.journal_lines(),
            reports=self.settings.home / "reports",
            days=self.days,
        ).to_json()

    def journal_lines(self) -> list[str]:
        return [
            f"{name} {entry.number}. {entry.event} {entry.fields['version_set'][:12]}: {entry.fields['reason']}"
            for name, journal in self.journals.items()
            for entry in journal.entries()
        ]


def demo(
    verify: Annotated[
        bool, typer.Option("--verify", help="Recompute summary.json from Dagster, MLflow and the store, and compare.")
    ] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Say what is made and what is missing; start nothing.")
    ] = False,
    port: Annotated[
        int, typer.Option(envvar="HEADRACE_PORT", help="Port of the Dagster UI while the demo runs.")
    ] = 3000,
) -> None:
    """Runs all four stages on the demo's corpus; called again, goes on where it was."""
    console = Terminal()
    try:
        with dg.DagsterInstance.get() as instance:
            parts = Demo(settings_from_environment(), instance)
            if verify:
                _verify(parts, console)
            elif dry_run:
                _show_plan(parts, console)
            else:
                _run(parts, console, port)
    except HeadraceError as error:
        say(f"demo: {error}", error=True)
        raise typer.Exit(1) from None
    except KeyboardInterrupt:
        say("\ndemo: interrupted; `make demo` goes on where it was.", error=True)
        raise typer.Exit(130) from None


def _run(parts: Demo, console: Terminal, port: int) -> None:
    settings = parts.settings
    started = time.time()
    board = story.Board(instance=parts.instance, since=started)
    driver = story.Driver(board=board, launch=lambda *_: "")
    register_keys(parts.instance, keys_of_files(settings))
    board.refresh(story.ALL_ASSETS)
    if all(driver.is_done(chapter) for chapter in parts.chapters) and parts.summary_path.exists():
        console.print("Everything is made already; nothing was run.")
        _finish(parts, console, port, _kept_measurements(parts))
        return
    _check_disk(settings)
    measured = _kept_measurements(parts)
    peak = MemoryPeak(settings.home, measured["peak_rss_mb"])
    project = find_project(CHECKOUT, os.environ)
    environment = os.environ | {
        "HEADRACE_HOME": str(settings.home),
        "HEADRACE_AUTOMATION": "on",
        "HF_HUB_OFFLINE": "1",
    }
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    spent = measured["wall_seconds"]

    def keep_measurements() -> None:
        nonlocal measured
        measured = {"wall_seconds": round(spent + time.time() - started, 1), "peak_rss_mb": round(peak.peak_mb)}
        summary.write_summary(_measurements_path(parts), measured)

    def fail_lost_runs() -> None:
        if failed := fail_runs_of_dead_workers(parts.instance):
            console.print(f"{len(failed)} runs had lost their worker; they are marked failed and made again.")

    peak.start()
    try:
        with (
            services(
                project, settings.home, port=port, environment=environment, before_start=fail_lost_runs
            ) as running,
            View(
                chapters=parts.chapters,
                board=board,
                throughput=lambda chapter: throughput(parts.handoffs, settings, chapter),
                console=console,
            ) as view,
        ):
            webserver = Webserver(running.url, project.location)
            webserver.wait_for_location()
            driver.launch = lambda job, partition: webserver.launch(job, partition, requested_by="demo")
            for chapter in parts.chapters:
                for _ in driver.walk(chapter):
                    running.check_alive()
                    view.show(chapter)
                    # At each look, so that a killed demo has kept its measurements.
                    keep_measurements()
                view.show(chapter, done=True)
            webserver.close()
    finally:
        peak.stop()
        keep_measurements()
    _finish(parts, console, port, measured)


def _finish(parts: Demo, console: Terminal, port: int, measured: dict[str, float]) -> None:
    body = {**parts.recompute(), **measured}
    summary.write_summary(parts.summary_path, body)
    summary.print_summary(console, body, tracking_uri=parts.settings.tracking_uri, ui=f"http://127.0.0.1:{port}")
    console.print(f"Summary: {parts.summary_path}", soft_wrap=True)


def _verify(parts: Demo, console: Terminal) -> None:
    from headrace.registry.mlflow_models import ModelRegistry

    kept = summary.read_summary(parts.summary_path)
    fresh = parts.recompute()
    wrong = summary.differences(kept, fresh)
    wrong += summary.registry_differences(
        ModelRegistry(parts.settings.tracking_uri), parts.handoffs, str(kept["model_version"])
    )
    for journal in parts.journals.values():
        journal.verify()
    if wrong:
        raise HeadraceError("summary.json does not hold:\n" + "\n".join(wrong))
    console.print(f"{parts.summary_path} holds: {len(fresh)} values recomputed from Dagster, MLflow and the store.")
    console.print_json(json.dumps({key: value for key, value in fresh.items() if key not in {"run_ids", "samples"}}))


def _show_plan(parts: Demo, console: Terminal) -> None:
    board = story.Board(instance=parts.instance, since=time.time())
    board.refresh(story.ALL_ASSETS)
    for chapter in parts.chapters:
        made = sum(board.is_made(target) for target in chapter.targets)
        console.print(f"{made:>3}/{len(chapter.targets):<3} {chapter.title}")


def _check_disk(settings: Settings) -> None:
    settings.home.mkdir(parents=True, exist_ok=True)
    free = shutil.disk_usage(settings.home).free
    if free < FREE_BYTES_MIN:
        raise StoreRefused(
            f"The demo needs {FREE_BYTES_MIN / 1e9:.0f} GB free where {settings.home} is, {free / 1e9:.1f} GB are; "
            "free some space (make clean removes this checkout's state) or set HEADRACE_HOME to another disk."
        )


def _measurements_path(parts: Demo) -> Path:
    return parts.settings.home / "demo/measured.json"


def _kept_measurements(parts: Demo) -> dict[str, float]:
    path = _measurements_path(parts)
    return json.loads(path.read_text()) if path.exists() else {"wall_seconds": 0.0, "peak_rss_mb": 0.0}


if __name__ == "__main__":
    os.environ.setdefault("DAGSTER_HOME", str(CHECKOUT / "dagster_home"))
    typer.run(demo)
