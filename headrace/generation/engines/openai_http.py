"""The `openai_http` engine: any server with `POST /chat/completions`, such as `vllm serve`, llama.cpp or a paid API.

What its answers mean, and what becomes of the row, says the table of `headrace.engines.openai.meaning`. A usage limit
ends the run, not the rows: what was committed stays, a later run goes on. Servers batch continuously, so the same seed
may give other bytes: the engine says that it is not deterministic.
"""

import asyncio
import time
from collections.abc import Sequence

import aiohttp
import stamina

from headrace.chat.spelt import refusal
from headrace.engines.event_loop import LoopThread
from headrace.engines.openai.address import check_address
from headrace.engines.openai.attempt import Attempt, AttemptFailed
from headrace.engines.openai.meaning import RETRY_AFTER_SECONDS_MAX
from headrace.engines.openai.wire import Event, chat_body
from headrace.errors import EngineUnavailable, InvalidInput
from headrace.generation.engines.base import GenerationRequest, GenerationResult, failed
from headrace.masking import Mask, secrets_in, without_credentials
from headrace.rollout.version_sets import EngineSpec, Member

# Requests under way at once; a server batches them. More only wait in its queue, where they time out.
_CONNECTIONS_MAX = 32
_CONNECT_SECONDS_MAX = 10.0
# Servers drop idle connections, uvicorn after 5 s; a request sent at that moment would be lost.
_IDLE_SECONDS_MAX = 4.0
# What is asked to see whether a server makes anything at all, and how many tokens it may take.
_CONTROL_PROMPT = "Say one word."
_CONTROL_TOKENS_MAX = 16


class OpenAIHttpEngine:
    name = "openai_http"
    build = ""
    deterministic = False

    def __init__(
        self,
        member: Member,
        spec: EngineSpec,
        *,
        api_key: str | None = None,
        request_seconds: float = 120.0,
        num_attempts: int = 5,
        first_wait_seconds: float = 0.5,
    ) -> None:
        """Args: request_seconds: how long one request may take in all, however its answer comes.

        Raises: InvalidInput: the version set names no server or no model, or a key cannot be sent.
        """
        if not spec.base_url or not spec.model:
            shown = spec.base_url and without_credentials(spec.base_url)
            raise InvalidInput(f"openai_http needs base_url and model, got {shown!r} and {spec.model!r}.")
        self._member = member
        self._model = spec.model
        self._special_tokens = spec.special_tokens
        self._base_url = spec.base_url.rstrip("/")
        self._label = f"{without_credentials(self._base_url)}/chat/completions"
        check_address(self._base_url, api_key)
        self._request_seconds = request_seconds
        self._num_attempts = num_attempts
        self._first_wait_seconds = first_wait_seconds
        self._api_key = api_key
        # Of the server: none of its secrets leaves this engine, whatever it says.
        self._mask = Mask([api_key, *secrets_in(self._base_url)])
        self._loop = LoopThread()
        self._session: aiohttp.ClientSession | None = None
        self._room = asyncio.Semaphore(_CONNECTIONS_MAX)
        self._control = asyncio.Lock()
        # When the server made something last.
        self._made_at = float("-inf")

    def generate(self, requests: Sequence[GenerationRequest]) -> list[GenerationResult]:
        return self._loop.run(self._rows(requests))

    def close(self) -> None:
        if self._session is not None:
            self._loop.run(self._session.close())
            self._session = None
        self._loop.close()

    async def _rows(self, requests: Sequence[GenerationRequest]) -> list[GenerationResult]:
        rows = [asyncio.create_task(self._row(request)) for request in requests]
        try:
            return list(await asyncio.gather(*rows))
        finally:
            # The others would each wait out their own retries for a server that is gone.
            for row in rows:
                row.cancel()
            await asyncio.gather(*rows, return_exceptions=True)

    async def _row(self, request: GenerationRequest) -> GenerationResult:
        """Raises: EngineUnavailable: nothing says that it is the row's own fault."""
        if why := refusal([request.prompt], self._special_tokens):
            return failed(why)
        began_at = time.monotonic()
        failure = AttemptFailed("broken", "was not asked")
        try:
            async for attempt in stamina.retry_context(
                on=_backoff,
                attempts=self._num_attempts,
                timeout=None,
                wait_initial=self._first_wait_seconds,
                wait_max=20.0,
            ):
                with attempt:
                    return _result(await self._made(request.prompt, request.seed, self._tokens_max))
        except AttemptFailed as error:
            failure = error
        why = f"the server {failure}"
        if failure.kind not in ("busy", "not_started") and await self._makes_others(began_at):
            return failed(why)
        advice = f" Check base_url, the API key, and the model {self._model!r}." if failure.kind == "unusable" else ""
        tries = "" if _backoff(failure) is False else f", {self._num_attempts} times"
        raise EngineUnavailable(f"{self._label} {failure}{tries}.{advice}")

    async def _makes_others(self, since: float) -> bool:
        """Whether the server has made something since; if nobody knows, it is asked for a few words."""
        async with self._control:
            if self._made_at <= since:
                try:
                    await self._made(_CONTROL_PROMPT, 0, min(_CONTROL_TOKENS_MAX, self._tokens_max))
                except AttemptFailed:
                    return False
            return True

    async def _made(self, prompt: str, seed: int, num_tokens_max: int) -> Event:
        """A whole answer. Raises: AttemptFailed."""
        # Outside the time limit: waiting here is not the server's doing.
        async with self._room:
            attempt = Attempt(
                self._open_session(),
                self._base_url,
                self._body(prompt, seed, num_tokens_max),
                stream=False,
                num_tokens_max=num_tokens_max,
                mask=self._mask,
            )
            text: list[str] = []
            answer = Event()
            try:
                async with asyncio.timeout(self._request_seconds):
                    while not attempt.has_ended:
                        events = await attempt.read()
                        text += [event.text for event in events]
                        answer = events[-1]
            except TimeoutError:
                failure = AttemptFailed("broken", f"was not done in {self._request_seconds:g} s", timed_out=True)
            else:
                self._made_at = time.monotonic()
                answer.text = "".join(text)
                return answer
            finally:
                attempt.close()
        raise failure

    @property
    def _tokens_max(self) -> int:
        return self._member.decoding.max_new_tokens

    def _body(self, prompt: str, seed: int, num_tokens_max: int) -> bytes:
        decoding = self._member.decoding
        messages = [("user", self._member.user_template.format(text=prompt))]
        if self._member.system_prompt:
            messages.insert(0, ("system", self._member.system_prompt))
        return chat_body(
            messages,
            model=self._model,
            temperature=decoding.temperature,
            top_p=decoding.top_p,
            max_tokens=num_tokens_max,
            seed=seed,
        )

    def _open_session(self) -> aiohttp.ClientSession:
        if self._session is None:
            self._session = aiohttp.ClientSession(
                connector=aiohttp.TCPConnector(limit=0, keepalive_timeout=_IDLE_SECONDS_MAX),
                timeout=aiohttp.ClientTimeout(total=None, sock_connect=_CONNECT_SECONDS_MAX),
                headers={"Authorization": f"Bearer {self._api_key}"} if self._api_key else {},
                cookie_jar=aiohttp.DummyCookieJar(),
                # Undone by the attempt, which counts the bytes.
                auto_decompress=False,
            )
        return self._session


def _backoff(error: Exception) -> bool | float:
    """Whether to try again, or after how many seconds. An answer that was made is not paid for again here."""
    if not isinstance(error, AttemptFailed) or error.kind in (None, "unusable") or error.is_made:
        return False
    return True if error.retry_after_seconds is None else min(error.retry_after_seconds, RETRY_AFTER_SECONDS_MAX)


def _result(answer: Event) -> GenerationResult:
    if answer.finish_reason == "content_filter":
        return failed("the server ended the output with 'content_filter'")
    return GenerationResult(
        text=answer.text.strip(),
        num_prompt_tokens=answer.num_prompt_tokens,
        num_output_tokens=answer.num_output_tokens,
        finish_reason=answer.finish_reason or "stop",
        note="; ".join(answer.notes) or None,
    )
