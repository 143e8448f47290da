"""What `headrace run` does: finds the project's Dagster or starts it, shows one progress view, then the rows."""

import os
import socket
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any
from uuid import uuid4

import typer

from headrace.command_line.bodies.campaigns import DryRunBody, MissingBody, RunBody
from headrace.command_line.campaigns import checked_day, find_own_campaign
from headrace.command_line.opening import surroundings_of
from headrace.command_line.output import cell_text, counted, print_json, print_lines, print_table
from headrace.command_line.project import Project, this_project
from headrace.errors import InvalidInput
from headrace.handoff.versions import HandoffStore
from headrace.settings import Settings
from headrace.store.opening import open_store
from headrace.text.terminal import say
from headrace.version_sets.sets import VersionSets
from headrace_dagster.project.campaign_run import CampaignRun, Look
from headrace_dagster.project.webserver import Webserver, WebserverGone

_DEFAULT_PORT = 3000
_ROWS_SHOWN = 10
# How long another call of ours may take to start the services.
_OTHERS_START_SECONDS = 90.0


def run_campaign(
    context: typer.Context,
    word: str,
    *,
    day: str | None,
    again: bool,
    dry_run: bool,
    port: int | None,
    as_json: bool,
) -> None:
    project = this_project()
    settings = project.settings()
    campaign = find_own_campaign(word, settings)
    on_day = checked_day(day, settings)
    around = surroundings_of(context)
    work = CampaignRun(
        campaign=campaign,
        handoffs=HandoffStore(open_store(around.store_url, cache=around.cache_directory)),
        home=settings.home,
        day=on_day,
        report=settings.home / "reports" / f"{on_day}.html",
        regenerate=again,
        token=uuid4().hex,
    )
    missing = work.missing()
    if dry_run and as_json:
        to_make = tuple(MissingBody(job=step.job, asset=step.asset, partition=key) for step, key in missing)
        print_json(DryRunBody(campaign=campaign.name, day=on_day, missing=to_make))
        return
    if dry_run:
        print_lines([f"{step.asset}[{key}]" for step, key in missing])
        print_lines([f"{counted(len(missing), 'partition')} to begin with; nothing was started."])
        return
    try:
        if missing:
            _make(work, project, settings, port, quiet=as_json)
    except KeyboardInterrupt:
        say("Stopped. Runs under way go on; call it again to follow them, and to make what is missing.", error=True)
        raise
    _finish(work, as_json=as_json)


def _make(work: CampaignRun, project: Project, settings: Settings, port: int | None, *, quiet: bool) -> None:
    """Follows the runs to their end; goes on with a webserver of its own where the other process ends its."""
    for is_last in (False, False, True):
        try:
            with _webserver(project, settings, port) as webserver:
                for name, keys in work.campaign.dynamic_keys.items():
                    webserver.add_partitions(name, keys)
                _follow(work, webserver, quiet=quiet)
            return
        except WebserverGone:
            if is_last:
                raise


@contextmanager
def _webserver(project: Project, settings: Settings, port: int | None) -> Iterator[Webserver]:
    """The webserver that runs already or is about to, or one of our own with its daemon."""
    from headrace_dagster.project.services import RunByAnother, running_webserver, services

    if not project.environment.get("DAGSTER_HOME"):
        raise InvalidInput(
            f"DAGSTER_HOME is not set, in the environment or in {project.root / '.env'}: set it to the directory of "
            "your instance's dagster.yaml."
        )
    deadline = time.monotonic() + _OTHERS_START_SECONDS
    say("Starting Dagster's daemon and UI, or waiting for those that start …", error=True)
    with ExitStack() as stack:
        while not (url := running_webserver(settings.home)):
            # Runs whose worker died before are failed by the daemon's monitoring: looking here would import Dagster.
            own = services(project, settings.home, port=port or _free_port(), environment=dict(os.environ))
            try:
                running = stack.enter_context(own)
            except RunByAnother:
                # Another call of ours is starting them.
                if time.monotonic() > deadline:
                    raise
                time.sleep(1)
            else:
                url = running.url
                say(f"Dagster UI: {url} while this runs; logs: {running.logs}", error=True)
                break
        webserver = Webserver(url, project.location)
        stack.callback(webserver.close)
        webserver.wait_for_location()
        yield webserver


def _follow(work: CampaignRun, webserver: Webserver, *, quiet: bool) -> None:
    from rich.live import Live

    from headrace.text.drawing import Terminal, TerminalText

    console = Terminal(stderr=True)
    before = ""
    with Live(console=console, auto_refresh=False, transient=True) as live:
        for look in work.walk(webserver):
            line = _line(look)
            if console.is_terminal:
                live.update(TerminalText(line), refresh=True)
            elif line != before and not quiet:
                say(line, error=True)
            before = line


def _line(look: Look) -> str:
    counts = [f"{title} {made}/{look.total[title]}" for title, made in look.made.items()]
    return " · ".join([*counts, counted(look.num_rows, "row")])


def _finish(work: CampaignRun, *, as_json: bool) -> None:
    reviewed = [found for key in work.partitions if (found := work.handoffs.newest("reviewed_content", key))]
    rows = [row for one in reviewed for row in one.table().to_pylist()]
    num_kept = sum(row["kept"] for row in rows)
    if as_json:
        print_json(_body(work, rows, num_kept))
        return
    shown = [
        [cell_text(row["prompt"]), cell_text(row["output"]), "kept" if row["kept"] else ", ".join(row["rejected_by"])]
        for row in rows[:_ROWS_SHOWN]
    ]
    print_table(["PROMPT", "ROW", "REVIEW"], shown)
    say()
    more = f"{len(rows) - len(shown):,} more rows. " if len(rows) > len(shown) else ""
    print_lines(
        [
            f"{more}{num_kept:,} of {counted(len(rows), 'row')} kept, {work.campaign.name} on {work.day}.",
            f"Report: {work.report}",
            f"Rows:   headrace export {work.campaign.name} rows.csv --day {work.day}",
        ]
    )
    if told := _of_another_set(work):
        say(told, error=True)


def _of_another_set(work: CampaignRun) -> str | None:
    """What a person should know who changed the file and sees rows that were made before."""
    state = work.state()
    made = {one.attributes.get("version_set") for key in work.partitions if (one := work.content(key))}
    # What the file asks for now: a set on trial, or about to be, else the stable one.
    wished = (state.candidate or state.proposed or state.stable) if state else None
    if wished is None or wished in made or len(made) != 1:
        return None
    labels = VersionSets(work.handoffs.objects)
    (before,) = made
    return (
        f"These rows were made before, by {labels.label(str(before))}. The file now asks for "
        f"{labels.label(wished)}: --again makes them again, on the set that the rollout gives them."
    )


def _body(work: CampaignRun, rows: list[dict[str, Any]], num_kept: int) -> RunBody:
    return RunBody(
        campaign=work.campaign.name,
        day=work.day,
        partitions=tuple(work.partitions),
        num_rows=len(rows),
        num_kept=num_kept,
        report=str(work.report),
        rows=tuple(rows),
    )


def _free_port() -> int:
    """Dagster's usual port if it is free, else any other."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", _DEFAULT_PORT))
        except OSError:
            probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]
