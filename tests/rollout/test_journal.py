import hashlib
import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from headrace.clock import FixedClock
from headrace.errors import InvalidInput, JournalConflict
from headrace.rollout.journal import GENESIS, Journal, JournalCorrupt
from headrace.store.local import LocalStore
from headrace.store.objects import canonical_json
from tests.rollout.builders import make_journal


def filled(directory: Path, num_entries: int = 4) -> Journal:
    journal = make_journal(directory)
    for number in range(num_entries):
        journal.append("noted", {"value": number}, expected=number)
    return journal


def test_a_new_journal_is_empty(tmp_path: Path) -> None:
    journal = make_journal(tmp_path)
    assert (journal.entries(), journal.head(), journal.verify()) == ((), 0, 0)


def test_entries_are_numbered_and_each_carries_the_digest_before_it(tmp_path: Path) -> None:
    entries = filled(tmp_path).entries()
    assert [entry.number for entry in entries] == [1, 2, 3, 4]
    assert [entry.prev for entry in entries] == [GENESIS, *(entry.digest for entry in entries[:-1])]
    assert [entry.fields["value"] for entry in make_journal(tmp_path).entries()] == [0, 1, 2, 3]


def test_the_writer_holds_what_every_reader_sees(tmp_path: Path) -> None:
    written = make_journal(tmp_path).append("noted", {"steps": (0.1, 0.5)}, expected=0)
    assert [written] == list(make_journal(tmp_path).entries())


def test_a_writer_that_decided_on_an_old_head_is_told_to_decide_again(tmp_path: Path) -> None:
    journal, other = make_journal(tmp_path), make_journal(tmp_path)
    journal.append("noted", {}, expected=0)
    with pytest.raises(JournalConflict, match="decided at entry 0 came too late, the head is entry 1"):
        other.append("noted", {}, expected=0)


def test_a_writer_cannot_leave_a_gap(tmp_path: Path) -> None:
    with pytest.raises(JournalConflict, match="the head is entry 0"):
        make_journal(tmp_path).append("noted", {}, expected=3)


def test_of_many_writers_at_one_head_exactly_one_wins(tmp_path: Path) -> None:
    num_writers, won, lost = 8, [], []
    barrier = threading.Barrier(num_writers)

    def write(writer: int) -> None:
        journal = make_journal(tmp_path)
        barrier.wait()
        try:
            won.append(journal.append("noted", {"writer": writer}, expected=0).fields["writer"])
        except JournalConflict:
            lost.append(writer)

    threads = [threading.Thread(target=write, args=(writer,)) for writer in range(num_writers)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (len(won), len(lost)) == (1, num_writers - 1)
    assert [entry.fields["writer"] for entry in make_journal(tmp_path).entries()] == won


def test_a_create_whose_reply_was_lost_still_counts_as_won(tmp_path: Path) -> None:
    class LosesReplies(LocalStore):
        def create(self, key: str, body: bytes, *, durable: bool = True) -> bool:
            super().create(key, body, durable=durable)
            return False

    journal = Journal(LosesReplies(tmp_path), "glossary", FixedClock())
    assert journal.append("noted", {}, expected=0).number == 1
    assert journal.head() == 1


def test_what_was_read_once_is_not_read_again(tmp_path: Path) -> None:
    class CountsReads(LocalStore):
        num_reads = 0

        def read(self, key: str) -> bytes:
            self.num_reads += 1
            return super().read(key)

    filled(tmp_path)
    store = CountsReads(tmp_path)
    journal = Journal(store, "glossary", FixedClock())
    journal.entries()
    store.num_reads = 0
    journal.entries()
    assert store.num_reads == 1


def test_a_clock_that_jumps_back_changes_no_order(tmp_path: Path) -> None:
    clock = FixedClock()
    journal = Journal(LocalStore(tmp_path), "glossary", clock)
    journal.append("first", {}, expected=0)
    clock.advance(-86_400)
    journal.append("second", {}, expected=1)
    assert [entry.event for entry in make_journal(tmp_path).entries()] == ["first", "second"]


Damage = Callable[[dict[str, Any]], Any]


def damage(directory: Path, number: int, change: Damage) -> None:
    path = directory / f"rollout/glossary/journal/{number:08d}.json"
    body = json.loads(path.read_bytes())
    change(body)
    path.unlink()
    path.write_text(json.dumps(body))


@pytest.mark.parametrize(
    "change",
    [
        lambda body: body["fields"].update(value=7),
        lambda body: body.update(event="aborted"),
        lambda body: body.update(at=body["at"] + 1),
        lambda body: body.update(number=9),
        lambda body: body.update(prev=GENESIS),
        lambda body: body.update(nonce="0" * 32),
        lambda body: body.update(digest="0" * 64),
        lambda body: body.update(extra=1),
        lambda body: body.pop("nonce"),
    ],
)
def test_any_edit_of_an_entry_is_found_by_the_next_read(tmp_path: Path, change: Damage) -> None:
    filled(tmp_path)
    damage(tmp_path, 2, change)
    with pytest.raises(
        JournalCorrupt, match=r"Journal glossary cannot be believed\. Entry .*/00000002\.json is damaged"
    ):
        make_journal(tmp_path).entries()


@given(number=st.integers(1, 4), position=st.integers(0), bit=st.integers(0, 7))
def test_any_flipped_bit_is_found(
    tmp_path_factory: pytest.TempPathFactory, number: int, position: int, bit: int
) -> None:
    directory = tmp_path_factory.mktemp("journal")
    filled(directory)
    path = directory / f"rollout/glossary/journal/{number:08d}.json"
    raw = bytearray(path.read_bytes())
    raw[position % len(raw)] ^= 1 << bit
    path.unlink()
    path.write_bytes(raw)
    with pytest.raises(JournalCorrupt):
        make_journal(directory).verify()


def test_an_entry_of_another_journal_is_found(tmp_path: Path) -> None:
    filled(tmp_path)
    other = Journal(LocalStore(tmp_path), "other", FixedClock())
    other.append("noted", {"value": 0}, expected=0)
    (tmp_path / "rollout/glossary/journal/00000001.json").unlink()
    os.link(tmp_path / "rollout/other/journal/00000001.json", tmp_path / "rollout/glossary/journal/00000001.json")
    with pytest.raises(JournalCorrupt, match=r"00000001\.json is damaged: its content under this key has sha256"):
        make_journal(tmp_path).entries()


def test_an_entry_missing_in_the_middle_is_found(tmp_path: Path) -> None:
    filled(tmp_path)
    (tmp_path / "rollout/glossary/journal/00000002.json").unlink()
    with pytest.raises(JournalCorrupt, match="Entry 2 is missing, though number 4 was made"):
        make_journal(tmp_path).verify()


def test_a_foreign_file_beside_the_entries_is_found(tmp_path: Path) -> None:
    filled(tmp_path)
    (tmp_path / "rollout/glossary/journal/notes.txt").write_text("hello")
    with pytest.raises(JournalCorrupt, match=r"objects that no append made: notes\.txt"):
        make_journal(tmp_path).verify()


def test_a_reader_that_saw_more_finds_a_journal_cut_at_its_end(tmp_path: Path) -> None:
    journal = filled(tmp_path)
    (tmp_path / "rollout/glossary/journal/00000004.json").unlink()
    (tmp_path / "rollout/glossary/journal/00000004.made").unlink()
    with pytest.raises(JournalCorrupt, match="it was cut or rewritten"):
        journal.verify()


def test_names_that_a_file_system_leaves_beside_the_entries_say_nothing(tmp_path: Path) -> None:
    filled(tmp_path)
    for name in (".nfs000000000011", ".DS_Store"):
        (tmp_path / "rollout/glossary/journal" / name).write_bytes(b"")
    assert (make_journal(tmp_path).verify(), make_journal(tmp_path).head()) == (4, 4)


@pytest.mark.parametrize("gone", [1, 2, 3, 4])
def test_an_aborted_set_does_not_come_back_when_an_entry_is_lost(tmp_path: Path, gone: int) -> None:
    journal = make_journal(tmp_path)
    names = {"version_set": "b" * 64, "weights_digest": "w"}
    step = {"step": 0, "weight": 1.0, "num_rows": 0}
    journal.append("initialized", {"version_set": "a" * 64, "weights_digest": "w"}, expected=0)
    journal.append("started", {**names, **step}, expected=1)
    journal.append("aborted", names, expected=2)
    journal.append("started", {"version_set": "c" * 64, "weights_digest": "w", **step}, expected=3)
    (tmp_path / f"rollout/glossary/journal/{gone:08d}.json").unlink()
    message = f"Entry {gone} is missing, though number 4 was made below .* Restore it from a backup"
    with pytest.raises(JournalCorrupt, match=message) as error:
        make_journal(tmp_path).entries()
    assert error.value.key == f"rollout/glossary/journal/{gone:08d}.json"
    before = sorted(path.name for path in (tmp_path / "rollout/glossary/journal").iterdir())
    with pytest.raises(JournalCorrupt, match=message):
        make_journal(tmp_path).append("aborted", names, expected=gone - 1)
    # Whoever had read all of it before the loss still appends nothing behind the gap.
    with pytest.raises(JournalCorrupt, match=f"Journal glossary takes no entry. {message}"):
        journal.append("aborted", names, expected=4)
    assert sorted(path.name for path in (tmp_path / "rollout/glossary/journal").iterdir()) == before


def test_a_directory_in_an_entrys_place_is_no_end_of_the_journal(tmp_path: Path) -> None:
    filled(tmp_path, 1)
    path = tmp_path / "rollout/glossary/journal/00000001.json"
    path.unlink()
    path.mkdir()
    for look in (make_journal(tmp_path).head, make_journal(tmp_path).verify):
        with pytest.raises(JournalCorrupt, match="is a directory, where the store keeps an object"):
            look()


def test_a_journal_of_an_earlier_release_is_read_and_goes_on(tmp_path: Path) -> None:
    store, prev = LocalStore(tmp_path), GENESIS
    for number in (1, 2):
        body = {"number": number, "event": "noted", "fields": {"value": number}, "at": 1.5, "prev": prev, "nonce": "0"}
        prev = hashlib.sha256(canonical_json({"journal": "glossary", **body})).hexdigest()
        store.create(f"rollout/glossary/journal/{number:08d}.json", canonical_json({**body, "digest": prev}))
    journal = make_journal(tmp_path)
    assert [entry.fields["value"] for entry in journal.entries()] == [1, 2]
    assert journal.append("noted", {"value": 3}, expected=2).prev == prev
    assert make_journal(tmp_path).verify() == 3
    damage(tmp_path, 2, lambda body: body["fields"].update(value=7))
    with pytest.raises(JournalCorrupt, match="has an entry 2 that was edited"):
        make_journal(tmp_path).entries()


@pytest.mark.parametrize("value", [float("nan"), float("inf"), {1, 2}, b"bytes"])
def test_fields_without_one_json_form_are_refused_before_anything_is_written(tmp_path: Path, value: object) -> None:
    journal = make_journal(tmp_path)
    with pytest.raises(InvalidInput, match="takes JSON values only"):
        journal.append("noted", {"value": value}, expected=0)
    assert journal.head() == 0


WRITER = """
import sys
from pathlib import Path
from headrace.clock import SystemClock
from headrace.errors import JournalConflict
from headrace.rollout.journal import Journal
from headrace.store.local import LocalStore

writer, journal, sequence = sys.argv[2], Journal(LocalStore(Path(sys.argv[1])), "glossary", SystemClock()), 0
print("ready", flush=True)
while True:
    try:
        journal.append("noted", {"writer": writer, "sequence": sequence}, expected=journal.head())
    except JournalConflict:
        continue
    print(sequence, flush=True)
    sequence += 1
"""


@pytest.mark.process
def test_writers_that_race_and_are_killed_leave_a_whole_journal_with_every_acknowledged_event(tmp_path: Path) -> None:
    acknowledged: dict[str, int] = {}
    for round_number in range(3):
        names = [f"{round_number}-a", f"{round_number}-b"]
        writers = [
            subprocess.Popen([sys.executable, "-c", WRITER, str(tmp_path), name], stdout=subprocess.PIPE, text=True)
            for name in names
        ]
        for writer in writers:
            assert writer.stdout is not None
            assert writer.stdout.readline() == "ready\n"
        # Killed after another number of appends each time, so at other points of an append.
        for name, writer in zip(names, writers, strict=True):
            assert writer.stdout is not None
            for _ in range(5 + 7 * round_number):
                acknowledged[name] = int(writer.stdout.readline())
        for name, writer in zip(names, writers, strict=True):
            assert writer.stdout is not None
            writer.send_signal(signal.SIGKILL)
            rest = writer.stdout.read().split()
            acknowledged[name] = int(rest[-1]) if rest else acknowledged[name]
            writer.wait()
            writer.stdout.close()
    journal = make_journal(tmp_path)
    events = [(entry.fields["writer"], entry.fields["sequence"]) for entry in journal.entries()]
    assert journal.verify() == len(events) == len(set(events))
    for name, last in acknowledged.items():
        written = [sequence for writer, sequence in events if writer == name]
        # Each in its order and once; at most the one event whose reply the kill took comes on top.
        assert written in (list(range(last + 1)), list(range(last + 2)))
