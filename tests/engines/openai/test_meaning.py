"""Retry-After and errors in bodies, of any shape."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from headrace.engines.openai.meaning import RETRY_AFTER_SECONDS_MAX, retry_after_seconds, status_in

NOW = "Sat, 28 Nov 2026 16:00:00 GMT"


@pytest.mark.parametrize(
    ("header", "seconds"),
    {
        "none": (None, None),
        "empty": ("", None),
        "seconds": ("7", 7.0),
        "parts of one": ("0.5", 0.5),
        "none to wait": ("0", 0.0),
        "a date": ("Sat, 28 Nov 2026 16:00:09 GMT", 9.0),
        "a date that is over": ("Sat, 28 Nov 2026 15:00:00 GMT", 0.0),
        "a date in years": ("Sat, 28 Nov 2099 16:00:00 GMT", RETRY_AFTER_SECONDS_MAX),
        "years": ("99999999", RETRY_AFTER_SECONDS_MAX),
        "digits without end": ("9" * 5000, None),
        "negative": ("-3", None),
        "infinite": ("1e400", None),
        "no number": ("nan", None),
        "words": ("soon", None),
    }.values(),
)
def test_a_wish_to_wait_is_taken_as_far_as_it_means_something(header: str | None, seconds: float | None) -> None:
    assert retry_after_seconds(header, NOW) == seconds


def test_a_date_without_the_servers_own_clock_means_nothing() -> None:
    assert retry_after_seconds("Sat, 28 Nov 2026 16:00:09 GMT") is None


@given(st.text(max_size=80), st.text(max_size=40))
def test_no_header_makes_anybody_wait_long(header: str, date: str) -> None:
    seconds = retry_after_seconds(header, date)
    assert seconds is None or 0 <= seconds <= RETRY_AFTER_SECONDS_MAX


@pytest.mark.parametrize(
    ("body", "status"),
    {
        "a code": ({"error": {"code": 429}}, 429),
        "a code as text": ({"error": {"code": "503"}}, 503),
        "a word": ({"error": {"code": "rate_limit_exceeded"}}, 429),
        "a type": ({"error": {"type": "Invalid_Request_Error"}}, 400),
        "beside the error": ({"object": "error", "code": 400}, 400),
        "a text alone": ({"error": "boom"}, 500),
        "a code that is no status": ({"error": {"code": 1}}, 500),
        "true": ({"error": {"code": True}}, 500),
        "a list": ({"error": [429]}, 500),
        "a code of many digits": ({"error": {"code": 10**400}}, 500),
    }.values(),
)
def test_an_error_in_a_body_stands_for_a_status(body: dict, status: int) -> None:
    assert status_in(body) == status
