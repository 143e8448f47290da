"""Lines of tenants and turns of classes: whose work is next, whatever waits, comes and is given up."""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

from hypothesis import given
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from headrace.fairness import CLASSES, ClassTurns, FairClock, FairLine, WorkClass, first_of


@dataclass(eq=False, kw_only=True)
class Piece:
    number: int
    costs: Mapping[str, float]
    work_class: WorkClass = "batch"
    entered_at: float = 0.0
    expected_seconds: float = 1.0


def tenants_of(pieces: list[Piece]) -> str:
    return "".join("+".join(sorted(one.costs)) for one in pieces)


def worked_off(line: FairLine[Piece], num_max: int = 100) -> list[Piece]:
    done: list[Piece] = []
    while len(done) < num_max and (first := line.first()) is not None:
        line.begin(first)
        done.append(first)
    return done


def line_of(*tenants: str) -> FairLine[Piece]:
    line = FairLine[Piece]()
    for number, tenant in enumerate(tenants):
        line.add(Piece(number=number, costs={tenant: 1.0}))
    return line


def test_who_asks_for_much_does_not_delay_who_asks_for_little() -> None:
    assert tenants_of(worked_off(line_of(*"aaaaab"))) == "abaaaa"


def test_of_one_tenants_work_the_oldest_goes_first_also_if_it_comes_back() -> None:
    line = line_of(*"aaa")
    first = line.first()
    assert first
    line.remove(first)
    line.add(first)
    assert [one.number for one in worked_off(line)] == [0, 1, 2]


def test_work_that_is_given_up_costs_its_tenant_nothing() -> None:
    line = line_of(*"aaaaab")
    for one in list(line):
        if "a" in one.costs and one.number < 4:
            line.remove(one)
    assert tenants_of(worked_off(line)) == "ab"


def test_who_shares_work_is_not_passed_by_forever_by_those_who_have_some_of_their_own() -> None:
    line = FairLine[Piece]()
    shared = Piece(number=0, costs={"a": 0.5, "b": 0.5})
    line.add(Piece(number=1, costs={"a": 1.3}))
    line.add(Piece(number=2, costs={"b": 1.0}))
    line.add(shared)
    for number in range(3, 20):
        first = line.first()
        assert first
        line.begin(first)
        if first is shared:
            return
        # Whoever was served asks again at once.
        line.add(Piece(number=number, costs=first.costs))
    raise AssertionError("it waits forever")


def test_of_one_tenants_work_in_several_lines_of_a_clock_the_oldest_is_next() -> None:
    clock = FairClock()
    anywhere, here = FairLine[Piece](clock), FairLine[Piece](clock)
    for number, line in enumerate([anywhere, anywhere, here, anywhere]):
        line.add(Piece(number=number, costs={"a": 1.0}))
    order: list[int] = []
    while (first := first_of([anywhere, here])) is not None:
        (anywhere if first in anywhere else here).begin(first)
        order.append(first.number)
    assert order == [0, 1, 2, 3]


class AnyOrder(RuleBasedStateMachine):
    """Of two tenants who both have work that waits, each has its share, but for a piece of each."""

    WEIGHTS: ClassVar = {"a": 1.0, "b": 2.0, "c": 0.5}

    def __init__(self) -> None:
        super().__init__()
        self.line = FairLine[Piece]()
        self.num = 0
        # Tenant → cost that was served; and since both of two waited without a pause, what each had by then.
        self.served: Counter[str] = Counter()
        self.since: dict[tuple[str, str], tuple[float, float]] = {}

    @rule(tenant=st.sampled_from("abc"), size=st.integers(1, 8))
    def comes(self, tenant: str, size: int) -> None:
        self.line.add(Piece(number=self.num, costs={tenant: size / self.WEIGHTS[tenant]}))
        self.num += 1

    @precondition(lambda self: len(self.line) > 0)
    @rule(data=st.data())
    def is_given_up(self, data: st.DataObject) -> None:
        self.line.remove(data.draw(st.sampled_from(sorted(self.line, key=lambda one: one.number))))

    @precondition(lambda self: len(self.line) > 0)
    @rule()
    def begins(self) -> None:
        first = self.line.first()
        assert first
        [(tenant, cost)] = first.costs.items()
        assert first.number == min(one.number for one in self.line if tenant in one.costs)
        self.line.begin(first)
        self.served[tenant] += cost  # pyright: ignore[reportArgumentType]  # a sum of costs

    @invariant()
    def each_has_its_share(self) -> None:
        waiting = {tenant for one in self.line for tenant in one.costs}
        for pair in ("ab", "ac", "bc"):
            one, other = pair
            if not waiting >= {one, other}:
                self.since.pop((one, other), None)
                continue
            before = self.since.setdefault((one, other), (self.served[one], self.served[other]))
            had = [self.served[tenant] - then for tenant, then in zip(pair, before, strict=True)]
            assert abs(had[0] - had[1]) <= sum(8 / self.WEIGHTS[tenant] for tenant in pair)


TestAnyOrder = AnyOrder.TestCase


def test_the_most_urgent_class_goes_first() -> None:
    turns = ClassTurns()
    heads = [Piece(number=number, costs={}, work_class=one) for number, one in enumerate(CLASSES[::-1])]
    assert [one.work_class for one in heads] == ["batch", "flex", "live"]
    found = turns.next(heads, 1.0, factor=9.0)
    assert found
    assert found.work_class == "live"
    assert turns.next([], 1.0, factor=9.0) is None


@given(st.lists(st.floats(0.1, 5.0), min_size=3, max_size=3))
def test_each_class_below_another_has_its_share_of_a_place_that_never_rests(lengths: list[float]) -> None:
    """All three wait all the time. Who has stood back for nine times its length goes next, so it has a tenth; but if
    another is due at the same moment, that one's length is added."""
    turns, now = ClassTurns(), 0.0
    had: Counter[WorkClass] = Counter()
    last: dict[WorkClass, float] = dict.fromkeys(CLASSES, 0.0)
    for number in range(2_000):
        heads = [
            Piece(number=number, costs={}, work_class=one, expected_seconds=length)
            for one, length in zip(CLASSES, lengths, strict=True)
        ]
        first = turns.next(heads, now, factor=9.0)
        assert first
        turns.begun(first, now)
        for one, length in zip(CLASSES[1:], lengths[1:], strict=True):
            assert now - last[one] <= 9.0 * length + sum(lengths) + max(lengths)
        now += first.expected_seconds
        last[first.work_class] = now
        had[first.work_class] += 1
    assert had["live"] > max(had["flex"] * lengths[1], had["batch"] * lengths[2]) / lengths[0]
