"""What a client gets instead of an answer: OpenAI's error body, with a status that OpenAI's clients act on.

| status | type, code | when | what OpenAI's clients do |
|---|---|---|---|
| 400 | invalid_request_error | a body, a field or a header is wrong, repeated, or not supported | BadRequestError |
| 401 | invalid_request_error, invalid_api_key | the key is missing or wrong | AuthenticationError |
| 404 | invalid_request_error, model_not_found | another service's name, another campaign | NotFoundError |
| 408 | invalid_request_error, request_timeout | the head or the body did not come in time | retry |
| 413 | invalid_request_error, request_too_large | more bytes than the service takes | APIStatusError |
| 414, 431 | invalid_request_error, url_too_long, headers_too_large | more URL or headers than taken | APIStatusError |
| 422 | invalid_request_error | the engine refuses the turn | UnprocessableEntityError |
| 429 | rate_limit_error, overloaded | all places are taken; `Retry-After` says for how long | retry, RateLimitError |
| 502 | server_error, engine_failed | an engine failed at every attempt that is safe | retry, InternalServerError |
| 503 | server_error, not_ready or draining | no set is loaded, or the gateway is going down | retry elsewhere |
| 504 | server_error, timed_out | the unit exceeded the service's time | retry, InternalServerError |
"""

import json
import math
from dataclasses import KW_ONLY, dataclass

from headrace.engines.base import EngineBusy, EngineFailed, TurnRefused
from headrace.errors import InvalidInput, text_of
from headrace.serving.plan_lease import PlanUnknown

_REFUSED = "invalid_request_error"
_FAILED = "server_error"
_LOG = "The gateway's log says why, under this answer's X-Request-Id."

# The meaning of each status here, for the OpenAPI page.
MEANINGS = {
    400: "The request, a body, a field or a header is wrong, or asks for what this service cannot honour.",
    401: "No API key, or a wrong one.",
    404: "The model is not the one that is served here, or the campaign takes no events here.",
    408: "The request did not come in time.",
    413: "More bytes than the service takes.",
    414: "A longer URL than the service takes.",
    422: "The engine refuses this turn.",
    429: "All places are taken; Retry-After says when to come back.",
    431: "More headers, or larger ones, than the service takes.",
    502: "An engine failed.",
    503: "No version set can answer now, or the gateway goes down.",
    504: "The unit took too long.",
}


@dataclass(eq=False, repr=False)
class Refusal(Exception):
    """A request that ends here, in the form that its client sees.

    `retry_after_seconds`: None sends no such header. `detail` is for the log only: engines' addresses and texts, which
    clients must not see; they can give their operator the request's id.
    """

    status: int
    message: str
    _: KW_ONLY
    kind: str = _REFUSED
    code: str | None = None
    param: str | None = None
    retry_after_seconds: float | None = None
    detail: str = ""

    def __post_init__(self) -> None:
        super().__init__(self.message)

    @property
    def body(self) -> bytes:
        error = {"message": self.message, "type": self.kind, "param": self.param, "code": self.code}
        return json.dumps({"error": error}).encode()

    @property
    def headers(self) -> list[tuple[bytes, bytes]]:
        if self.retry_after_seconds is None:
            return []
        # The header allows only whole seconds; a client that returns a bit early would be refused again.
        return [(b"retry-after", b"%d" % max(1, math.ceil(self.retry_after_seconds)))]


def invalid(message: str, *, param: str | None = None, code: str | None = None) -> Refusal:
    return Refusal(400, message, param=param, code=code)


def not_ready(message: str, *, code: str = "not_ready", retry_after_seconds: float = 2.0, detail: str = "") -> Refusal:
    return Refusal(503, message, kind=_FAILED, code=code, retry_after_seconds=retry_after_seconds, detail=detail)


def overloaded(message: str, *, retry_after_seconds: float, detail: str = "") -> Refusal:
    kind, code = "rate_limit_error", "overloaded"
    return Refusal(429, message, kind=kind, code=code, retry_after_seconds=retry_after_seconds, detail=detail)


def timed_out(message: str, *, detail: str = "") -> Refusal:
    return Refusal(504, message, kind=_FAILED, code="timed_out", detail=detail)


def is_clients_fault(refusal: Refusal) -> bool:
    """Whether the request itself is wrong, on any set. An engine without room is not the client's fault."""
    return 400 <= refusal.status < 500 and refusal.status != 429


def refusal_of(error: Exception) -> Refusal:
    """The client's view of an error of ours, always in the gateway's own words.

    An error's text may contain an engine's address and answer; it becomes the refusal's `detail`, for the log. An
    unforeseen error's text is not even logged, since it may be a prompt.
    """
    detail = text_of(error)
    match error:
        case Refusal():
            return error
        case TurnRefused(by_policy=True):
            message = error.for_clients or f"What is asked for is against the rules of the model's server. {_LOG}"
            return Refusal(error.status, message, code="content_policy_violation", detail=detail)
        case TurnRefused():
            message = error.for_clients or f"The engine refuses this turn; send something else, or less. {_LOG}"
            return Refusal(error.status, message, code="turn_refused", detail=detail)
        case EngineBusy():
            message = "The engines are busy; come back later."
            return overloaded(message, retry_after_seconds=error.retry_after_seconds, detail=detail)
        case EngineFailed(timed_out=True):
            return timed_out(f"The engine did not answer in time. {_LOG}", detail=detail)
        case EngineFailed():
            return Refusal(502, f"The engine failed. {_LOG}", kind=_FAILED, code="engine_failed", detail=detail)
        case PlanUnknown():
            return not_ready("Which version set answers is not known yet; send the request again later.", detail=detail)
        case InvalidInput():
            return Refusal(400, f"This cannot be answered as it was asked. {_LOG}", detail=detail)
    return Refusal(500, f"The gateway failed. {_LOG}", kind=_FAILED, code="internal_error")
