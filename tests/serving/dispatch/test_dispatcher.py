"""What the dispatcher promises, in a made-up world with made-up time."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from headrace.engines.asker import Asker
from headrace.engines.dispatch.dispatcher import Dispatcher
from headrace.engines.dispatch.health import Standing
from headrace.engines.dispatch.prompts import PromptSeconds
from headrace.engines.dispatch.replica import Ticket, TurnState
from headrace.engines.dispatch.settings import DispatchSettings
from headrace.errors import InvalidInput
from headrace.fairness import CLASSES, WorkClass
from tests.serving.dispatch.simulation import SimulatedReplica, SimulatedTurn, Simulation, poisson_turns


class Time:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def asking(work_class: WorkClass, tenant: str) -> Asker:
    return Asker(work_class=work_class, tenants={tenant: 1.0})


def make_dispatcher(num_replicas: int = 2, **changes: Any) -> tuple[Dispatcher, Time]:
    clock = Time()
    return Dispatcher([f"r{index}" for index in range(num_replicas)], clock, DispatchSettings(**changes)), clock


def answer(
    dispatcher: Dispatcher,
    clock: Time,
    seconds: float,
    num_tokens: int = 100,
    *,
    prompt_seconds: float = 0.0,
    num_prompt_characters: int = 0,
) -> Ticket:
    """One turn, alone, in pieces of equal size once its prompt is read."""
    ticket = dispatcher.enter(1024, num_prompt_characters=num_prompt_characters)
    clock.now += prompt_seconds
    for made in range(0, num_tokens, 10):
        clock.now += seconds / (num_tokens / 10)
        dispatcher.heard(ticket, 4 * (made + 10))
    dispatcher.answered(ticket, num_tokens)
    return ticket


def ended(simulation: Simulation) -> list[SimulatedTurn]:
    return [turn for turn in simulation.turns if turn.ended_at is not None]


def answered(simulation: Simulation) -> list[SimulatedTurn]:
    return [turn for turn in simulation.turns if turn.num_completed]


spans = st.lists(st.tuples(st.floats(0, 6), st.floats(0.1, 5)).map(lambda span: (span[0], sum(span))), max_size=2)
replicas = st.builds(
    SimulatedReplica,
    token_seconds=st.sampled_from([0.001, 0.002, 0.01]),
    prompt_character_seconds=st.sampled_from([0.0, 0.00001, 0.0001]),
    num_slots=st.integers(1, 8),
    cold_seconds=st.sampled_from([0.0, 0.0, 1.0, 5.0]),
    said_seconds=st.sampled_from([0.0, 0.0, 1.0, 60.0]),
    silent=spans,
    dead=spans,
    busy=spans,
)
askers = st.builds(
    Asker, work_class=st.sampled_from(CLASSES), tenants=st.sampled_from([{"a": 1.0}, {"b": 0.5}, {"a": 0.5, "b": 0.5}])
)
turns = st.lists(
    st.tuples(st.floats(0, 6), st.integers(1, 400), st.booleans(), st.integers(0, 20_000), st.none() | askers),
    min_size=1,
    max_size=40,
).map(lambda drawn: [SimulatedTurn(number, *one) for number, one in enumerate(drawn)])


@given(replicas=st.lists(replicas, min_size=1, max_size=4), turns=turns)
def test_every_turn_ends_and_none_is_completed_twice(
    replicas: list[SimulatedReplica], turns: list[SimulatedTurn]
) -> None:
    simulation = Simulation(replicas, turns)
    for moment in range(1, 20):
        simulation.run(float(moment))
        live = [work.turn.number for replica in replicas for work in (*replica.running, *replica.waiting)]
        assert len(live) == len(set(live)), "a turn has two attempts alive"
    simulation.run(200.0)
    assert all(turn.ended_at is not None for turn in turns)
    assert all(turn.num_completed <= 1 for turn in turns)
    for turn in turns:
        assert turn.ticket is not None
        assert turn.ticket.state is (TurnState.DONE if turn.num_completed else TurnState.GIVEN_UP)


@given(seed=st.integers(0, 10_000), healthy=st.integers(2, 3))
def test_nothing_is_lost_while_one_replica_is_well(seed: int, healthy: int) -> None:
    unwell = [SimulatedReplica(silent=[(2.0, 5.0)]), SimulatedReplica(dead=[(3.0, 6.0)])]
    simulation = Simulation(
        [*(SimulatedReplica() for _ in range(healthy)), *unwell], poisson_turns(seed=seed, rate=30, seconds=8)
    )
    simulation.run(60.0)
    assert len(answered(simulation)) == len(simulation.turns)


def test_a_dead_replica_is_left_alone_and_found_again() -> None:
    simulation = Simulation(
        [SimulatedReplica(), SimulatedReplica(dead=[(5.0, 25.0)])], poisson_turns(seed=1, rate=20, seconds=60)
    )
    simulation.run(25.0)
    # Connections are refused once; from then on only probes reach it.
    assert sum(moment >= 5.0 for moment in simulation.replicas[1].sent_at) <= 1
    simulation.run(100.0)
    # The longest backoff is 15 s.
    assert min(moment for moment in simulation.replicas[1].sent_at if moment > 25.0) < 25.0 + 16.0
    assert len(answered(simulation)) == len(simulation.turns)


def test_a_silent_replica_loses_its_turns_within_a_second() -> None:
    silent = SimulatedReplica(silent=[(5.0, 30.0)])
    simulation = Simulation([SimulatedReplica(), silent], poisson_turns(seed=2, rate=20, seconds=20))
    simulation.run(60.0)
    hit = [turn for turn in simulation.turns if 4.5 < turn.at < 6.0]
    assert max(turn.seconds for turn in hit) < 3.0
    assert sum(6.0 < moment < 30.0 for moment in silent.sent_at) <= 8


def test_most_turns_go_where_they_are_done_soonest() -> None:
    slow = SimulatedReplica(token_seconds=0.005)
    simulation = Simulation([slow, SimulatedReplica(), SimulatedReplica()], poisson_turns(seed=3, rate=30, seconds=30))
    simulation.run(60.0)
    assert len(slow.sent_at) < 0.05 * len(simulation.turns)


def test_a_slow_replica_that_recovers_is_used_again() -> None:
    changing = SimulatedReplica(token_seconds=0.005)
    turns = poisson_turns(seed=4, rate=15, seconds=240)
    simulation = Simulation([changing, SimulatedReplica()], turns)
    simulation.run(60.0)
    changing.token_seconds = 0.00125
    simulation.run(260.0)
    late = sum(moment > 180.0 for moment in changing.sent_at)
    assert late > 0.25 * sum(turn.at > 180.0 for turn in turns)


def test_nobody_starves_when_there_is_too_much_to_do() -> None:
    """At twice what the replicas can do, turns are begun in the order in which they came."""
    simulation = Simulation([SimulatedReplica(), SimulatedReplica()], poisson_turns(seed=5, rate=120, seconds=10))
    simulation.run(120.0)
    assert len(answered(simulation)) == len(simulation.turns)
    begun = [turn.ended_at - turn.num_tokens * 0.00125 for turn in simulation.turns if turn.ended_at is not None]
    overtaken = [later - earlier for earlier, later in zip(begun, begun[100:], strict=False)]
    assert min(overtaken) > 0, "a turn was begun after one that came a hundred turns later"


def test_a_turn_of_which_something_was_given_out_stays_where_it_is() -> None:
    dispatcher, clock = make_dispatcher()
    answer(dispatcher, clock, 0.5)
    ticket = dispatcher.enter(1024)
    dispatcher.heard(ticket, 40)
    dispatcher.give_out(ticket)
    clock.now += 100
    assert dispatcher.to_abandon() == []
    assert dispatcher.failed(ticket, "broken", "reset") is TurnState.GIVEN_UP


def test_a_failed_turn_goes_elsewhere_a_few_times() -> None:
    dispatcher, _ = make_dispatcher(num_replicas=4, num_attempts=3)
    ticket, seen = dispatcher.enter(1024), []
    while ticket.state is not TurnState.GIVEN_UP:
        seen.append(ticket.replica)
        dispatcher.failed(ticket, "failing", "500")
        dispatcher.assign()
    assert len(seen) == len(set(seen)) == 3


def test_refused_connections_are_no_attempts() -> None:
    dispatcher, _ = make_dispatcher(num_replicas=5, num_attempts=2)
    ticket = dispatcher.enter(1024)
    for _ in range(4):
        assert dispatcher.failed(ticket, "not_started", "refused") is TurnState.HELD
        dispatcher.assign()
    assert ticket.state is TurnState.LIVE


def test_a_busy_replica_is_not_asked_before_its_time() -> None:
    dispatcher, clock = make_dispatcher(num_replicas=1)
    ticket = dispatcher.enter(1024)
    dispatcher.failed(ticket, "busy", "429", retry_after_seconds=1.5)
    clock.now = 1.4
    assert (dispatcher.assign(), dispatcher.to_give_up()) == ([], [])
    clock.now = 1.5
    assert dispatcher.assign() == [ticket]


def test_where_all_are_busy_for_long_the_turn_ends_with_when_to_come_back() -> None:
    dispatcher, _ = make_dispatcher(num_replicas=2)
    ticket = dispatcher.enter(1024)
    for seconds in (30.0, 60.0):
        dispatcher.failed(ticket, "busy", "429", retry_after_seconds=seconds)
        dispatcher.assign()
    assert dispatcher.to_give_up() == [ticket]
    assert ticket.retry_after_seconds == pytest.approx(30.0)


def test_where_all_are_dead_the_turn_ends_after_a_while() -> None:
    dispatcher, clock = make_dispatcher(num_replicas=1, dead_seconds_max=5.0)
    ticket = dispatcher.enter(1024)
    dispatcher.failed(ticket, "not_started", "refused")
    for _ in range(60):
        clock.now += 0.1
        for index in dispatcher.probes_due():
            dispatcher.probed(index, is_alive=False)
        dispatcher.assign()
        if dispatcher.to_give_up():
            break
    assert ticket.state is TurnState.GIVEN_UP
    assert 4.9 < clock.now < 5.2


def test_a_wrong_key_everywhere_ends_a_turn_at_once() -> None:
    dispatcher, _ = make_dispatcher(num_replicas=2)
    ticket = dispatcher.enter(1024)
    assert dispatcher.failed(ticket, "unusable", "401") is TurnState.HELD
    dispatcher.assign()
    assert dispatcher.failed(ticket, "unusable", "401") is TurnState.GIVEN_UP


@pytest.mark.parametrize("wish", [99_999_999.0, 1e308, float("inf")])
def test_a_replica_that_asks_for_years_is_asked_again_soon_by_one_turn(wish: float) -> None:
    dispatcher, clock = make_dispatcher(num_replicas=1, busy_seconds_max=60.0)
    first = dispatcher.enter(1024)
    dispatcher.failed(first, "busy", "429", retry_after_seconds=wish)
    clock.now = 29.0
    assert dispatcher.assign() == []
    clock.now = 30.5
    second = dispatcher.enter(1024)
    assert dispatcher.assign() == [first] or first.state is TurnState.LIVE
    assert second.state is TurnState.HELD
    dispatcher.heard(first, 40)
    assert dispatcher.assign() == [second]


def test_turns_that_a_replica_forbids_put_it_out_only_if_nothing_else_works_there() -> None:
    """Some servers answer 403 to a prompt that they do not like."""
    dispatcher, clock = make_dispatcher(num_replicas=1)
    for _ in range(5):
        assert dispatcher.failed(dispatcher.enter(1024), "unusable", "403") is TurnState.GIVEN_UP
        answer(dispatcher, clock, 0.5)
    for _ in range(3):
        dispatcher.failed(dispatcher.enter(1024), "unusable", "403")
    assert dispatcher.enter(1024).state is TurnState.HELD


def test_a_replica_on_trial_gets_one_turn_until_it_works() -> None:
    dispatcher, clock = make_dispatcher(num_replicas=1)
    first = dispatcher.enter(1024)
    dispatcher.failed(first, "not_started", "refused")
    clock.now = 0.3
    [index] = dispatcher.probes_due()
    dispatcher.probed(index, is_alive=True)
    second = dispatcher.enter(1024)
    assert dispatcher.assign() == [] or first.state is TurnState.LIVE
    assert (first.state, second.state) == (TurnState.LIVE, TurnState.HELD)
    dispatcher.heard(first, 40)
    assert dispatcher.replicas[0].health.standing is Standing.HEALTHY
    assert dispatcher.assign() == [second]


def test_the_only_replica_is_never_given_up_for_its_silence() -> None:
    dispatcher, clock = make_dispatcher(num_replicas=1)
    answer(dispatcher, clock, 0.5)
    first = dispatcher.enter(1024)
    clock.now += 60
    assert dispatcher.to_abandon() == []
    assert [first.state, dispatcher.enter(1024).state] == [TurnState.LIVE, TurnState.LIVE]


def test_turns_wait_here_once_a_replica_is_known_to_be_full() -> None:
    simulation = Simulation([SimulatedReplica(num_slots=4)], poisson_turns(seed=6, rate=60, seconds=10))
    simulation.run(8.0)
    assert len(simulation.replicas[0].waiting) <= 1
    assert simulation.dispatcher.num_held > 10


def test_live_turns_go_before_lines_of_batches_and_clients_of_batches_take_turns() -> None:
    """At one replica that is full: lines of two clients wait, one of whom has many, and live turns come."""
    sent: list[str] = []
    lines = [SimulatedTurn(number, 1.0, 100, asker=asking("batch", "many")) for number in range(60)]
    lines += [SimulatedTurn(60 + number, 1.5, 100, asker=asking("batch", "few")) for number in range(3)]
    lines += [SimulatedTurn(63 + number, 1.6, 100, asker=asking("live", "chat")) for number in range(3)]
    before = poisson_turns(seed=6, rate=60, seconds=1)
    simulation = Simulation([SimulatedReplica(num_slots=4)], [*before, *lines])
    while len(sent) < len(lines):
        simulation.run(simulation.now + 0.01)
        for turn in lines:
            if turn.work is not None and (name := f"{turn.number}") not in sent:
                sent.append(name)
    order = [lines[int(name)].asker for name in sent]
    names = [next(iter(one.tenants)) for one in order if one]
    last = {name: len(names) - names[::-1].index(name) for name in ("many", "few", "chat")}
    assert last["chat"] < last["few"] < last["many"]
    num_before = names.index("chat")
    assert names[num_before : num_before + 3] == ["chat"] * 3, "at once, whatever waits"
    few = [place for place, name in enumerate(names) if name == "few"]
    assert few[-1] - few[0] <= 2 * 3 + 3, "every other line, but for live turns"


def answer_prompts(dispatcher: Dispatcher, clock: Time) -> None:
    """Ten turns with prompts of 2,000 and 10,000 characters, 0.1 s for each thousand."""
    for thousands in (2, 10) * 5:
        answer(dispatcher, clock, 0.5, prompt_seconds=0.1 * thousands, num_prompt_characters=1_000 * thousands)


def test_a_long_prompt_is_not_taken_to_wait_for_a_place() -> None:
    dispatcher, clock = make_dispatcher(num_replicas=1)
    answer_prompts(dispatcher, clock)
    stream = dispatcher.enter(1024, num_prompt_characters=2_000)
    clock.now += 0.25
    dispatcher.heard(stream, 4)
    long = dispatcher.enter(1024, num_prompt_characters=40_000)
    for step in range(1, 80):
        clock.now += 0.05
        dispatcher.heard(stream, 40 * step)
        dispatcher.to_abandon()
    assert not long.has_begun
    assert dispatcher.replicas[0].num_slots is None
    for step in range(80, 240):
        clock.now += 0.05
        dispatcher.heard(stream, 40 * step)
        dispatcher.to_abandon()
    assert dispatcher.replicas[0].num_slots == 1


def test_reading_a_long_prompt_is_no_silence() -> None:
    dispatcher, clock = make_dispatcher()
    for _ in range(2):
        answer_prompts(dispatcher, clock)
    long = dispatcher.enter(1024, num_prompt_characters=40_000)
    for _ in range(78):
        clock.now += 0.05
        assert dispatcher.to_abandon() == []
    assert not dispatcher.replicas[long.replica].is_silent
    leaving: list[Ticket] = []
    while not leaving and clock.now < 60:
        clock.now += 0.05
        leaving = dispatcher.to_abandon()
    assert leaving == [long]
    assert clock.now - long.sent_at < 2 * 4.0


def test_where_all_turns_are_late_they_go_elsewhere_before_the_replica_was_ever_heard() -> None:
    """Nobody waits for the first piece of a slow replica to learn that it is slow."""
    slow = SimulatedReplica(token_seconds=0.01, prompt_character_seconds=0.0004)
    fast = [SimulatedReplica(prompt_character_seconds=0.00001) for _ in range(2)]
    turns = poisson_turns(seed=7, rate=20, seconds=2, mean_tokens=30, mean_prompt_characters=10_000)
    simulation = Simulation([slow, *fast], turns)
    simulation.run(60.0)
    assert len(answered(simulation)) == len(turns)
    # Alone there, a mean turn takes 4.3 s.
    assert max(turn.seconds for turn in turns) < 1.5


def test_a_turn_goes_where_its_model_already_is() -> None:
    dispatcher, clock = make_dispatcher()
    dispatcher.told(0, 3.0)
    tickets = [dispatcher.enter(1024) for _ in range(8)]
    assert {ticket.replica for ticket in tickets} == {1}
    dispatcher.told(0, 0.0)
    assert dispatcher.enter(1024).replica == 0
    clock.now = 1.0
    assert dispatcher.expected_seconds(0, 100) < 3.0


def test_a_model_is_brought_where_the_wait_is_longer_than_that() -> None:
    """At twice what the warm replica can do, the other one's model comes once, and then takes half of the turns."""
    cold = SimulatedReplica(cold_seconds=2.0, said_seconds=2.0)
    simulation = Simulation([SimulatedReplica(), cold], poisson_turns(seed=8, rate=60, seconds=15))
    simulation.run(2.0)
    assert cold.sent_at == []
    simulation.run(120.0)
    assert len(answered(simulation)) == len(simulation.turns)
    assert sum(moment > 8.0 for moment in cold.sent_at) > 0.35 * sum(turn.at > 8.0 for turn in simulation.turns)


def test_a_replica_whose_model_comes_is_not_silent_until_it_should_be_there() -> None:
    dispatcher, clock = make_dispatcher(silent_seconds_unheard=0.5)
    for index in (0, 1):
        dispatcher.told(index, 20.0)
    ticket = dispatcher.enter(1024)
    for _ in range(200):
        clock.now += 0.1
        assert dispatcher.to_abandon() == []
    dispatcher.heard(ticket, 4)
    # It says what it said before: what was heard counts.
    assert dispatcher.expected_seconds(ticket.replica, 10) < 1.0
    # Bringing a model is no measure of how fast it begins.
    dispatcher.answered(ticket, 10)
    dispatcher.told(ticket.replica, 0.0)
    assert dispatcher.expected_seconds(ticket.replica, 10) < 1.0


@given(
    lengths=st.lists(st.integers(0, 100_000), min_size=1, max_size=50),
    base=st.floats(0.01, 1),
    slope=st.floats(0, 0.001),
)
def test_what_a_prompt_costs_is_learned_by_its_length(lengths: list[int], base: float, slope: float) -> None:
    prompts = PromptSeconds(0.1)
    for length in lengths * 5:
        prompts.add(length, base + slope * length)
    at = [prompts.expected(length) for length in (0, *sorted(lengths), 200_000)]
    assert at == sorted(at)
    assert at[0] > 0
    # Alike, they say nothing of other lengths.
    if max(lengths) > 2 * min(lengths):
        assert prompts.expected(max(lengths)) <= 1.01 * (base + slope * max(lengths))
    assert min(prompts.expected(length) - base - slope * length for length in lengths) <= 1e-6


def test_whole_answers_beside_streams_are_not_taken_to_wait_for_a_place() -> None:
    """They show nothing before their end; streams that their clients read slowly stay for long."""
    dispatcher, clock = make_dispatcher(num_replicas=1)
    answer(dispatcher, clock, 0.5)
    streams = [dispatcher.enter(1024) for _ in range(3)]
    wholes = [dispatcher.enter(1024, is_in_pieces=False) for _ in range(2)]
    for step in range(1, 20):
        clock.now += 0.1
        for stream in streams:
            dispatcher.heard(stream, 40 * step)
        dispatcher.to_abandon()
        wholes.append(dispatcher.enter(1024, is_in_pieces=False))
    assert {ticket.state for ticket in wholes} == {TurnState.LIVE}
    # A stream that does not begin among them does wait, and says how many fit.
    late = dispatcher.enter(1024)
    clock.now += 2.0
    dispatcher.heard(streams[0], 1000)
    dispatcher.to_abandon()
    assert dispatcher.replicas[0].num_slots == len(dispatcher.replicas[0].live) - 1
    assert late.state is TurnState.LIVE
    assert dispatcher.enter(1024, is_in_pieces=False).state is TurnState.HELD


def test_a_stream_that_begins_late_makes_no_replica_full_while_younger_turns_are_answered() -> None:
    """A busy server is late with everybody; one that is full takes nobody before those who wait."""
    dispatcher, clock = make_dispatcher(num_replicas=1)
    answer(dispatcher, clock, 0.5)
    streams = [dispatcher.enter(1024) for _ in range(3)]
    for stream in streams:
        dispatcher.heard(stream, 4)
    late = dispatcher.enter(1024)
    for step in range(2, 40):
        whole = dispatcher.enter(1024, is_in_pieces=False)
        clock.now += 0.1
        for stream in streams:
            dispatcher.heard(stream, 40 * step)
        dispatcher.answered(whole, 8)
        dispatcher.to_abandon()
    assert not late.has_begun
    assert dispatcher.replicas[0].num_slots is None


def test_a_replica_that_was_taken_to_be_full_is_found_to_have_room_by_whole_answers() -> None:
    dispatcher, clock = make_dispatcher(num_replicas=1)
    answer(dispatcher, clock, 0.5)
    streams = [dispatcher.enter(1024) for _ in range(3)]
    for stream in streams:
        dispatcher.heard(stream, 4)
    late = dispatcher.enter(1024)
    clock.now += 2.0
    dispatcher.heard(streams[0], 400)
    dispatcher.to_abandon()
    assert dispatcher.replicas[0].num_slots == 3
    dispatcher.heard(late, 4)
    wholes = [dispatcher.enter(1024, is_in_pieces=False) for _ in range(20)]
    for _ in range(20):
        clock.now += 0.05
        live = [ticket for ticket in wholes if ticket.state is TurnState.LIVE]
        for ticket in live:
            dispatcher.answered(ticket, 8)
        dispatcher.assign()
        if not any(ticket.state is TurnState.HELD for ticket in wholes):
            break
    else:
        raise AssertionError("Whole answers still wait for places that nobody fills.")
    assert clock.now < 3.5


def test_a_dispatcher_needs_different_replicas() -> None:
    with pytest.raises(InvalidInput, match="replicas must be different servers, at least one, got"):
        make_dispatcher(num_replicas=0)
