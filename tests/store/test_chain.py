import hashlib
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest

from headrace.errors import FormatTooNew, HandoffCorrupt
from headrace.store.chain import Chain, ChainBroken, key_before
from headrace.store.objects import canonical_json
from headrace.store.small_objects import Kind
from tests.store.counting import CountingStore


@dataclass(frozen=True, kw_only=True)
class Note:
    text: str


NOTE = Kind("Note", Note, "Write it again.")


def make_chain(
    directory: Path, num_notes: int = 0, *, is_marked: bool = False, may_lack: Any = "nothing"
) -> Chain[Note]:
    chain = Chain(
        store=CountingStore(directory),
        prefix="notes/a",
        kind=NOTE,
        is_marked=is_marked,
        may_lack=may_lack,
        tells=(".answer.json",),
        remedy="Restore it from a backup.",
    )
    for number in range(1, num_notes + 1):
        assert chain.create(number, Note(text=str(number))).won
    return chain


def test_numbers_follow_each_other_and_one_writer_makes_each(tmp_path: Path) -> None:
    chain = make_chain(tmp_path, 2)
    assert (chain.newest(), chain.read(2), chain.following(1), chain.following(2)) == (
        2,
        Note(text="2"),
        Note(text="2"),
        None,
    )
    late = chain.create(2, Note(text="late"))
    assert (late.won, late.value) == (False, Note(text="2"))


def test_looking_for_news_costs_one_read(tmp_path: Path) -> None:
    chain = make_chain(tmp_path, 3)
    store = chain.store
    assert isinstance(store, CountingStore)
    store.num_reads = store.num_listings = 0
    assert chain.following(3) is None
    assert (store.num_reads, store.num_listings) == (1, 0)


@pytest.mark.parametrize("gone", [1, 2, 3])
def test_a_gap_is_found_by_the_first_read_and_before_each_append(tmp_path: Path, gone: int) -> None:
    chain = make_chain(tmp_path, 4)
    chain.store.delete(chain.key(gone))
    message = rf"Note {gone} is missing, though number 4 was made below file:///.*/notes/a\. Restore it"
    with pytest.raises(ChainBroken, match=message) as error:
        make_chain(tmp_path).newest()
    assert error.value.key == chain.key(gone)
    with pytest.raises(ChainBroken, match=message):
        chain.create(5, Note(text="5"))
    assert len(chain.store.children("notes/a")) == 3


def test_nobody_appends_behind_an_end_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(ChainBroken, match="Note 2 is missing, where number 3 was to be made"):
        make_chain(tmp_path, 1).create(3, Note(text="3"))


def test_of_a_marked_chain_not_even_the_newest_can_vanish_unseen(tmp_path: Path) -> None:
    chain = make_chain(tmp_path, 3, is_marked=True)
    chain.store.delete(chain.key(3))
    with pytest.raises(ChainBroken, match="Note 3 is missing, though number 3 was made"):
        chain.newest()


def test_a_mark_that_is_missing_takes_nothing_back(tmp_path: Path) -> None:
    chain = make_chain(tmp_path, 3, is_marked=True)
    chain.store.delete("notes/a/00000002.made")
    assert (chain.newest(), chain.create(4, Note(text="4")).won) == (4 - 1, True)


def test_another_object_of_a_number_tells_that_it_was_made(tmp_path: Path) -> None:
    chain = make_chain(tmp_path, 1)
    chain.store.create("notes/a/00000001.answer.json", b"{}")
    assert chain.newest() == 1
    chain.store.delete(chain.key(1))
    with pytest.raises(ChainBroken):
        chain.newest()


def test_foreign_names_are_passed_over(tmp_path: Path) -> None:
    chain = make_chain(tmp_path, 2)
    for name in (".nfs000000000012", ".DS_Store", "00000003.json~", "notes.txt", "3.json", "00000009.tmp"):
        (tmp_path / "notes/a" / name).write_bytes(b"")
    assert chain.newest() == 2


def test_a_swept_chain_may_begin_later_but_has_no_hole(tmp_path: Path) -> None:
    chain = make_chain(tmp_path, 4, may_lack="oldest")
    chain.store.delete(chain.key(1))
    assert chain.numbers() == [2, 3, 4]
    chain.store.delete(chain.key(3))
    with pytest.raises(ChainBroken, match="Note 3 is missing"):
        chain.newest()


def test_a_directory_in_an_objects_place_is_neither_missing_nor_whole(tmp_path: Path) -> None:
    chain = make_chain(tmp_path, 2)
    chain.store.delete(chain.key(2))
    (tmp_path / chain.key(2)).mkdir()
    for look in (lambda: chain.following(1), lambda: chain.read(2)):
        with pytest.raises(HandoffCorrupt, match="is a directory, where the store keeps an object"):
            look()


def test_a_number_far_beyond_the_end_is_a_gap_and_costs_no_memory(tmp_path: Path) -> None:
    chain = make_chain(tmp_path, 2)
    (tmp_path / "notes/a/999999999999.json").write_bytes(b"")
    with pytest.raises(ChainBroken, match=r"Note 3, 4, 5 … is missing, though number 999999999999"):
        chain.newest()


def test_the_last_one_is_its_number_and_what_it_says(tmp_path: Path) -> None:
    assert make_chain(tmp_path).last() is None
    assert make_chain(tmp_path, 3).last() == (3, Note(text="3"))


class TakesAway(CountingStore):
    """Deletes what was listed before it can be read, once, as a sweeper does."""

    def children(self, prefix: str) -> list[str]:
        names = super().children(prefix)
        if self.num_listings == 1:
            self.delete(f"{prefix}/{names[-1]}")
        return names


def test_what_is_taken_away_between_listing_and_reading_is_looked_for_again(tmp_path: Path) -> None:
    chain = replace(make_chain(tmp_path, 3, may_lack="oldest"), store=TakesAway(tmp_path))
    assert chain.last() == (2, Note(text="2"))


def test_numbers_that_come_from_elsewhere_leave_out_what_they_like(tmp_path: Path) -> None:
    chain = make_chain(tmp_path, may_lack="any")
    for number in (7, 3, 12):
        assert chain.create(number, Note(text=str(number))).won
    assert (chain.numbers(), chain.last()) == ([3, 7, 12], (12, Note(text="12")))


def test_a_sweep_that_is_killed_leaves_a_chain_that_reads_the_same(tmp_path: Path) -> None:
    chain = make_chain(tmp_path, 4, may_lack="oldest")
    chain.sweep(reversed(chain.numbers()[:2]))
    assert (chain.numbers(), chain.last()) == ([3, 4], (4, Note(text="4")))


def test_a_key_tells_which_one_comes_before_it(tmp_path: Path) -> None:
    chain = make_chain(tmp_path)
    for number in (2, 10, 100_000_000, 100_000_001):
        assert key_before(chain.key(number)) == chain.key(number - 1)
    assert key_before(chain.key(1)) is None


def test_a_damaged_head_is_told_with_its_number_and_the_next_one_may_follow_it(tmp_path: Path) -> None:
    chain = make_chain(tmp_path, 2)
    path = tmp_path / chain.key(2)
    path.chmod(0o644)
    path.write_bytes(path.read_bytes()[:-2])
    head = chain.head()
    assert (head.number, head.value) == (2, None)
    with pytest.raises(HandoffCorrupt, match="Note .*00000002.json is damaged: .* Write it again") as error:
        chain.last()
    assert str(error.value) == str(head.damage)
    assert chain.create(head.number + 1, Note(text="3"), is_listed=True).won
    assert chain.last() == (3, Note(text="3"))


def test_of_a_chain_that_a_newer_release_goes_on_with_nothing_is_decided(tmp_path: Path) -> None:
    chain = make_chain(tmp_path, 1)
    newer = create_newer(chain.key(2))
    assert chain.store.create(chain.key(2), newer)
    with pytest.raises(FormatTooNew, match="has format 2, this Headrace reads 1"):
        chain.head()


def create_newer(key: str) -> bytes:
    body = {"text": "2", "nonce": "n", "format": 2}
    return canonical_json({**body, "sha256": hashlib.sha256(canonical_json({"key": key, "body": body})).hexdigest()})
