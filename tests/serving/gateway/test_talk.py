"""What a call holds of what was said in it."""

import asyncio
from collections.abc import Sequence

from headrace.clock import FixedClock
from headrace.serving.gateway.realtime.talk import Talk
from headrace.voice.turns import CallState, TurnEvent, applied


def test_a_call_holds_as_much_text_as_a_request_and_its_first_items_go() -> None:
    kept: list[TurnEvent] = []

    async def keep(events: Sequence[TurnEvent], _: CallState) -> None:
        kept.extend(events)

    async def scenario() -> None:
        talk = Talk(CallState(), keep, clock=FixedClock(5.0), num_items_max=50, characters_max=1_000)
        for number in range(20):
            await talk.happened(TurnEvent(kind="said", item=f"item {number}", text="a" * 300))
            assert sum(len(item.text) for item in talk.state.items) <= 1_000
        assert [item.id for item in talk.state.items] == ["item 17", "item 18", "item 19"]
        await talk.happened(TurnEvent(kind="said", item="long", text="a" * 5_000))
        assert [item.id for item in talk.state.items] == ["long"], "what was said last stays"
        await talk.happened(TurnEvent(kind="said", item="short", text="a"))
        assert [item.id for item in talk.state.items] == ["short"]
        assert applied(CallState(), kept) == talk.state, "whoever goes on with the call has the same items"

    asyncio.run(scenario())
