"""Tests whether an engine keeps the contract of `MediaEngine`: as `headrace.engines.conformance` for one that writes.

    # tests/test_conformance.py
    import pytest
    from headrace.engines.media_conformance import *
    from headrace.engines.media_conformance import opened, painter

    @pytest.fixture(scope="module")
    def member():
        return painter(width=64, height=64)

    @pytest.fixture(scope="module")
    def engine(member):
        return opened("brush", member, hairs=3)

What an engine made is looked at by `headrace.engines.asking`, as in a run: its type, size and length must be what the
member asks for. The tests demand nothing of what is seen or heard.
"""

import asyncio
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest

from headrace.engines.asking import media_of, medium_of
from headrace.engines.base import TurnRefused
from headrace.engines.conformance import (
    TEXTS,
    Ask,
    ask,
    test_an_engine_is_what_its_entry_point_says,
)
from headrace.engines.deployment import Deployment
from headrace.engines.media import MediaEngine, MediaTurn
from headrace.engines.registry import engine_kind, open_media_engine
from headrace.store.objects import ObjectStore
from headrace.version_sets.media_settings import Picture, Speech
from headrace.version_sets.sets import Member

__all__ = [
    "ask",
    "test_a_batch_of_media_has_an_answer_for_each_turn_in_order",
    "test_a_given_up_batch_leaves_the_engine_well",
    "test_a_medium_has_the_same_bytes_in_any_batch",
    "test_a_medium_is_made_of_any_script_or_refused",
    "test_an_engine_is_what_its_entry_point_says",
    "test_media_asked_for_at_once_are_all_made",
]

_TEXT = TEXTS["Latin"]
# Read by any voice, whatever its language.
_ASKED = (_TEXT, "A mill race.", "The wheel turns, and the stones grind.", "one two three", "a", _TEXT, "b", "c")


def painter(**picture: Any) -> Member:
    """A member without weights that paints 32 x 32 pixels, if `picture` does not say otherwise."""
    asked: dict[str, Any] = {"width": 32, "height": 32} | picture
    return _member("painter", picture=Picture(**asked))


def speaker(**speech: Any) -> Member:
    """A member without weights that speaks."""
    return _member("speaker", speech=Speech(**speech))


def opened(
    name: str,
    member: Member,
    *,
    objects: ObjectStore | None = None,
    deployment: Deployment | None = None,
    **options: Any,
) -> MediaEngine:
    """Opens the installed engine of that name as a version set would.

    Args: objects: the store with the member's weights; an engine without weights needs none.
    """
    kind = engine_kind(name)
    spec = kind.spec(kind.options(**options))
    return open_media_engine(member, spec, objects, deployment or Deployment())  # pyright: ignore[reportArgumentType]


def turn(text: str = _TEXT, **changes: Any) -> MediaTurn:
    return replace(MediaTurn(unit="unit", text=text, seed=7), **changes)


@pytest.mark.parametrize("script", TEXTS)
def test_a_medium_is_made_of_any_script_or_refused(engine: MediaEngine, member: Member, ask: Ask, script: str) -> None:
    [outcome] = ask(media_of(engine, member, [turn(TEXTS[script])]))
    if isinstance(outcome, Exception) and not (isinstance(outcome, TurnRefused) and script != "Latin"):
        raise outcome


def test_a_batch_of_media_has_an_answer_for_each_turn_in_order(engine: MediaEngine, member: Member, ask: Ask) -> None:
    none = ask(engine.make_together([]))
    assert none == [], f"an empty batch must have no answers, got {none}"
    whole = ask(_made(engine, member, _turns()))
    if engine.deterministic:
        turned = ask(_made(engine, member, _turns()[::-1]))
        assert turned[::-1] == whole, "a turned batch must have the same answers turned, got others"


def test_a_medium_has_the_same_bytes_in_any_batch(engine: MediaEngine, member: Member, ask: Ask) -> None:
    """Only for engines that claim it."""
    turns = _turns()
    whole = ask(_made(engine, member, turns))
    if not engine.deterministic:
        return
    ways = {
        "asked again": ask(_made(engine, member, turns)),
        "one by one": [ask(_made(engine, member, [one]))[0] for one in turns],
        "in parts": [*ask(_made(engine, member, turns[:3])), *ask(_made(engine, member, turns[3:]))],
        "among others": ask(_made(engine, member, [turn("another", seed=99), *turns]))[1:],
        "asked live": [ask(medium_of(engine, member, one))[0].content for one in turns],
    }
    for way, made in ways.items():
        others = [place for place, (one, two) in enumerate(zip(whole, made, strict=True)) if one != two]
        assert not others, f"deterministic, but {way} the turns {others} of {len(turns)} have other bytes"


def test_media_asked_for_at_once_are_all_made(engine: MediaEngine, member: Member, ask: Ask) -> None:
    async def at_once() -> list[list[bytes]]:
        return await asyncio.gather(*(_made(engine, member, [turn(seed=seed)]) for seed in range(6)))

    ask(at_once())


def test_a_given_up_batch_leaves_the_engine_well(engine: MediaEngine, member: Member, ask: Ask) -> None:
    async def given_up() -> None:
        task = asyncio.create_task(media_of(engine, member, _turns()))
        await asyncio.sleep(0)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)

    ask(given_up())
    ask(_made(engine, member, [turn()]))


def _turns() -> list[MediaTurn]:
    return [turn(text, unit=str(seed), seed=seed) for seed, text in enumerate(_ASKED)]


async def _made(engine: MediaEngine, member: Member, turns: Sequence[MediaTurn]) -> list[bytes]:
    """Raises: TurnRefused, EngineBusy, EngineFailed: of a turn nothing was made."""
    made: list[bytes] = []
    for outcome in await media_of(engine, member, turns):
        if isinstance(outcome, Exception):
            raise outcome
        made.append(outcome[0].content)
    return made


def _member(role: str, **made_with: Any) -> Member:
    return Member(
        role=role,
        model_name="model",
        model_version="1",
        weights_digest="",
        weights_uri="",
        system_prompt="",
        user_template="{text}",
        **made_with,
    )
