"""Answers of engines that paint: what was checked is what is kept, and what stands beside a picture has an end."""

import asyncio
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from headrace.engines.asking import media_of
from headrace.engines.base import EngineFailed
from headrace.engines.echo_media import EchoMediaEngine
from headrace.engines.media import MediaAnswer, MediaTurn
from tests.generation.media_builders import make_media_campaign, models_of

CAMPAIGN = make_media_campaign()
PAINTER = CAMPAIGN.version_set(models_of(CAMPAIGN)).member("painter")


class Painting(EchoMediaEngine):
    """Says something beside each picture."""

    def __init__(self, beside: Callable[[], dict[str, Any]]) -> None:
        super().__init__(PAINTER)
        self.beside = beside

    async def make(self, turn: MediaTurn) -> MediaAnswer:
        return MediaAnswer(content=(await super().make(turn)).content, **self.beside())


class Hiding(dict[str, Any]):
    """Has a value that its iterators do not show."""

    def __iter__(self) -> Iterator[str]:
        return iter(())

    def values(self) -> Any:
        return ()


def asked(beside: Callable[[], dict[str, Any]]) -> Any:
    turn = MediaTurn(unit="a", text="a mill", seed=7)
    [outcome] = asyncio.run(media_of(Painting(beside), PAINTER, [turn]))
    return outcome


@pytest.mark.parametrize(
    "beside",
    [
        {"attributes": {"prompt": "x" * 70_000}},
        {"note": "x" * 70_000},
        {"attributes": {"prompt": "\ud800"}},
        {"attributes": [("prompt", "a mill")]},
        {"attributes": Hiding(prompt=object())},
    ],
    ids=["long attribute", "long note", "lone surrogate", "no mapping", "hidden value"],
)
def test_what_cannot_stand_beside_a_picture_is_the_engines_failure(beside: dict[str, Any]) -> None:
    outcome = asked(lambda: beside)
    assert isinstance(outcome, EngineFailed)
    assert "which must be a MediaAnswer of bytes, and of texts with at most 65,536 characters" in str(outcome)


def test_what_an_engine_changes_later_is_not_kept() -> None:
    attributes = {"prompt": "a mill"}
    answer, _ = asked(lambda: {"attributes": attributes})
    attributes["prompt"] = "another"
    assert answer.attributes == {"prompt": "a mill"}
