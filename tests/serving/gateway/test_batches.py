"""OpenAI's Batch API on a running gateway, by OpenAI's own client."""

import io
import json
from collections.abc import Callable, Iterator
from typing import Any

import openai
import pytest

from simulation.servers.gateway_site import Site
from tests.waiting import eventually

pytestmark = pytest.mark.process
CHAT = "/v1/chat/completions"


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """A site with one gateway that has batches."""
    site = Site.make(tmp_path_factory.mktemp("batches") / "site", {"client_decoding": "allowed"})
    site.initialize()
    with site.started("--batches"):
        yield site


@pytest.fixture
def client(site: Site, client_of: Callable[..., openai.OpenAI]) -> openai.OpenAI:
    return client_of(site.gateways[0])


def line(custom_id: str, text: str = "Tell me of the mill.", **body: Any) -> dict[str, Any]:
    asked = {"model": "assistant", "messages": [{"role": "user", "content": text}], **body}
    return {"custom_id": custom_id, "method": "POST", "url": CHAT, "body": asked}


def jsonl(*lines: dict[str, Any] | str) -> bytes:
    return "".join((one if isinstance(one, str) else json.dumps(one)) + "\n" for one in lines).encode()


def upload(client: openai.OpenAI, body: bytes, name: str = "questions.jsonl") -> Any:
    return client.files.create(file=(name, io.BytesIO(body)), purpose="batch")


def begin(client: openai.OpenAI, body: bytes, **wanted: Any) -> Any:
    file = upload(client, body)
    return client.batches.create(**{"input_file_id": file.id, "endpoint": CHAT, "completion_window": "24h", **wanted})


def at_end(client: openai.OpenAI, batch: Any) -> Any:
    ends = ("completed", "failed", "expired", "cancelled")
    eventually(lambda: client.batches.retrieve(batch.id).status in ends, "the batch has ended")
    return client.batches.retrieve(batch.id)


def content(client: openai.OpenAI, file: str | None) -> list[dict[str, Any]]:
    return [json.loads(line) for line in client.files.content(file).text.splitlines()] if file else []


def test_a_batch_is_answered_line_by_line(client: openai.OpenAI) -> None:
    batch = begin(client, jsonl(*[line(f"q-{number}", f"Number {number}") for number in range(40)]))
    assert (batch.status, batch.object, batch.request_counts.total) == ("validating", "batch", 0)

    done = at_end(client, batch)

    counts = done.request_counts
    assert (done.status, counts.total, counts.completed, counts.failed) == ("completed", 40, 40, 0)
    assert done.error_file_id is None
    made = content(client, done.output_file_id)
    assert [one["custom_id"] for one in made] == [f"q-{number}" for number in range(40)]
    first = made[0]
    assert (first["error"], first["response"]["status_code"]) == (None, 200)
    assert first["response"]["body"]["choices"][0]["message"]["content"]
    assert len({one["response"]["body"]["system_fingerprint"] for one in made}) == 1
