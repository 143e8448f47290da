"""Tells a webhook that a run failed for good."""

import logging
from urllib.parse import urlsplit

from headrace.errors import Transient
from resources.settings import CHECKOUT

_log = logging.getLogger(__name__)
# A slow receiver must not use up a sensor tick, which has 60 s.
_REQUEST_SECONDS = 10


class AlertNotSent(Transient):
    """The webhook did not take an alert."""


def post_alert(webhook: str, *, run_id: str, job: str, partition: str | None, error: str) -> None:
    """Posts one JSON object; chat services show its `text`.

    A webhook's address is its key: whoever has it may write there. So no error and no log contains it.

    Raises:
        AlertNotSent: the webhook did not take it; the sensor's tick then fails and is tried again.
    """
    import httpx2

    # It would log each request's address.
    logging.getLogger("httpx2").setLevel(logging.WARNING)
    where = f"{job}[{partition}]" if partition else job
    body = {
        # A failure's text may hold characters that JSON's receivers cannot read.
        "text": f"Headrace: {where} failed in run {run_id}: {error}".encode(errors="replace").decode(),
        "run_id": run_id,
        "job": job,
        "partition": partition,
        "checkout": str(CHECKOUT),
    }
    try:
        response = httpx2.post(webhook, json=body, timeout=_REQUEST_SECONDS)
        said = "" if response.is_success else f"answered {response.status_code}"
    except (httpx2.HTTPError, httpx2.InvalidURL, ValueError) as failure:
        said = f"was not reached ({type(failure).__name__})"
    if said:
        raise AlertNotSent(
            f"The alert about run {run_id} was not taken: HEADRACE_ALERT_WEBHOOK, at {_host(webhook)}, {said}. "
            "The next tick tries again."
        ) from None
    _log.info("Alerted about run %s.", run_id)


def _host(webhook: str) -> str:
    try:
        return urlsplit(webhook).hostname or "an address without a host"
    except ValueError:
        return "an address that cannot be read"
