"""`headrace erase`: what it shows, asks, does and proves."""

import os
import signal
from pathlib import Path
from typing import Any

import pytest
from typer.testing import Result

from headrace.handoff.versions import HandoffStore
from headrace.store.local import LocalStore
from tests.command_line.builders import checked_json, run
from tests.erasure.builders import Inbox, files_with, personal, secret_of
from tests.killing import in_child

B = ("--event", "b", "--campaign", "orders")
FOR_GOOD = ("-m", "ticket 812", "--yes", "--by", "ana", "--wait", "0")


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """A project's state with a store in it, and a day's page."""
    inbox = Inbox(tmp_path / "store")
    inbox.seal([personal(name, tenant="ada-ltd") for name in ("a", "b", "c")])
    inbox.make()
    page = tmp_path / "reports/orders/2026-11-22.html"
    page.parent.mkdir(parents=True)
    page.write_text(secret_of("b"))
    return tmp_path


def call(home: Path, *words: str) -> Result:
    return run("erase", *words, env={"HEADRACE_HOME": str(home), "DAGSTER_HOME": "/var/dagster"})


def body_of(result: Result, *, exit_code: int = 0) -> Any:
    """As docs/schemas/erase.schema.json says."""
    return checked_json(result, "erase", exit_code=exit_code)


def test_a_dry_run_of_a_name_that_nobody_has_says_so(home: Path) -> None:
    shown = call(home, "--tenant", "ada", "--campaign", "orders", "--dry-run")

    assert shown.exit_code == 0, shown.output
    assert "Nothing in this store is of it: check how it is written." in " ".join(shown.stdout.split())


def test_a_dry_run_shows_what_would_go_and_where_else_to_look_and_changes_nothing(home: Path) -> None:
    before = sorted(home.rglob("*"))
    shown = call(home, *B, "--dry-run")

    assert shown.exit_code == 0, shown.output
    lines = " ".join(shown.stdout.split())
    assert "generated_content 2026-11-22|orders-w000001 v1 1" in lines
    assert "1 event and 1 prompt." in lines
    assert "reports/orders/2026-11-22.html goes; materialize campaign_report of that day again." in lines
    assert "Dagster's event log (/var/dagster)" in lines
    assert "dagster run delete review-run" in lines
    assert "check how it is written" not in lines
    plan = body_of(call(home, *B, "--dry-run", "--json"))["plan"]
    assert plan["num_rows"] == {
        "inbox_events": 1,
        "prompts": 1,
        "generated_content": 1,
        "execution": 1,
        "reviewed_content": 1,
    }
    assert sorted(home.rglob("*")) == before


def test_it_erases_tells_and_proves(home: Path) -> None:
    body = body_of(call(home, *B, *FOR_GOOD, "--json"))

    assert body["remains"] == []
    [one] = body["erasures"]
    assert (one["erasure"]["number"], one["erasure"]["by"], one["erasure"]["reason"]) == (1, "ana", "ticket 812")
    assert {gone["run_id"] for gone in one["outcome"]["removed"]} >= {"list-run", "run-1", "review-run"}
    assert files_with(home, secret_of("b")) == []
    listed = " ".join(call(home, "--list").stdout.split())
    assert " event ana 1 1 6 versions deleted ticket 812" in listed
    proved = call(home, "--verify", "1")
    assert (proved.exit_code, proved.stdout.splitlines()[-1]) == (0, "Nothing of erasure 1 is left in this store.")
    again = body_of(call(home, *B, *FOR_GOOD, "--json"))
    assert again["erasures"] == body["erasures"], "the same command finds its entry"
    traced = run("trace", "0" * 64, store=home / "store")
    assert "No row with id" in traced.output


def test_what_came_back_by_a_copy_of_the_store_is_found(home: Path) -> None:
    kept = {file: file.read_bytes() for file in (home / "store/handoff/prompts").rglob("*") if file.is_file()}
    body_of(call(home, *B, *FOR_GOOD, "--json"))
    for file, content in kept.items():
        if not file.exists():
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_bytes(content)

    found = call(home, "--verify", "1")
    assert found.exit_code == 1
    assert "prompts[2026-11-22|orders-w000001] v1 has 1 rows of it" in found.output
    body_of(call(home, *B, *FOR_GOOD, "--json"))
    assert files_with(home, secret_of("b")) == []
    assert call(home, "--verify", "1").exit_code == 0


def test_it_waits_for_who_reads_and_says_who(home: Path) -> None:
    reader = HandoffStore(LocalStore(home / "store")).open("prompts", "2026-11-22|orders-w000001")
    reader.hold()

    body = body_of(call(home, *B, *FOR_GOOD, "--json"), exit_code=1)
    [wait] = body["remains"]
    assert wait.startswith("prompts[2026-11-22|orders-w000001] v1 is being read by ")
    assert wait.endswith(f"pid {os.getpid()}: when that has ended, run the same command again.")
    assert body["erasures"][0]["outcome"] is None
    assert "not over" in call(home, "--list").stdout


def test_a_killed_command_goes_on(home: Path) -> None:
    def killed() -> None:
        real, num_left = LocalStore.delete_prefix, [4]

        def dies(self: LocalStore, prefix: str) -> None:
            num_left[0] -= 1
            if not num_left[0]:
                os.kill(os.getpid(), signal.SIGKILL)
            real(self, prefix)

        LocalStore.delete_prefix = dies
        call(home, *B, *FOR_GOOD)

    assert os.WIFSIGNALED(in_child(killed))
    assert files_with(home / "store", secret_of("b"))
    body = body_of(call(home, *B, "--yes", "--wait", "0", "--json"))
    assert (body["remains"], len(body["erasures"])) == ([], 1)
    assert files_with(home, secret_of("b")) == []


REFUSED: dict[str, tuple[tuple[str, ...], str]] = {
    "nothing said": ((), "Error: Say one of --event, --prompt, --tenant and --call, or --list, or --verify."),
    "two things": (
        ("--tenant", "a", "--list"),
        "Error: Say one of --event, --prompt, --tenant and --call, or --list, or --verify.",
    ),
    "no reason": ((*B, "--yes"), "Error: An erasure's record says why: pass --reason."),
    "nobody to ask": (
        (*B, "-m", "x"),
        "Error: This deletes for good, and there is no terminal to ask on: pass --yes, or --dry-run.",
    ),
    "a source without an event": (("--tenant", "a", "--source", "b"), "Error: --source goes with --event."),
    "a key of no call": ((*B, "--key", "b"), "Error: --key goes with --call."),
    "a batch of a campaign": (
        (*B, "--batch", "b"),
        "Error: A line of a batch has no campaign and no source: say --batch",
    ),
    "half of a log's name": (
        (*B, "--lost-log", "0193"),
        "Error: --lost-log names a log by at least 8 characters of its",
    ),
    "a call that is not": (("--call", "sess_1"), "Error: No call of a session 'sess_1' is in this store. If a log may"),
    "an erasure that is not": (
        ("--verify", "7"),
        "Error: No erasure has number 7; `headrace erase --list` shows",
    ),
}


@pytest.mark.parametrize("phrase", REFUSED)
def test_what_cannot_be_erased_is_refused_in_a_sentence(home: Path, phrase: str) -> None:
    words, sentence = REFUSED[phrase]
    refused = call(home, *words)

    assert refused.exit_code == 2
    assert sentence in " ".join(refused.stderr.split())
    assert not (home / "store/erasures").exists()


def test_a_store_of_which_nothing_was_erased_says_so(home: Path) -> None:
    assert call(home, "--list").stdout == "Nothing was erased from this store.\n"
