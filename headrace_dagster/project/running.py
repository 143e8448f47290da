"""What `headrace run` does: finds the project's Dagster or starts it, shows one progress view, then the rows."""

import os
import shutil
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any
from uuid import uuid4

import typer

from headrace.command_line.bodies.campaigns import DryRunBody, MissingBody, RunBody
from headrace.command_line.campaigns import checked_day, find_component, find_own_campaign
from headrace.command_line.components import DEFS_FILE
from headrace.command_line.opening import surroundings_of
from headrace.command_line.output import cell_text, counted, print_json, print_lines, print_table
from headrace.command_line.project import Project, this_project
from headrace.engines.host.address import ENGINE_HOST
from headrace.errors import InvalidInput
from headrace.generation.campaign import load_campaign
from headrace.generation.requests import refuse_events
from headrace.handoff.versions import HandoffStore
from headrace.masking import without_credentials
from headrace.settings import DEFAULT_PORT, Settings
from headrace.text.terminal import say
from headrace.version_sets.sets import VersionSets
from headrace_dagster.components.names import rollout_job, rows_job
from headrace_dagster.project.campaign_run import REPORT, CampaignRun, Look
from headrace_dagster.project.services import (
    RunByAnother,
    ServiceEnded,
    running_webserver,
    services,
    unheeded_variables,
)
from headrace_dagster.project.webserver import LaunchRefused, Webserver, WebserverGone

_ROWS_SHOWN = 10
# How long another call of ours may take to start the services.
_OTHERS_START_SECONDS = 90.0
_WARNED_SECONDS = 60.0
# Less than Dagster's and our own files of a small run.
_FREE_BYTES_MIN = 16 * 2**20


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
    on_day = checked_day(day, settings)
    _refuse_other_store(context, settings)
    _refuse_component(word, project)
    work = _work_of(word, settings, on_day, again=again)
    missing = work.missing()
    if dry_run and as_json:
        to_make = tuple(MissingBody(job=step.job, asset=step.asset, partition=key) for step, key in missing)
        print_json(DryRunBody(campaign=work.campaign.name, day=on_day, missing=to_make))
        return
    if dry_run:
        print_lines([f"{step.asset}[{key}]" for step, key in missing])
        print_lines([f"{counted(len(missing), 'partition')} to begin with; nothing was started."])
        return
    work.refuse_spent(missing)
    try:
        if missing:
            _make(work, project, settings, port, quiet=as_json)
    except KeyboardInterrupt:
        say("Stopped. Runs under way go on; call it again to follow them, and to make what is missing.", error=True)
        raise
    _finish(work, as_json=as_json)
    if missing and (left := _left_by_changes(word, settings, on_day)):
        say(left, error=True)


def _refuse_component(word: str, project: Project) -> None:
    """Raises: InvalidInput: the campaign is a Component's, for which Dagster has jobs and not this project's assets."""
    found = find_component(word, project)
    if found is None and not (_is_beside_defs(word)):
        return
    name = load_campaign(found.campaign if found else Path(word)).name
    where = f"{word} is a Component, of {found.defs}," if found else f"{word} lies beside a defs.yaml, so it is one"
    raise InvalidInput(
        f"{where} whose runs Dagster starts: dg launch --job {rollout_job(name)}, then dg launch --job "
        f"{rows_job(name)} --partition 'DAY|{name}-00'."
    )


def _is_beside_defs(word: str) -> bool:
    return Path(word).suffix in {".yaml", ".yml"} and (Path(word).parent / DEFS_FILE).is_file()


def _work_of(word: str, settings: Settings, day: str, *, again: bool) -> CampaignRun:
    campaign = find_own_campaign(word, settings)
    refuse_events(campaign, "is made by its sensors, window by window")
    return CampaignRun(
        campaign=campaign,
        handoffs=HandoffStore(settings.open_store()),
        home=settings.home,
        day=day,
        report=settings.home / "reports" / f"{day}.html",
        regenerate=again,
        token=uuid4().hex,
    )


def _refuse_other_store(context: typer.Context, settings: Settings) -> None:
    """Raises: InvalidInput: the command looks into another store than the runs that it starts will write to."""
    given = surroundings_of(context).store_url
    if (given if "://" in given else str(Path(given).absolute())) != settings.store_url:
        raise InvalidInput(
            f"--store names {without_credentials(given)}, but the project's runs write to "
            f"{without_credentials(settings.store_url)}. Leave it out, or set HEADRACE_STORE for the whole project."
        )


def _left_by_changes(word: str, settings: Settings, day: str) -> str | None:
    """What a person should know whose files were changed while the rows were made."""
    try:
        left = [key for step, key in _work_of(word, settings, day, again=False).missing() if step is not REPORT]
    except InvalidInput as error:
        return f"The rows are of the campaign's file as it was: by now {error}"
    if not left:
        return None
    return (
        f"The rows are of the files as they were: the campaign or its prompts have changed meanwhile, in "
        f"{counted(len(left), 'partition')} ({', '.join(left[:3])}). Call it again to make them of what they say now."
    )


def _make(work: CampaignRun, project: Project, settings: Settings, port: int | None, *, quiet: bool) -> None:
    """Follows the runs to their end; starts services again where they ended, its own ones or the other process's."""
    for is_last in (False, False, True):
        try:
            with _services(project, settings, port) as (webserver, check_alive):
                try:
                    for name, keys in work.campaign.dynamic_keys.items():
                        webserver.add_partitions(name, keys)
                    _follow(work, webserver, check_alive, settings.home, quiet=quiet)
                except LaunchRefused:
                    # Dagster refuses what it cannot load any more, too: the sentence is then the service's.
                    check_alive()
                    raise
            return
        except (WebserverGone, ServiceEnded) as error:
            if is_last:
                raise
            say(f"{error} Starting it again …", error=True)


@contextmanager
def _services(project: Project, settings: Settings, port: int | None) -> Iterator[tuple[Webserver, Callable[[], None]]]:
    """The webserver that runs already or is about to, or one of our own with its daemon; and who says that they live.

    Raises:
        InvalidInput: the project has no Dagster instance.
        ServicesUnavailable: as `services`.
    """
    project.check_dagster_home()
    home = project.environment.get("DAGSTER_HOME")
    if not home or not (Path(home) / "dagster.yaml").is_file():
        got = f"{home} has none" if home else "it is not set"
        raise InvalidInput(
            f"DAGSTER_HOME, in the environment or in {project.root / '.env'}, must be the directory of your instance's "
            f"dagster.yaml; {got}."
        )
    deadline = time.monotonic() + _OTHERS_START_SECONDS
    found = running_webserver(settings.home, dagster_home=home)
    said = (
        f"Dagster UI: {found}, which runs already."
        if found
        else "Starting Dagster's daemon and UI, or waiting for those that start …"
    )
    say(said, error=True)
    with ExitStack() as stack:
        check_alive: Callable[[], None] = lambda: None  # noqa: E731 (whoever started them looks after them)
        while not (url := running_webserver(settings.home, dagster_home=home)):
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
                url, check_alive = running.url, running.check_alive
                say(f"Dagster UI: {url} while this runs; logs: {running.logs}", error=True)
                break
        else:
            # Its `.env` the other one has read, too.
            own_environment = {name: project.environment[name] for name in project.environment.keys() - project.lines}
            for said in unheeded_variables(settings.home, own_environment, ENGINE_HOST):
                say(said, error=True)
        webserver = Webserver(url, project.location)
        stack.callback(webserver.close)
        webserver.wait_for_location()
        yield webserver, check_alive


def _follow(
    work: CampaignRun, webserver: Webserver, check_alive: Callable[[], None], home: Path, *, quiet: bool
) -> None:
    from rich.live import Live

    from headrace.text.drawing import Terminal, TerminalText

    console = Terminal(stderr=True)
    before: list[str] = []
    warned_at = 0.0
    with Live(console=console, auto_refresh=False, transient=True) as live:
        for look in work.walk(webserver):
            check_alive()
            lines = [_line(look), *look.waits]
            if console.is_terminal:
                live.update(TerminalText("\n".join(lines)), refresh=True)
            elif not quiet:
                for line in lines:
                    if line not in before:
                        say(line, error=True)
            if time.monotonic() > warned_at + _WARNED_SECONDS and (full := _full_disk(home)):
                warned_at = time.monotonic()
                say(full, error=True)
            before = lines


def _full_disk(home: Path) -> str | None:
    """Why runs stand still that can write nothing: neither their rows nor that they failed."""
    free = shutil.disk_usage(home).free
    if free >= _FREE_BYTES_MIN:
        return None
    return f"The disk of {home} has {free // 2**20} MiB left: runs stand still, or fail, until there is more."


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
            probe.bind(("127.0.0.1", DEFAULT_PORT))
        except OSError:
            probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]
