"""`headrace erase` beside running gateways, which hold what goes: a log, batches under way, calls."""

import os
import shutil
import signal
from collections.abc import Callable
from pathlib import Path

import openai
import pytest
from typer.testing import Result
from websockets.exceptions import ConnectionClosed

from simulation.servers.calls import calling, spoken_roles
from simulation.servers.gateway_site import KEY_NAME, Site, slow_server
from tests.command_line.builders import run
from tests.erasure.builders import files_with
from tests.serving.gateway.test_batches import at_end, begin, jsonl, line, num_completed, slow_site
from tests.serving.gateway.test_inbox import event, lines, options, post, sealed_ids
from tests.waiting import eventually

pytestmark = pytest.mark.process
SECRET = "xyzzy-plugh"


def erase(site: Site, *words: str) -> Result:
    return run("erase", *words, "--yes", "-m", "ticket 812", "--by", "ana", store=site.store.directory)


def places_with(directory: Path, text: str) -> list[str]:
    """But for what is no store's and no log's: keys, and a gateway's own records, which name keys."""
    return [file for file in files_with(directory, text) if not Path(file).name.startswith(("keys", "gateway-"))]


def test_a_clients_batches_and_events_go_while_its_gateway_works_at_them(
    make_site: Callable[..., Site], client_of: Callable[..., openai.OpenAI], tmp_path: Path
) -> None:
    with slow_server(seconds_min=0.05, seconds_max=0.05) as url:
        site = slow_site(make_site, url)
        gateway = site.start("--batches", "--batch-lines", "2", *options(tmp_path, close_seconds=3_600))
        client = client_of(gateway)
        batch = begin(client, jsonl(*[line(f"c-{number}", f"{SECRET} {number}") for number in range(400)]))
        post(gateway, lines(event("before", data={"product": SECRET})))
        eventually(lambda: num_completed(client, batch) > 0, "some lines are answered")
        assert places_with(tmp_path, SECRET) != []

        erased = erase(site, "--tenant", KEY_NAME)

        assert erased.exit_code == 0, erased.output
        assert places_with(tmp_path, SECRET) == []
        assert places_with(tmp_path, batch.id) == []
        assert not list(site.store.directory.glob(f"batch_api/*/*/{KEY_NAME}"))
        with pytest.raises(openai.NotFoundError):
            client.batches.retrieve(batch.id)
        # What it sends from now on is new.
        done = at_end(client, begin(client, jsonl(line("new", "Hello"))))
        assert (done.status, done.request_counts.completed) == ("completed", 1)
        assert post(gateway, lines(event("after")))[2]["taken"] == 1
        assert post(gateway, lines(event("before", data={"product": SECRET})))[2]["repeated"] == 1
        verified = run("erase", "--verify", "1", store=site.store.directory)
        assert verified.exit_code == 0, verified.output
    assert not [record for record in gateway.records("gateway") if record["event"] == "batch stands still"]


def test_a_line_goes_while_its_batch_is_under_way_and_all_others_are_answered(
    make_site: Callable[..., Site], client_of: Callable[..., openai.OpenAI], tmp_path: Path
) -> None:
    with slow_server(seconds_min=0.05, seconds_max=0.05) as url:
        site = slow_site(make_site, url)
        client = client_of(site.start("--batches", "--batch-lines", "4"))
        body = jsonl(*[line(f"c-{number}", SECRET if number == 5 else f"{number}") for number in range(100)])
        batch = begin(client, body)
        eventually(lambda: num_completed(client, batch) > 0, "some lines are answered")

        erased = erase(site, "--event", "c-5", "--batch", batch.id)

        assert erased.exit_code == 0, erased.output
        assert places_with(tmp_path, SECRET) == places_with(tmp_path, '"c-5"') == []
        done = at_end(client, batch)
        assert (done.status, done.request_counts.completed, done.request_counts.failed) == ("completed", 99, 1)
        assert places_with(tmp_path, SECRET) == places_with(tmp_path, '"c-5"') == []
        text = client.files.content(done.output_file_id).text
        assert all(f'"c-{number}"' in text for number in range(100) if number != 5)


def test_a_killed_gateways_log_is_blanked_by_the_command(make_site: Callable[..., Site], tmp_path: Path) -> None:
    site = make_site()
    site.initialize()
    gateway = site.start("--batches", *options(tmp_path, close_seconds=3_600))
    post(gateway, lines(event("before", tenant="Ünï ../.. ltd", data={"product": SECRET})))
    os.kill(gateway.pid, signal.SIGKILL)
    gateway.process.wait()
    words = ("--tenant", "Ünï ../.. ltd")

    waits = erase(site, *words, "--wait", "0")
    assert waits.exit_code == 1
    assert "of campaign slogans has not carried it out: let its gateway run for ten seconds" in waits.output
    assert erase(site, *words, "--inbox-log", str(tmp_path / "log")).exit_code == 0

    assert places_with(tmp_path, SECRET) == places_with(tmp_path, "Ünï") == []
    again = site.start("--batches", *options(tmp_path, close_seconds=0.5))
    eventually(lambda: len(sealed_ids(site)) == 0 and site.store.list("inbox/slogans/windows"), "it is sealed")
    assert post(again, lines(event("before", data={"product": SECRET})))[2]["repeated"] == 1
    assert places_with(tmp_path, "Ünï") == []


def test_a_log_that_is_gone_with_its_disk_is_not_waited_for(make_site: Callable[..., Site], tmp_path: Path) -> None:
    site = make_site()
    site.initialize()
    gateway = site.start(*options(tmp_path, close_seconds=3_600))
    post(gateway, lines(event("before", tenant="ada-ltd")))
    os.kill(gateway.pid, signal.SIGKILL)
    gateway.process.wait()
    shutil.rmtree(tmp_path / "log")

    waits = " ".join(erase(site, "--tenant", "ada-ltd", "--wait", "0").output.split())
    log = waits.partition("--lost-log ")[2].split()[0]
    assert erase(site, "--tenant", "ada-ltd", "--wait", "0", "--lost-log", log).exit_code == 0
    assert places_with(tmp_path, "ada-ltd") == []


@pytest.mark.parametrize("recording", [None, {}], ids=["kept", "recorded"])
def test_a_call_goes_while_it_is_held_and_its_session_has_no_other_one(
    tmp_path: Path, recording: dict[str, object] | None
) -> None:
    pytest.importorskip("faster_whisper", reason="The extra `voice` is not installed: pip install 'headrace[voice]'.")
    site = Site.make(tmp_path / "site", {**spoken_roles(), "recording": recording})
    site.initialize()
    with site.started("--inbox-log", str(tmp_path / "log")):
        gateway = site.gateways[0]
        # Where calls are recorded, this one waits in the log for its hour, and its answer's audio in the store.
        with calling(gateway, query="session=sofa") as caller:
            caller.say(f"{SECRET} before")
            caller.send("response.create")
            caller.until("response.done")
        if recording is not None:
            eventually(lambda: bool(site.store.list(f"rollout/{site.service.name}/recordings")), "audio is kept")
        with calling(gateway, query="session=kitchen") as other, calling(gateway, query="session=sofa") as caller:
            for one, text in ((caller, SECRET), (other, "the others words")):
                one.say(text)
                one.until("conversation.item.done")
            assert places_with(tmp_path, SECRET) != []

            erased = erase(site, "--call", "sofa")

            assert erased.exit_code == 0, erased.output
            with pytest.raises(ConnectionClosed) as closed:
                caller.until("response.done", seconds=20)
            assert closed.value.rcvd is not None
            assert closed.value.rcvd.code == 4001
            other.say("and more")
            other.until("conversation.item.done")
        assert places_with(tmp_path, SECRET) == []
        assert site.store.list(f"rollout/{site.service.name}/recordings") == []
        assert files_with(tmp_path / "site/store/rollout", "the others words")
        with pytest.raises(AssertionError, match="call_erased"), calling(gateway, query="session=sofa"):
            """It is told before its session begins."""
        assert run("erase", "--verify", "1", store=site.store.directory).exit_code == 0
        with calling(gateway, query="session=hall") as caller:
            caller.say("Hello")
            caller.until("conversation.item.done")


def test_a_tenants_calls_go_with_what_a_dead_gateways_log_has(tmp_path: Path) -> None:
    pytest.importorskip("faster_whisper", reason="The extra `voice` is not installed: pip install 'headrace[voice]'.")
    site = Site.make(tmp_path / "site", spoken_roles())
    site.initialize()
    for name in ("log-a", "log-b"):
        gateway = site.start("--inbox-log", str(tmp_path / name))
        with calling(gateway, query="session=sofa") as caller:
            caller.say(f"{SECRET} {name}")
            caller.until("conversation.item.done")
            os.kill(gateway.pid, signal.SIGKILL)
            gateway.process.wait()

    waits = erase(site, "--tenant", KEY_NAME, "--wait", "0")
    assert waits.exit_code == 1
    assert waits.output.count("has not carried it out") == 2
    assert erase(site, "--tenant", KEY_NAME, "--wait", "0", "--inbox-log", str(tmp_path / "log-a")).exit_code == 1
    assert erase(site, "--tenant", KEY_NAME, "--wait", "0", "--inbox-log", str(tmp_path / "log-b")).exit_code == 0
    assert places_with(tmp_path, SECRET) == []
