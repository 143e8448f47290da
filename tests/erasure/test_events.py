"""An event of a sealed window is erased with everything that was made of it, and nothing else changes."""

import os
from collections.abc import Collection, Iterator
from pathlib import Path

import pyarrow as pa
import pytest

from headrace.erasure.carrying_out import Carried, carry_out
from headrace.erasure.deciding import erasures, plan
from headrace.erasure.outcome import finish, outcome_of, remains
from headrace.erasure.rewriting import Rewriter
from headrace.erasure.scope import Asked
from headrace.errors import HandoffCollected, HandoffMissing, InvalidInput, RepinRequired
from headrace.generation.claim_objects import Claim
from headrace.generation.content_checks import check_content, check_one_list
from headrace.handoff.erasures import Erased
from headrace.handoff.manifest import Manifest
from headrace.handoff.versions import HandoffStore
from headrace.inbox.results import event_results
from headrace.inbox.sealed import sealed_windows, window_events
from headrace.store.leases import CLOCK_SKEW_SECONDS, TTL_SECONDS
from headrace.store.local import LocalStore
from tests.erasure.builders import CAMPAIGN, Inbox, an_event, files_with, personal, secret_of
from tests.generation.builders import ScriptedEngine


@pytest.fixture
def inbox(tmp_path: Path) -> Inbox:
    made = Inbox(tmp_path)
    made.seal([personal(name) for name in ("a", "b", "c")])
    made.make()
    return made


def test_nothing_of_an_erased_event_is_left_in_any_file_and_other_rows_keep_every_value(
    inbox: Inbox, tmp_path: Path
) -> None:
    before = {asset: inbox.rows(asset) for asset in ("prompts", "generated_content", "reviewed_content", "execution")}
    assert len(files_with(tmp_path, secret_of("b"))) >= 4
    [gone] = [row["prompt_id"] for row in before["prompts"] if row["event_id"] == "b"]
    rows = {row["row_id"] for row in before["generated_content"] if row["prompt_id"] == gone}

    erasure = inbox.ask(an_event("b"))
    assert inbox.erase(an_event("b")).is_over

    for text in (secret_of("b"), "key-b", gone, *rows):
        assert files_with(tmp_path, text) == []
    for asset, table in before.items():
        left = [row for row in table if row.get("prompt_id") != gone and row.get("row_id") not in rows]
        assert inbox.rows(asset) == left, asset
        assert len(left) == 2
    assert remains(inbox.objects, inbox.clock, erasure) == []
    outcome = finish(inbox.objects, inbox.clock, erasure)
    assert {one.asset for one in outcome.removed} >= {"inbox_events", "prompts", "generated_content", "execution"}
    assert outcome == outcome_of(inbox.objects, erasure.number)


def test_digests_and_numbers_stay_as_proof(inbox: Inbox) -> None:
    before = inbox.newest("generated_content")
    inbox.erase(an_event("b"))

    with pytest.raises(HandoffCollected):
        inbox.handoffs.open("generated_content", before.partition, before.version)
    left = inbox.newest("generated_content")
    assert (left.version, left.attributes["erased_from"]) == (before.version + 1, before.content_digest)
    assert left.attributes["erased_by"] == "1"
    [window] = sealed_windows(inbox.objects, CAMPAIGN)
    assert window.num_events == 3
    assert window_events(inbox.objects, window)["id"].to_pylist() == ["a", "c"]
    assert [one.event for one in event_results(inbox.handoffs, CAMPAIGN)] == ["a", "c"]


def test_what_is_left_is_not_made_again(inbox: Inbox) -> None:
    inbox.erase(an_event("b"))
    prompts = inbox.newest("prompts")
    content = inbox.newest("generated_content")

    assert check_one_list(inbox.handoffs, inbox.campaign, inbox.site.partition, Path()).passed
    assert all(one.passed for one in check_content(inbox.handoffs, prompts.partition).values())
    for _ in range(2):
        assert inbox.list_prompts().content_digest == prompts.content_digest
    outcome = inbox.site.generate(
        inbox.site.open_claim("run-2"), engine=ScriptedEngine(fails=lambda _: AssertionError())
    )
    assert outcome.reused
    assert outcome.content.content_digest == content.content_digest
    before = inbox.newest("reviewed_content").content_digest
    assert inbox.review(outcome.content).content_digest == before


def test_the_same_command_goes_on_with_its_entry_and_another_one_has_its_own(inbox: Inbox) -> None:
    for _ in range(2):
        inbox.erase(an_event("b"))
    inbox.erase(an_event("a"))

    assert [one.number for one in erasures(inbox.objects)] == [1, 2]
    assert [row["event_id"] for row in inbox.rows("prompts")] == ["c"]


def test_every_event_of_a_window_may_go(inbox: Inbox, tmp_path: Path) -> None:
    for name in ("a", "b", "c"):
        assert inbox.erase(an_event(name)).is_over

    assert inbox.rows("generated_content") == []
    assert files_with(tmp_path, "xyzzy-") == []


def test_a_tenants_events_go_from_every_window_and_campaign_and_others_stay(tmp_path: Path) -> None:
    inbox = Inbox(tmp_path)
    for window in (1, 2):
        inbox.seal([personal(f"{window}{name}", tenant=name) for name in ("ada-ltd", "bob")], window=window)
        inbox.make()

    assert inbox.erase(Asked(kind="tenant", name="ada-ltd")).is_over

    assert files_with(tmp_path, "ada-ltd") == []
    for name in ("1bob", "2bob"):
        assert files_with(tmp_path, secret_of(name))


def test_rows_of_what_was_erased_are_not_sealed_again(inbox: Inbox, tmp_path: Path) -> None:
    content = inbox.newest("generated_content")
    table = content.table(plain=True).combine_chunks()
    inbox.erase(an_event("b"))

    with pytest.raises(Erased, match=r"generated_content\[.*\] was not sealed: 1 of its rows belong to what"):
        inbox.handoffs.publish("generated_content", content.partition, table, code_version="1", run_id="late")
    with pytest.raises(Erased):
        inbox.seal([personal("b")], window=7)
    assert files_with(tmp_path, secret_of("b")) == []


def test_an_attempt_under_way_ends_and_its_batches_go(tmp_path: Path) -> None:
    inbox = Inbox(tmp_path)
    inbox.seal([personal(name) for name in ("a", "b", "c", "d", "e")])
    inbox.list_prompts()
    claim = inbox.site.open_claim("run-1")
    erased = list[bool]()

    def erase() -> None:
        # Between two of its batches.
        if inbox.objects.list(claim.batches_prefix) and not erased:
            assert [one.id for one in plan(inbox.objects, inbox.clock, an_event("b")).under_way] == [claim.id]
            erased.append(inbox.erase(an_event("b")).is_over)

    with pytest.raises(RepinRequired, match="erasure 1 erased some of its prompts"):
        inbox.site.generate(claim, engine=ScriptedEngine(before=erase))
    assert erased == [False], "the worker reads the prompts"
    assert inbox.objects.list("batches") == []
    inbox.clock.advance(TTL_SECONDS + CLOCK_SKEW_SECONDS + 1)
    assert inbox.erase(an_event("b")).is_over
    assert files_with(tmp_path, secret_of("b")) == []
    with pytest.raises(HandoffCollected, match="which run run-1 and its retries read, was erased .* as a new run"):
        inbox.site.open_claim("run-1")
    content = inbox.site.generate(inbox.site.open_claim("run-2")).content
    assert sorted(row["event_id"] for row in content.table().to_pylist()) == ["a", "c", "d", "e"]


def test_it_waits_for_a_reader_and_then_goes_on(inbox: Inbox, tmp_path: Path) -> None:
    reader = HandoffStore(LocalStore(tmp_path), inbox.clock).open("reviewed_content", inbox.site.partition.key)
    reader.hold()

    carried = inbox.erase(an_event("b"))
    assert [one.label for one in carried.held] == [reader.label]
    assert secret_of("b") in str(reader.table().to_pylist()), "a reader keeps what it has"
    inbox.clock.advance(TTL_SECONDS + CLOCK_SKEW_SECONDS + 1)
    assert inbox.erase(an_event("b")).is_over
    assert files_with(tmp_path, secret_of("b")) == []


def test_it_waits_for_a_writer_that_began_before_it(inbox: Inbox, tmp_path: Path) -> None:
    content = inbox.newest("generated_content")
    carried = list[Carried]()

    def batches() -> Iterator[pa.RecordBatch]:
        yield from content.table(plain=True).combine_chunks().to_batches()
        carried.append(inbox.erase(an_event("b")))

    slow = HandoffStore(LocalStore(tmp_path), inbox.clock)
    slow.publish(
        "mirrored_content", content.partition, batches(), schema=content.schema, code_version="1", run_id="slow"
    )
    assert len(carried[0].writers) == 1
    assert files_with(tmp_path, secret_of("b"))
    assert inbox.erase(an_event("b")).is_over
    assert files_with(tmp_path, secret_of("b")) == []


def test_what_a_killed_writer_left_goes(inbox: Inbox, tmp_path: Path) -> None:
    content = inbox.newest("generated_content")
    [part] = content.paths
    left = part.parent.parent / "dead" / part.name
    left.parent.mkdir()
    left.write_bytes(part.read_bytes())

    assert inbox.erase(an_event("b")).is_over
    assert files_with(tmp_path, secret_of("b")) == []


def test_an_event_that_no_window_has_yet_may_be_erased_by_its_source(inbox: Inbox) -> None:
    with pytest.raises(HandoffMissing, match=r"No sealed window of campaign 'orders' has an event 'z'\. If a gateway"):
        inbox.ask(an_event("z"))
    assert inbox.erase(an_event("z", source="shop")).is_over
    with pytest.raises(Erased):
        inbox.seal([personal("z")], window=2)


def test_a_name_of_several_things_is_refused(inbox: Inbox) -> None:
    inbox.seal([personal("a") | {"source": "till"}], window=2)

    with pytest.raises(InvalidInput, match="2 sources have an event 'a': 'shop', 'till'. Say whose: --source"):
        inbox.ask(an_event("a"))
    with pytest.raises(InvalidInput, match="pass --campaign"):
        inbox.ask(Asked(kind="event", name="a"))
    assert len(inbox.ask(an_event("a", source="till")).campaigns) == 1


def test_a_killed_writers_temporary_file_goes_once_it_rests(inbox: Inbox, tmp_path: Path) -> None:
    left = tmp_path / ".tmp/killed"
    left.write_text(secret_of("b"))

    assert inbox.erase(an_event("b")).writers == ("killed",)
    long_ago = left.stat().st_mtime - TTL_SECONDS - CLOCK_SKEW_SECONDS - 1
    os.utime(left, (long_ago, long_ago))
    assert inbox.erase(an_event("b")).is_over
    assert files_with(tmp_path, secret_of("b")) == []


def test_an_attempt_that_begins_on_the_old_prompts_meanwhile_ends_too(tmp_path: Path) -> None:
    inbox = Inbox(tmp_path)
    inbox.seal([personal(name) for name in ("a", "b", "c")])
    inbox.list_prompts()
    erasure = inbox.ask(an_event("b"))
    real = Rewriter.rewrite
    begun = list[Claim]()

    def begins(rewriter: Rewriter, *place: str, also: Collection[str] = ()) -> list[Manifest]:
        if not begun:
            # Attempts that were there have ended; the prompts are still the old ones.
            begun.append(inbox.site.open_claim("run-1"))
        return real(rewriter, *place, also=also)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Rewriter, "rewrite", begins)
        carry_out(inbox.objects, inbox.clock, erasure)
    settlement = inbox.site.claims.settlement(begun[0])
    assert settlement is not None
    assert settlement.outcome == "void"
