"""A tenant that is everywhere: in windows, rows, a log, undelivered results, calls, files and batches."""

import json
from contextlib import closing
from pathlib import Path

from headrace.inbox.delivery_tables import DeliveryTables, Undelivered
from headrace.inbox.feed import Position
from headrace.inbox.log import EventLog, TurnRow
from headrace.inbox.sealing import OWNER, InboxOwner, owner_key
from headrace.store.small_objects import create_object
from headrace.voice.kept import call_name
from simulation.event_streams import START
from tests.command_line.builders import run
from tests.erasure.builders import CAMPAIGN, Inbox, files_with, personal, secret_of
from tests.erasure.clients import make_clients, secret
from tests.inbox.builders import make_event, make_rules

TENANTS = ("ada-ltd", "bob")


def make_everything(directory: Path) -> None:
    inbox = Inbox(directory / "store")
    inbox.seal([personal(f"sealed-of-{name}", tenant=name) for name in TENANTS], tenants=dict.fromkeys(TENANTS, 1))
    inbox.make()
    with closing(EventLog(directory / "log", {CAMPAIGN: make_rules(rows_max=2)})) as log:
        make_clients(inbox.objects, log=log.nonce)
        create_object(inbox.objects, owner_key(CAMPAIGN), OWNER, InboxOwner(campaign=CAMPAIGN, log=log.nonce))
        for name in TENANTS:
            text = json.dumps({"product": secret_of(f"open-of-{name}")})
            # The third one is heavy, in a window of its own.
            sent = [make_event(f"{number}-of-{name}", campaign=CAMPAIGN, tenant=name, data=text) for number in range(5)]
            log.append(sent, START, turns=[TurnRow(call_name(name, "sess-1"), 1, 7, secret(f"turn-of-{name}"))])
    with closing(DeliveryTables(directory / "log")) as tables:
        for place, name in enumerate(TENANTS, 1):
            undelivered = Undelivered(
                campaign=CAMPAIGN,
                position=Position(1, place),
                event=f"sealed-of-{name}",
                source="shop",
                num_attempts=1,
                first_at=0.0,
                next_at=1.0,
                is_given_up=False,
                reason="the receiver answered 500",
            )
            tables.keep(CAMPAIGN, Position(1, 2), undelivered=[undelivered])


def test_no_file_of_store_and_log_has_anything_of_a_tenant_and_all_of_another_stays(tmp_path: Path) -> None:
    make_everything(tmp_path)
    words = ("erase", "--tenant", "ada-ltd", "-m", "ticket", "--yes", "--wait", "0")
    around = {"store": tmp_path / "store", "env": {"HEADRACE_HOME": str(tmp_path / "home")}}
    texts = {
        name: [
            *(name, f"sealed-of-{name}", f"open-of-{name}", f"turn-of-{name}", f"{name}-0"),
            call_name(name, "sess-1"),
        ]
        for name in TENANTS
    }
    before = {text: files_with(tmp_path, text) for name in TENANTS for text in texts[name]}
    assert all(before.values()), before

    plan = json.loads(run(*words[:3], "--dry-run", "--json", **around).stdout)["plan"]
    counts = {name: plan[name] for name in ("num_events", "num_calls", "num_files", "num_batches", "num_lines")}
    assert counts == {"num_events": 1, "num_calls": 1, "num_files": 4, "num_batches": 2, "num_lines": 0}
    assert {text: files_with(tmp_path, text) for text in before} == before

    erased = run(*words, "--inbox-log", str(tmp_path / "log"), **around)

    assert erased.exit_code == 0, erased.output
    for text in texts["ada-ltd"]:
        assert files_with(tmp_path, text) == [], text
        assert not [file for file in tmp_path.rglob("*") if text in file.name], text
    for text in texts["bob"]:
        assert files_with(tmp_path, text), text
    with closing(DeliveryTables(tmp_path / "log")) as tables:
        assert [one.event for one in tables.waiting(CAMPAIGN, 9)] == ["sealed-of-bob"]
    assert run("erase", "--verify", "1", **around).exit_code == 0
