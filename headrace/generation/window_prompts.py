"""The prompts of one sealed window of a campaign's inbox: one of every event, in the window's order.

A file's broken line fails its partition, because somebody can repair the file. Nobody can repair an event that was
sealed, and one must not keep all others waiting: it is refused by itself, and listed with its reason in
`refused_events`, which is sealed beside the prompts as the places of prompts in files are.

A prompt carries the id, the source and the key of its event, so that every row leads back to it. Its identity follows
from them and its text: the same text of two events is two prompts, whatever windows they fell into.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import pyarrow as pa

from headrace.errors import InvalidInput
from headrace.generation.campaign import Campaign
from headrace.generation.carried_columns import CarriedColumns
from headrace.generation.prompt_files import REPAIR, PromptText, prompt_of
from headrace.generation.prompt_source import PromptSource
from headrace.generation.requests import prompts_table
from headrace.handoff.content_digest import digest_of
from headrace.handoff.manifests import newest_manifest
from headrace.handoff.row_tables import REFUSED_EVENTS
from headrace.handoff.schemas import EVENT_ORIGIN
from headrace.handoff.schemas import REFUSED_EVENTS as _REFUSED_SCHEMA
from headrace.handoff.versions import Handoff, HandoffStore
from headrace.inbox.sealed import EVENTS_ASSET, NUMBER, SealedWindow, window_events, windows_chain
from headrace.keys import ContentPartition, Window, event_prompt_id
from headrace.store.chain import Chain
from headrace.store.objects import ObjectStore
from headrace.user_files.json_objects import JsonObjects

# Part of the refusals' content: raise it if the same events would give others.
_CODE_VERSION = "1"
# Attributes of prompts that are of a window: its content digest, and its number in the chain of sealed windows.
EVENTS_CONTENT = "events_content"
EVENTS_NUMBER = "events_number"
_READ = ("id", "source", "key", "data")
_CARRIED_REPAIR = " Repair it, then materialize prompts again."


@dataclass(frozen=True, kw_only=True)
class WindowPrompts:
    """`prompts`: as PROMPTS, with what they carry. `refused`: as REFUSED_EVENTS, of the other events."""

    prompts: pa.Table
    refused: pa.Table


def sealed_window(objects: ObjectStore, partition: ContentPartition) -> SealedWindow:
    """The window that a partition is of: by the number beside its events, else by a search from the newest on.

    Raises:
        InvalidInput: no such window is sealed.
        HandoffCorrupt: the chain lacks one, or one is damaged.
    """
    assert partition.window is not None, "a numbered shard is of files"
    chain = windows_chain(objects, partition.campaign)
    for number in _numbers(objects, partition, chain):
        window = chain.read(number)
        if (window.window, window.late_part) == (partition.window.number, partition.window.late_part):
            if window.day == partition.day:
                return window
            raise InvalidInput(
                f"Partition {partition.key} is no window of campaign {partition.campaign!r}: "
                f"{partition.campaign_shard} ends on {window.day}. Ask for {content_partition(window).key}."
            )
    raise InvalidInput(
        f"Partition {partition.key} is no window of campaign {partition.campaign!r} that was sealed in this store. "
        "`headrace inbox status` counts those that were."
    )


def _numbers(objects: ObjectStore, partition: ContentPartition, chain: Chain[SealedWindow]) -> Iterator[int]:
    events = newest_manifest(objects, EVENTS_ASSET, partition.campaign_shard)
    stated = events.attributes.get(NUMBER, "") if events else ""
    # Events that are sealed, and whose window is not yet, state a number that the chain lacks.
    if stated.isdecimal() and objects.exists(chain.key(int(stated))):
        yield int(stated)
    if events:
        yield from reversed(chain.numbers())


def newest_window(objects: ObjectStore, campaign: str, *, day: str | None = None) -> SealedWindow | None:
    """The window of events in time that was sealed last, on this day or at all; None: there is none.

    Raises: HandoffCorrupt: the chain lacks one, or one is damaged.
    """
    chain = windows_chain(objects, campaign)
    read = map(chain.read, reversed(chain.numbers()))
    return next((one for one in read if not one.is_late and day in (None, one.day)), None)


def content_partition(window: SealedWindow) -> ContentPartition:
    return ContentPartition(
        day=window.day, campaign=window.campaign, window=Window(number=window.window, late_part=window.late_part)
    )


def prompts_of_window(campaign: Campaign, objects: ObjectStore, window: SealedWindow) -> WindowPrompts:
    """Raises: HandoffMissing, HandoffCorrupt: the events are gone, or differ from what was sealed."""
    return prompts_of_events(campaign, window_events(objects, window))


def prompts_of_events(campaign: Campaign, events: pa.Table) -> WindowPrompts:
    """Args: events: with EVENT_COLUMNS, in the order in which their prompts are wanted."""
    source, json = campaign.prompts, JsonObjects()
    carried = CarriedColumns(source.carry)
    carried.open("jsonl", {}, "")
    found: list[tuple[str, PromptText]] = []
    origins: list[tuple[str, str, str]] = []
    refused: list[tuple[str, str, str, str]] = []
    for identity, sender, key, data in _rows(events):
        place = f"Event {identity!r}"
        try:
            prompt = prompt_of(source, _fields(json, data, source), place, carried)
        except InvalidInput as error:
            refused.append((identity, sender, key, _reason(error, place)))
            continue
        found.append((event_prompt_id(campaign.name, sender, identity, prompt.text), prompt))
        origins.append((identity, sender, key))
    columns = zip(*origins, strict=True) if origins else ((), (), ())
    with_origins = zip(EVENT_ORIGIN, columns, strict=True)
    fields = carried.fields(may_lack=True)
    return WindowPrompts(
        prompts=prompts_table(found, source.variations, fields, before=dict(with_origins)),
        refused=pa.table(
            [list(column) for column in zip(*refused, strict=True)] if refused else [[]] * len(_REFUSED_SCHEMA),
            schema=_REFUSED_SCHEMA,
        ),
    )


def seal_refused(handoffs: HandoffStore, partition: str, listed: WindowPrompts, *, run_id: str) -> Handoff:
    """Seals the refusals of a window beside its prompts, which may be sealed already, or soon."""
    return handoffs.publish(
        REFUSED_EVENTS,
        partition,
        listed.refused,
        code_version=_CODE_VERSION,
        run_id=run_id,
        attributes={"prompts": digest_of(listed.prompts)},
    )


def _rows(events: pa.Table) -> Iterator[tuple[str, str, str, str]]:
    for batch in events.select(list(_READ)).to_batches():
        yield from zip(*(batch.column(name).to_pylist() for name in _READ), strict=True)


def _fields(json: JsonObjects, data: str, source: PromptSource) -> Mapping[str, object]:
    """Raises: InvalidInput: it is no JSON object, or a key that is wanted stands in it twice."""
    try:
        fields = json.read(data)
    except (ValueError, RecursionError) as error:
        raise InvalidInput(f"data is not JSON: {error}.") from error
    if not isinstance(fields, dict):
        raise InvalidInput("data is not a JSON object.")
    if json.any_repeated and (twice := sorted(json.repeated_in(fields) & source.columns)):
        raise InvalidInput(f"the key {twice[0]!r} stands twice in data.")
    return fields


def _reason(error: InvalidInput, place: str) -> str:
    """Without advice on the repair of files, and without the event, which the columns beside it name."""
    reason = str(error).removesuffix(REPAIR).removesuffix(_CARRIED_REPAIR)
    return reason.removeprefix(place).removeprefix(":").strip()
