"""What a campaign with an inbox will do: its windows, and the prompts of the one that was sealed last."""

from headrace.command_line.checking.report import FileFinding, finding
from headrace.command_line.output import age_text, counted
from headrace.errors import HandoffCorrupt, HandoffMissing
from headrace.generation.campaign import Campaign
from headrace.generation.window_prompts import content_partition, newest_window, prompts_of_window
from headrace.store.objects import ObjectStore


def inbox_findings(campaign: Campaign, objects: ObjectStore | None) -> tuple[list[FileFinding], str | None]:
    """The findings, and the text of the first prompt; None: no window is sealed, or none of its events holds one.

    Args:
        objects: the project's store; None: there is none yet.
    """
    inbox = campaign.prompts.inbox
    assert inbox is not None, "whoever asks has looked"
    late = "are processed" if inbox.late == "process" else "are kept, and make no row"
    said = (
        f"a window spans {age_text(inbox.window_seconds)} of event time and is sealed "
        f"{age_text(inbox.lateness_seconds)} later, with {counted(inbox.rows_max, 'event')}, or "
        f"{age_text(inbox.closes_after_seconds)} after its first one; later events {late}."
    )
    findings = [finding("prompts", "ok", said, key="prompts.inbox")]
    try:
        window = newest_window(objects, campaign.name) if objects is not None else None
        if objects is None or window is None:
            findings.append(finding("prompts", "ok", "no window is sealed yet: POST /v1/events takes events."))
            return findings, None
        listed = prompts_of_window(campaign, objects, window)
    except (HandoffCorrupt, HandoffMissing) as error:
        return [*findings, finding("prompts", "fail", str(error), key="prompts.inbox")], None
    num_prompts, key = listed.prompts.num_rows, content_partition(window).key
    sealed = f"the newest window, {key}, has {counted(window.num_events, 'event')}"
    if not listed.refused.num_rows:
        findings.append(finding("prompts", "ok", f"{sealed}, and each holds a prompt."))
    else:
        first = listed.refused.slice(0, 1).to_pylist()[0]
        told = (
            f"{sealed}, of which {listed.refused.num_rows:,} hold no prompt, such as {first['event_id']!r} of "
            f"{first['event_source']!r}: {first['reason']}"
        )
        findings.append(finding("prompts", "warn" if num_prompts else "fail", told, key="prompts.inbox"))
    return findings, listed.prompts["text"][0].as_py() if num_prompts else None
