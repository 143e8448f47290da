"""A night that failed for good is told to a webhook, once; what Dagster retries is not."""

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer

import dagster as dg
import pytest

from pipelines.sensors import failed_runs_alert


@dg.op
def breaks() -> None:
    raise ValueError("the corpus is empty")


@dg.job
def night() -> None:
    breaks()


class Webhook:
    def __init__(self) -> None:
        self.bodies: list[dict] = []
        webhook = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                webhook.bodies.append(json.loads(self.rfile.read(int(self.headers["content-length"]))))
                self.send_response(204)
                self.end_headers()

            def log_message(self, format: str, *args: object) -> None:  # noqa: A002 (the base class names it so)
                pass

        self.server = HTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}/alerts"


@pytest.fixture
def webhook(monkeypatch: pytest.MonkeyPatch) -> Iterator[Webhook]:
    webhook = Webhook()
    thread = threading.Thread(target=webhook.server.serve_forever, daemon=True)
    thread.start()
    monkeypatch.setenv("HEADRACE_ALERT_WEBHOOK", webhook.url)
    yield webhook
    webhook.server.shutdown()
    thread.join()


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
