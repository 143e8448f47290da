"""Sends results of one campaign's events to its webhook, beside the gateway's units. What is sent when, and what
becomes of it, is decided in `headrace.inbox.deliveries`; here are connections and time.

A receiver's answer counts by its status; its body is not read. Redirects are not followed: whoever answers elsewhere
has not been told of by the campaign's file.
"""

import asyncio
import random
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import TypeVar

import aiohttp

from headrace.clock import Clock
from headrace.errors import StoreUnavailable, Transient, reason_of
from headrace.inbox.deliveries import Answer, Deliveries, Delivery, answer_of
from headrace.inbox.rules import Webhook
from headrace.inbox.webhook import secrets_of, signed_headers
from headrace.masking import without_credentials
from headrace.serving.daemon_threads import DaemonThreads
from headrace.serving.gateway.records import Records
from headrace.store.objects import ObjectStore

_CONNECT_SECONDS_MAX = 5.0
# Servers drop idle connections, uvicorn after 5 s, and would lose a result that was sent at that moment.
_IDLE_SECONDS_MAX = 4.0
_RETRY_SECONDS = 1.0
_T = TypeVar("_T")


class WebhookSender:
    """Belongs to the event loop in which `run` runs."""

    def __init__(
        self,
        directory: Path,
        store: ObjectStore,
        campaign: str,
        webhook: Webhook,
        *,
        environment: Mapping[str, str],
        clock: Clock,
        records: Records,
        count: Callable[[str, str], None],
    ) -> None:
        """Args:
            directory: the inbox's log's.
            count: called for each attempt, with the campaign and its verdict.

        Raises:
            InvalidInput: there is no secret, or the directory has another's deliveries.
            StoreRefused: the directory cannot be written.
        """
        self._campaign, self._webhook, self._clock, self._records = campaign, webhook, clock, records
        self._secrets = secrets_of(webhook, environment)
        self._deliveries = Deliveries(directory, store, campaign, webhook, draw=random.Random())
        self._count = count
        self._thread = DaemonThreads(1, "webhook")
        self._woken = asyncio.Event()
        self._answers: list[tuple[Delivery, Answer]] = []
        self._told = ""

    def wake(self) -> None:
        """Further windows are finished."""
        self._woken.set()

    def figures(self) -> dict[str, float]:
        return {
            "undelivered_results": float(self._deliveries.num_waiting),
            "given_up_results": float(self._deliveries.num_given_up),
            "delivering": 0.0 if self._deliveries.is_away else 1.0,
        }

    async def run(self) -> None:
        """Until it is cancelled; what is under way then is sent again by the next gateway with this log."""
        timeout = aiohttp.ClientTimeout(total=self._webhook.timeout_seconds, connect=_CONNECT_SECONDS_MAX)
        connector = aiohttp.TCPConnector(limit=self._webhook.concurrency, keepalive_timeout=_IDLE_SECONDS_MAX)
        sending: set[asyncio.Task[None]] = set()
        try:
            async with aiohttp.ClientSession(
                connector=connector, timeout=timeout, cookie_jar=aiohttp.DummyCookieJar()
            ) as session:
                while True:
                    self._woken.clear()
                    seconds = _RETRY_SECONDS
                    try:
                        for delivery in await self._step():
                            task = asyncio.create_task(self._send(session, delivery), name="delivery")
                            sending.add(task)
                            task.add_done_callback(sending.discard)
                        seconds = self._deliveries.idle_seconds(self._clock.now())
                        self._tell(self._deliveries.problem)
                    except (StoreUnavailable, Transient) as error:
                        self._tell(reason_of(error))
                    await self._wait(seconds)
        finally:
            for task in sending:
                task.cancel()
            await asyncio.gather(*sending, return_exceptions=True)

    async def _step(self) -> list[Delivery]:
        """Keeps what was answered, and takes what is next."""
        answers = tuple(self._answers)
        if answers:
            was_away = self._deliveries.is_away
            await self._in_thread(partial(self._deliveries.settle, answers, self._clock.now()))
            del self._answers[: len(answers)]
            if self._deliveries.is_away != was_away:
                failed = [answer.reason for _, answer in answers if answer.reason]
                event = "results delivered again" if was_away else "results not delivered"
                self._records.event(event, campaign=self._campaign, why=failed[-1] if failed else "")
        return await self._in_thread(partial(self._deliveries.take, self._clock.now()))

    async def _send(self, session: aiohttp.ClientSession, delivery: Delivery) -> None:
        try:
            answer = await self._answer(session, delivery)
        except asyncio.CancelledError:
            raise
        except Exception as error:  # noqa: BLE001 (whatever it is, this result was not delivered, and is tried again)
            # Not the error's text: it may hold the address with what it has of secrets.
            answer = Answer(verdict="failed", reason=f"no answer: {type(error).__name__}")
        self._count(self._campaign, answer.verdict)
        self._answers.append((delivery, answer))
        self._woken.set()

    async def _answer(self, session: aiohttp.ClientSession, delivery: Delivery) -> Answer:
        signed = signed_headers(self._secrets, delivery.message, int(self._clock.now()), delivery.body)
        headers = {"content-type": "application/json", "user-agent": "Headrace", **signed}
        async with session.post(
            self._webhook.url, data=delivery.body, headers=headers, allow_redirects=False
        ) as response:
            after = response.headers.get("retry-after", "")
            return answer_of(response.status, float(after) if after.isascii() and after.isdigit() else 0.0)

    async def _wait(self, seconds: float) -> None:
        try:
            async with asyncio.timeout(seconds):
                await self._woken.wait()
        except TimeoutError:
            return

    async def _in_thread(self, work: Callable[[], _T]) -> _T:
        return await asyncio.get_running_loop().run_in_executor(self._thread, work)

    def _tell(self, problem: str) -> None:
        if problem and problem != self._told:
            url = without_credentials(self._webhook.url)
            self._records.event("results not sent", campaign=self._campaign, url=url, error=problem)
        self._told = problem
