"""What an erasure is of: what follows from what a person asks for. Reads, changes nothing.

From an event follow its prompts, in whichever window it fell, and from a prompt its rows, of every version set, mirrors
and rolled-back ones too. A prompt of an event leads back to the event. A prompt of a file is its text, on every day of
its campaign, and the text is remembered, so that the file does not bring it back. From a call follow its rows, where
calls are recorded. A tenant is also a client, by its API key's name: its calls, and its files and batches.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from headrace.errors import HandoffMissing, InvalidInput
from headrace.handoff.erasures import AskedKind, identity_digest, links_of, scope_of
from headrace.handoff.layout import manifest_key
from headrace.handoff.manifest import Manifest
from headrace.handoff.manifests import begun_versions, read_manifest
from headrace.handoff.sealed import Handoff
from headrace.handoff.versions import HandoffStore
from headrace.inbox.batches.erasing import BatchScope, scope_of_client, scope_of_line, scope_of_requests
from headrace.inbox.batches.outcomes import REQUEST
from headrace.store.objects import ObjectStore
from headrace.voice.erasing import calls_in
from headrace.voice.kept import call_name

_PREFIX_CHARACTERS_MIN = 6
_NUM_NAMED_MAX = 4
_ORIGIN = ("event_source", "event_id")

EventName = tuple[str, str, str]
"""Campaign, source, id."""


@dataclass(frozen=True, kw_only=True)
class Asked:
    """What a person wants erased: an event's id, a prompt's or the beginning of one, a tenant's name, a call's session.

    Attributes:
        campaign: of an event it is needed.
        source: of an event, where several sources have its id.
        batch: in place of a campaign: the event is a line of this batch, named by its custom_id.
        key: of a call, the name of its API key, where several have its session.
    """

    kind: AskedKind
    name: str
    campaign: str | None = None
    source: str | None = None
    batch: str | None = None
    key: str | None = None

    def subject(self, salt: bytes) -> str:
        more = filter(None, (self.batch, self.key))
        return identity_digest(salt, self.kind, self.campaign or "", self.source or "", self.name, *more).hex()


@dataclass
class Scope:
    """Attributes:
    texts: campaign and text, of prompts from files.
    tenants: whose events that no window has yet go, too.
    calls: their names among all calls.
    """

    events: set[EventName] = field(default_factory=set)
    prompts: set[str] = field(default_factory=set)
    rows: set[str] = field(default_factory=set)
    texts: set[tuple[str, str]] = field(default_factory=set)
    tenants: set[tuple[str, str]] = field(default_factory=set)
    campaigns: set[str] = field(default_factory=set)
    calls: set[str] = field(default_factory=set)
    batches: BatchScope = field(default_factory=BatchScope)

    def digests(self, salt: bytes) -> Iterator[bytes]:
        for name in self.events:
            yield identity_digest(salt, "event", *name)
        for prompt in self.prompts:
            yield identity_digest(salt, "prompt", prompt)
        for row in self.rows:
            yield identity_digest(salt, "row", row)
        for text in self.texts:
            yield identity_digest(salt, "text", *text)
        for tenant in self.tenants:
            yield identity_digest(salt, "tenant", *tenant)
        for call in self.calls:
            yield identity_digest(salt, "call", call)
        for file in self.batches.files:
            yield identity_digest(salt, "file", file)
        for batch in self.batches.batches:
            yield identity_digest(salt, "batch", batch)
        for line in self.batches.lines:
            yield identity_digest(salt, "lines", line[0])
            yield identity_digest(salt, "line", *line)


def linked_versions(handoffs: HandoffStore) -> list[Manifest]:
    """Every sealed version whose rows name events, prompts or rows; by asset, partition and number.

    Raises:
        HandoffCorrupt: a manifest is damaged: nobody can tell what its version holds.
    """
    found: list[Manifest] = []
    for asset in handoffs.assets():
        for partition in handoffs.partitions(asset):
            for number in begun_versions(handoffs.objects, asset, partition):
                manifest = read_manifest(handoffs.objects, asset, partition, number)
                if manifest and links_of(asset, manifest.schema.names):
                    found.append(manifest)
    return found


def opened(handoffs: HandoffStore, manifest: Manifest) -> Handoff:
    """For the erasure itself, which must not hold what it deletes."""
    return Handoff(handoffs.objects, manifest, verification="lazy")


def find_scope(handoffs: HandoffStore, asked: Asked, versions: Sequence[Manifest], inboxes: Sequence[str]) -> Scope:
    """Args:
        versions: as `linked_versions` gives them.
        inboxes: campaigns that have taken events.

    Raises:
        InvalidInput: the name is of several things, or too short.
        HandoffMissing: nothing in the store has it.
    """
    scope, tables, objects = Scope(), _Tables(handoffs, versions), handoffs.objects
    if asked.kind == "call":
        _seek_call(objects, tables, asked, scope)
    elif asked.batch is not None or (asked.kind == "prompt" and asked.name.startswith(REQUEST)):
        _seek_line(objects, asked, scope)
    elif asked.kind == "prompt":
        _seek_prompt(tables, asked, scope)
    else:
        if asked.kind == "tenant" and asked.campaign is None:
            _seek_client(objects, tables, asked.name, scope)
        _seek_events(tables, asked, scope, inboxes)
    # Recorded calls are sealed from events of their own.
    for campaign, call, *event in tables.rows_of("call", *_ORIGIN):
        if call in scope.calls:
            scope.events.add((campaign, event[0], event[1]))
    for campaign, *link in tables.rows_of(*_ORIGIN, "prompt_id"):
        if (campaign, link[0], link[1]) in scope.events:
            scope.prompts.add(link[2])
    for _, prompt, row in tables.rows_of("prompt_id", "row_id"):
        if prompt in scope.prompts:
            scope.rows.add(row)
    for _, call, row in tables.rows_of("call", "row_id"):
        if call in scope.calls:
            scope.rows.add(row)
    scope.campaigns |= {campaign for campaign, _, _ in scope.events}
    return scope


def _seek_events(tables: "_Tables", asked: Asked, scope: Scope, inboxes: Sequence[str]) -> None:
    if asked.kind == "event" and asked.campaign is None:
        raise InvalidInput("An event is named by its campaign and its id: pass --campaign, and --source if need be.")
    named = "tenant" if asked.kind == "tenant" else "id"
    columns = ("source", "id", *(("tenant",) if named == "tenant" else ()))
    for campaign, source, identity, *tenant in tables.rows_of(*columns, among={"source", "id", "tenant", "data"}):
        is_it = (tenant[0] if tenant else identity) == asked.name
        if is_it and asked.campaign in (None, campaign) and asked.source in (None, source):
            scope.events.add((campaign, source, identity))
    if asked.kind == "tenant":
        taking = [asked.campaign] if asked.campaign else inboxes
        scope.tenants |= {(campaign, asked.name) for campaign in taking}
        scope.campaigns |= set(taking)
        if not (scope.events or taking or scope.calls or scope.batches):
            raise HandoffMissing(
                f"No event of tenant {asked.name!r} is in this store, and no inbox takes events; no API key of this "
                "name has calls, files or batches."
            )
        return
    if len(sources := sorted(source for _, source, _ in scope.events)) > 1:
        some = ", ".join(map(repr, sources[:_NUM_NAMED_MAX]))
        raise InvalidInput(f"{len(sources)} sources have an event {asked.name!r}: {some}. Say whose: --source.")
    if not scope.events and asked.source is not None:
        # The gateway may hold it, in a window that is still open.
        assert asked.campaign is not None
        scope.events.add((asked.campaign, asked.source, asked.name))
    elif not scope.events:
        raise HandoffMissing(
            f"No sealed window of campaign {asked.campaign!r} has an event {asked.name!r}. If a gateway holds it in a "
            "window that is still open, say whose it is: --source."
        )


def _seek_prompt(tables: "_Tables", asked: Asked, scope: Scope) -> None:
    wanted = asked.name.lower()
    if len(wanted) < _PREFIX_CHARACTERS_MIN or not set(wanted) <= set("0123456789abcdef"):
        raise InvalidInput(
            f"A prompt is named by its prompt_id, or by at least {_PREFIX_CHARACTERS_MIN} characters of its beginning, "
            f"in hexadecimal, got {asked.name!r}."
        )
    found = {
        prompt: (campaign, text)
        for campaign, prompt, text in tables.rows_of("prompt_id", "text", among={"position"})
        if prompt.startswith(wanted) and asked.campaign in (None, campaign)
    }
    if not found:
        raise HandoffMissing(
            f"No prompt with id {asked.name!r} is in this store; `headrace trace ROW_ID` shows a row's."
        )
    if len(found) > 1:
        named = ", ".join(one[:16] for one in sorted(found)[:_NUM_NAMED_MAX])
        raise InvalidInput(f"{len(found)} prompts begin with {wanted!r}, such as {named}. Give more characters.")
    [(prompt, (campaign, text))] = found.items()
    scope.prompts.add(prompt)
    scope.campaigns.add(campaign)
    of_events = {
        (other, source, identity)
        for other, source, identity, one in tables.rows_of(*_ORIGIN, "prompt_id")
        if one == prompt
    }
    if of_events:
        scope.events |= of_events
        return
    scope.texts.add((campaign, text))
    for other, one, same in tables.rows_of("prompt_id", "text", among={"position"}):
        if (other, same) == (campaign, text):
            scope.prompts.add(one)


def _seek_client(objects: ObjectStore, tables: "_Tables", name: str, scope: Scope) -> None:
    scope.calls |= {found.call for found in calls_in(objects) if found.key == name}
    scope.calls |= {call for _, call, tenant in tables.rows_of("call", "tenant") if tenant == name}
    scope.batches = scope_of_client(objects, name)


def _seek_call(objects: ObjectStore, tables: "_Tables", asked: Asked, scope: Scope) -> None:
    """By its session, which an API key has once, or by the beginning of its own name."""
    named = {found.call: found.key for found in calls_in(objects)}
    named |= {call: tenant for _, call, tenant in tables.rows_of("call", "tenant")}
    is_beginning = len(asked.name) >= _PREFIX_CHARACTERS_MIN
    found = {
        call: key
        for call, key in named.items()
        if asked.key in (None, key)
        and (call == call_name(key, asked.name) or (is_beginning and call.startswith(asked.name)))
    }
    if len(found) > 1:
        keys = ", ".join(map(repr, sorted({*found.values()})[:_NUM_NAMED_MAX]))
        raise InvalidInput(f"{len(found)} calls have the name {asked.name!r}, of API keys {keys}. Say whose: --key.")
    if not found and asked.key is None:
        raise HandoffMissing(
            f"No call of a session {asked.name!r} is in this store. If a log may have it still, say whose it is: --key."
        )
    scope.calls |= set(found) or {call_name(asked.key or "", asked.name)}


def _seek_line(objects: ObjectStore, asked: Asked, scope: Scope) -> None:
    if asked.batch is not None:
        scope.batches = scope_of_line(objects, asked.name, batch=asked.batch)
        if not scope.batches:
            raise HandoffMissing(f"No batch {asked.batch!r} with a line {asked.name!r} is in this store.")
        return
    if len(asked.name) < len(REQUEST) + _PREFIX_CHARACTERS_MIN:
        raise InvalidInput(
            f"A line's request is named by {REQUEST} and at least {_PREFIX_CHARACTERS_MIN} more characters, got "
            f"{asked.name!r}."
        )
    scope.batches = scope_of_requests(objects, asked.name)
    if not scope.batches:
        raise HandoffMissing(f"No line of a batch in this store has the request {asked.name!r}.")
    if len(scope.batches.lines) > 1:
        raise InvalidInput(f"{len(scope.batches.lines)} lines have requests {asked.name}…. Give more characters.")


class _Tables:
    """Rows of all tables that have some columns; each version is read when it is asked for."""

    def __init__(self, handoffs: HandoffStore, versions: Sequence[Manifest]) -> None:
        self._handoffs, self._versions = handoffs, versions

    def rows_of(self, *columns: str, among: frozenset[str] | set[str] = frozenset()) -> Iterator[tuple[str, ...]]:
        """The campaign, then the values. `among`: columns that the table must have besides."""
        for manifest in self._versions:
            if not {*columns, *among} <= set(manifest.schema.names):
                continue
            campaign = (*scope_of(manifest.asset, manifest.partition), "")[0]
            table = opened(self._handoffs, manifest).table(list(columns))
            for values in zip(*(table[name].to_pylist() for name in columns), strict=True):
                if None not in values:
                    yield (campaign, *values)


def key_of(manifest: Manifest) -> str:
    return manifest_key(manifest.asset, manifest.partition, manifest.version)
