"""What of a stream is read next, against a broker that delivers in any order, to anybody, and forgets."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from headrace.errors import InvalidInput
from headrace.inbox.stream_reading import Reading, StreamFacts, begun, missing
from headrace.inbox.streams import StreamPosition

FACTS = StreamFacts(name="ORDERS", made_at="monday", first=1, last=20, written_at=500)
READ = StreamPosition(campaign="slogans", stream="ORDERS", made_at="monday", sequence=12, written_at=500)


class Broker:
    """A stream and its consumer, as JetStream has them: whoever pulls gets what is to be delivered again first, in any
    order, then what is new; whoever acknowledges is believed."""

    def __init__(self, num: int, draw: st.DataObject) -> None:
        self.num, self.draw = num, draw
        self.new, self.num_deliveries = 0, 0
        self.under_way: list[int] = []
        self.again: list[int] = []

    def deliver(self) -> tuple[int, int] | None:
        """The sequence and number of a delivery."""
        if self.again:
            sequence = self.again.pop(self.draw.draw(st.integers(0, len(self.again) - 1)))
        elif self.new < self.num:
            self.new += 1
            sequence = self.new
        else:
            return None
        self.num_deliveries += 1
        self.under_way.append(sequence)
        return sequence, self.num_deliveries

    def acknowledge(self, sequence: int) -> None:
        self.under_way = [one for one in self.under_way if one != sequence]
        self.again = [one for one in self.again if one != sequence]

    def run_out(self) -> None:
        """Nobody has acknowledged in time."""
        self.again += self.under_way
        self.under_way = []


class Reader:
    """As the gateway reads. `log`: what is committed, which alone outlives a kill."""

    def __init__(self, broker: Broker, log: list[int]) -> None:
        self.broker, self.log = broker, log
        self.reading = Reading(log[-1] if log else 0)
        self.catch_up()

    def catch_up(self) -> None:
        self.log += range((self.log[-1] if self.log else 0) + 1, self.broker.new + 1)
        self.reading.caught_up(self.broker.new, self.broker.num_deliveries)

    def pull(self, num: int, *, is_acknowledged: bool) -> None:
        for sequence, delivery in [one for _ in range(num) if (one := self.broker.deliver())]:
            place = self.reading.place(sequence, delivery)
            if place == "behind a gap":
                self.catch_up()
                place = self.reading.place(sequence, delivery)
                assert place == "known", "it was delivered, so it was caught up with"
            if place == "next":
                self.log.append(sequence)
            if is_acknowledged:
                self.broker.acknowledge(sequence)


STEPS = st.lists(
    st.sampled_from(["pull", "pull, acknowledgements lost", "somebody pulls", "somebody acknowledges", "time", "kill"]),
    max_size=30,
)


@given(steps=STEPS, draw=st.data())
def test_each_message_is_read_once_and_in_order_whatever_is_delivered_to_whom(
    steps: list[str], draw: st.DataObject
) -> None:
    log: list[int] = []
    broker = Broker(40, draw)
    reader = Reader(broker, log)
    for step in steps:
        num = draw.draw(st.integers(1, 5))
        match step:
            case "pull" | "pull, acknowledgements lost":
                reader.pull(num, is_acknowledged=step == "pull")
            case "somebody pulls":
                for _ in range(num):
                    broker.deliver()
            case "somebody acknowledges":
                for sequence in broker.under_way[:num]:
                    broker.acknowledge(sequence)
            case "time":
                broker.run_out()
            case _:
                reader = Reader(broker, log)
    reader.pull(200, is_acknowledged=True)
    broker.run_out()
    reader.pull(200, is_acknowledged=True)
    assert log == list(range(1, 41))


def test_without_the_catching_up_a_message_that_a_killed_reader_had_would_be_lost() -> None:
    """What the rule is for: deliveries 1 and 2 went to somebody who is gone, and 3 is message 3."""
    reading = Reading(0)
    reading.caught_up(0, 0)
    assert reading.place(3, 3) == "behind a gap"
    reading.caught_up(3, 3)
    assert [reading.place(1, 4), reading.place(2, 5), reading.place(4, 6)] == ["known", "known", "next"]


def begin(known: StreamPosition | None, found: StreamFacts = FACTS, *, begins_now: bool = False) -> StreamPosition:
    return begun(known, found, campaign="slogans", begins_now=begins_now)


def test_a_stream_that_was_never_read_begins_with_what_it_has_or_with_the_next_message() -> None:
    assert begin(None).sequence == 0
    assert begin(None, replace(FACTS, first=8)).sequence == 7
    assert begin(None, begins_now=True).sequence == 20
    with pytest.raises(InvalidInput, match="begins: now would drop what stream ORDERS has"):
        begin(None, replace(FACTS, is_kept=False), begins_now=True)


def test_a_stream_goes_on_behind_what_was_read_and_keeps_its_note() -> None:
    known = replace(READ, note="Message 3 of stream ORDERS is gone.")
    assert begin(known) == known
    assert begin(known, replace(FACTS, written_at=None)) == known, "the message is not there any more"
    unread = replace(READ, written_at=0)
    assert begin(unread) == unread, "it began with the next message, and read none yet"


@pytest.mark.parametrize(
    ("found", "said"),
    [
        (replace(FACTS, made_at="friday"), "ORDERS was made anew at friday, and is read from its first message on"),
        (replace(FACTS, last=11, written_at=None), "has lost messages: it was read up to 12, and it ends with 11"),
        (replace(FACTS, written_at=501), "it was read up to 12, and that is another one now"),
        (replace(FACTS, name="OTHERS"), "OTHERS is read in place of ORDERS"),
    ],
    ids=["made anew", "shorter", "another message there", "another stream"],
)
def test_a_stream_that_is_not_what_it_was_is_read_from_its_first_message_and_says_so(
    found: StreamFacts, said: str
) -> None:
    position = begin(READ, found)
    assert (position.sequence, position.made_at) == (0, found.made_at)
    assert said in position.note


@pytest.mark.parametrize(
    ("found", "subject", "num", "said"),
    [
        (replace(FACTS, first=16), None, 3, "3 messages of stream ORDERS, from 13 on, are gone, and were not read: it"),
        (FACTS, None, 3, "from 13 on, are gone, and were not read: they were deleted."),
        (
            replace(FACTS, first=15),
            "a.>",
            2,
            "(those of other subjects than a.> among them), and were not read: it was",
        ),
        (FACTS, "a.>", 0, ""),
        (replace(FACTS, first=15, is_kept=False), "a.>", 0, ""),
        (replace(FACTS, first=15, is_kept=False), None, 3, "it was purged, or keeps no more"),
    ],
    ids=["purged", "deleted", "purged, some subjects", "other subjects", "others' were acknowledged", "a queue purged"],
)
def test_what_went_between_two_messages_is_said(found: StreamFacts, subject: str | None, num: int, said: str) -> None:
    counted, sentence = missing(12, 16, found, subject=subject)
    assert counted == num
    assert said in sentence
    assert bool(sentence) == bool(num)


def test_one_message_that_went_is_said_in_the_singular() -> None:
    assert missing(12, 14, FACTS, subject=None) == (
        1,
        "Message 13 of stream ORDERS is gone, and was not read: it was deleted.",
    )
