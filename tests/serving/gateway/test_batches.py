"""OpenAI's Batch API on a running gateway, by OpenAI's own client."""

import base64
import hashlib
import io
import json
import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import openai
import pytest

from simulation.servers.gateway_site import Site, http_role, role, slow_server
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


def num_completed(client: openai.OpenAI, batch: Any) -> int:
    counts = client.batches.retrieve(batch.id).request_counts
    return counts.completed if counts else 0


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


def test_what_is_wrong_with_a_line_is_its_own_failure_and_in_the_error_file(client: openai.OpenAI) -> None:
    body = jsonl(
        line("good", temperature=0.2),
        line("hot", temperature=5),
        line("tools", tools=[{"type": "function"}]),
        line("streamed", stream=True),
        {**line("empty"), "body": {"model": "assistant"}},
        "",
        line("good too"),
    )
    done = at_end(client, begin(client, body, metadata={"shift": "night"}))
    assert (done.status, done.metadata) == ("completed", {"shift": "night"})
    assert (done.request_counts.completed, done.request_counts.failed) == (2, 4)
    made, failed = content(client, done.output_file_id), content(client, done.error_file_id)
    assert [one["custom_id"] for one in made] == ["good", "good too"]
    told = {one["custom_id"]: (one["response"]["status_code"], one["response"]["body"]["error"]) for one in failed}
    assert {name: (status, error["param"]) for name, (status, error) in told.items()} == {
        "hot": (400, "temperature"),
        "tools": (400, "tools"),
        "streamed": (400, "stream"),
        "empty": (400, "messages"),
    }


def test_a_broken_line_fails_the_batch_before_anything_is_made(client: openai.OpenAI) -> None:
    body = jsonl(
        line("a"), "{", line("a"), {**line("b"), "url": "/v1/embeddings"}, {**line("c"), "body": {"model": "x"}}
    )
    failed = at_end(client, begin(client, body))
    assert (failed.status, failed.request_counts.completed, failed.output_file_id) == ("failed", 0, None)
    assert [(one.line, one.code) for one in failed.errors.data] == [
        (2, "invalid_json_line"),
        (3, "duplicate_custom_id"),
        (4, "mismatched_endpoint"),
        (5, "model_not_found"),
    ]


@pytest.mark.parametrize(
    ("wanted", "status", "message"),
    [
        ({"completion_window": "8d"}, 400, "completion_window must be 24h"),
        ({"completion_window": None}, 400, "completion_window must be 24h"),
        ({"endpoint": "/v1/embeddings"}, 400, "endpoint must be /v1/chat/completions or /v1/completions"),
        ({"input_file_id": "file-" + "0" * 32}, 404, "No such File object"),
        ({"input_file_id": 7}, 400, "input_file_id must be the id of a file"),
        ({"metadata": {"a": 1}}, 400, "metadata must be an object of at most 16 texts"),
        ({"metadata": {str(number): "" for number in range(17)}}, 400, "metadata must be"),
        ({"output_expires_after": {"anchor": "created_at", "seconds": 60}}, 400, "seconds from 3600 to 2592000"),
    ],
)
def test_a_batch_that_cannot_be_is_refused(client: openai.OpenAI, wanted: Any, status: int, message: str) -> None:
    with pytest.raises(openai.APIStatusError, match=message) as refused:
        begin(client, jsonl(line("a")), **wanted)
    assert refused.value.status_code == status


def test_a_file_is_kept_listed_read_and_deleted(client: openai.OpenAI) -> None:
    body = jsonl(line("a"))
    file = client.files.create(
        file=("dir/täglich.jsonl", io.BytesIO(body)),
        purpose="batch",
        expires_after={"anchor": "created_at", "seconds": 7_200},
    )
    assert (file.bytes, file.filename, file.purpose, file.status) == (len(body), "täglich.jsonl", "batch", "processed")
    assert (file.expires_at or 0) - file.created_at == 7_200
    assert client.files.retrieve(file.id) == file
    assert client.files.content(file.id).read() == body
    assert file.id in [one.id for one in client.files.list(purpose="batch")]
    assert client.files.delete(file.id).deleted
    for call in (client.files.retrieve, client.files.content, client.files.delete):
        with pytest.raises(openai.NotFoundError, match="No such File object"):
            call(file.id)


@pytest.mark.parametrize(
    ("body", "purpose", "message"),
    [(b"", "batch", "no file, or an empty one"), (b"x", "fine-tune", "purpose must be batch")],
)
def test_a_file_that_is_none_is_refused(client: openai.OpenAI, body: bytes, purpose: Any, message: str) -> None:
    with pytest.raises(openai.BadRequestError, match=message):
        client.files.create(file=("a.jsonl", io.BytesIO(body)), purpose=purpose)


def test_a_file_is_deleted_under_a_batch_that_goes_on(client: openai.OpenAI) -> None:
    file = upload(client, jsonl(*[line(f"d-{number}") for number in range(50)]))
    batch = client.batches.create(input_file_id=file.id, endpoint=CHAT, completion_window="24h")
    client.files.delete(file.id)
    assert at_end(client, batch).request_counts.completed == 50


def test_lists_go_page_by_page_the_newest_first(client: openai.OpenAI) -> None:
    made = [begin(client, jsonl(line("a"))).id for _ in range(5)]
    found = [batch.id for batch in client.batches.list(limit=2)]
    assert found[:5] == made[::-1]
    files = client.files.list(limit=3, order="asc")
    assert len(files.data) == 3
    assert [one.created_at for one in files] == sorted(one.created_at for one in files)


def test_legacy_completions_are_lines_too(client: openai.OpenAI) -> None:
    asked = {"custom_id": "old", "method": "POST", "url": "/v1/completions"}
    body = jsonl({**asked, "body": {"model": "assistant", "prompt": "Tell me of the mill."}})
    done = at_end(client, begin(client, body, endpoint="/v1/completions"))
    [made] = content(client, done.output_file_id)
    assert made["response"]["body"]["choices"][0]["text"]


def test_each_key_sees_its_own_files_and_batches(
    make_site: Callable[..., Site], client_of: Callable[..., openai.OpenAI]
) -> None:
    site = make_site()
    site.initialize()
    with site.keys.open("a") as keys:
        keys.write(f"other:{hashlib.sha256(b'sk-of-another').hexdigest()}\n")
    gateway = site.start("--batches")
    mine, other = client_of(gateway), client_of(gateway, key="sk-of-another")
    batch = at_end(mine, begin(mine, jsonl(line("a"))))
    assert (list(other.batches.list()), list(other.files.list())) == ([], [])
    for call in (other.batches.retrieve, other.batches.cancel):
        with pytest.raises(openai.NotFoundError, match="No batch found"):
            call(batch.id)
    with pytest.raises(openai.NotFoundError):
        other.files.content(batch.output_file_id)
    with pytest.raises(openai.NotFoundError, match="No such File object"):
        other.batches.create(input_file_id=batch.input_file_id, endpoint=CHAT, completion_window="24h")
    with pytest.raises(openai.AuthenticationError):
        client_of(gateway, key="sk-wrong").files.list()


def slow_site(make_site: Callable[..., Site], url: str, **limits: Any) -> Site:
    site = make_site(roles={"writer": http_role(url)}, limits={"num_units_max": 8, **limits})
    site.initialize()
    return site


def outcomes(client: openai.OpenAI, batch: Any) -> tuple[list[str], list[tuple[str, str | None]]]:
    """The ids that were answered, and those that were not, with their codes."""
    made, failed = content(client, batch.output_file_id), content(client, batch.error_file_id)
    return [one["custom_id"] for one in made], [(one["custom_id"], (one["error"] or {}).get("code")) for one in failed]


def test_a_cancelled_batch_keeps_what_is_done_and_names_the_rest(
    make_site: Callable[..., Site], client_of: Callable[..., openai.OpenAI]
) -> None:
    with slow_server(seconds_min=0.1, seconds_max=0.1) as url:
        client = client_of(slow_site(make_site, url).start("--batches", "--batch-lines", "4"))
        batch = begin(client, jsonl(*[line(f"c-{number}") for number in range(200)]))
        eventually(lambda: num_completed(client, batch) > 0, "some lines are answered")
        assert client.batches.cancel(batch.id).status in ("cancelling", "cancelled")
        done = at_end(client, batch)
        made, failed = outcomes(client, done)
    assert (done.status, done.request_counts.completed, done.request_counts.failed) == (
        "cancelled",
        len(made),
        len(failed),
    )
    assert {code for _, code in failed} == {"batch_cancelled"}
    assert sorted(made + [name for name, _ in failed]) == sorted(f"c-{number}" for number in range(200))


def test_what_has_ended_is_not_cancelled(client: openai.OpenAI) -> None:
    finished = at_end(client, begin(client, jsonl(line("a"))))
    with pytest.raises(openai.ConflictError, match="Cannot cancel a batch with status 'completed'"):
        client.batches.cancel(finished.id)


def test_a_batch_that_would_take_longer_than_its_window_has_to_wait(
    make_site: Callable[..., Site], client_of: Callable[..., openai.OpenAI]
) -> None:
    with slow_server(seconds_min=0.3, seconds_max=0.3) as url:
        client = client_of(slow_site(make_site, url).start("--batches"))
        long = jsonl(*[line(f"l-{number}") for number in range(2_000)])
        first = begin(client, long)
        eventually(lambda: num_completed(client, first) > 0, "the drain is measured")
        with pytest.raises(openai.RateLimitError, match="longer than the window of 60 s") as refused:
            begin(client, long, completion_window="1m")
        assert int(refused.value.response.headers["retry-after"]) > 60
        assert begin(client, long, completion_window="7d").status == "validating"


def test_an_upload_is_streamed_and_never_held(site: Site, client: openai.OpenAI) -> None:
    """A hundred MiB, of which the gateway's memory sees little; and more than a file may have is refused."""
    before = memory_bytes(site.gateways[0].pid)
    body = jsonl(line("a", "x" * 1_000_000)) * 100
    file = upload(client, body)
    assert file.bytes == len(body)
    assert memory_bytes(site.gateways[0].pid) - before < 30 * 2**20
    assert sum(map(len, client.files.content(file.id).iter_bytes())) == len(body)
    assert memory_bytes(site.gateways[0].pid) - before < 30 * 2**20
    with pytest.raises(openai.APIStatusError, match="may have") as refused:
        upload(client, body * 2 + body[: 20 * 2**20])
    assert refused.value.status_code == 413
    assert [one.id for one in client.files.list() if one.bytes > len(body)] == []


def memory_bytes(pid: int) -> int:
    """The most that it ever had of its own."""
    status = Path(f"/proc/{pid}/status").read_text()
    return next(int(line.split()[1]) * 1024 for line in status.splitlines() if line.startswith("VmHWM"))


def test_two_gateways_share_a_batch_and_answer_each_line_once(
    make_site: Callable[..., Site], client_of: Callable[..., openai.OpenAI]
) -> None:
    with slow_server(seconds_min=0.05, seconds_max=0.05) as url:
        site = slow_site(make_site, url)
        first, second = (client_of(site.start("--batches", "--batch-lines", "4")) for _ in range(2))
        batch = begin(first, jsonl(*[line(f"s-{number}") for number in range(300)]))
        done = at_end(second, batch)
        made, failed = outcomes(second, done)
        by = [{one["request"] for one in gateway.records("unit")} for gateway in site.gateways]
    assert (made, failed) == ([f"s-{number}" for number in range(300)], [])
    assert all(by), "both have worked"


def test_a_gateway_that_is_killed_leaves_a_batch_for_the_next(
    make_site: Callable[..., Site], client_of: Callable[..., openai.OpenAI]
) -> None:
    """Three kills (-9) in the middle of one batch; lines that were settled are not asked again."""
    with slow_server(seconds_min=0.05, seconds_max=0.05) as url:
        site = slow_site(make_site, url)
        gateway = site.start("--batches", "--batch-lines", "8")
        client = client_of(gateway)
        batch = begin(client, jsonl(*[line(f"k-{number}") for number in range(400)]))
        for _ in range(3):
            before = num_completed(client, batch)
            eventually(
                lambda before=before, client=client: num_completed(client, batch) > before + 40,
                "lines are answered",
            )
            os.kill(gateway.pid, signal.SIGKILL)
            gateway.process.wait()
            gateway = site.start("--batches", "--batch-lines", "8", wait="listening")
            client = client_of(gateway)
            assert num_completed(client, batch) > before
        done = at_end(client, batch)
        made, failed = outcomes(client, done)
        num_asked = sum(len(one.records("unit")) for one in site.gateways)
    assert (done.status, failed) == ("completed", [])
    assert made == [f"k-{number}" for number in range(400)]
    # A kill repeats the parts that are under way: three, of 16 lines each.
    assert num_asked <= 400 + 3 * 3 * 16


def test_pictures_are_lines_too(make_site: Callable[..., Site], client_of: Callable[..., openai.OpenAI]) -> None:
    painter = role(picture={"width": 16, "height": 16})
    del painter["decoding"]
    site = make_site(roles={"painter": painter}, chain=["painter"])
    site.initialize()
    client = client_of(site.start("--batches"))
    path = "/v1/images/generations"
    asked = [
        {"custom_id": f"p-{number}", "method": "POST", "url": path, "body": {"model": "assistant", "prompt": "a mill"}}
        for number in range(6)
    ]
    done = at_end(client, begin(client, jsonl(*asked), endpoint=path))
    made = content(client, done.output_file_id)
    assert [one["custom_id"] for one in made] == [f"p-{number}" for number in range(6)]
    assert all(base64.b64decode(one["response"]["body"]["data"][0]["b64_json"]) for one in made)


def test_a_service_that_speaks_has_no_batches(make_site: Callable[..., Site]) -> None:
    speaker = role(speech={})
    del speaker["decoding"]
    site = make_site(roles={"speaker": speaker}, chain=["speaker"])
    with pytest.raises(AssertionError, match="ended with 2"):
        site.start("--batches", wait="listening")
    assert "speaks, and a line of a batch's output holds JSON" in (site.directory / "gateway-0.errors").read_text()
