"""What a client is told when it gets no answer: OpenAI's error body, with the status that its clients act on.

| status | type, code | when | what OpenAI's clients do |
|---|---|---|---|
| 400 | invalid_request_error | a body, a field or a header is wrong, or not supported | BadRequestError |
| 401 | invalid_request_error, invalid_api_key | no key, or a wrong one | AuthenticationError |
| 404 | invalid_request_error, model_not_found | another service's name | NotFoundError |
| 408 | invalid_request_error, request_timeout | the body did not come in time | retry |
| 413 | invalid_request_error, request_too_large | more bytes than the service takes | APIStatusError |
| 422 | invalid_request_error | the engine refuses the turn | UnprocessableEntityError |
| 429 | rate_limit_error, overloaded | all places are taken; `Retry-After` says for how long | retry, RateLimitError |
| 502 | server_error, engine_failed | an engine failed, after every attempt that is safe | retry, InternalServerError |
| 503 | server_error, not_ready or draining | no set is loaded, or the gateway goes down | retry elsewhere |
| 504 | server_error, timed_out | the unit took longer than the service allows | retry, InternalServerError |
"""

import json
import math

from headrace.errors import InvalidInput
from headrace.serving.engines.base import EngineBusy, EngineFailed, TurnRefused
from headrace.serving.plan_lease import PlanUnknown

_REFUSED = "invalid_request_error"
_FAILED = "server_error"


class Refusal(Exception):
    """A request that ends here, as its client will see it. `retry_after_seconds`: None sends no such header."""

    def __init__(
        self,
        status: int,
        message: str,
        *,
        kind: str = _REFUSED,
        code: str | None = None,
        param: str | None = None,
        retry_after_seconds: float | None = None,
    ) -> None:
        super().__init__(message)
        self.status = status
        self.message = message
        self.kind = kind
        self.code = code
        self.param = param
        self.retry_after_seconds = retry_after_seconds

    @property
    def body(self) -> bytes:
        error = {"message": self.message, "type": self.kind, "param": self.param, "code": self.code}
        return json.dumps({"error": error}).encode()

    @property
    def headers(self) -> list[tuple[bytes, bytes]]:
        if self.retry_after_seconds is None:
            return []
        # Whole seconds are all that the header knows; a client that comes back a bit early would be refused again.
        return [(b"retry-after", b"%d" % max(1, math.ceil(self.retry_after_seconds)))]


def invalid(message: str, *, param: str | None = None, code: str | None = None) -> Refusal:
    return Refusal(400, message, param=param, code=code)


def not_ready(message: str, *, code: str = "not_ready", retry_after_seconds: float = 2.0) -> Refusal:
    return Refusal(503, message, kind=_FAILED, code=code, retry_after_seconds=retry_after_seconds)


def overloaded(message: str, *, retry_after_seconds: float) -> Refusal:
    return Refusal(429, message, kind="rate_limit_error", code="overloaded", retry_after_seconds=retry_after_seconds)


def timed_out(message: str) -> Refusal:
    return Refusal(504, message, kind=_FAILED, code="timed_out")


def refusal_of(error: Exception) -> Refusal:
    """What a client sees of an error of ours. What nobody foresaw shows nothing of its text, which may be private."""
    match error:
        case Refusal():
            return error
        case TurnRefused():
            return Refusal(error.status, str(error), code="turn_refused")
        case EngineBusy():
            return overloaded(str(error), retry_after_seconds=error.retry_after_seconds)
        case EngineFailed(timed_out=True):
            return timed_out(str(error))
        case EngineFailed():
            return Refusal(502, str(error), kind=_FAILED, code="engine_failed")
        case PlanUnknown():
            return not_ready(str(error))
        case InvalidInput():
            return invalid(str(error))
    return Refusal(500, "The gateway failed; its log says why.", kind=_FAILED, code="internal_error")
