"""An engine of another package behind a gateway: what it raises is its own failure, for clients and in the records."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import openai
import pytest

from headrace.engines import registry
from simulation.servers.gateway_site import Site, role

pytestmark = pytest.mark.process

ODD = """
import asyncio

from headrace.engines.base import Answer, Engine, EngineBusy, Piece
from headrace.engines.registry import EngineKind, Opening
from dataclasses import dataclass


class Unspeakable(Exception):
    def __str__(self):
        raise self


class Halved(EngineBusy):
    def __init__(self):
        pass


class Odd(Engine):
    name = "odd"

    async def answer(self, turn):
        said = turn.messages[-1].content
        if said == "unspeakable":
            raise Unspeakable
        if said == "halved":
            raise Halved
        if said == "a secret":
            raise ValueError(said)
        return Answer(text="fine", finish_reason="stop")

    async def stream(self, turn):
        answer = await self.answer(turn)
        yield Piece(text=answer.text)
        if turn.messages[-1].content == "cancel":
            asyncio.current_task().cancel()
            await asyncio.sleep(0)
        yield Piece(text="", finish_reason="stop")


@dataclass(frozen=True)
class Options:
    pass


KIND = EngineKind(name="odd", options=Options, deterministic=True, open=lambda opening: Odd())
"""


@pytest.fixture
def odd_packages(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    directory = tmp_path / "site-packages"
    (directory / "odd-1.dist-info").mkdir(parents=True)
    (directory / "odd.py").write_text(ODD)
    (directory / "odd-1.dist-info" / "METADATA").write_text("Metadata-Version: 2.1\nName: odd\nVersion: 1\n")
    (directory / "odd-1.dist-info" / "entry_points.txt").write_text("[headrace.engines]\nodd = odd:KIND\n")
    monkeypatch.syspath_prepend(directory)
    # This process reads the service file too, and may have looked for engines before.
    registry._points.cache_clear()
    yield directory
    monkeypatch.undo()
    registry._points.cache_clear()


def test_what_another_packages_engine_raises_is_told_recorded_and_counted_as_its_failure(
    odd_packages: Path, make_site: Callable[..., Site], client_of: Callable[..., openai.OpenAI]
) -> None:
    site = make_site(roles={"writer": role(engine={"name": "odd"})})
    site.initialize()
    gateway = site.start(environment={"PYTHONPATH": str(odd_packages)})
    client = client_of(gateway)
    told: list[str] = []
    for said in ("unspeakable", "halved", "a secret", "cancel", "fine"):
        for stream in (False, True):
            try:
                messages: Any = [{"role": "user", "content": said}]
                answer: Any = client.chat.completions.create(model="assistant", messages=messages, stream=stream)
                told.append("fine" if not stream or list(answer) else "nothing")
            except openai.APIError as error:
                told.append(str(error.code))
    gateway.terminate()
    assert told == ["engine_failed"] * 6 + ["fine", "engine_failed", "fine", "fine"]
    units = gateway.records("unit")
    assert [unit["status"] for unit in units] == [502] * 6 + [200, 502, 200, 200]
    assert "a secret" not in gateway.log.read_text()
    errors = [record for record in gateway.records("gateway") if record["event"] == "error"]
    assert any(error["error"] == "ValueError" and "odd.py" in str(error["places"]) for error in errors)
