"""Engines whose models a host holds, for who would else open them in this process.

Each gives what the host's engine gives, errors included, and says of itself what that one says. Turns that are asked
together go together: a batch is one request.
"""

import os
from collections.abc import AsyncGenerator, Sequence
from typing import TYPE_CHECKING

from headrace.engines.base import Answer, Engine, EngineFailed, LoadedModel, NoAnswer, Piece, Turn
from headrace.engines.host.address import HostAddress
from headrace.engines.host.connection import Connection
from headrace.engines.host.lines import (
    BATCHES,
    CHAT,
    answer_in,
    answers_in,
    chat_request,
    media_in,
    media_lines,
    piece_in,
    text_lines,
)
from headrace.engines.host.wanted import Facts, Place, Wanted, code_of, guessed_mib, numeric_environment
from headrace.engines.media import MediaAnswer, MediaEngine, MediaTurn
from headrace.engines.openai.wire import EventLines
from headrace.store.sealed_directory import find_directory

if TYPE_CHECKING:
    from headrace.engines.registry import EngineKind, Opening


def hosted(kind: "EngineKind", opening: "Opening") -> LoadedModel | None:
    """The engine, its model in the memory of the deployment's host; None: it is to be opened in this process.

    Raises: HeadraceError: it cannot be loaded, as where it is opened here.
    """
    host = opening.deployment.host
    if host is None or not kind.can_be_hosted or not (kind.computes_here or kind.needs_weights or host.takes_all):
        return None
    if opening.member.weights_digest in opening.deployment.unsealed:
        return None
    if opening.member.kind == "transcript":
        # A call's audio would cross a socket twice for each turn, and a host has no form for it.
        return None
    connection = Connection(host, _wanted(kind, opening, host), opening.deployment.asker)
    facts = connection.brought()
    if facts is None:
        return None
    if opening.member.kind == "text":
        return HostedEngine(connection, facts)
    return HostedMediaEngine(connection, facts, is_speech=opening.member.speech is not None)


class _Hosted(LoadedModel):
    def __init__(self, connection: Connection, facts: Facts) -> None:
        self._connection = connection
        self.resident = connection.model
        self.num_at_once, self.computes_on_cpu = facts.num_at_once, facts.computes_on_cpu
        self.mixes_rows, self.deterministic = facts.mixes_rows, facts.deterministic

    async def close(self) -> None:
        """Ends the connection; the model stays where it is, for others."""
        await self._connection.close()


class HostedEngine(_Hosted, Engine):
    """A model that writes."""

    async def answer(self, turn: Turn) -> Answer:
        body = chat_request(turn, self._connection.model, stream=False)
        return answer_in(await self._connection.asked(CHAT, body))

    async def stream(self, turn: Turn) -> AsyncGenerator[Piece, None]:
        body = chat_request(turn, self._connection.model, stream=True)
        lines = EventLines()
        async with self._connection.streamed(CHAT, body, turn.unit) as content:
            async for raw in content.iter_any():
                for data in lines.feed(raw):
                    yield piece_in(data)
        if not lines.is_done:
            raise EngineFailed("The engine host ended the answer in its middle.")

    async def answer_together(self, turns: Sequence[Turn]) -> list[Answer | NoAnswer]:
        if not turns:
            return []
        body = text_lines(turns, self._connection.model)
        return answers_in(await self._connection.asked(BATCHES, body), len(turns))


class HostedMediaEngine(_Hosted, MediaEngine):
    """A model that paints or speaks."""

    def __init__(self, connection: Connection, facts: Facts, *, is_speech: bool) -> None:
        super().__init__(connection, facts)
        self._is_speech = is_speech

    async def make(self, turn: MediaTurn) -> MediaAnswer:
        [made] = await self.make_together([turn])
        if isinstance(made, NoAnswer):
            raise made
        return made

    async def make_together(self, turns: Sequence[MediaTurn]) -> list[MediaAnswer | NoAnswer]:
        if not turns:
            return []
        body = media_lines(turns, self._connection.model, is_speech=self._is_speech)
        return media_in(await self._connection.asked(BATCHES, body), len(turns))


def _wanted(kind: "EngineKind", opening: "Opening", host: HostAddress) -> Wanted:
    member = opening.member
    sealed = find_directory(opening.objects, member.weights_digest) if member.is_registered else None
    return Wanted(
        member=member,
        engine=opening.spec,
        place=Place(device=host.device, environment=numeric_environment(os.environ)),
        store=host.store,
        build=kind.build,
        code=code_of(kind.open.__module__),
        guess_mib=guessed_mib(sealed.num_bytes if sealed else 0, opening.spec),
    )
