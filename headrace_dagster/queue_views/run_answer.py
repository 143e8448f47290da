"""`headrace why RUN_ID`: one run, in any phase of its life."""

from collections.abc import Iterable, Iterator

from dagster import DagsterInstance, DagsterRun, DagsterRunStatus

from headrace.command_line.output import age_text, counted
from headrace.errors import InvalidInput
from headrace.placement.needs import RunNeeds
from headrace.placement.snapshot import PlannedRun
from headrace_dagster.coordinator.admission import NEEDS_TAG, WHY_TAG, admission_of
from headrace_dagster.coordinator.queue_state import priority_of
from headrace_dagster.queue_views.queue_view import PAST_THE_QUEUE, QueueView, RunView
from headrace_dagster.queue_views.queue_words import clock_text, placement_text, since_text

_IDS_A_PAGE = 10_000
_NUM_NAMED = 4
_ID_CHARS = 36
_ENDED = {
    DagsterRunStatus.SUCCESS: "Has succeeded",
    DagsterRunStatus.FAILURE: "Has failed",
    DagsterRunStatus.CANCELED: "Was canceled",
}


def run_answer(instance: DagsterInstance, typed: str, view: QueueView) -> RunView:
    """The answer about the run whose id begins with `typed`.

    Raises:
        InvalidInput: no run's id begins with it, or several do.
    """
    run_id = find_run_id(instance, typed, (run.run_id for run in (*view.queued, *view.running)))
    return view.run(run_id) or _uncounted(instance, run_id, view.at)


def find_run_id(instance: DagsterInstance, typed: str, under_way: Iterable[str]) -> str:
    """Searches the runs under way first: a prefix that is unique among them means that run.

    Raises:
        InvalidInput: no run's id begins with it, or several do.
    """
    prefix = typed.strip().lower()
    if not prefix:
        raise InvalidInput("A run is named by its id or the beginning of it, got nothing: headrace queue lists them.")
    found = [run_id for run_id in under_way if run_id.startswith(prefix)]
    if not found and len(prefix) >= _ID_CHARS:
        found = [prefix] if instance.has_run(prefix) else []
    elif not found:
        found = [run_id for run_id in _all_run_ids(instance) if run_id.startswith(prefix)]
    if not found:
        raise InvalidInput(f"No run's id begins with {typed!r}: headrace queue lists those that wait and run.")
    if len(found) > 1:
        some = ", ".join(sorted(found)[:_NUM_NAMED])
        more = f" and {len(found) - _NUM_NAMED} more" if len(found) > _NUM_NAMED else ""
        raise InvalidInput(f"{counted(len(found), 'run')} begin with {typed!r}, so say which: {some}{more}.")
    return found[0]


def _all_run_ids(instance: DagsterInstance) -> Iterator[str]:
    cursor = None
    while page := instance.get_run_ids(cursor=cursor, limit=_IDS_A_PAGE):
        yield from page
        cursor = page[-1]


def _uncounted(instance: DagsterInstance, run_id: str, now: float) -> RunView:
    """A run that neither waits nor holds anything."""
    record = instance.get_run_record_by_id(run_id)
    if record is None:
        raise InvalidInput(f"Run {run_id} was deleted a moment ago.")
    run, admission = record.dagster_run, admission_of(record.dagster_run)
    since = admission.at if admission else record.start_time
    queued = record.create_timestamp.timestamp()
    return RunView(
        run_id=run_id,
        state="finished" if run.is_finished else "uncounted",
        why=_sentence(run, ended=record.end_time, queued=queued, now=now),
        run=run,
        asked=_asked(run),
        submitted=queued,
        since=since,
        ended=record.end_time if run.is_finished else None,
        placement=admission.placement if admission else None,
    )


def _asked(run: DagsterRun) -> PlannedRun | None:
    """By the tag written when it was queued; None: the tag cannot be read."""
    try:
        needs = RunNeeds.from_json(run.tags.get(NEEDS_TAG, ""))
    except ValueError:
        return None
    stated = {**vars(needs), "expected_seconds": needs.expected_seconds or 0.0}
    return PlannedRun(run_id=run.run_id, priority=priority_of(run), **stated)


def _sentence(run: DagsterRun, *, ended: float | None, queued: float, now: float) -> str:
    if run.status == DagsterRunStatus.NOT_STARTED:
        return "Has not been queued."
    if run.status == DagsterRunStatus.QUEUED:
        return "Is queued, and what it asks for cannot be read: the daemon fails it when it looks next, and says why."
    if not run.is_finished:
        return PAST_THE_QUEUE
    admission = admission_of(run)
    how = _ENDED[run.status]
    when = f" {since_text(ended, now)}" if ended else ""
    if not admission:
        # What it was refused for. One that somebody canceled only waited for it.
        why = run.tags.get(WHY_TAG) if run.status == DagsterRunStatus.FAILURE else None
        return f"{how}{when}; the coordinator never gave it a place{f': {why}' if why else '.'}"
    where = placement_text(admission.placement)
    held = f"held {where}" if where else "held nothing that is counted"
    lasted = f" for {age_text(ended - admission.at)}" if ended else ""
    waited = age_text(admission.at - queued)
    return f"{how}{when}; {held} from {clock_text(admission.at, now)} UTC{lasted}, after {waited} in the queue."
