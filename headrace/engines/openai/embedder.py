"""Vectors from servers with `POST /embeddings`, asked as engines are: the same dispatcher, time limits and refusals."""

import asyncio
import json
from collections.abc import Sequence
from contextlib import aclosing
from typing import Any

import numpy as np

from headrace.engines.base import TurnRefused
from headrace.engines.dispatch.replica import Ticket
from headrace.engines.embedding import Embedded, of_length_1
from headrace.engines.event_loop import LoopThread
from headrace.engines.openai.attempt import Attempt
from headrace.engines.openai.servers import ServerClient
from headrace.engines.openai.wire import AnswerBroken, Event, body_of
from headrace.errors import InvalidInput
from headrace.masking import Mask

# Texts of one request. Some servers take no more than 32.
_NUM_TEXTS_MAX = 32
# No model has longer vectors; and the JSON of one number, with a reserve.
_DIMENSION_MAX, _NUMBER_BYTES_MAX = 16_384, 32
_BYTES_BESIDE = 262_144


class ServerEmbedder:
    def __init__(self, key: str, client: "EmbeddingClient", *, characters_max: int | None = None) -> None:
        self.key, self._client, self._characters_max = key, client, characters_max
        self._loop = LoopThread()

    def embed(self, texts: Sequence[str]) -> Embedded:
        sent = [text[: self._characters_max] for text in texts]
        try:
            vectors = self._loop.run(self._client.vectors(sent))
        except TurnRefused as error:
            raise InvalidInput(
                f"{error} If texts are too long for the model, cut them with semantic_duplicates.characters_max."
            ) from None
        is_cut = np.array([len(text) > len(cut) for text, cut in zip(texts, sent, strict=True)])
        return Embedded(vectors=of_length_1(vectors, model=self._client.model), is_cut=is_cut)

    def close(self) -> None:
        """Ends the connections."""
        self._loop.run(self._client.close())
        self._loop.close()


class EmbeddingClient(ServerClient):
    asked = "batch of texts"

    @property
    def model(self) -> str:
        return self._model

    async def vectors(self, texts: Sequence[str]) -> np.ndarray:
        """Float64 [text, dimension]; all requests at once, as far as the dispatcher lets them go.

        Raises:
            TurnRefused: a server refuses texts.
            EngineBusy, EngineFailed: no server answers, or answers rightly.
            InvalidInput: two servers give vectors of two dimensions.
        """
        starts = range(0, len(texts), _NUM_TEXTS_MAX)
        tasks = [asyncio.ensure_future(self._batch(texts[at : at + _NUM_TEXTS_MAX])) for at in starts]
        try:
            found = await asyncio.gather(*tasks)
        finally:
            # If one raised, the others' work ends too.
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
        if len(dimensions := sorted({vectors.shape[1] for vectors in found})) > 1:
            raise InvalidInput(
                f"The servers of {self._model} give vectors of {dimensions[0]} and of {dimensions[1]} numbers: they "
                "must serve one model."
            )
        return np.concatenate(found)

    async def _batch(self, texts: Sequence[str]) -> np.ndarray:
        body = json.dumps({"model": self._model, "input": list(texts), "encoding_format": "float"}).encode()
        attempts: list[EmbeddingAttempt] = []

        def ask(ticket: Ticket) -> Attempt:
            url = self._urls[ticket.replica]
            attempts.append(EmbeddingAttempt(self._open_session(), url, body, len(texts), self._mask))
            return attempts[-1]

        async with aclosing(self._asked(ask, len(texts), stream=False, give_out=False)) as events:
            async for _ in events:
                pass
        return attempts[-1].vectors


class EmbeddingAttempt(Attempt):
    path = "/embeddings"

    def __init__(self, session: Any, base_url: str, body: bytes, num_texts: int, mask: Mask) -> None:
        super().__init__(session, base_url, body, stream=False, num_tokens_max=num_texts, mask=mask)
        self._num_texts = num_texts
        self._bytes_max = self._whole_bytes_max = _BYTES_BESIDE + num_texts * _DIMENSION_MAX * _NUMBER_BYTES_MAX
        self.vectors = np.zeros((0, 0), np.float32)

    async def _is_events(self) -> bool:
        return False

    async def _whole(self) -> list[Event]:
        self.vectors = parse_embeddings(await self._all_bytes(), self._num_texts, self._mask)
        self.has_ended = True
        return [Event()]


def parse_embeddings(raw: bytes, num_texts: int, mask: Mask) -> np.ndarray:
    """Float64 [text, dimension], in the order of texts, whatever the order of the answer.

    Raises: AnswerBroken: it is no answer about so many texts, or a vector is none.
    """
    data = body_of(raw, "embeddings", mask).get("data")
    if not isinstance(data, list) or not all(isinstance(one, dict) for one in data):
        raise AnswerBroken("no embeddings: it has no list `data` of objects")
    if len(data) != num_texts:
        raise AnswerBroken(f"it has {len(data)} vectors for {num_texts} texts")
    numbers = [one.get("index") for one in data]
    if not all(type(number) is int for number in numbers) or sorted(numbers) != list(range(num_texts)):
        raise AnswerBroken(f"the indices of its vectors are not 0 to {num_texts - 1}, each once")
    found = [_vector(one.get("embedding"), number) for number, one in zip(numbers, data, strict=True)]
    if len(dimensions := sorted({len(one) for one in found})) > 1:
        raise AnswerBroken(f"its vectors have {dimensions[0]} and {dimensions[1]} numbers, where all must have as many")
    ordered = np.empty((num_texts, dimensions[0]))
    ordered[numbers] = found
    if not np.isfinite(ordered).all():
        raise AnswerBroken("a vector has a number that is not finite")
    if not ordered.any(axis=1).all():
        raise AnswerBroken("a vector is zero, so it has no direction")
    return ordered


def _vector(embedding: object, number: int) -> np.ndarray:
    if not isinstance(embedding, list) or not 0 < len(embedding) <= _DIMENSION_MAX:
        wanted = f"a list of 1 to {_DIMENSION_MAX} numbers"
        got = (
            f"{len(embedding)} entries"
            if isinstance(embedding, list)
            else f"something of type {type(embedding).__name__}"
        )
        raise AnswerBroken(f"the embedding of text {number} must be {wanted}, got {got}")
    if not all(type(one) in (int, float) for one in embedding):
        raise AnswerBroken(f"the embedding of text {number} has an entry that is no number")
    try:
        return np.array(embedding, np.float64)
    except OverflowError:
        raise AnswerBroken(f"the embedding of text {number} has a number that is too large") from None
