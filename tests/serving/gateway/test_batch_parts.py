"""Parts of the gateway's batches by themselves: places, pages of lists, forms, and bulk units' admission."""

import asyncio

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from headrace.serving.gateway.batches.pages import listed, page_of
from headrace.serving.gateway.batches.places import LinePlaces, Stops
from headrace.serving.gateway.batches.upload import FormReader
from headrace.serving.gateway.limits import Admission
from headrace.serving.gateway.refusals import Refusal
from headrace.serving.service import Limits


async def settle() -> None:
    for _ in range(3):
        await asyncio.sleep(0)


def test_places_go_round_among_clients_however_many_lines_each_has() -> None:
    async def run() -> list[str]:
        places, stops, got = LinePlaces(1), Stops(), list[str]()

        async def one(tenant: str) -> None:
            assert await places.take(tenant, stops)
            got.append(tenant)
            await asyncio.sleep(0)
            places.give_back()

        tasks = [asyncio.create_task(one(tenant)) for tenant in ["large"] * 6 + ["small"] * 2 + ["other"]]
        await asyncio.gather(*tasks)
        assert await places.take("anybody", stops)
        return got

    assert asyncio.run(run()) == ["large", "large", "small", "other", "large", "small", "large", "large", "large"]


def test_a_batch_that_stops_gets_no_place_and_takes_none() -> None:
    async def run() -> None:
        places, stops, others = LinePlaces(1), Stops(), Stops()
        assert await places.take("a", stops)
        waiting = asyncio.create_task(places.take("a", stops))
        other = asyncio.create_task(places.take("b", others))
        await settle()
        stops.stop("batch_cancelled")
        stops.stop("batch_expired")
        assert (await waiting, stops.why) == (False, "batch_cancelled")
        assert await places.take("a", stops) is False
        places.give_back()
        assert await other
        places.give_back()
        assert await places.take("b", others)

    asyncio.run(run())


@given(st.lists(st.sampled_from(["take a", "take b", "give", "cancel", "stop a"]), max_size=40))
@settings(deadline=None)
def test_no_place_is_ever_lost_or_made(steps: list[str]) -> None:
    async def run() -> None:
        places, stops = LinePlaces(2), {"a": Stops(), "b": Stops()}
        tasks: list[asyncio.Task[bool]] = []
        num_held = 0
        for step in steps:
            match step.split():
                case ["take", tenant]:
                    tasks.append(asyncio.create_task(places.take(tenant, stops[tenant])))
                case ["give"] if num_held:
                    places.give_back()
                    num_held -= 1
                case ["cancel"] if tasks:
                    tasks.pop().cancel()
                case ["stop", tenant]:
                    stops[tenant].stop("why")
                    stops[tenant] = Stops()
            await settle()
            ended = [task for task in tasks if task.done()]
            tasks = [task for task in tasks if not task.done()]
            num_held += sum(not task.cancelled() and task.result() for task in ended)
            assert num_held <= 2
            assert not tasks or num_held == 2
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        for _ in range(num_held):
            places.give_back()
        assert await places.take("a", stops["a"])
        assert await places.take("a", stops["a"])

    asyncio.run(run())


def test_a_bulk_unit_takes_what_no_live_unit_wants() -> None:
    async def run() -> list[str]:
        admission, got = Admission(Limits(num_units_max=1, num_waiting_max=4)), list[str]()
        await admission.enter()

        async def one(name: str, *, is_bulk: bool) -> None:
            await admission.enter(is_bulk=is_bulk)
            got.append(name)
            admission.leave(0.1)

        tasks = [asyncio.create_task(one(f"bulk {number}", is_bulk=True)) for number in range(6)]
        await settle()
        tasks += [asyncio.create_task(one(f"live {number}", is_bulk=False)) for number in range(2)]
        await settle()
        tasks[0].cancel()
        await settle()
        admission.leave(0.1)
        await asyncio.gather(*tasks, return_exceptions=True)
        assert admission.num_under_way == 0
        return got

    assert asyncio.run(run()) == ["live 0", "live 1", *[f"bulk {number}" for number in range(1, 6)]]


NAMES = [f"file-{number:02}" for number in range(10)]


@given(limit=st.integers(1, 12), order=st.sampled_from(["asc", "desc"]), gone=st.sets(st.sampled_from(NAMES)))
def test_pages_show_each_object_once_in_order_even_if_some_go(limit: int, order: str, gone: set[str]) -> None:
    after, found = "", list[str]()
    for _ in range(len(NAMES) + 1):
        page = page_of(f"limit={limit}&order={order}&after={after}".encode(), limit=5, limit_max=20)
        body = listed(NAMES, page, lambda name: None if name in gone else {"id": name})
        found += [one["id"] for one in body["data"]]
        assert len(body["data"]) <= limit
        if not body["has_more"]:
            break
        after = body["last_id"]
    kept = [name for name in NAMES if name not in gone]
    assert found == (kept if order == "asc" else kept[::-1])


@pytest.mark.parametrize(
    ("query", "message"),
    [
        (b"limit=0", "limit must be a whole number from 1 to 100"),
        (b"limit=101", "limit must be"),
        (b"limit=ten", "limit must be"),
        (b"order=up", "order must be asc or desc"),
        (b"after=a&after=b", "each of its fields once"),
        (b"after=\xff", "cannot be read"),
        (b"&".join(b"a%d=1" % number for number in range(40)), "cannot be read"),
    ],
)
def test_a_query_that_is_wrong_is_told_so(query: bytes, message: str) -> None:
    with pytest.raises(Refusal, match=message):
        page_of(query, limit=20, limit_max=100)


FORM = (
    b'--b1\r\nContent-Disposition: form-data; name="purpose"\r\n\r\nbatch\r\n'
    b'--b1\r\nContent-Disposition: form-data; name="file"; filename="C:\\\\dir\\\\a b.jsonl"\r\n'
    b"Content-Type: application/octet-stream\r\n\r\n{}\r\n--b\r\n\r\nmore\n\r\n--b1--\r\n"
)
KIND = b"multipart/form-data; boundary=b1"


@given(sizes=st.lists(st.integers(1, 40), min_size=1, max_size=30))
def test_a_form_is_the_same_in_whatever_pieces_it_comes(sizes: list[int]) -> None:
    reader, at, taken = FormReader(KIND), 0, b""
    for size in [*sizes, len(FORM)]:
        reader.feed(FORM[at : at + size])
        taken += reader.form.take()
        at += size
        if at >= len(FORM):
            break
    reader.end()
    assert taken == b"{}\r\n--b\r\n\r\nmore\n"
    assert (reader.form.fields, reader.form.filename) == ({"purpose": "batch"}, "a b.jsonl")


@pytest.mark.parametrize(
    ("kind", "body", "message"),
    [
        (b"application/json", b"{}", "must come as multipart/form-data"),
        (b"multipart/form-data", FORM, "must come as multipart/form-data"),
        (KIND, b"nothing of it", "The form cannot be read"),
        (KIND, FORM[:-20], "The form ends in the middle"),
        (KIND, FORM.replace(b"batch", b"x" * 2_000), "A field of a form may have 1024 bytes"),
    ],
)
def test_a_form_that_is_wrong_is_told_so(kind: bytes, body: bytes, message: str) -> None:
    def read() -> None:
        reader = FormReader(kind)
        reader.feed(body)
        reader.end()

    with pytest.raises(Refusal, match=message):
        read()


def test_a_form_with_two_files_or_too_many_fields_is_refused() -> None:
    part = b'--b1\r\nContent-Disposition: form-data; name="%s"; filename="a"\r\n\r\nx\r\n'
    with pytest.raises(Refusal, match="two files"):
        FormReader(KIND).feed(part % b"file" * 2)
    with pytest.raises(Refusal, match="may have 16 fields"):
        FormReader(KIND).feed(b"".join(part % (b"field%d" % number) for number in range(20)))
