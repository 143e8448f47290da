"""`headrace erase`: takes a person's data out of the store for good, shows what that takes, and proves it."""

import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from headrace.command_line.options import AsJson, Store, examples
from headrace.errors import InvalidInput
from headrace.text.terminal import confirmed

if TYPE_CHECKING:
    from headrace.clock import Clock
    from headrace.command_line.bodies.erasures import EraseBody, ErasureBody, ErasurePlanBody
    from headrace.erasure.deciding import MadeOf, Plan
    from headrace.erasure.outside import Outside
    from headrace.handoff.erasures import AskedKind, Erasure
    from headrace.store.objects import ObjectStore

# A gateway looks for erasures every five seconds.
_LOOK_SECONDS = 1.0
_LOG_CHARACTERS_MIN = 8
_PLACE = ("asset", "partition", "version")


@examples(
    "headrace erase --event 4711 --campaign orders --dry-run",
    "headrace erase --event 4711 --campaign orders -m 'ticket 812'",
    "headrace erase --tenant 'Ada Ltd' -m 'contract ended' --yes",
    "headrace erase --prompt 9f2c41aa -m 'ticket 813'",
    "headrace erase --event q-17 --batch batch_0193… -m 'ticket 814'",
    "headrace erase --call sess_71 -m 'ticket 815'",
    "headrace erase --list",
    "headrace erase --verify 3",
)
def erase(
    context: typer.Context,
    event: Annotated[
        str | None,
        typer.Option("--event", metavar="ID", help="The event with this id; with --batch, its line of this custom_id."),
    ] = None,
    prompt: Annotated[
        str | None,
        typer.Option(
            "--prompt", metavar="ID", help="The prompt with this prompt_id, or a batch's line by its request_id."
        ),
    ] = None,
    tenant: Annotated[
        str | None,
        typer.Option(
            "--tenant", metavar="NAME", help="All events of this tenant; calls, files and batches of this API key."
        ),
    ] = None,
    call: Annotated[str | None, typer.Option("--call", metavar="SESSION", help="The call with this session.")] = None,
    campaign: Annotated[
        str | None, typer.Option("--campaign", metavar="NAME", help="Whose; of an event it is needed.")
    ] = None,
    source: Annotated[
        str | None, typer.Option("--source", metavar="SOURCE", help="Of an event, where several have its id.")
    ] = None,
    batch: Annotated[
        str | None, typer.Option("--batch", metavar="ID", help="Of a line: its batch, in place of a campaign.")
    ] = None,
    key: Annotated[
        str | None,
        typer.Option("--key", metavar="NAME", help="Of a call, its API key, where several have it."),
    ] = None,
    reason: Annotated[
        str, typer.Option("--reason", "-m", metavar="TEXT", help="Why, for the record; it must name nobody.")
    ] = "",
    by: Annotated[
        str | None, typer.Option("--by", metavar="NAME", help="Who does it, for the record. Default: you.")
    ] = None,
    inbox_log: Annotated[
        Path | None,
        typer.Option("--inbox-log", metavar="DIR", help="The log of a gateway that does not run: blanked here."),
    ] = None,
    lost_log: Annotated[
        str | None,
        typer.Option("--lost-log", metavar="LOG", help="A log that is gone for good, with its disk: not waited for."),
    ] = None,
    wait: Annotated[
        float, typer.Option("--wait", metavar="SECONDS", help="How long to wait for readers, writers and logs.")
    ] = 30.0,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only show what would go.")] = False,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
    listed: Annotated[bool, typer.Option("--list", help="Show all erasures.")] = False,
    verify: Annotated[
        int | None, typer.Option("--verify", metavar="NUMBER", help="Look for what is left of an erasure.")
    ] = None,
    store: Store = None,
    as_json: AsJson = False,
) -> None:
    """Erase a person's data: events, prompts, rows, media, preference pairs, calls, files and batches, for good.

    What is left of each partition becomes its newest version, row for row as it was; the versions with the data are
    deleted, and their digests stay. A killed erasure goes on when the same command is run again. Whoever may write to
    the store may erase. Ends with 1 where something must be waited for, or is left.
    """
    from headrace.clock import SystemClock
    from headrace.command_line.opening import open_objects

    named_by: dict[AskedKind, str | None] = {"event": event, "prompt": prompt, "tenant": tenant, "call": call}
    if sum([listed, verify is not None, *(name is not None for name in named_by.values())]) != 1:
        raise InvalidInput("Say one of --event, --prompt, --tenant and --call, or --list, or --verify.")
    if lost_log is not None and len(lost_log) < _LOG_CHARACTERS_MIN:
        raise InvalidInput(
            f"--lost-log names a log by at least {_LOG_CHARACTERS_MIN} characters of its name, got {lost_log!r}; the "
            "sentence that waits for it shows them."
        )
    _check_narrowing(named_by, campaign=campaign, source=source, batch=batch, key=key)
    objects, clock = open_objects(context, store), SystemClock()
    if listed:
        _show_all(objects, as_json=as_json)
        return
    if verify is not None:
        _verify(objects, clock, verify, as_json=as_json)
        return
    from headrace.command_line.bodies.erasures import EraseBody
    from headrace.erasure.deciding import erasures_of, plan
    from headrace.erasure.scope import Asked

    asked = next(
        Asked(kind=kind, name=name, campaign=campaign, source=source, batch=batch, key=key)
        for kind, name in named_by.items()
        if name is not None
    )
    found = plan(objects, clock, asked)
    body = _plan_body(context, found)
    beside = _outside(context, objects, found.runs, found.made_of)
    if dry_run:
        _print(EraseBody(plan=body, outside=beside), as_json=as_json)
        return
    from headrace.command_line.rollout.changing import named

    if not reason and found.earlier is None:
        raise InvalidInput("An erasure's record says why: pass --reason.")
    if not yes and not sys.stdin.isatty():
        raise InvalidInput("This deletes for good, and there is no terminal to ask on: pass --yes, or --dry-run.")
    if not as_json:
        _print(EraseBody(plan=body, outside=beside), as_json=False)
    if not yes and not confirmed("Erase all of this for good?"):
        raise typer.Exit(1)
    # Before the versions that tell which days' pages these are: who goes on after a kill finds them again.
    for page in body.reports:
        Path(page).unlink(missing_ok=True)
    logs = {"inbox_log": inbox_log, "lost_log": lost_log}
    waits = _erase(objects, clock, found, by=named(by), reason=reason, wait_seconds=wait, **logs)
    done = tuple(_body(objects, one) for one in erasures_of(objects, asked))
    if outcomes := [one.outcome for one in done if one.outcome]:
        # Also of what was deleted before a kill.
        runs = sorted({gone.run_id for one in outcomes for gone in one.removed})
        beside = _outside(context, objects, runs, [made for one in outcomes for made in one.made_of])
    shown = {"plan": body, "outside": beside} if as_json else {}
    _print(EraseBody(**shown, erasures=done, remains=waits), as_json=as_json)
    if waits:
        raise typer.Exit(1)


def _check_narrowing(named_by: "Mapping[AskedKind, str | None]", **narrowing: str | None) -> None:
    """Raises: InvalidInput: an option says whose something is that it does not fit."""
    fits = {"campaign": ("event", "prompt", "tenant"), "source": ("event",), "batch": ("event",), "key": ("call",)}
    for option, value in narrowing.items():
        if value is not None and not any(named_by[kind] is not None for kind in fits[option]):
            raise InvalidInput(f"--{option} goes with {' or '.join(f'--{kind}' for kind in fits[option])}.")
    if narrowing["batch"] is not None and (narrowing["campaign"] or narrowing["source"]):
        raise InvalidInput("A line of a batch has no campaign and no source: say --batch alone.")


def _erase(
    objects: "ObjectStore",
    clock: "Clock",
    found: "Plan",
    *,
    by: str,
    reason: str,
    inbox_log: Path | None,
    lost_log: str | None,
    wait_seconds: float,
) -> tuple[str, ...]:
    """Decides and carries out, again as long as something is to be waited for. Returns why it is not over."""
    from headrace.erasure.deciding import decide, erasures_of, plan
    from headrace.inbox.erasing import erase_in_log
    from headrace.voice.erasing import ended_calls

    ends = time.monotonic() + wait_seconds
    while True:
        decide(objects, clock, found, by=by, reason=reason)
        if inbox_log is not None:
            erase_in_log(objects, clock, inbox_log, ended_calls=ended_calls)
        # Also those that are over: a copy of the store may have brought some of it back.
        own = erasures_of(objects, found.asked)
        waits = tuple(wait for one in own for wait in _carry_out(objects, clock, one, lost_log=lost_log))
        # A log may have sealed events of a tenant before it blanked the others.
        found = plan(objects, clock, found.asked)
        if not waits and found.earlier:
            return ()
        if time.monotonic() >= ends:
            return waits or ("More of it was sealed meanwhile: run the same command again.",)
        time.sleep(_LOOK_SECONDS if waits else 0)


def _carry_out(objects: "ObjectStore", clock: "Clock", erasure: "Erasure", *, lost_log: str | None) -> tuple[str, ...]:
    """Why it is not over; none: it is."""
    from headrace.command_line.handoff.holders import holders_by_nonce
    from headrace.erasure.carrying_out import carry_out
    from headrace.erasure.outcome import finish
    from headrace.inbox.erasing import note_erased, waiting_logs

    # Before the rest: what a log, or its gateway, wrote until it had carried this out is there now.
    logs = waiting_logs(objects, erasure)
    for log in [log for log in logs if lost_log and log.startswith(lost_log)]:
        note_erased(objects, clock, log, erasure.number, 0, is_lost=True)
        del logs[log]
    carried = carry_out(objects, clock, erasure)
    holders = holders_by_nonce(objects, clock.now())
    by_whom = {nonce: ", ".join(one.text for one in held) for nonce, held in holders.items()}
    waits = [
        f"{one.label} is being read by {by_whom.get(one.nonce, 'somebody')}: when that has ended, run the same command "
        "again."
        for one in carried.held
    ]
    waits += [
        f"{by_whom.get(nonce, 'Somebody')} may have begun to write before this was decided: when that has ended, run "
        "the same command again."
        for nonce in carried.writers
    ]
    waits += [
        f"The log {log[:8]}… of {whose} has not carried it out: let its gateway run for ten seconds, or pass "
        f"--inbox-log DIR if that is gone, or --lost-log {log[:8]} if the log is, for good; then run the same command "
        "again."
        for log, whose in logs.items()
    ]
    waits += carried.damaged
    if not waits:
        finish(objects, clock, erasure)
    return tuple(waits)


def _plan_body(context: typer.Context, found: "Plan") -> "ErasurePlanBody":
    from headrace.command_line.bodies.erasures import AffectedBody, AttemptBody, ErasurePlanBody
    from headrace.command_line.opening import home_of
    from headrace.erasure.outside import days_of, report_pages

    days = days_of(one.manifest.partition for one in found.affected)
    return ErasurePlanBody(
        num_events=len(found.scope.events),
        num_prompts=len(found.scope.prompts),
        num_rows=found.num_rows_by_asset,
        num_calls=len(found.scope.calls),
        num_files=len(found.scope.batches.files),
        num_batches=len(found.scope.batches.batches),
        num_lines=len(found.scope.batches.lines),
        affected=tuple(
            AffectedBody(num_rows=one.num_rows, **{name: getattr(one.manifest, name) for name in _PLACE})
            for one in found.affected
        ),
        attempts=tuple(AttemptBody(partition=one.partition, run_id=one.root_run_id) for one in found.under_way),
        num_claims_with_batches=found.num_claims_with_batches,
        reports=tuple(map(str, report_pages(home_of(context), days))),
    )


def _outside(
    context: typer.Context, objects: "ObjectStore", runs: "Sequence[str]", made_of: "Sequence[MadeOf]"
) -> "tuple[Outside, ...]":
    from headrace.command_line.opening import surroundings_of
    from headrace.erasure.outside import outside

    around = surroundings_of(context)
    places = {"cache": around.cache_directory, "dagster_home": around.dagster_home}
    return outside(runs, made_of, store_url=objects.url, **places)


def _show_all(objects: "ObjectStore", *, as_json: bool) -> None:
    from headrace.command_line.bodies.erasures import EraseBody
    from headrace.command_line.output import print_lines
    from headrace.erasure.deciding import erasures

    found = tuple(_body(objects, one) for one in erasures(objects))
    _print(EraseBody(erasures=found), as_json=as_json)
    if not (found or as_json):
        print_lines(["Nothing was erased from this store."])


def _verify(objects: "ObjectStore", clock: "Clock", number: int, *, as_json: bool) -> None:
    from headrace.command_line.bodies.erasures import EraseBody
    from headrace.command_line.output import print_lines
    from headrace.erasure.deciding import erasures
    from headrace.erasure.outcome import remains

    found = [one for one in erasures(objects) if one.number == number]
    if not found:
        raise InvalidInput(f"No erasure has number {number}; `headrace erase --list` shows those that there are.")
    left = tuple(remains(objects, clock, found[0]))
    _print(EraseBody(erasures=(_body(objects, found[0]),), remains=left), as_json=as_json)
    if left:
        raise typer.Exit(1)
    if not as_json:
        print_lines([f"Nothing of erasure {number} is left in this store."])


def _body(objects: "ObjectStore", erasure: "Erasure") -> "ErasureBody":
    from headrace.command_line.bodies.erasures import ErasureBody
    from headrace.erasure.outcome import outcome_of

    return ErasureBody(erasure=erasure, outcome=outcome_of(objects, erasure.number))


def _print(body: "EraseBody", *, as_json: bool) -> None:
    from headrace.command_line.output import counted, print_json, print_lines, print_table

    if as_json:
        print_json(body)
        return
    if body.plan:
        _print_plan(body.plan)
    print_lines([f"Outside: {one.place}. To do: {one.todo}." for one in body.outside])
    rows = [
        [
            str(one.erasure.number),
            one.erasure.at,
            one.erasure.asked,
            one.erasure.by,
            str(one.erasure.num_events),
            str(one.erasure.num_rows),
            f"{counted(len(one.outcome.removed), 'version')} deleted" if one.outcome else "not over",
            one.erasure.reason,
        ]
        for one in body.erasures
    ]
    if rows:
        print_table(["#", "AT", "ASKED", "BY", "EVENTS", "ROWS", "STATE", "REASON"], rows, right=["#"])
    print_lines(list(body.remains))


def _print_plan(plan: "ErasurePlanBody") -> None:
    from headrace.command_line.output import counted, print_lines, print_table

    rows = [[one.asset, one.partition, f"v{one.version}", str(one.num_rows)] for one in plan.affected]
    if rows:
        print_table(["ASSET", "PARTITION", "VERSION", "ROWS"], rows, right=["ROWS"])
    lines = [f"{counted(plan.num_events, 'event')} and {counted(plan.num_prompts, 'prompt')}."]
    others = {"call": plan.num_calls, "file": plan.num_files, "batch": plan.num_batches, "line": plan.num_lines}
    if any(others.values()):
        of_api = ", ".join(counted(num, noun) for noun, num in others.items() if num)
        lines.append(f"Of calls and of the Batch API: {of_api}.")
    if not (rows or plan.num_events or plan.num_prompts or any(others.values())):
        # As of a name that is spelt wrong, which nobody else would notice.
        lines.append("Nothing in this store is of it: check how it is written. Logs of gateways are not looked into.")
    lines += [
        f"The attempt at {one.partition} of run {one.run_id} ends without rows; launch it again, as a new run."
        for one in plan.attempts
    ]
    if plan.num_claims_with_batches:
        lines.append(f"Committed batches of {counted(plan.num_claims_with_batches, 'attempt')} go.")
    lines += [f"The page {page} goes; materialize campaign_report of that day again." for page in plan.reports]
    print_lines(lines)
