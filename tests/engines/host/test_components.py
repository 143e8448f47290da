"""Components: files that several models' processes map are in memory once, and in the account once."""

import pytest

from headrace.engines.host.copies import State
from headrace.engines.host.residents import Residents
from headrace.engines.host.steps import Load, Stop
from headrace.engines.host.table_view import table_of
from headrace.errors import EngineUnavailable
from tests.engines.host.test_residents import Table

LIBRARIES, ENCODER = ("8:1", 1), ("8:1", 2)
# What each of two painters holds for itself, what its part is then, and the encoder that both have.
OWN, PART, SHARED = 10, 26, 40
Files = dict[tuple[str, int], int]


class Painters(Table):
    """`Table`, whose models map files."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self.held: dict[str, tuple[int, Files]] = {}

    def measure(self, key: str, place: str) -> None:
        own, files = self.held.get(key, (1, {}))
        self.residents.measured(key, place, own, components=files)

    def paints(self, key: str, *, own: int = OWN, files: Files | None = None) -> None:
        """It comes, answers once, and is measured."""
        self.held[key] = (own, {ENCODER: SHARED} if files is None else files)
        self.now += 100
        self.used(key)
        self.measure(key, "cpu")


@pytest.fixture
def table() -> Painters:
    """Room for one whole painter, and for most of another."""
    return Painters()


@pytest.fixture
def both(table: Painters) -> Painters:
    """Both are there: the second one was measured before, when it was alone."""
    for key in ("a", "b"):
        table.know(key, 70)
    table.paints("b")
    table.paints("a")
    assert table.state("b") is State.ABSENT, "what was never measured comes with the whole guess"
    table.paints("b")
    return table


def test_two_that_have_one_file_are_both_there_where_both_whole_ones_could_not_be(both: Painters) -> None:
    assert (both.state("a"), both.state("b")) == (State.ON_DEVICE, State.ON_DEVICE)
    assert both.residents.reserved_mib("cpu") == SHARED + 2 * PART
    rows = {row.id: row for row in table_of(both.residents, {}, {}).data}
    assert (rows["a"].peak_mib, rows["a"].mib, rows["a"].shared_mib) == (OWN + SHARED, OWN + SHARED, SHARED)
    # As if it were alone: the account counts the encoder once.
    assert rows["a"].reserved_mib + rows["b"].reserved_mib == both.residents.reserved_mib("cpu") + SHARED


def test_a_component_is_given_back_by_the_last_that_holds_it(both: Painters) -> None:
    both.residents.gone("a", "cpu")
    assert both.residents.component_mib(ENCODER, "cpu") == SHARED
    both.residents.gone("b", "cpu")
    assert both.residents.reserved_mib("cpu") == 0


def test_two_that_share_make_room_together_where_neither_makes_it_alone(both: Painters) -> None:
    both.know("c", 90)
    both.paints("c", files={})
    assert (both.state("a"), both.state("b"), both.state("c")) == (State.ABSENT, State.ABSENT, State.ON_DEVICE)


def test_only_what_others_hold_for_themselves_is_in_the_way_of_who_shares_the_rest(both: Painters) -> None:
    both.know("c", 60)
    for key in "cab":
        both.paints(key)
    told = len(both.told)
    both.paints("c")
    assert [one.partition(" ")[0] for one in both.told[told:]] == ["stop", "load", "start"]
    assert both.residents.reserved_mib("cpu") == SHARED + 2 * PART


def test_components_that_come_to_light_are_paid_from_the_first_guess(table: Painters) -> None:
    table.know("a", 90)
    ticket = table.enter("a")
    table.residents.measured("a", "cpu", 10, components={ENCODER: 30})
    assert table.residents.reserved_mib("cpu") == 90, "it is one of all that the model will hold"
    table.residents.measured("a", "cpu", 10, components={ENCODER: 40, LIBRARIES: 20})
    assert table.residents.reserved_mib("cpu") == 90
    table.leave(ticket)
    assert table.residents.reserved_mib("cpu") == 60 + 10 + 16


def test_a_copy_that_outgrows_its_own_part_is_stopped_whatever_it_shares(both: Painters) -> None:
    free = 100 - both.residents.reserved_mib("cpu")
    both.residents.measured("a", "cpu", PART + free + 1, components={ENCODER: SHARED})
    [stop] = both.residents.next_steps()
    assert isinstance(stop, Stop)
    assert (stop.key, stop.at_once) == ("a", True)


def test_a_sleeper_lets_go_what_nobody_else_holds(table: Painters) -> None:
    for key in ("a", "b"):
        table.know(key, 70, can_sleep=True)
    table.paints("a", files={ENCODER: 30, LIBRARIES: 10})
    table.now += 2000
    steps = table.residents.next_steps()
    assert [type(step).__name__ for step in steps] == ["Sleep"]
    table.residents.measured("a", "cpu", 5, components={LIBRARIES: 10})
    table.residents.asleep("a", "cpu")
    assert table.residents.component_mib(ENCODER, "cpu") == 0
    assert table.residents.reserved_mib("cpu") == 5 + 16 + 10
    remembered = table.residents.remembered()["a"]
    assert (remembered.held_mib, remembered.asleep_mib) == (OWN + 40, 15), "a later host knows of no components"


def test_a_file_that_was_replaced_is_expected_no_more(table: Painters) -> None:
    """Weights that were collected and put together again are another file."""
    table.know("a", 90)
    table.paints("a", files={ENCODER: 50})
    table.residents.gone("a", "cpu")
    table.paints("a", files={("8:1", 3): 50})
    assert table.residents.component_mib(ENCODER, "cpu") == 0
    table.residents.gone("a", "cpu")
    table.paints("a", files={("8:1", 3): 50})
    assert table.residents.reserved_mib("cpu") == PART + 50


def test_a_file_that_is_let_go_once_it_was_read_is_held_while_the_model_comes_and_no_longer(table: Painters) -> None:
    """Weights that are laid anew in a process's own memory."""
    table.know("a", 90)
    table.held["a"] = (10, {ENCODER: 60})
    ticket = table.enter("a")
    table.residents.measured("a", "cpu", 40, components={})
    table.leave(ticket)
    table.residents.measured("a", "cpu", 40, components={})
    assert table.residents.reserved_mib("cpu") == 40
    remembered = table.residents.remembered()["a"]
    assert (remembered.coming_mib, remembered.held_mib) == (70, 40), "never more at once"
    table.residents.gone("a", "cpu")
    table.residents.enter("a")
    assert table.residents.next_steps() == [Load(key="a", place="cpu")]
    assert table.residents.reserved_mib("cpu") == 70 + 3 + 16, "as it comes it holds both"


def test_a_file_that_is_let_go_by_the_first_answer_is_no_reason_to_end_the_model_after_it(table: Painters) -> None:
    """The highest moment was with it."""
    table.know("a", 90)
    table.held["a"] = (10, {ENCODER: 60})
    ticket = table.enter("a")
    table.residents.measured("a", "cpu", 20, components={ENCODER: 60}, most_mib=80)
    table.residents.measured("a", "cpu", 25, components={}, most_mib=80)
    table.leave(ticket)
    table.residents.measured("a", "cpu", 25, components={}, most_mib=80)
    table.know("b", 50)
    table.used("b")
    table.residents.measured("a", "cpu", 25, components={}, most_mib=80)
    assert (table.state("a"), table.state("b")) == (State.ON_DEVICE, State.ON_DEVICE)
    assert table.residents.next_steps() == []
    assert table.residents.reserved_mib("cpu") <= 25 + 16 + 1 + 50


def test_what_was_expected_makes_room_for_what_is_there(table: Painters) -> None:
    """Else a model whose files were replaced would outgrow its place each time that it comes."""
    table.know("a", 90)
    table.paints("a", files={ENCODER: 60})
    table.residents.gone("a", "cpu")
    ticket = table.residents.enter("a")
    assert table.residents.next_steps() == [Load(key="a", place="cpu")]
    table.residents.measured("a", "cpu", OWN, components={("8:1", 3): 60})
    assert table.residents.reserved_mib("cpu") <= 100
    table.residents.loaded("a", "cpu", seconds=1.0)
    table.run()
    assert ticket.is_at_work


def test_all_that_a_model_was_ever_seen_with_is_not_expected_where_no_place_could_hold_it(table: Painters) -> None:
    table.know("a", 60)
    ticket = table.residents.enter("a")
    for components in ({ENCODER: 40}, {LIBRARIES: 40}):
        assert table.residents.next_steps() == [Load(key="a", place="cpu")]
        table.residents.measured("a", "cpu", 30, components=components)
        table.residents.gone("a", "cpu")
    table.run()
    assert ticket.is_at_work


def test_a_model_comes_again_that_held_for_itself_what_it_had_of_files_before(table: Painters) -> None:
    """What was never held at once is not expected at once: there would be no such room."""
    table.know("a", 60)
    ticket = table.residents.enter("a")
    assert table.residents.next_steps() == [Load(key="a", place="cpu")]
    table.residents.measured("a", "cpu", 1, components={ENCODER: 51})
    table.residents.loaded("a", "cpu", seconds=1.0)
    table.run()
    table.know("b", 40)
    table.enter("b")
    table.residents.measured("a", "cpu", 60)
    assert [type(step) for step in table.residents.next_steps()] == [Stop]
    table.residents.gone("a", "cpu")
    table.residents.leave(ticket, is_answered=False)
    ticket = table.residents.enter("a")
    table.residents.gone("b", "cpu")
    table.run()
    assert ticket.is_at_work


def test_a_moments_memory_is_a_models_own_but_for_what_its_files_explain(table: Painters) -> None:
    table.know("a", 90)
    ticket = table.enter("a")
    table.residents.measured("a", "cpu", 10, components={ENCODER: 40})
    # The kernel has taken pages of the file back, which others need more; the moment of the highest was before.
    table.residents.measured("a", "cpu", 10, components={ENCODER: 15}, most_mib=50 + 8)
    table.leave(ticket)
    assert table.residents.reserved_mib("cpu") == 18 + 16 + 40


def test_a_model_that_is_whole_larger_than_its_place_is_refused(table: Painters) -> None:
    table.know("a", 60)
    ticket = table.residents.enter("a")
    assert table.residents.next_steps() == [Load(key="a", place="cpu")]
    table.residents.measured("a", "cpu", 60, components={ENCODER: 60})
    table.residents.next_steps()
    table.residents.not_loaded("a", "cpu", EngineUnavailable("killed"))
    assert table.residents.next_steps() == []
    assert ticket.is_over


def test_what_sleeps_on_gpus_shares_the_machines_memory_too() -> None:
    table = Residents(lambda: 0.0, {"cpu": 200, "gpu 0": 60, "gpu 1": 60}, idle_seconds=0.0, home="cpu")
    for key, place in (("a", "gpu 0"), ("b", "gpu 1")):
        table.know(key, places=[place], label=key, guess_mib=40)
        ticket = table.enter(key)
        table.next_steps()
        table.loaded(key, place, seconds=1.0, can_sleep=True)
        table.leave(ticket, is_answered=False)
        table.next_steps()
        table.measured(key, place, 1)
        table.asleep(key, place, home_mib=10, home_components={LIBRARIES: 40})
    assert table.reserved_mib("cpu") == 2 * (10 + 16) + 40
