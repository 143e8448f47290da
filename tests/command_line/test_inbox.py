"""`headrace inbox`: what waits, and what became of each event; and what other commands say of events."""

import json
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from typer.testing import Result

from headrace.generation.listing import list_prompts
from headrace.generation.prompt_source import PromptSource
from headrace.generation.window_prompts import content_partition
from headrace.inbox.batches import states
from headrace.inbox.batches.files import Files
from headrace.inbox.batches.kept import Batches
from headrace.inbox.batches.outcomes import settled
from headrace.inbox.rules import InboxRules
from headrace.keys import CallHour
from headrace.voice.hours import seal_hour
from simulation.campaign_site import make_campaign
from tests.batch_builders import make_batch, seal_file
from tests.command_line.builders import checked_json, run
from tests.command_line.checked_project import Project, said
from tests.generation.builders import Site
from tests.inbox_builders import event, seal_window
from tests.voice.recorded_builders import Recorded, at

FILE = """\
name: orders
model: tiny
prompts: {inbox: {late: keep}, template: "Describe {product}."}
engine: {name: echo}
"""


class Inbox:
    """A store with two windows of which one is made, and a late part."""

    def __init__(self, home: Path) -> None:
        self.home = home
        (home / "resources/campaigns").mkdir(parents=True)
        (home / "resources/campaigns/orders.yaml").write_text(FILE)
        (home / "pyproject.toml").write_text("[tool.dg]\ndirectory_type = 'project'\n")
        prompts = PromptSource(inbox=InboxRules(late="keep"), template="Describe {product}.")
        self.site = Site(home / ".headrace/store", campaign=make_campaign(name="orders", num_shards=1, prompts=prompts))
        self.site.initialize()
        objects = self.site.handoffs.objects
        events = [event("1", {"product": "a lamp"}, key="lamps"), event("2", {"colour": "red"})]
        self.site.partition = content_partition(seal_window(objects, events))
        seal_window(objects, [event("3", {"product": "a pan"}), event("4", {"product": "a pot"})], window=2)
        seal_window(objects, [event("5", {"product": "a jug"})], late_part=1)
        listed = list_prompts(self.site.campaign, self.site.partition, home, self.site.handoffs, self.site.clock)
        listed.seal_beside("r")
        self.site.seal_prompts(listed.prompts)
        self.row = self.site.generate().content.table()["row_id"][0].as_py()

    def call(self, *words: str) -> Result:
        return run(*words, env={"HEADRACE_HOME": str(self.home / ".headrace")})

    def results(self, *words: str) -> dict[str, Any]:
        result = self.call("inbox", "results", "--campaign", "orders", *words)
        assert result.exit_code == 0, result.output
        return {line["event"]: line for line in map(json.loads, result.stdout.splitlines())}


@pytest.fixture
def inbox(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Inbox:
    made = Inbox(tmp_path)
    monkeypatch.chdir(tmp_path)
    return made


def test_the_status_counts_windows_and_what_waits(inbox: Inbox) -> None:
    body = checked_json(inbox.call("inbox", "status", "--json"), "inbox-status")

    [orders] = body["inboxes"]
    counted = {name: orders[name] for name in orders if name.startswith("num_")}
    assert counted == {
        "num_windows": 2,
        "num_windows_made": 1,
        "num_late_parts": 1,
        "num_late_parts_made": 0,
        "num_late_parts_kept": 1,
        "num_waiting": 1,
        "num_events_waiting": 2,
    }
    # Two events within the second that manifests tell.
    assert (orders["events_per_second"], orders["backlog_seconds"]) == (2.0, 1.0)
    assert orders["newest"]["partition"] == "2026-11-22|orders-w000001-late"
    shown = inbox.call("inbox", "status").output.splitlines()
    assert shown[0].split() == ["CAMPAIGN", "SEALED", "MADE", "WAITING", "EVENTS", "BACKLOG", "LATE", "MADE", "NEWEST"]
    assert shown[1].split()[:6] == ["orders", "2", "1", "1", "2", "1"]


def test_each_event_has_one_line_with_its_rows(inbox: Inbox) -> None:
    found = inbox.results()

    assert {name: line["state"] for name, line in found.items()} == {
        "1": "made", "2": "refused", "3": "waiting", "4": "waiting", "5": "kept",
    }  # fmt: skip
    [row] = found["1"]["rows"]
    assert (found["1"]["key"], row["row_id"], row["finish_reason"], row["kept"]) == ("lamps", inbox.row, "stop", None)
    assert found["2"]["reason"] == "has no column 'product' (it has colour)."
    assert found["5"]["partition"] == "2026-11-22|orders-w000001-late"
    assert [*inbox.results("--event", "3")] == ["3"]
    one = inbox.call("inbox", "results", "--campaign", "orders", "--event", "1")
    checked_json(one, "inbox-results")


REFUSED = {
    "an event that is not there": (
        ("results", "--campaign", "orders", "--event", "9"),
        "No event '9' is in a sealed window of campaign 'orders'",
    ),
    "a campaign without a window": (
        ("results", "--campaign", "order"),
        "No window of a campaign 'order' is sealed in this store. Did you mean orders?",
    ),
    "a campaign that takes no events": (("status", "tales"), "No campaign 'tales' takes events here."),
}


@pytest.mark.parametrize("phrase", REFUSED)
def test_what_is_not_there_is_said_in_a_sentence(inbox: Inbox, phrase: str) -> None:
    words, sentence = REFUSED[phrase]
    result = inbox.call("inbox", *words)
    assert result.exit_code == 2
    assert sentence in result.output


def test_a_row_leads_back_to_its_event(inbox: Inbox) -> None:
    assert "event        1 of shop, key lamps\n" in inbox.call("trace", inbox.row).output
    traced = checked_json(inbox.call("trace", inbox.row, "--json"), "trace")
    assert (traced["row"]["event_id"], traced["row"]["event_source"]) == ("1", "shop")


def test_a_stale_window_is_made_again_by_itself(inbox: Inbox) -> None:
    prompts = inbox.site.handoffs.open("prompts", inbox.site.partition.key)
    inbox.site.seal_prompts(prompts.table().slice(0, 0))
    [day] = [one for one in checked_status(inbox)["days"] if one["campaign"] == "orders"]

    assert day["stale"] == [
        {
            "stage": "generated_content",
            "reason": "prompts_changed",
            "num_partitions": 1,
            "run": "dg launch --assets generated_content --partition '2026-11-22|orders-w000001'",
        }
    ]


def checked_status(inbox: Inbox) -> dict[str, Any]:
    return checked_json(inbox.call("status", "--json"), "status")


def test_a_preview_shows_the_newest_window(inbox: Inbox) -> None:
    orders = FILE.replace("engine:", 'version: "1"\nregistered: false\nengine:')
    (inbox.home / "resources/campaigns/orders.yaml").write_text(orders)
    body = checked_json(inbox.call("preview", "orders", "--json"), "preview")

    assert [row["prompt"] for row in body["rows"]] == ["Describe a pan.", "Describe a pot."]
    assert {row["partition"] for row in body["rows"]} == {"2026-11-22|orders-w000002"}
    nothing = inbox.call("preview", "orders", "--day", "2026-11-23")
    assert nothing.exit_code == 2
    assert "No window of campaign 'orders' is sealed for 2026-11-23" in nothing.output


def test_a_check_tells_windows_and_the_first_refusal(
    tmp_path: Path, tiny_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    project = Project(tmp_path, tiny_model)
    file = project.write("resources/campaigns/orders.yaml", FILE)
    checked = project.one(file)
    assert (
        "a window spans 60 min of event time and is sealed 60 s later, with 10,000 events, or 66 min after its first "
        "one; later events are kept, and make no row."
    ) in said(checked, "prompts", "ok")
    assert "no window is sealed yet: POST /v1/events takes events." in said(checked, "prompts", "ok")

    events = [event("1", {"product": "a lamp"}), event("2", {})]
    seal_window(Site(tmp_path / ".headrace/store").handoffs.objects, events)
    checked = project.one(file)
    assert checked["example"] == "user: Describe a lamp."
    assert (
        "the newest window, 2026-11-22|orders-w000001, has 2 events, of which 1 hold no prompt, such as '2' of 'shop': "
        "has no column 'product' (it has none)."
    ) in said(checked, "prompts", "warn")


def test_the_status_tells_what_waits_of_batches(inbox: Inbox) -> None:
    objects, clock = inbox.site.handoffs.objects, inbox.site.clock
    batches, now = Batches(objects, "assistant"), int(clock.now())
    file = seal_file(Files(objects, "assistant", clock), "shop", b"{}\n" * 40, now=now)
    _, kept = (batches.create("shop", make_batch(file, now=now)) for _ in range(2))
    batches.advance(kept, states.begun(kept.batch, 40, 16, now))
    batches.settle("shop", kept.batch.id, 2, settled(kept.batch.id, []))

    body = checked_json(inbox.call("inbox", "status", "--json"), "inbox-status")

    [found] = body["batches"]
    assert {name: found[name] for name in found if name.startswith("num_")} == {
        "num_open": 2,
        "num_validating": 1,
        "num_lines": 40,
        "num_lines_waiting": 32,
    }
    shown = inbox.call("inbox", "status").output.splitlines()
    assert [line.split()[:4] for line in shown[-2:]] == [
        ["SERVICE", "BATCHES", "LINES", "WAITING"],
        ["assistant", "2", "40", "32"],
    ]
    assert inbox.call("inbox", "status", "orders", "--json").output.count("assistant") == 0


def test_the_status_tells_what_waits_of_recorded_calls(inbox: Inbox) -> None:
    day = (datetime.now(UTC) - timedelta(days=1)).strftime("%Y-%m-%d")
    objects, hour = inbox.site.handoffs.objects, CallHour(day=day, service="voices", hour=14)
    assert checked_json(inbox.call("inbox", "status", "--json"), "inbox-status")["calls"] == []
    gateway = Recorded(inbox.home / "log", objects)
    gateway.call("c1", "14:10:00", "Hello.", day=day)
    gateway.call("c2", "14:20:00", "Hello.", day=day)
    gateway.seal("15:05:01", day=day)
    [waiting] = checked_json(inbox.call("inbox", "status", "--json"), "inbox-status")["calls"]
    assert (waiting["num_hours"], waiting["num_windows_waiting"], waiting["num_calls_waiting"]) == (0, 1, 2)
    assert waiting["oldest_waiting_seconds"] > 0
    seal_hour(inbox.site.handoffs, hour, UTC, run_id="run")
    gateway.call("c3", "14:30:00", "Late.", day=day, arrives=at("20:00:00", day=day))
    gateway.seal("22:00:00", day=day)
    [after] = checked_json(inbox.call("inbox", "status", "--json"), "inbox-status")["calls"]
    told = {name: after[name] for name in after if name.startswith("num_")}
    assert told == {
        "num_hours": 1,
        "num_late_parts": 0,
        "num_unmade": 0,
        "num_windows_waiting": 1,
        "num_calls_waiting": 1,
    }
    assert (after["newest"], after["problem"]) == (hour.key, None)
    assert f"{hour.key}, " in inbox.call("inbox", "status").stdout
    body = checked_json(inbox.call("inbox", "status", "--json"), "inbox-status")
    assert [one["campaign"] for one in body["inboxes"]] == ["orders"]
