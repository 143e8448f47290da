"""An event of a sealed window is erased with everything that was made of it, and nothing else changes."""

from pathlib import Path

from headrace.erasure.outcome import finish, remains
from tests.erasure.builders import Inbox, an_event, files_with, personal, secret_of


def make_inbox(directory: Path) -> Inbox:
    inbox = Inbox(directory)
    inbox.seal([personal(name) for name in ("a", "b", "c")])
    inbox.make()
    return inbox


def test_nothing_of_an_erased_event_is_left_in_any_file_and_other_rows_keep_every_value(tmp_path: Path) -> None:
    inbox = make_inbox(tmp_path)
    before = {asset: inbox.rows(asset) for asset in ("prompts", "generated_content", "reviewed_content", "execution")}
    assert len(files_with(tmp_path, secret_of("b"))) >= 4
    [gone] = [row["prompt_id"] for row in before["prompts"] if row["event_id"] == "b"]

    erasure = inbox.ask(an_event("b"))
    assert inbox.erase(an_event("b")).is_over

    assert files_with(tmp_path, secret_of("b")) == []
    assert files_with(tmp_path, "key-b") == []
    rows = {row["row_id"] for row in before["generated_content"] if row["prompt_id"] == gone}
    for asset, table in before.items():
        left = [row for row in table if row.get("prompt_id") != gone and row.get("row_id") not in rows]
        assert inbox.rows(asset) == left, asset
        assert len(left) == 2
    assert remains(inbox.objects, inbox.clock, erasure) == []
    outcome = finish(inbox.objects, inbox.clock, erasure)
    assert {one.asset for one in outcome.removed} >= {"inbox_events", "prompts", "generated_content", "execution"}
