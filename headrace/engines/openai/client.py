"""The `openai_http` engine: one server with `POST /chat/completions`, such as `vllm serve`, llama.cpp or a paid API, or
several with the same model.

Several replicas are always asked for streams, even if the caller wants a whole answer: pieces show how fast a replica
works and when it has stopped. A single replica leaves no choice, and a whole answer is cheaper.

Servers batch continuously, so the same seed may give other bytes: the engine is declared not deterministic.
"""

from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing

from headrace.chat.spelt import refusal
from headrace.engines.base import Answer, Engine, Piece, Turn, TurnRefused
from headrace.engines.deployment import Deployment
from headrace.engines.dispatch.replica import Ticket
from headrace.engines.openai.attempt import Attempt
from headrace.engines.openai.servers import ServerClient
from headrace.engines.openai.wire import Event, chat_body, chat_fields

# Concurrent turns of a batch for each replica, which batches them. More would wait in its queue and time out.
_NUM_AT_ONCE = 32


class OpenAIEngine(ServerClient, Engine):
    name = "openai_http"

    def __init__(
        self,
        *,
        model: str,
        base_urls: Sequence[str],
        deployment: Deployment | None = None,
        with_streams: bool | None = None,
        special_tokens: Sequence[str] = (),
    ) -> None:
        """Does not connect yet. Belongs to the event loop of its first turn.

        Args:
            with_streams: ask for streams even for whole answers; None: only with several replicas.
            special_tokens: a turn with a message that contains one is refused.

        Raises: InvalidInput: no base URL, a duplicate, an invalid address, or a key that cannot be sent.
        """
        super().__init__(model=model, base_urls=base_urls, deployment=deployment)
        self._special_tokens = tuple(special_tokens)
        self.num_at_once = _NUM_AT_ONCE * len(self._urls)
        self._with_streams = len(self._urls) > 1 if with_streams is None else with_streams

    async def answer(self, turn: Turn) -> Answer:
        text: list[str] = []
        last, made_by = Event(), ""
        async with aclosing(self._turn(turn, stream=self._with_streams, give_out=False)) as events:
            async for event, replica in events:
                text.append(event.text)
                last, made_by = event, replica
        return Answer(
            text="".join(text),
            finish_reason=last.finish_reason or "stop",
            num_prompt_tokens=last.num_prompt_tokens,
            num_output_tokens=last.num_output_tokens,
            replica=made_by,
            note="; ".join(last.notes),
        )

    async def stream(self, turn: Turn) -> AsyncGenerator[Piece, None]:
        async with aclosing(self._turn(turn, stream=True, give_out=True)) as events:
            async for event, replica in events:
                if not event.text and event.finish_reason is None:
                    continue  # a thought
                yield Piece(
                    text=event.text,
                    finish_reason=event.finish_reason,
                    num_prompt_tokens=event.num_prompt_tokens,
                    num_output_tokens=event.num_output_tokens,
                    replica=replica,
                )

    async def _turn(self, turn: Turn, *, stream: bool, give_out: bool) -> AsyncGenerator[tuple[Event, str], None]:
        if why := refusal((message.content for message in turn.messages), self._special_tokens):
            raise TurnRefused(
                f"A turn is not sent: {why}.",
                for_clients="A message spells one of the model's special tokens. Take it out of the text.",
            )

        def ask(ticket: Ticket) -> Attempt:
            return self._attempt(turn, ticket, stream=stream)

        num_characters = sum(len(message.content) for message in turn.messages)
        async with aclosing(
            self._asked(ask, turn.max_tokens, stream=stream, give_out=give_out, num_prompt_characters=num_characters)
        ) as events:
            async for event in events:
                yield event

    def _attempt(self, turn: Turn, ticket: Ticket, *, stream: bool) -> Attempt:
        body = chat_body(
            chat_fields(turn, self._model), stream=stream, with_usage=ticket.replica not in self._without_usage
        )
        return Attempt(
            self._open_session(),
            self._urls[ticket.replica],
            body,
            stream=stream,
            num_tokens_max=turn.max_tokens,
            mask=self._mask,
            request_id=turn.unit,
        )
