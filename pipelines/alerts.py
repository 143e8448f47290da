"""Tells a webhook that a run failed for good."""

import logging

from resources.settings import CHECKOUT

_log = logging.getLogger(__name__)
# A slow receiver must not use up a sensor tick, which has 60 s.
_REQUEST_SECONDS = 10


def post_alert(webhook: str, *, run_id: str, job: str, partition: str | None, error: str) -> None:
    """Posts one JSON object; its `text` is what chat services show.

    Raises:
        httpx2.HTTPError: the webhook did not take it; the sensor's tick then fails and is tried again.
    """
    import httpx2

    where = f"{job}[{partition}]" if partition else job
    body = {
        "text": f"Headrace: {where} failed in run {run_id}: {error}",
        "run_id": run_id,
        "job": job,
        "partition": partition,
        "checkout": str(CHECKOUT),
    }
    response = httpx2.post(webhook, json=body, timeout=_REQUEST_SECONDS)
    response.raise_for_status()
    _log.info("Alerted about run %s.", run_id)
