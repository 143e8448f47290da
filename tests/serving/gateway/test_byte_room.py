"""Room for bytes: who gets it, who waits, and that none is lost."""

import asyncio
import random

import pytest

from headrace.serving.gateway.byte_room import ByteRoom, SharedRoom
from headrace.serving.gateway.refusals import Refusal


def test_who_finds_no_room_gets_it_in_turn() -> None:
    async def scenario() -> list[str]:
        room, order = ByteRoom(10, 5.0), []
        leaves = asyncio.Event()

        async def hold() -> None:
            async with room.room_for(8):
                await leaves.wait()

        async def wait(name: str, num_bytes: int) -> None:
            async with room.room_for(num_bytes):
                order.append(name)

        tasks = [asyncio.create_task(hold())]
        await asyncio.sleep(0)
        tasks += [asyncio.create_task(wait("large", 9)), asyncio.create_task(wait("small", 1))]
        await asyncio.sleep(0)
        assert order == [], "the small one waits behind the large one"
        leaves.set()
        await asyncio.gather(*tasks)
        return order

    assert asyncio.run(scenario()) == ["large", "small"]


def test_more_than_all_room_is_all_of_it() -> None:
    async def scenario() -> None:
        async with ByteRoom(10, 5.0).room_for(1_000):
            pass

    asyncio.run(scenario())


def test_nobody_waits_for_room_longer_than_allowed() -> None:
    async def scenario() -> None:
        room = ByteRoom(10, 0.01)
        async with room.room_for(10):
            with pytest.raises(Refusal, match=r"for 0\.01 s") as refused:
                async with room.room_for(1):
                    pass
        assert refused.value.status == 429
        async with room.room_for(10):
            pass

    asyncio.run(scenario())


@pytest.mark.parametrize("seed", range(10))
def test_no_room_is_lost_or_made_whatever_is_cancelled(seed: int) -> None:
    async def scenario() -> None:
        draw, room, held = random.Random(seed), ByteRoom(10, 5.0), 0

        async def request(num_bytes: int) -> None:
            nonlocal held
            async with room.room_for(num_bytes):
                held += num_bytes
                assert held <= 10
                try:
                    await asyncio.sleep(0)
                finally:
                    held -= num_bytes

        tasks = [asyncio.create_task(request(draw.randint(1, 10))) for _ in range(60)]
        while not all(task.done() for task in tasks):
            draw.choice(tasks).cancel()
            await asyncio.sleep(0)
        await asyncio.gather(*tasks, return_exceptions=True)
        async with asyncio.timeout(1), room.room_for(10):
            pass

    asyncio.run(scenario())


def test_one_client_that_never_ends_leaves_room_for_others() -> None:
    async def scenario() -> None:
        room, leaves, came = SharedRoom(16, 5.0, one_bytes_max=8), asyncio.Event(), []

        async def hold(client: str) -> None:
            async with room.room_of(client, 8):
                came.append(client)
                await leaves.wait()

        slow = [asyncio.create_task(hold("slow")) for _ in range(5)]
        await asyncio.sleep(0)
        other = asyncio.create_task(hold("other"))
        for _ in range(3):
            await asyncio.sleep(0)
        assert came == ["slow", "other"]
        leaves.set()
        await asyncio.gather(*slow, other)
        assert came.count("slow") == 5

    asyncio.run(scenario())
