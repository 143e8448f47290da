"""Deliveries to a webhook: at least once each, under one id, whatever its receiver does and whenever we are killed."""

import random
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from headrace.clock import FixedClock
from headrace.erasure.carrying_out import carry_out
from headrace.erasure.deciding import decide, plan
from headrace.erasure.scope import Asked
from headrace.errors import InvalidInput
from headrace.handoff.erasures import data_of
from headrace.inbox.deliveries import Answer, Deliveries, Delivery, answer_of
from headrace.inbox.delivery_tables import DeliveryTables, erase_deliveries
from headrace.inbox.feed import Position, ResultFeed
from headrace.inbox.finished import FinishedWindows
from headrace.inbox.rules import Webhook
from headrace.inbox.sealed import SealedWindow
from headrace.inbox.webhook import secrets_of, signed_headers
from headrace.store.local import LocalStore
from tests.erasure.builders import files_with
from tests.inbox_builders import event, finish_window, seal_window

CLOCK = FixedClock()
CAMPAIGN, DAY = "orders", 86_400.0
Receiver = Callable[[Delivery], Answer]


def make_webhook(**changes: Any) -> Webhook:
    return Webhook(**({"url": "https://example.org/hook", "secret_variable": "SECRET", "concurrency": 3} | changes))


class Place:
    """A store with results, and the process that sends them, which `kill` ends."""

    def __init__(self, directory: Path, *, num_windows: int = 0, **webhook: Any) -> None:
        self.directory, self.webhook = directory / "log", make_webhook(**webhook)
        self.directory.mkdir(exist_ok=True)
        self.store = LocalStore(directory / "store")
        self.wanted: list[str] = []
        self.now = 1_000_000.0
        self.sent: list[Delivery] = []
        self.windows: list[SealedWindow] = []
        self.finish(num_windows)
        self.kill()

    def finish(self, num_windows: int, num_events: int = 3) -> None:
        for _ in range(num_windows):
            number = len(self.windows) + 1
            window = seal_window(self.store, [event(f"{number}-{row}", {}) for row in range(num_events)], window=number)
            self.windows.append(window)
            finish_window(self.store, window)
            self.wanted += [f"{number}-{row}" for row in range(num_events)]
        FinishedWindows(self.store, CAMPAIGN, FixedClock()).look()

    def kill(self) -> None:
        self.deliveries = Deliveries(self.directory, self.store, CAMPAIGN, self.webhook, draw=random.Random(7))

    def step(self, receiver: Receiver) -> int:
        """One round of sending; time goes on where there is nothing to send. How many were sent."""
        taken = self.deliveries.take(self.now)
        self.sent += taken
        self.deliveries.settle([(one, receiver(one)) for one in taken], self.now)
        self.now += 0.01 if taken else self.deliveries.idle_seconds(self.now)
        return len(taken)

    def run(self, receiver: Receiver, *, seconds: float) -> None:
        ends = self.now + seconds
        while self.now < ends:
            if not self.step(receiver):
                self.now += min(30.0, ends - self.now)

    @property
    def taken(self) -> list[str]:
        return [one.event for one in self.sent]


def takes(_: Delivery) -> Answer:
    return answer_of(200)


def is_away(_: Delivery) -> Answer:
    return Answer(verdict="failed", reason="no answer: ClientConnectorError")


@pytest.mark.parametrize(
    ("statuses", "verdict"),
    [
        ((200, 201, 204, 299), "delivered"),
        ((400, 413, 414, 415, 422), "refused"),
        ((410,), "gone"),
        ((301, 302, 308, 401, 403, 404, 405, 408, 409, 425, 429, 500, 502, 503, 504), "failed"),
    ],
)
def test_a_status_means_one_thing(statuses: tuple[int, ...], verdict: str) -> None:
    assert {answer_of(status).verdict for status in statuses} == {verdict}


def test_results_go_out_in_their_order_and_once(tmp_path: Path) -> None:
    place = Place(tmp_path, num_windows=4, concurrency=1)
    place.run(takes, seconds=60)
    assert place.taken == place.wanted
    place.kill()
    place.finish(1)
    place.run(takes, seconds=60)
    assert place.taken == place.wanted


def test_no_more_are_under_way_than_may_be(tmp_path: Path) -> None:
    place = Place(tmp_path, num_windows=3)
    assert len(place.deliveries.take(place.now)) == 3
    assert place.deliveries.take(place.now) == []


def test_a_receiver_that_is_away_for_days_costs_no_result_that_was_not_tried(tmp_path: Path) -> None:
    place = Place(tmp_path, num_windows=12)
    place.run(is_away, seconds=DAY)
    assert place.deliveries.is_away
    # By turns an old and a new one, once a minute at most, and more rarely for those that wait.
    assert len(place.sent) <= DAY / 30
    before = len(place.sent)
    place.run(takes, seconds=600)
    assert set(place.taken[before:]) == set(place.wanted)
    assert DeliveryTables(place.directory).given_up() == []


def test_a_result_that_fails_for_itself_delays_no_other_one(tmp_path: Path) -> None:
    place = Place(tmp_path, num_windows=10)

    def receiver(one: Delivery) -> Answer:
        return answer_of(500 if one.event in ("1-1", "2-2") else 200)

    place.run(receiver, seconds=3_600)
    counts = Counter(place.taken)
    assert all(counts[name] == 1 for name in place.wanted if name not in ("1-1", "2-2"))
    assert counts["1-1"] > 5
    place.run(receiver, seconds=4 * DAY)
    given_up = DeliveryTables(place.directory).given_up(CAMPAIGN)
    assert [(one.event, one.reason) for one in given_up] == [
        ("1-1", "the receiver answered 500"),
        ("2-2", "the receiver answered 500"),
    ]
    place.finish(1)
    place.run(takes, seconds=60)
    assert place.taken[-3:] == place.wanted[-3:]


def test_alone_it_delays_no_later_one_for_long(tmp_path: Path) -> None:
    """Nothing tells a receiver that is away from results that it cannot take, until a new one comes."""
    place = Place(tmp_path, num_windows=1)
    place.run(is_away, seconds=3_600)
    place.finish(1)
    place.run(lambda one: answer_of(200 if one.event.startswith("2") else 500), seconds=130)
    assert {"2-0", "2-1", "2-2"} <= set(place.taken)


def test_what_was_refused_is_listed_and_can_be_sent_again(tmp_path: Path) -> None:
    place = Place(tmp_path, num_windows=2)
    place.run(lambda one: answer_of(400 if one.event == "1-1" else 200), seconds=60)
    tables = DeliveryTables(place.directory)
    [refused] = tables.given_up()
    assert (refused.event, refused.num_attempts, refused.reason) == ("1-1", 1, "the receiver answered 400")
    assert tables.take_up_again(place.now, campaign="another") == 0
    assert tables.take_up_again(place.now, campaign=CAMPAIGN, event="1-1") == 1
    place.run(takes, seconds=60)
    assert place.taken.count("1-1") == 2
    assert tables.given_up() == []
    first, second = [one for one in place.sent if one.event == "1-1"]
    assert (first.message, first.body) == (second.message, second.body)


def test_a_receiver_that_wants_nothing_any_more_gets_nothing_until_a_restart(tmp_path: Path) -> None:
    place = Place(tmp_path, num_windows=2)
    place.run(lambda one: answer_of(410), seconds=DAY)
    assert len(place.sent) == 3
    assert place.deliveries.is_away
    place.kill()
    place.run(takes, seconds=60)
    assert set(place.taken[3:]) == set(place.wanted)


def test_a_receiver_is_given_the_patience_that_it_asks_for(tmp_path: Path) -> None:
    place = Place(tmp_path, num_windows=1, concurrency=1)
    place.step(lambda one: answer_of(429, after_seconds=300))
    place.run(takes, seconds=290)
    assert place.taken == ["1-0"]
    place.run(takes, seconds=60)
    assert set(place.taken) == set(place.wanted)


def test_a_new_webhook_may_begin_with_what_comes(tmp_path: Path) -> None:
    place = Place(tmp_path, num_windows=2, begins="now")
    place.run(takes, seconds=10)
    assert place.taken == []
    place.kill()
    place.finish(1)
    place.run(takes, seconds=60)
    assert place.taken == ["3-0", "3-1", "3-2"]


def test_a_result_whose_tables_are_gone_is_given_up_with_the_reason(tmp_path: Path) -> None:
    place = Place(tmp_path, num_windows=1, concurrency=1)
    place.step(is_away)
    place.store.delete_prefix("handoff/inbox_events")
    place.run(takes, seconds=60)
    [lost] = DeliveryTables(place.directory).given_up()
    assert lost.event == "1-0"
    assert lost.reason.startswith("it cannot be read: ")


@settings(max_examples=40, deadline=None)
@given(st.data())
def test_every_result_is_delivered_whatever_happens(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    """Any answers in any order, killed at any moment: in the end each was taken or is listed as refused."""
    place = Place(tmp_path_factory.mktemp("deliveries"), concurrency=data.draw(st.integers(1, 4)))
    delivered: set[str] = set()
    refused: set[str] = set()
    under_way: list[Delivery] = []
    bodies: dict[str, bytes] = {}

    def note(one: Delivery, answer: Answer) -> None:
        if answer.verdict == "delivered":
            delivered.add(one.event)
        if answer.verdict == "refused":
            refused.add(one.event)

    for step in data.draw(st.lists(st.sampled_from(["finish", "take", "answer", "kill", "wait"]), max_size=40)):
        if step == "finish":
            place.finish(1, num_events=data.draw(st.integers(1, 3)))
        elif step == "take":
            taken = place.deliveries.take(place.now)
            under_way += taken
            for one in taken:
                assert bodies.setdefault(one.message, one.body) == one.body
        elif step == "answer" and under_way:
            some = [under_way.pop(data.draw(st.integers(0, len(under_way) - 1)))]
            statuses = data.draw(st.lists(st.sampled_from([200, 400, 503, 404]), min_size=1, max_size=1))
            answers = [(one, answer_of(status)) for one, status in zip(some, statuses, strict=True)]
            for one, answer in answers:
                note(one, answer)  # the receiver has it, whether we come to keep that or not
            if data.draw(st.booleans()):
                place.deliveries.settle(answers, place.now)
            else:
                under_way = []
                place.kill()
        elif step == "kill":
            under_way = []
            place.kill()
        else:
            place.now += data.draw(st.sampled_from([0.5, 10.0, 4_000.0]))
    place.kill()
    for _ in range(500):
        taken = place.deliveries.take(place.now)
        for one in taken:
            note(one, answer_of(200))
            assert bodies.setdefault(one.message, one.body) == one.body
        place.deliveries.settle([(one, answer_of(200)) for one in taken], place.now)
        place.now += 10.0
        if not taken and not DeliveryTables(place.directory).waiting(CAMPAIGN, 1):
            break
    given_up = {one.event for one in DeliveryTables(place.directory).given_up()}
    assert delivered | given_up >= set(place.wanted)
    assert given_up <= refused
    assert len(bodies) == len(place.wanted)


def test_a_signature_is_that_of_the_specification() -> None:
    """A vector that was made with the library `standardwebhooks`."""
    secrets = secrets_of(make_webhook(), {"SECRET": "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"})
    headers = signed_headers(secrets, "msg_p5jXN8AQM9LWM0D4loKWxJek", 1_614_265_330, b'{"test": 2432232314}')
    assert headers == {
        "webhook-id": "msg_p5jXN8AQM9LWM0D4loKWxJek",
        "webhook-timestamp": "1614265330",
        "webhook-signature": "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=",
    }


def test_each_of_several_secrets_signs(tmp_path: Path) -> None:
    file = tmp_path / "secret"
    file.write_text(f"whsec_{'A' * 32}\n{'B' * 32}\n")
    secrets = secrets_of(make_webhook(secret_variable=None, secret_file=str(file)), {})
    assert len(signed_headers(secrets, "msg_1", 1, b"{}")["webhook-signature"].split()) == 2


@pytest.mark.parametrize("text", ["", "whsec_", "whsec_c2hvcnQ=", "no base64 at all!", "whsec_" + "A" * 200])
def test_a_secret_that_is_none_is_refused_and_not_shown(text: str) -> None:
    with pytest.raises(InvalidInput, match="SECRET") as refused:
        secrets_of(make_webhook(), {"SECRET": text})
    assert len(text) < 10 or text not in str(refused.value)


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"url": "ftp://example.org"}, "url must be http:// or https:// and a host"),
        ({"url": "https:///hook"}, "url must be http:// or https:// and a host"),
        ({"url": "https://[::1"}, "url cannot be read"),
        ({"url": "https://ana:secret@example.org"}, "url must have no user, password or fragment"),
        ({"secret_variable": None}, "a webhook needs secret_variable"),
        ({"secret_file": "secret"}, "a webhook needs secret_variable"),
    ],
)
def test_a_webhook_that_cannot_be_is_refused_in_a_sentence(changes: dict[str, Any], sentence: str) -> None:
    with pytest.raises(InvalidInput) as refused:
        make_webhook(**changes)
    assert sentence in str(refused.value)
    assert "ana:secret" not in str(refused.value)


def erase_event(place: Place, name: str) -> None:
    """As the command and the gateway with this log do."""
    asked = Asked(kind="event", name=name, campaign=CAMPAIGN)
    erasure = decide(place.store, CLOCK, plan(place.store, CLOCK, asked), by="ana", reason="ticket")
    carry_out(place.store, CLOCK, erasure)
    assert files_with(place.store.directory / "handoff", f'"{name}"') == []
    erase_deliveries(place.directory, data_of(place.store, erasure.number))


def test_a_result_of_an_erased_event_is_sent_no_more_and_all_others_once(tmp_path: Path) -> None:
    place = Place(tmp_path, num_windows=2, concurrency=1)

    def takes_some(delivery: Delivery) -> Answer:
        return is_away(delivery) if delivery.event in ("1-0", "1-2") else takes(delivery)

    place.run(takes_some, seconds=1)
    assert files_with(place.directory, "1-0") != []
    erase_event(place, "1-0")
    erase_event(place, "2-1")

    assert files_with(place.directory, "1-0") == []
    place.sent.clear()
    place.kill()
    place.run(takes, seconds=7_200)
    assert "1-2" in place.taken, "what it was put aside for goes on"
    assert not {"1-0", "2-1"} & {*place.taken}
    place.finish(1)
    place.run(takes, seconds=60)
    assert place.taken[-3:] == ["3-0", "3-1", "3-2"]


@pytest.mark.parametrize("is_erased_first", [True, False])
def test_a_result_that_is_under_way_when_its_event_is_erased_is_not_put_aside(
    tmp_path: Path, is_erased_first: bool
) -> None:
    place = Place(tmp_path, num_windows=1, concurrency=1)
    [sent] = place.deliveries.take(place.now)
    assert sent.event == "1-0"
    if is_erased_first:
        erase_event(place, "1-0")
    place.deliveries.settle([(sent, is_away(sent))], place.now)
    if not is_erased_first:
        erase_event(place, "1-0")

    assert files_with(place.directory, "1-0") == []
    place.run(takes, seconds=7_200)
    assert place.taken == ["1-1", "1-2"]


def test_a_position_means_the_same_after_an_erasure(tmp_path: Path) -> None:
    place = Place(tmp_path, num_windows=2)

    def behind(position: Position) -> dict[str, Position]:
        feed = ResultFeed(place.store, CAMPAIGN, position)
        return {one.result.event: one.position for _ in range(4) for one in feed.read(9)}

    before = behind(Position())
    erase_event(place, "1-1")
    erase_event(place, "2-2")

    left = {name: position for name, position in before.items() if name not in ("1-1", "2-2")}
    assert behind(Position()) == left
    for position in before.values():
        assert behind(position) == {name: other for name, other in left.items() if other > position}
