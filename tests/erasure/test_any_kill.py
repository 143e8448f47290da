"""Any events, killed at any write and gone on with: it ends where an erasure ends that nobody killed."""

import shutil
from itertools import count
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from headrace.erasure.carrying_out import carry_out
from headrace.erasure.outcome import Outcome, finish, remains
from headrace.store.leases import CLOCK_SKEW_SECONDS, TTL_SECONDS
from tests.erasure.builders import Inbox, an_event, files_with, newest_tables, personal, secret_of
from tests.mortal_store import Killed, MortalStore

NAMES = [f"{number:02d}" for number in range(5)]
WINDOWS = ((1, 0, NAMES[:3]), (1, 1, NAMES[3:]))
_ENDLESS = 10_000

Tables = dict[tuple[str, str], list[dict[str, Any]]]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A window and its late part, with their rows; for copies."""
    directory = tmp_path_factory.mktemp("made")
    inbox = Inbox(directory)
    for window, late_part, names in WINDOWS:
        inbox.seal([personal(name) for name in names], window=window, late_part=late_part)
        inbox.make()
    return directory


def tables(directory: Path) -> Tables:
    return {(asset, key): one.table().to_pylist() for asset, key, one in newest_tables(MortalStore(directory))}


def erased(directory: Path, names: list[str], share: float | None) -> tuple[list[Outcome], int]:
    """Erases one event after the other, in a store that dies once at this share of an erasure's writes.

    Returns what is told, and how many writes the longest took.
    """
    inbox = Inbox(directory)
    inbox.objects = store = MortalStore(directory)
    outcomes, most = list[Outcome](), 0
    for name in names:
        store.num_left = _ENDLESS if share is None else int(share * 60)
        try:
            carried = carry_out(store, inbox.clock, inbox.ask(an_event(name)))
            most = max(most, _ENDLESS - store.num_left)
        except Killed:
            # Nobody else may take what the killed process holds before its leases run out.
            inbox.clock.advance(TTL_SECONDS + CLOCK_SKEW_SECONDS + 1)
            store.num_left = None
            carried = carry_out(store, inbox.clock, inbox.ask(an_event(name)))
        store.num_left = None
        erasure = inbox.ask(an_event(name))
        assert carried.is_over
        assert remains(store, inbox.clock, erasure) == []
        outcomes.append(finish(store, inbox.clock, erasure))
    return outcomes, most


_copies = count()


@settings(settings.get_profile("default"), max_examples=max(settings.get_profile("default").max_examples // 2, 1))
@given(
    names=st.lists(st.sampled_from(NAMES), min_size=1, max_size=2, unique=True),
    share=st.floats(0, 1, exclude_max=True),
)
def test_a_killed_erasure_ends_where_one_ends_that_nobody_killed(made: Path, names: list[str], share: float) -> None:
    root = made.parent / f"copies-{next(_copies)}"
    whole, killed = (Path(shutil.copytree(made, root / name)) for name in ("whole", "killed"))
    told, _ = erased(whole, names, None)
    told_after, _ = erased(killed, names, share)

    left = tables(whole)
    assert tables(killed) == left
    assert [(one.number, one.removed, one.made_of) for one in told_after] == [
        (one.number, one.removed, one.made_of) for one in told
    ]
    before = tables(made)
    prompts = {row["prompt_id"] for rows in before.values() for row in rows if row.get("event_id") in names}
    rows = {row.get("row_id") for rows in before.values() for row in rows if row.get("prompt_id") in prompts} - {None}
    for place, table in before.items():
        if place[0] != "inbox_events":
            stays = [row for row in table if not {row.get("prompt_id"), row.get("row_id")} & (prompts | rows)]
            assert left[place] == stays, place
    for directory in (whole, killed):
        assert [name for name in NAMES if not files_with(directory, secret_of(name))] == sorted(names)
        assert not any(files_with(directory, str(identity)) for identity in prompts | rows)
    shutil.rmtree(root)
