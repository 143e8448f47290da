"""What clients of a service left: files, batches and calls go by tenant, lines and calls by their names."""

import json
import shutil
from concurrent.futures import ThreadPoolExecutor
from itertools import count
from pathlib import Path

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from headrace.erasure.deciding import erasures, plan
from headrace.erasure.outcome import remains
from headrace.erasure.scope import Asked
from headrace.errors import HandoffMissing, InvalidInput
from headrace.handoff.media.index import MediaItem
from headrace.handoff.media.publishing import publish_media
from headrace.handoff.versions import HandoffStore
from headrace.inbox.batches.files import Swept
from headrace.inbox.batches.lines import Wanted, validated
from headrace.inbox.batches.outcomes import request_id
from headrace.inbox.batches.states import ERASED
from headrace.store.leases import CLOCK_SKEW_SECONDS, TTL_SECONDS, Leases
from headrace.store.local import LocalStore
from headrace.voice.erasing import calls_in
from headrace.voice.kept import call_name
from tests.batch_builders import ENDPOINT
from tests.erasure.builders import files_with
from tests.erasure.clients import CLOCK, SERVICE, Client, ask, directories, make_clients, secret, seen
from tests.mortal_store import Killed, MortalStore

ADA = Asked(kind="tenant", name="ada-ltd")
CALL = Asked(kind="call", name="sess-1", key="bob")


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str, str]:
    """For copies; and Bob's batches, the one that has ended and the other one."""
    directory = tmp_path_factory.mktemp("made")
    ended, under_way = make_clients(LocalStore(directory))
    return directory, ended.batch.id, under_way.batch.id


@pytest.fixture
def store(made: tuple[Path, str, str], tmp_path: Path) -> LocalStore:
    return LocalStore(Path(shutil.copytree(made[0], tmp_path / "store")))


def line_of(batch: str, name: str) -> Asked:
    return Asked(kind="event", name=f"id-{name}", batch=batch)


def test_nothing_of_a_tenant_is_left_in_any_file_nor_in_any_name(store: LocalStore) -> None:
    before = seen(store)
    assert ask(store, ADA).is_over

    assert files_with(store.directory, "ada-ltd") == []
    assert "ada-ltd" not in directories(store.directory)
    assert call_name("ada-ltd", "sess-1") not in directories(store.directory)
    bobs = {name: one for name, one in before.items() if b"bob" in str(one).encode() and not name.startswith("rollout")}
    after = seen(store)
    assert {name: after[name] for name in bobs if name not in ("open", "parts")} == {
        name: one for name, one in bobs.items() if name not in ("open", "parts")
    }
    assert remains(store, CLOCK, erasures(store)[0]) == []


def test_a_line_goes_out_of_its_file_and_of_every_outcome(made: tuple[Path, str, str], store: LocalStore) -> None:
    _, ended, under_way = made
    bob = Client(store, "bob")
    assert ask(store, line_of(ended, "bob-1")).is_over
    assert ask(store, line_of(under_way, "bob-0-again")).is_over

    for gone in ("bob-1", "bob-0-again"):
        assert files_with(store.directory, f'"id-{gone}"') == []
        assert files_with(store.directory, secret(gone)) == [], gone
    for left in ("bob-0", "bob-2", "bob-1-again"):
        assert files_with(store.directory, secret(left)), left
    batch = bob.batches.find("bob", ended)
    assert batch is not None
    assert batch.batch.error_file is not None
    file = bob.files.find("bob", batch.batch.error_file)
    assert file is not None
    lines = b"".join(bob.files.pieces("bob", file)).splitlines()
    assert [json.loads(line)["custom_id"] for line in lines] == ["id-bob-3"]
    part = bob.batches.settled("bob", under_way, 0)
    assert (part.counts.num_completed, part.counts.num_failed, part.output) == (0, 2, "")
    assert json.loads(part.errors.splitlines()[-1])["error"]["code"] == ERASED
    for one in erasures(store):
        assert remains(store, CLOCK, one) == []


def test_a_file_without_a_line_is_divided_as_it_was_and_may_be_sent_again(
    made: tuple[Path, str, str], store: LocalStore
) -> None:
    bob, ended = Client(store, "bob"), made[1]
    kept = bob.batches.find("bob", ended)
    assert kept is not None
    before = b"".join(bob.files.pieces("bob", kept.batch.input))
    ask(store, line_of(ended, "bob-1"))

    after = b"".join(bob.files.pieces("bob", kept.batch.input))
    assert len(after) == len(before)
    assert [len(line) for line in after.splitlines()] == [len(line) for line in before.splitlines()]
    assert validated([after], Wanted(endpoint=ENDPOINT, model=SERVICE)) == (4, ())


def test_a_line_is_found_by_its_request_too(made: tuple[Path, str, str], store: LocalStore) -> None:
    name = request_id(made[1], "id-bob-2")
    assert ask(store, Asked(kind="prompt", name=name[:24])).is_over
    assert files_with(store.directory, secret("bob-2")) == []
    with pytest.raises(InvalidInput, match="A line's request is named by batch_req_ and at least 6 more characters"):
        plan(store, CLOCK, Asked(kind="prompt", name="batch_req_12"))


def test_a_call_goes_by_its_session(store: LocalStore) -> None:
    with pytest.raises(InvalidInput, match="2 calls have the name 'sess-1', of API keys 'ada-ltd', 'bob'. Say whose"):
        plan(store, CLOCK, Asked(kind="call", name="sess-1"))
    with pytest.raises(HandoffMissing, match="No call of a session 'sess-2' is in this store. If a log may have it"):
        plan(store, CLOCK, Asked(kind="call", name="sess-2"))
    assert ask(store, CALL).is_over

    assert files_with(store.directory, secret("bob-sess-1")) == []
    assert [one.key for one in calls_in(store)] == ["ada-ltd"]
    assert files_with(store.directory, secret("ada-ltd-sess-1"))
    assert files_with(store.directory, '"another call"'), "others' turns of the same moment stay"
    assert remains(store, CLOCK, erasures(store)[0]) == []


def test_recorded_turns_of_a_call_go_with_their_audio_and_with_the_event_that_they_were_sealed_from(
    store: LocalStore,
) -> None:
    handoffs, rows, items = HandoffStore(store, CLOCK), list[dict[str, str]](), list[MediaItem]()
    for key in ("ada-ltd", "bob"):
        said = {name: f"{name}-{key}" for name in ("row_id", "prompt_id", "event_id", "said")}
        rows.append(said | {"event_source": "calls", "call": call_name(key, "sess-1"), "tenant": key})
        items.append(
            MediaItem(
                item_id=f"item-{key}",
                media_type="audio/wav",
                content=secret(f"{key}-heard").encode(),
                row_id=said["row_id"],
            )
        )
    publish_media(handoffs, "recorded_audio", "2026-11-22|14", items, code_version="1", run_id="calls")
    handoffs.publish("recorded_calls", "2026-11-22|14", pa.Table.from_pylist(rows), code_version="1", run_id="calls")
    ask(store, ADA)
    for gone in ("ada-ltd", call_name("ada-ltd", "sess-1"), secret("ada-ltd-heard")):
        assert files_with(store.directory, gone) == [], gone
    ask(store, CALL)
    assert files_with(store.directory, "bob-heard") == files_with(store.directory, "said-bob") == []
    assert handoffs.open("recorded_calls", "2026-11-22|14").num_rows == 0


def test_what_is_left_of_a_file_outlives_the_sweeps_of_a_running_gateway(
    made: tuple[Path, str, str], store: LocalStore
) -> None:
    bob, known = Client(store, "bob"), Swept()
    bob.files.sweep(set(), known)
    ask(store, line_of(made[1], "bob-0"))
    before = seen(store)
    for _ in range(3):
        bob.files.sweep(set(), known)
    assert seen(store) == before


def test_it_waits_for_an_upload_and_for_who_works_at_a_batch(store: LocalStore) -> None:
    new = Client(store, "ada-ltd").files.new("ada-ltd", "file-0193c0ffee00" + "0" * 20)
    new.write(secret("late").encode())
    assert len(ask(store, ADA).writers) == 2, "its lease, and its temporary file"
    new.seal(secret("late"), "batch", created_at=1, expires_at=int(CLOCK.now()) + 60)
    assert ask(store, ADA).is_over
    assert files_with(store.directory, secret("late")) == []
    assert "ada-ltd" not in directories(store.directory)

    lease = Leases(store, CLOCK).hold("a" * 32)
    assert ask(store, CALL).writers == ("a" * 32,)
    lease.release()
    assert ask(store, CALL).is_over


def test_several_erasures_at_once_undo_nothing_of_each_other(made: tuple[Path, str, str], store: LocalStore) -> None:
    """Of the same segment, the same files and the same settled lines."""
    wanted = [CALL, Asked(kind="call", name="sess-1", key="ada-ltd")]
    wanted += [line_of(made[1], f"bob-{number}") for number in (0, 1, 2)]
    wanted += [line_of(made[2], f"bob-{number}-again") for number in (0, 1)]
    with ThreadPoolExecutor(len(wanted)) as threads:
        list(threads.map(lambda asked: ask(LocalStore(store.directory), asked), wanted))
    for asked in wanted:  # those that had to wait for another one
        assert ask(store, asked).is_over

    for gone in ("bob-sess-1", "ada-ltd-sess-1", "bob-0", "bob-1", "bob-2", "bob-0-again", "bob-1-again"):
        assert files_with(store.directory, secret(gone)) == [], gone
    for left in ("bob-3", "bob-2-again", "ada-ltd-0"):
        assert files_with(store.directory, secret(left)), left
    assert sorted(one.asked for one in erasures(store)) == ["call"] * 2 + ["event"] * 5
    for one in erasures(store):
        assert remains(store, CLOCK, one) == []


def test_a_tenant_of_nothing_and_one_with_an_odd_name(store: LocalStore) -> None:
    for name in ("..", "../bob", "bob/files", "BOB", "b\u0443b", "x" * 5_000, ""):
        with pytest.raises(HandoffMissing, match="no API key of this name has calls, files or batches"):
            plan(store, CLOCK, Asked(kind="tenant", name=name))
    assert not store.exists("erasures/salt.json")


def test_who_may_only_read_sees_what_would_go_and_what_went(store: LocalStore) -> None:
    ask(store, CALL)
    seen_only = MortalStore(store.directory)
    seen_only.num_left = 0  # any write would be its end
    assert len(plan(seen_only, CLOCK, ADA).scope.batches.batches) == 2
    assert plan(seen_only, CLOCK, CALL).earlier == erasures(seen_only)[0]


def test_links_lead_no_erasure_out_of_the_store(store: LocalStore, tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    (outside / "empty").mkdir(parents=True)
    (outside / "kept").write_text("kept")
    [tenant] = store.directory.glob("batch_api/*/tenants/ada-ltd")
    (tenant / "files/elsewhere").symlink_to(outside)
    (tenant / "states/elsewhere").symlink_to(outside)
    ask(store, ADA)
    assert sorted(file.name for file in outside.iterdir()) == ["empty", "kept"]


_copies = count()
_SHARE_WRITES = 40


@settings(settings.get_profile("default"), max_examples=max(settings.get_profile("default").max_examples // 2, 1))
@given(
    wanted=st.lists(st.integers(0, 3), min_size=1, max_size=3, unique=True),
    share=st.floats(0, 1, exclude_max=True),
)
def test_a_killed_erasure_ends_where_one_ends_that_nobody_killed(
    made: tuple[Path, str, str], wanted: list[int], share: float
) -> None:
    directory, ended, under_way = made
    all_of_them = [ADA, CALL, line_of(ended, "bob-1"), line_of(under_way, "bob-0-again")]
    root, views = directory.parent / f"copies-{next(_copies)}", list[object]()
    for name, dies in (("whole", False), ("killed", True)):
        store = MortalStore(Path(shutil.copytree(directory, root / name)))
        for place in wanted:
            store.num_left = int(share * _SHARE_WRITES) if dies else None
            try:
                carried = ask(store, all_of_them[place])
            except Killed:
                CLOCK.advance(TTL_SECONDS + CLOCK_SKEW_SECONDS + 1)
                store.num_left = None
                carried = ask(store, all_of_them[place])
            store.num_left = None
            assert carried.is_over
        for one in erasures(store):
            assert remains(store, CLOCK, one) == []
        assert len(erasures(store)) == len(wanted)
        views.append(seen(store))
        assert "bob" in directories(store.directory)
        assert ("ada-ltd" in directories(store.directory)) == (0 not in wanted)
    assert views[0] == views[1]
    shutil.rmtree(root)
