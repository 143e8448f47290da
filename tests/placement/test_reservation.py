"""A run that waited too long gets a place, and nothing is put where it could keep it waiting."""

from headrace.placement.demand import Demand
from headrace.placement.queueing import Preempting, QueuePolicy, plan
from headrace.placement.snapshot import Reservation, Snapshot
from tests.placement.queueing_builders import NOW, POLICY, make_cpu_running, make_fleet, make_running, make_waiting

STOPPING = QueuePolicy(gang_patience=0.5, patience=1.0, preemption=Preempting(min_run_seconds=30.0))


def test_the_first_run_that_waited_too_long_is_promised_the_place_that_is_free_first():
    running = (
        make_running("a0", "node-a:0", seconds=5000),
        make_running("b0", "node-b:0", seconds=300),
        make_running("b1", "node-b:1", seconds=900),
    )
    waiting = (make_waiting("gang", 2, ago=100), make_waiting("later", 2, ago=99))
    decision = plan(Snapshot(inventory=make_fleet(2, 2), waiting=waiting, running=running), POLICY, NOW)
    (reservation,) = decision.reservations
    assert reservation.run_id == "gang"
    assert reservation.devices == {("node-b", "0"), ("node-b", "1")}
    assert reservation.latest == NOW - 60 + 900
    assert decision.holds["gang"].waits_for == ("b0", "b1")
    assert decision.holds["gang"].latest == NOW - 60 + 900


def test_nothing_is_put_on_a_promised_place_and_the_rest_is_used():
    running = (make_running("a0", "node-a:0", seconds=100), make_running("b0", "node-b:0", seconds=90_000))
    waiting = (make_waiting("gang", 2, ago=100), *(make_waiting(f"s{index}") for index in range(3)))
    decision = plan(Snapshot(inventory=make_fleet(2, 2), waiting=waiting, running=running), POLICY, NOW)
    assert [placement.devices_on("node-b") for placement in decision.admissions.values()] == [("1",)]
    assert set(decision.holds) == {"gang", "s1", "s2"}


def test_of_a_larger_node_only_what_the_run_needs_is_kept():
    # 3 of 8 are free, but the 24 CPUs that the gang needs are not: one GPU is left for others.
    running = (
        make_cpu_running("cpus", "node-a", 50),
        make_running("r", *(f"node-a:{index}" for index in range(5)), seconds=9000),
    )
    gang = make_waiting("gang", demand=Demand(num_gpus=2, cpu_milli=24_000), ago=100)
    waiting = (gang, make_waiting("s0"), make_waiting("s1"))
    decision = plan(Snapshot(inventory=make_fleet(8), waiting=waiting, running=running), POLICY, NOW)
    assert list(decision.admissions) == ["s0"]
    assert decision.holds["gang"].waits_for == ("cpus",)


def test_cpus_of_a_promised_place_are_kept_too():
    running = (make_cpu_running("cpus", "node-a", 50),)
    waiting = (
        make_waiting("wide", demand=Demand(cpu_milli=40_000), ago=200),
        make_waiting("narrow", demand=Demand(cpu_milli=2_000)),
    )
    decision = plan(Snapshot(inventory=make_fleet(1), waiting=waiting, running=running), POLICY, NOW)
    assert decision.admissions == {}
    assert decision.reservations[0].run_id == "wide"


def test_a_gang_on_any_nodes_gets_whatever_is_free_first_anywhere():
    running = (make_running("a0", "node-a:0", seconds=9000), make_running("b0", "node-b:0", seconds=90))
    waiting = (make_waiting("gang", 3, gang="any", ago=100), make_waiting("small"))
    decision = plan(Snapshot(inventory=make_fleet(2, 2), waiting=waiting, running=running), POLICY, NOW)
    assert decision.admissions == {}
    assert decision.holds["gang"].waits_for == ("b0",)


def test_a_run_keeps_its_promised_place_though_another_seems_free_earlier_now():
    running = (make_running("a0", "node-a:0", seconds=500), make_running("b0", "node-b:0", seconds=400))
    snapshot = Snapshot(inventory=make_fleet(2, 2), waiting=(make_waiting("gang", 2, ago=500),), running=running)
    promised = Reservation(run_id="gang", devices=frozenset({("node-a", "0"), ("node-a", "1")}), latest=None)
    assert plan(snapshot, POLICY, NOW).holds["gang"].waits_for == ("b0",)
    assert plan(snapshot, POLICY, NOW, [promised]).holds["gang"].waits_for == ("a0",)


def test_a_promised_node_that_has_fallen_sick_is_given_up():
    fleet = make_fleet(2, 2, sick=(("node-a", "1"),))
    running = (make_running("a0", "node-a:0", seconds=100), make_running("b0", "node-b:0", seconds=9000))
    snapshot = Snapshot(inventory=fleet, waiting=(make_waiting("gang", 2, ago=500),), running=running)
    promised = Reservation(run_id="gang", devices=frozenset({("node-a", "0"), ("node-a", "1")}), latest=None)
    assert plan(snapshot, POLICY, NOW, [promised]).holds["gang"].waits_for == ("b0",)


def test_a_run_that_only_a_repair_could_help_keeps_nobody_waiting():
    fleet = make_fleet(2, sick=(("node-a", "1"),))
    waiting = (make_waiting("gang", 2, ago=500), make_waiting("small"))
    decision = plan(Snapshot(inventory=fleet, waiting=waiting), POLICY, NOW)
    assert list(decision.admissions) == ["small"]
    assert decision.reservations == ()


def test_a_run_that_starts_in_the_same_plan_is_waited_for_too():
    waiting = (make_waiting("first", 2, ago=300), make_waiting("second", 2, ago=200), make_waiting("third", ago=150))
    decision = plan(Snapshot(inventory=make_fleet(3), waiting=waiting), POLICY, NOW)
    assert list(decision.admissions) == ["first"]
    assert decision.reservations[0].run_id == "second"
    assert decision.holds["second"].waits_for == ("first",)


def test_nobody_is_stopped_for_another_run_in_a_place_that_drains():
    running = (
        make_running("fill", "node-a:0", ago=40, preemptible=True),
        make_running("firm", "node-a:1", seconds=3000),
    )
    waiting = (make_waiting("gang", 2, ago=150), make_waiting("urgent", priority=9))
    decision = plan(Snapshot(inventory=make_fleet(2), waiting=waiting, running=running), STOPPING, NOW)
    assert decision.preemptions == ()


def test_runs_that_may_be_stopped_fill_a_promised_place():
    running = (make_running("a0", "node-a:0", seconds=5000),)
    waiting = (
        make_waiting("gang", 2, ago=150),
        make_waiting("firm"),
        make_waiting("soft", preemptible=True),
    )
    decision = plan(Snapshot(inventory=make_fleet(2), waiting=waiting, running=running), STOPPING, NOW)
    assert list(decision.admissions) == ["soft"]


def test_a_fill_is_stopped_when_the_rest_of_the_place_is_free_and_nobody_fills_it_again():
    running = (make_running("fill", "node-a:0", ago=1, preemptible=True),)
    waiting = (make_waiting("gang", 2, ago=150), make_waiting("soft", preemptible=True))
    decision = plan(Snapshot(inventory=make_fleet(2), waiting=waiting, running=running), STOPPING, NOW)
    assert [(stop.run_id, stop.for_run_id) for stop in decision.preemptions] == [("fill", "gang")]
    assert decision.admissions == {}


def test_a_fill_runs_on_while_stopping_it_would_not_help_yet():
    running = (
        make_running("fill", "node-a:0", ago=1, preemptible=True),
        make_running("firm", "node-a:1", ago=1, seconds=3000),
    )
    decision = plan(
        Snapshot(inventory=make_fleet(2), waiting=(make_waiting("gang", 2, ago=150),), running=running), STOPPING, NOW
    )
    assert decision.preemptions == ()
    assert decision.holds["gang"].waits_for == ("fill", "firm")
