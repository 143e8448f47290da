"""The answers of servers of OpenAI's chat protocol, and their meaning: one table for bulk and live.

| answer | meaning | live | bulk |
|---|---|---|---|
| 400, 413, 422 | refused: this turn, now and later | refused to the client | the row's error ¹ |
| the same of a picture or recording, with a word of a policy | refused for what it asks | refused | a `refused` row |
| 429; 503 with Retry-After | busy: nothing is wrong | another replica, or later | asked again; then the run waits ² |
| 408, 500, 502–504 | failing: server or turn is at fault | another replica, a few times | asked again; then ¹ |
| 200 with an error in its body | as that error's status or word | | |
| 200 without a chat completion, or too long | failing | another replica, a few times | ¹ |
| no answer in time, a lost connection | broken | another replica, a few times | asked again; then ¹ |
| no connection | not_started | another replica | asked again; then the run waits ² |
| 401, 403, 404, other | unusable: wrong key, address, model; a forbidden turn | another; three in a row: pause | ¹ |

¹ The row's error, if the server has made another row since this one was first sent (if none was under way, it is asked
for a few words). Otherwise the row may be innocent, and the run waits ². So no answer to one row can make a partition
impossible, and a sick server cannot fill a day with errors.
² `EngineUnavailable`: finished rows stay, and the run is retried. This includes a wrong key: it looks like a server
that is being set up (404 until its model is loaded, 401 while a key is changed), and waiting costs less than a lost
night.

`Retry-After` is read as seconds, or as a date relative to the answer's own, and obeyed for at most
`RETRY_AFTER_SECONDS_MAX`: then the server is asked again anyway.
"""

from email.utils import parsedate_to_datetime
from math import isfinite
from typing import Any, Literal, get_args

# What a failed attempt means for turn and replica:
# not_started: no connection was made; the replica is dead, the turn was not touched.
# broken:      the connection ended, or no answer in time; the replica may be dead.
# failing:     an error status (408, 500, 502-504) or an invalid answer; server or turn may be at fault.
# busy:        429, or 503 with Retry-After; nothing is wrong.
# unusable:    wrong key, address or model (401, 403, 404), or a forbidden turn.
FailureKind = Literal["not_started", "broken", "failing", "busy", "unusable"]
FinishReason = Literal["stop", "length", "content_filter"]
FINISH_REASONS: tuple[FinishReason, ...] = get_args(FinishReason)
# Tokens of a turn: the limit of a table's column. No answer has so many.
COUNT_MAX = 2**31 - 1
# The longest tokens have 128 characters; some servers count differently.
_CHARACTERS_A_TOKEN = 128
_CHARACTERS_BESIDE = 1024

# A longer time is a mistake or an attack: one header must not exclude a server for years.
RETRY_AFTER_SECONDS_MAX = 30.0
_RETRY_AFTER_CHARACTERS_MAX = 64


def characters_max(num_tokens_max: int) -> int:
    """Most characters, including thoughts, of so many tokens, with a reserve."""
    return _CHARACTERS_BESIDE + _CHARACTERS_A_TOKEN * num_tokens_max


REFUSED = frozenset({400, 413, 422})
_FAILING = frozenset({408, 500, 502, 503, 504})

# Words in an error's `code` or `type`, from servers that answer 200 first and fail later.
_ERROR_WORDS: dict[str, int] = {
    "rate_limit_exceeded": 429,
    "rate_limit_error": 429,
    "too_many_requests": 429,
    "insufficient_quota": 429,
    "overloaded": 429,
    "overloaded_error": 429,
    "engine_overloaded": 429,
    "server_busy": 429,
    "context_length_exceeded": 400,
    "invalid_request_error": 400,
    "badrequesterror": 400,
    "content_policy_violation": 400,
    "content_filter": 400,
    "moderation_blocked": 400,
    "invalid_api_key": 401,
    "authentication_error": 401,
    "permission_error": 403,
    "model_not_found": 404,
    "not_found_error": 404,
    "notfounderror": 404,
}

# In lower case. Any other non-empty word counts as a stop: servers have many words for it (eos_token, eos, end_turn,
# stop_sequence), and an unknown one must not discard a good answer.
_FINISH_REASONS: dict[str, FinishReason] = {
    "length": "length",
    "max_tokens": "length",
    "max_length": "length",
    "model_length": "length",
    "model_context_window_exceeded": "length",
    "content_filter": "content_filter",
    "content_filtered": "content_filter",
    "guardrail_intervened": "content_filter",
    "safety": "content_filter",
    "recitation": "content_filter",
    "refusal": "content_filter",
}
# The server says that the answer is incomplete.
_BROKEN_OFF = frozenset({"error", "abort", "aborted", "cancelled", "canceled", "insufficient_system_resource"})


# Words in an error's `code` or `type`: what was asked for is refused, and would be by any wording of the request.
_POLICY_WORDS = frozenset({"content_policy_violation", "moderation_blocked", "content_filter", "contentfilter"})


def judged(status: int, *, with_retry_after: bool) -> FailureKind | None:
    """The meaning of a status other than 200; None: the server refuses the turn itself."""
    if status in REFUSED:
        return None
    if status == 429 or (status == 503 and with_retry_after):
        return "busy"
    return "failing" if status in _FAILING else "unusable"


def status_in(body: dict[str, Any]) -> int:
    """The status of an error in a body of 200; 500 if it has none."""
    error = body.get("error")
    fields = error if isinstance(error, dict) else body
    for name in ("code", "status", "status_code", "http_code", "type"):
        value = fields.get(name)
        if isinstance(value, str):
            word = value.strip().lower()
            if word in _ERROR_WORDS:
                return _ERROR_WORDS[word]
            value = int(word) if word.isascii() and word.isdigit() and len(word) == 3 else None
        if isinstance(value, int) and not isinstance(value, bool) and 400 <= value < 600:
            return value
    return 500


def policy_in(body: dict[str, Any]) -> bool:
    """Whether an error's body names a policy as its reason."""
    error = body.get("error")
    fields = error if isinstance(error, dict) else body
    words = [fields.get(name) for name in ("code", "type")]
    return any(isinstance(word, str) and word.strip().lower() in _POLICY_WORDS for word in words)


def finish_reason(word: object) -> FinishReason | None:
    """None: the answer goes on, or `word` is not a word.

    Raises: ValueError: the server says that the answer broke off.
    """
    if not isinstance(word, str) or not word.strip():
        return None
    lower = word.strip().lower()
    if lower in _BROKEN_OFF:
        raise ValueError(f"the server ended it with {lower!r}")
    return _FINISH_REASONS.get(lower, "stop")


def retry_after_seconds(header: str | None, date: str | None = None) -> float | None:
    """The header in seconds, at most `RETRY_AFTER_SECONDS_MAX`; None: it is missing or invalid.

    Args:
        date: the answer's own `Date`: a date in the header is relative to it, since clocks differ.
    """
    if not header or len(header) > _RETRY_AFTER_CHARACTERS_MAX:
        return None
    try:
        seconds = float(header)
    except ValueError:
        try:
            wait = parsedate_to_datetime(header) - parsedate_to_datetime(date or "")
            seconds = max(wait.total_seconds(), 0.0)
        except (ValueError, TypeError, OverflowError):
            return None
    return min(seconds, RETRY_AFTER_SECONDS_MAX) if isfinite(seconds) and seconds >= 0 else None
