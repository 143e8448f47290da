"""A night that failed for good is told to a webhook, once; what Dagster retries is not."""

import json
import traceback
from collections.abc import Iterator

import dagster as dg
import pytest

from pipelines.alerts import AlertNotSent, post_alert
from pipelines.sensors import failed_runs_alert
from tests.answering import answering

SECRET = "T0-planted-key"


@dg.op
def breaks() -> None:
    raise ValueError("the corpus is empty")


@dg.job
def night() -> None:
    breaks()


class Webhook:
    def __init__(self) -> None:
        self.heard: list[bytes] = []
        self.status = 204
        self.url = ""

    @property
    def bodies(self) -> list[dict]:
        return [json.loads(body) for body in self.heard]


@pytest.fixture
def webhook(monkeypatch: pytest.MonkeyPatch) -> Iterator[Webhook]:
    webhook = Webhook()
    with answering(lambda: webhook.status, heard=webhook.heard) as url:
        webhook.url = f"{url}/services/{SECRET}"
        monkeypatch.setenv("HEADRACE_ALERT_WEBHOOK", webhook.url)
        yield webhook


def fail_a_night(**tags: str) -> dg.RunFailureSensorContext:
    instance = dg.DagsterInstance.ephemeral()
    result = night.execute_in_process(instance=instance, raise_on_error=False, tags=tags)
    return dg.build_run_status_sensor_context(
        sensor_name="failed_runs_alert",
        dagster_instance=instance,
        dagster_run=result.dagster_run,
        dagster_event=result.filter_events(lambda event: event.event_type == dg.DagsterEventType.RUN_FAILURE)[0],
    ).for_run_failure()


def test_a_failed_run_is_posted_with_its_job_and_partition(webhook: Webhook) -> None:
    context = fail_a_night(**{"dagster/partition": "2026-11-22|glossary-03"})

    failed_runs_alert(context)

    (body,) = webhook.bodies
    assert body["run_id"] == context.dagster_run.run_id
    assert body["partition"] == "2026-11-22|glossary-03"
    assert "night[2026-11-22|glossary-03] failed" in body["text"]


def test_a_run_that_dagster_retries_is_not_posted(webhook: Webhook) -> None:
    failed_runs_alert(fail_a_night(**{"dagster/will_retry": "true"}))

    assert webhook.bodies == []


def test_without_a_webhook_nothing_is_posted(webhook: Webhook, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("HEADRACE_ALERT_WEBHOOK")

    failed_runs_alert(fail_a_night())

    assert webhook.bodies == []


@pytest.mark.parametrize("status", [302, 404, 500])
def test_a_webhooks_address_is_a_key_and_told_to_nobody(
    webhook: Webhook, status: int, caplog: pytest.LogCaptureFixture
) -> None:
    webhook.status = status
    caplog.set_level("DEBUG")
    with pytest.raises(AlertNotSent, match=f"HEADRACE_ALERT_WEBHOOK, at 127.0.0.1, answered {status}") as told:
        failed_runs_alert(fail_a_night())
    assert SECRET not in caplog.text + "".join(traceback.format_exception(told.value))


@pytest.mark.parametrize("url", ["http://127.0.0.1:9/T0-planted-key", "http://[T0-planted-key", "T0-planted-key"])
def test_a_webhook_that_is_not_there_is_told_by_its_host(url: str, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("DEBUG")
    with pytest.raises(AlertNotSent, match="was not reached") as told:
        post_alert(url, run_id="run-1", job="night", partition=None, error="half a \ud800 character")
    assert SECRET not in caplog.text + "".join(traceback.format_exception(told.value))


def test_an_alert_that_is_taken_is_not_logged_with_its_address(
    webhook: Webhook, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    failed_runs_alert(fail_a_night())
    assert SECRET not in caplog.text
