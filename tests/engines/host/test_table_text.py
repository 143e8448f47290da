"""A host's table for people in Dagster's UI, and as figures."""

from dataclasses import replace
from typing import Any

from headrace.engines.host.metrics import page
from headrace.engines.host.table_text import comes_in, markdown_table
from headrace.engines.host.table_view import AccountRow, ModelRow, Table

AWAKE = ModelRow(
    id="a" * 64,
    model="writer 3 (transformers)",
    model_id="m1",
    place="cpu",
    state="on the device",
    state_seconds=40.0,
    mib=700,
    reserved_mib=750,
    peak_mib=740,
    bring_seconds=4.25,
    hits=12,
    loads=1,
    is_kept=True,
    next_out=2,
)
ASLEEP = ModelRow(
    id="b" * 64,
    model="painter | 1 (diffusers)",
    model_id="m2",
    place="cpu",
    state="asleep",
    state_seconds=3.0,
    mib=250,
    reserved_mib=250,
    peak_mib=900,
    bring_seconds=6.0,
    wake_seconds=0.31,
    hits=3,
    next_out=1,
)
TABLE = Table(accounts=(AccountRow(place="cpu", mib=4000, reserved_mib=1000),), data=(AWAKE, ASLEEP))


def test_a_page_shows_what_is_kept_and_asleep_and_what_would_go_next() -> None:
    lines = markdown_table(TABLE, now=1_800_000_060.0).splitlines()
    assert lines[0] == "|model|place|state|kept|since|MiB|hits|comes in|next out|"
    assert lines[2] == "|painter &#124; 1 (diffusers)|cpu|asleep||2027-01-15T08:00:57Z|250|3|0.3 s|1|"
    assert lines[3] == "|writer 3 (transformers)|cpu|on the device|yes|2027-01-15T08:00:20Z|700|12|4.2 s|2|"
    assert lines[-1] == "1,000 of 4,000 MiB of cpu are promised."


def test_a_table_of_many_models_stays_short_enough_to_be_shown_at_once() -> None:
    many = Table(accounts=TABLE.accounts, data=(AWAKE,) * 200)
    assert len(markdown_table(many, now=0.0)) < 1000
    assert "more" in markdown_table(many, now=0.0)


def test_what_never_came_has_no_time_of_coming() -> None:
    absent = ModelRow(
        id="c", model="c", model_id="", place="cpu", state="absent", state_seconds=0, mib=0, reserved_mib=0, peak_mib=0
    )
    assert comes_in(absent) == ""


def test_figures_leave_out_what_is_not_known() -> None:
    lines = page(TABLE).decode().splitlines()
    awake = f'key="{"a" * 12}",model="writer 3 (transformers)",place="cpu"'
    asleep = f'key="{"b" * 12}",model="painter | 1 (diffusers)",place="cpu"'
    assert f"headrace_host_model_kept{{{awake}}} 1.0" in lines
    assert f'headrace_host_model_state{{{asleep},state="asleep"}} 1.0' in lines
    assert f"headrace_host_model_state_seconds{{{asleep}}} 3.0" in lines
    assert f"headrace_host_model_wake_seconds{{{asleep}}} 0.31" in lines
    assert not any(line.startswith(f"headrace_host_model_wake_seconds{{{awake}") for line in lines)
    assert f"headrace_host_model_hits_total{{{awake}}} 12.0" in lines
    assert 'headrace_host_place_promised_mib{place="cpu"} 1000.0' in lines


def test_how_soon_a_model_could_work_is_what_it_took_the_last_time() -> None:
    """And of one that comes, what is left of that."""

    def come_seconds(row: ModelRow, **changes: Any) -> float | None:
        return replace(row, **changes).come_seconds

    assert (come_seconds(AWAKE), come_seconds(ASLEEP)) == (0.0, 0.31)
    assert come_seconds(AWAKE, state="absent") == 4.25
    assert come_seconds(AWAKE, state="leaving") == 4.25
    assert come_seconds(AWAKE, state="loading", state_seconds=1.25) == 3.0
    # As late as it is already.
    assert come_seconds(AWAKE, state="loading", state_seconds=6.25) == 2.0
    assert come_seconds(ASLEEP, state="waking", state_seconds=0.31) == 0.0
    assert come_seconds(AWAKE, state="absent", bring_seconds=None) is None


def test_models_that_are_needed_together_come_one_after_the_other() -> None:
    elsewhere = replace(ASLEEP, place="gpu", wake_seconds=0.2)
    table = Table(accounts=TABLE.accounts, data=(AWAKE, ASLEEP, elsewhere))
    assert table.come_seconds([]) == 0.0
    assert table.come_seconds([AWAKE.id, ASLEEP.id]) == 0.2
    assert table.come_seconds([AWAKE.id, "c" * 64]) is None
