"""Files and batches in a store."""

import json
import threading
from pathlib import Path

import pytest

from headrace.clock import FixedClock
from headrace.errors import HandoffCorrupt
from headrace.inbox.batches import outcomes, states
from headrace.inbox.batches.files import File, Files, Swept
from headrace.inbox.batches.kept import Batches, CountsSoFar
from headrace.inbox.batches.outcomes import Answered, Unmade, settled
from headrace.inbox.batches.places import FILE, is_name, made_at, name_of, new_name
from headrace.inbox.batches.states import Batch, Counts
from headrace.store.local import LocalStore
from tests.batch_builders import NOW, make_batch, seal_file


@pytest.fixture
def store(tmp_path: Path) -> LocalStore:
    return LocalStore(tmp_path / "store")


def written(files: Files, *, seconds: int = 3_600) -> File:
    return seal_file(files, "shop", seconds=seconds)


def made(kept: Batches, file: File, tenant: str = "shop") -> Batch:
    return kept.create(tenant, make_batch(file)).batch


def test_a_file_is_there_once_it_is_sealed(store: LocalStore) -> None:
    files = Files(store, "assistant", FixedClock())
    file = written(files)
    assert (file.num_bytes, file.num_lines) == (7, 2)
    assert files.find("shop", file.id) == file
    assert b"".join(files.pieces("shop", file, 4)) == b"two"


def test_a_file_that_is_given_up_leaves_nothing(store: LocalStore) -> None:
    files = Files(store, "assistant", FixedClock())
    new = files.new("shop", new_name(FILE, NOW))
    new.write(b"half of a li")
    new.discard()
    assert (files.names("shop"), files.num_bytes_kept("shop")) == ([], 0)


def test_a_file_of_the_same_name_is_made_once(store: LocalStore) -> None:
    files = Files(store, "assistant", FixedClock())
    name = name_of(FILE, NOW, "batch_1", "output")
    first, second = (files.new("shop", name) for _ in range(2))
    found = [
        new.seal("out.jsonl", "batch_output", created_at=int(NOW), expires_at=int(NOW) + 1)
        for new in (first, second)
        if not new.write(b"line\n")
    ]
    assert found[0] == found[1]
    assert files.num_bytes_kept("shop") == len(b"line\n")


def test_a_tenant_finds_neither_files_nor_batches_of_another(store: LocalStore) -> None:
    files, kept = Files(store, "assistant", FixedClock()), Batches(store, "assistant")
    file = written(files)
    batch = made(kept, file)
    assert (files.find("other", file.id), kept.find("other", batch.id)) == (None, None)
    assert (files.names("other"), kept.names("other")) == ([], [])


@pytest.mark.parametrize("name", ["", "file-", "../shop", "file-../../x", "batch_" + "0" * 32, "file-" + "G" * 32])
def test_a_name_that_is_none_reaches_no_key(store: LocalStore, name: str) -> None:
    assert not is_name(FILE, name)
    assert Files(store, "assistant", FixedClock()).find("shop", name) is None


def test_names_are_in_the_order_of_making() -> None:
    names = [new_name(FILE, NOW + second) for second in range(20)]
    assert names == sorted(names)
    assert [made_at(FILE, name) - NOW for name in names] == list(range(20))
    assert all(is_name(FILE, name) for name in names)


def test_what_has_expired_goes_and_what_a_batch_is_made_of_stays_for_it(store: LocalStore) -> None:
    clock, swept = FixedClock(), Swept()
    files = Files(store, "assistant", clock)
    short, long, used = written(files, seconds=10), written(files, seconds=1_000), written(files, seconds=10)
    clock.advance(11)
    assert [files.find("shop", file.id) for file in (short, long, used)] == [None, long, None]

    assert files.sweep({used.part}, swept) == 2
    assert b"".join(files.pieces("shop", short)) == b"one\ntwo"  # a batch may be made of it just now
    files.sweep({used.part}, swept)

    assert sorted(store.children("batch_api/assistant/tenants/shop/parts")) == sorted([long.part, used.part])
    files.sweep(set(), swept)
    files.sweep(set(), swept)
    assert store.children("batch_api/assistant/tenants/shop/parts") == [long.part]


def test_of_two_changes_to_one_state_one_is_made(store: LocalStore) -> None:
    kept = Batches(store, "assistant")
    batch = made(kept, written(Files(store, "assistant", FixedClock())))
    seen = kept.find("shop", batch.id)
    assert seen is not None
    begun = kept.advance(seen, states.begun(batch, 2, 1, int(NOW)))
    late = kept.advance(seen, states.cancelled(batch, int(NOW)))
    assert begun == late == kept.following(seen) == kept.find("shop", batch.id)
    assert late.batch.status == "in_progress"


def test_a_batch_is_open_until_it_is_closed(store: LocalStore) -> None:
    kept = Batches(store, "assistant")
    file = written(Files(store, "assistant", FixedClock()))
    first, second = made(kept, file), made(kept, file, "other")
    assert sorted(kept.open()) == sorted([("shop", first.id), ("other", second.id)])
    kept.settle("shop", first.id, 0, settled(first.id, []))
    kept.close("shop", first.id)
    assert kept.open() == [("other", second.id)]
    assert kept.settled_parts("shop", first.id) == set()
    assert kept.find("shop", first.id) is not None


def test_ended_batches_are_forgotten_with_their_files(store: LocalStore) -> None:
    kept, known = Batches(store, "assistant"), dict[str, int]()
    file = written(Files(store, "assistant", FixedClock()))
    ended, going_on = made(kept, file), made(kept, file)
    seen = kept.find("shop", ended.id)
    assert seen is not None
    kept.advance(seen, states.cancelled(ended, int(NOW)))
    kept.forget_before("shop", int(NOW) + 3_599, known)
    assert len(kept.names("shop")) == 2
    kept.forget_before("shop", int(NOW) + 3_600, known)
    assert kept.names("shop") == [going_on.id]
    assert known == {}


def test_a_part_is_settled_once_whoever_comes_first(store: LocalStore) -> None:
    kept = Batches(store, "assistant")
    own = [settled("batch_1", [Answered(custom_id="a", status=200, request_id="r", body=b"%d" % n)]) for n in range(8)]
    found: list[outcomes.Settled] = []
    threads = [
        threading.Thread(target=lambda one=one: found.append(kept.settle("shop", "batch_1", 0, one))) for one in own
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len({one.output for one in found}) == 1
    assert found[0] == kept.settled("shop", "batch_1", 0)


def test_counts_are_those_of_settled_parts_and_read_once(store: LocalStore) -> None:
    kept = Batches(store, "assistant")
    counts = CountsSoFar(kept)
    kept.settle("shop", "batch_1", 3, settled("batch_1", [Unmade(custom_id="a", code=states.EXPIRED)]))
    kept.settle(
        "shop", "batch_1", 0, settled("batch_1", [Answered(custom_id="b", status=200, request_id="r", body=b"1")])
    )
    wanted = Counts(num_completed=1, num_failed=1, num_expired=1)
    assert counts.of("shop", "batch_1") == counts.known("batch_1") == wanted


def test_lines_have_the_form_of_openais_files() -> None:
    done = settled(
        "batch_1",
        [
            Answered(custom_id="Grüße", status=200, request_id="r1", body='{"text":"ü"}'.encode()),
            Answered(custom_id="b", status=400, request_id="r2", body=b'{"error":{}}', ignored=("top_p",)),
            Unmade(custom_id="c", code=states.CANCELLED),
        ],
    )
    [output] = map(json.loads, done.output.splitlines())
    assert output == {
        "id": outcomes.request_id("batch_1", "Grüße"),
        "custom_id": "Grüße",
        "response": {"status_code": 200, "request_id": "r1", "body": {"text": "ü"}},
        "error": None,
    }
    failed, cancelled = map(json.loads, done.errors.splitlines())
    assert failed["response"] == {"status_code": 400, "request_id": "r2", "ignored": ["top_p"], "body": {"error": {}}}
    assert cancelled["response"] is None
    assert cancelled["error"]["code"] == "batch_cancelled"
    assert done.counts == Counts(num_completed=1, num_failed=2)


def test_a_damaged_state_is_told_and_not_passed_over(store: LocalStore, tmp_path: Path) -> None:
    kept = Batches(store, "assistant")
    batch = made(kept, written(Files(store, "assistant", FixedClock())))
    [file] = (tmp_path / "store").rglob("00000001.json")
    file.write_bytes(file.read_bytes().replace(b"night", b"early"))
    with pytest.raises(HandoffCorrupt, match="Restore it from a backup"):
        kept.find("shop", batch.id)
