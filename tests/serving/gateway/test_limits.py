"""Places for units: who gets one, who waits, who is told to come back."""

import asyncio
import random

import pytest

from headrace.serving.gateway.limits import Admission
from headrace.serving.gateway.refusals import Refusal
from headrace.serving.service import Limits


def make_admission(**limits: float) -> Admission:
    return Admission(Limits(**({"num_units_max": 2, "num_waiting_max": 2, "waiting_seconds_max": 5.0} | limits)))  # pyright: ignore


def test_who_finds_the_line_full_is_told_when_to_come_back() -> None:
    async def scenario() -> None:
        admission = make_admission(num_waiting_max=0)
        await admission.enter()
        await admission.enter()
        with pytest.raises(Refusal, match="All 2 places are taken") as refused:
            await admission.enter()
        assert refused.value.status == 429
        assert refused.value.headers == [(b"retry-after", b"1")]

    asyncio.run(scenario())


def test_places_go_to_those_who_wait_in_their_order() -> None:
    async def scenario() -> list[int]:
        admission, order = make_admission(num_units_max=1, num_waiting_max=9), []
        await admission.enter()

        async def wait(number: int) -> None:
            await admission.enter()
            order.append(number)
            admission.leave(0.1)

        tasks = [asyncio.create_task(wait(number)) for number in range(5)]
        await asyncio.sleep(0)
        admission.leave(0.1)
        await asyncio.gather(*tasks)
        assert admission.num_under_way == 0
        return order

    assert asyncio.run(scenario()) == [0, 1, 2, 3, 4]


def test_nobody_waits_longer_than_the_service_allows() -> None:
    async def scenario() -> None:
        admission = make_admission(num_units_max=1, waiting_seconds_max=0.01)
        await admission.enter()
        with pytest.raises(Refusal, match=r"within 0\.01 s"):
            await admission.enter()
        assert admission.num_waiting == 0

    asyncio.run(scenario())


@pytest.mark.parametrize("seed", range(20))
def test_no_place_is_lost_or_made_whatever_is_cancelled(seed: int) -> None:
    """Cancelled while waiting, in the moment of being given a place, or while having one."""

    async def scenario() -> None:
        draw = random.Random(seed)
        admission = make_admission(num_units_max=3, num_waiting_max=50, waiting_seconds_max=0.004)
        most = 0

        async def unit() -> None:
            nonlocal most
            await admission.enter()
            try:
                most = max(most, admission.num_under_way)
                await asyncio.sleep(draw.random() * 0.003)
            finally:
                admission.leave(0.001)

        tasks = [asyncio.create_task(unit()) for _ in range(40)]
        for _ in range(60):
            draw.choice(tasks).cancel()
            await asyncio.sleep(draw.random() * 0.0005)
        await asyncio.gather(*tasks, return_exceptions=True)
        assert most <= 3
        assert (admission.num_under_way, admission.num_waiting) == (0, 0)

    asyncio.run(scenario())
