"""The `openai_http` engine: any server with `POST /chat/completions`, such as `vllm serve`, llama.cpp or a paid API.

| answer | what it means | what happens |
|---|---|---|
| 200 | the row is made | recorded |
| 400, 413, 422 | the server refuses this row | the row's error |
| 500 | this row may break the server | retried; then the row's error |
| 408, 429, 502–504, no connection, time-out | the server cannot now | retried; then EngineUnavailable: rows wait |
| 401, 403, 404, other | wrong key, address or model | InvalidInput: no row could ever be made |

A usage limit therefore ends the run, not the rows: what was committed stays, a later run goes on. Servers batch
continuously, so the same seed may give other bytes: the engine says that it is not deterministic.
"""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx2
import stamina

from headrace.errors import EngineUnavailable, InvalidInput
from headrace.generation.engines.base import GenerationRequest, GenerationResult, failed
from headrace.rollout.version_sets import EngineSpec, Member

_ROW_REFUSED = frozenset({400, 413, 422})
_ROW_MAY_BREAK_SERVER = frozenset({500})
_SERVER_CANNOT_NOW = frozenset({408, 429, 502, 503, 504})
# Requests under way at once; a server batches them. More only wait in its queue, where they time out.
_CONNECTIONS_MAX = 32
# A server that says how long to wait may ask for an hour; the run gives up its place instead.
_RETRY_AFTER_SECONDS_MAX = 30.0


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
        """Raises: InvalidInput: the version set names no server or no model."""
        if not spec.base_url or not spec.model:
            raise InvalidInput(f"openai_http needs base_url and model, got {spec.base_url!r} and {spec.model!r}.")
        self._member = member
        self._spec = spec
        self._url = f"{spec.base_url.rstrip('/')}/chat/completions"
        self._num_attempts = num_attempts
        self._first_wait_seconds = first_wait_seconds
        self._client = httpx2.Client(
            timeout=httpx2.Timeout(request_seconds, connect=10.0),
            limits=httpx2.Limits(max_connections=_CONNECTIONS_MAX),
            headers={"Authorization": f"Bearer {api_key}"} if api_key else {},
        )

    def generate(self, requests: Sequence[GenerationRequest]) -> list[GenerationResult]:
        with ThreadPoolExecutor(max_workers=max(1, min(len(requests), _CONNECTIONS_MAX))) as pool:
            futures = [pool.submit(self._row, request) for request in requests]
            try:
                return [future.result() for future in futures]
            except BaseException:
                # The others would each wait out their own retries for a server that is gone.
                for future in futures:
                    future.cancel()
                raise

    def close(self) -> None:
        self._client.close()

    def _row(self, request: GenerationRequest) -> GenerationResult:
        try:
            for attempt in stamina.retry_context(
                on=_backoff,
                attempts=self._num_attempts,
                timeout=None,
                wait_initial=self._first_wait_seconds,
                wait_max=20.0,
            ):
                with attempt:
                    response = self._client.post(self._url, json=self._body(request))
                    if response.status_code in _ROW_MAY_BREAK_SERVER | _SERVER_CANNOT_NOW:
                        response.raise_for_status()
                    return self._result(response)
        except httpx2.HTTPStatusError as error:
            if error.response.status_code in _ROW_MAY_BREAK_SERVER:
                return failed(_refusal(error.response))
            raise EngineUnavailable(f"{self._url} {_refusal(error.response)}, {self._num_attempts} times.") from error
        except httpx2.TransportError as error:
            raise EngineUnavailable(
                f"{self._url} does not answer ({type(error).__name__}: {error}), {self._num_attempts} times."
            ) from error
        raise AssertionError("a retry context either returns or raises")

    def _body(self, request: GenerationRequest) -> dict[str, Any]:
        decoding = self._member.decoding
        turns = [{"role": "user", "content": self._member.user_template.format(text=request.prompt)}]
        if self._member.system_prompt:
            turns.insert(0, {"role": "system", "content": self._member.system_prompt})
        return {
            "model": self._spec.model,
            "messages": turns,
            "temperature": decoding.temperature,
            "top_p": decoding.top_p,
            "max_tokens": decoding.max_new_tokens,
            # Servers disagree on the width of a seed; all take 31 bits.
            "seed": request.seed & 0x7FFFFFFF,
        }

    def _result(self, response: httpx2.Response) -> GenerationResult:
        if response.status_code in _ROW_REFUSED:
            return failed(_refusal(response))
        if response.status_code != 200:
            raise InvalidInput(
                f"{self._url} {_refusal(response)}. Check base_url, the API key, and the model {self._spec.model!r}."
            )
        try:
            answer = response.json()
            choice, usage = answer["choices"][0], answer.get("usage") or {}
            text, reason = choice["message"].get("content") or "", choice.get("finish_reason") or "stop"
            num_prompt_tokens, num_output_tokens = usage.get("prompt_tokens", 0), usage.get("completion_tokens", 0)
        except (ValueError, LookupError, AttributeError, TypeError) as error:
            return failed(f"answer is no chat completion ({error!r}): {response.text[:200]}")
        if reason not in ("stop", "length"):
            return failed(f"the server ended the output with {reason!r}")
        return GenerationResult(
            text=text.strip(),
            num_prompt_tokens=num_prompt_tokens,
            num_output_tokens=num_output_tokens,
            finish_reason=reason,
        )


def _backoff(error: Exception) -> bool | float:
    """Whether to try again, or after how many seconds."""
    if isinstance(error, httpx2.HTTPStatusError):
        asked = error.response.headers.get("retry-after", "")
        return min(float(asked), _RETRY_AFTER_SECONDS_MAX) if asked.isdecimal() else True
    return isinstance(error, httpx2.TransportError)


def _refusal(response: httpx2.Response) -> str:
    return f"answered {response.status_code}: {' '.join(response.text.split())[:200] or 'nothing'}"
