"""Files and batches as a gateway would have made them."""

from typing import Any

from headrace.clock import FixedClock
from headrace.inbox.batches.files import File, Files
from headrace.inbox.batches.places import BATCH, FILE, new_name
from headrace.inbox.batches.states import Batch

NOW = FixedClock().now()
ENDPOINT = "/v1/chat/completions"


def seal_file(files: Files, tenant: str, text: bytes = b"one\ntwo", *, now: float = NOW, seconds: int = 3_600) -> File:
    """A file that the store has."""
    new = files.new(tenant, new_name(FILE, now))
    new.write(text)
    return new.seal("a.jsonl", "batch", created_at=int(now), expires_at=int(now) + seconds)


def make_batch(file: File, *, now: float = NOW, seconds: int = 86_400, **changes: Any) -> Batch:
    """A batch as its client has asked for it; its window ends after so many seconds."""
    usual: dict[str, Any] = {"window": "24h", "metadata": {"shift": "night"}, "output_seconds": 3_600}
    times = {"created_at": int(now), "expires_at": int(now) + seconds}
    return Batch(id=new_name(BATCH, now), endpoint=ENDPOINT, input=file, **times, **usual | changes)
