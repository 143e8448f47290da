"""A store in which everything of events' prompts is sealed, and what an erasure must leave of it."""

import gzip
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa

from headrace.erasure.carrying_out import Carried, carry_out
from headrace.erasure.deciding import decide, plan
from headrace.erasure.scope import Asked
from headrace.generation.listing import list_prompts
from headrace.generation.prompt_source import PromptSource
from headrace.generation.review import review_rows
from headrace.generation.window_prompts import content_partition
from headrace.handoff.erasures import Erasure
from headrace.handoff.versions import Handoff, HandoffStore
from headrace.inbox.rules import InboxRules
from headrace.inbox.sealed import SealedWindow
from headrace.store.local import LocalStore
from headrace.store.objects import ObjectStore
from simulation.campaign_site import make_campaign
from tests.generation.builders import Site
from tests.inbox_builders import event, seal_window

CAMPAIGN = "orders"


def secret_of(identity: str) -> str:
    """The personal data of an event, which stands in its prompt and in its rows: the engine repeats the prompt."""
    return f"xyzzy-{identity}-plugh"


def personal(identity: str, *, tenant: str = "") -> dict[str, Any]:
    return event(identity, {"product": secret_of(identity)}, tenant=tenant, key=f"key-{identity}")


class Inbox:
    """A campaign whose windows are sealed, listed, made and reviewed as the assets do it."""

    def __init__(self, directory: Path, open_store: Callable[[Path], ObjectStore] = LocalStore) -> None:
        source = PromptSource(inbox=InboxRules(), template="Describe {product}.")
        self.campaign = make_campaign(name=CAMPAIGN, num_shards=1, prompts=source)
        self.site = Site(directory, campaign=self.campaign, open_store=open_store)
        self.objects, self.handoffs, self.clock = self.site.objects, self.site.handoffs, self.site.clock
        # A test that only looks holds nothing.
        self.seen = HandoffStore(self.objects, self.clock, leased=False)
        if not self.site.journal.head():
            self.site.initialize()

    def seal(
        self, events: Sequence[Mapping[str, Any]], *, window: int = 1, late_part: int = 0, **more: Any
    ) -> SealedWindow:
        sealed = seal_window(self.objects, events, window=window, late_part=late_part, **more)
        self.site.partition = content_partition(sealed)
        return sealed

    def list_prompts(self) -> Handoff:
        """The prompts of the present partition, and what lies beside them."""
        listed = list_prompts(self.campaign, self.site.partition, Path(), self.handoffs, self.clock)
        listed.seal_beside("list-run")
        return self.site.seal_prompts(listed.prompts)

    def make(self) -> Handoff:
        """Lists, makes and reviews the present partition."""
        self.list_prompts()
        content = self.site.generate().content
        self.review(content)
        return content

    def review(self, content: Handoff) -> Handoff:
        return self.handoffs.publish(
            "reviewed_content",
            content.partition,
            review_rows(content.table(), self.campaign.review).table,
            code_version="1",
            run_id="review-run",
            input_versions={f"generated_content[{content.partition}]": f"v{content.version} {content.content_digest}"},
        )

    def ask(self, asked: Asked) -> Erasure:
        return decide(self.objects, self.clock, plan(self.objects, self.clock, asked), by="ana", reason="ticket 812")

    def erase(self, asked: Asked) -> Carried:
        return carry_out(self.objects, self.clock, self.ask(asked))

    def rows(self, asset: str) -> list[dict[str, Any]]:
        return self.newest(asset).table().to_pylist()

    def newest(self, asset: str) -> Handoff:
        """Of the present partition."""
        return self.seen.open(asset, self.site.partition.key)


def an_event(identity: str, **named: str) -> Asked:
    return Asked(kind="event", name=identity, campaign=CAMPAIGN, **named)


def files_with(directory: Path, text: str) -> list[str]:
    """Every file below the directory whose bytes hold the text, by its path: hidden and temporary ones, too.

    Also as JSON writes it, and in what is compressed: by gzip, zstd, or within Arrow.
    """
    wanted = {text.encode(), json.dumps(text)[1:-1].encode()}
    return sorted(
        str(file.relative_to(directory))
        for file in directory.rglob("*")
        if file.is_file() and any(one in body for body in _bodies(file) for one in wanted)
    )


def _bodies(file: Path) -> Iterator[bytes]:
    yield str(file).encode()
    body = file.read_bytes()
    yield body
    if body.startswith(b"\x1f\x8b"):
        yield gzip.decompress(body)
    elif body.startswith(b"\x28\xb5\x2f\xfd"):
        yield pa.input_stream(pa.py_buffer(body), compression="zstd").read()
    elif body.startswith((b"ARROW1", b"\xff\xff\xff\xff")):
        opened = pa.ipc.open_file if body.startswith(b"ARROW1") else pa.ipc.open_stream
        yield str(opened(pa.py_buffer(body)).read_all().to_pylist()).encode()


def newest_tables(store: LocalStore) -> Iterator[tuple[str, str, Handoff]]:
    handoffs = HandoffStore(store, leased=False)
    for asset in handoffs.assets():
        for partition in handoffs.partitions(asset):
            yield asset, partition, handoffs.open(asset, partition)
