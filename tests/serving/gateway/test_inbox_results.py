"""`GET /v1/events/results` on a running gateway: who reads what, and where a client goes on that comes back."""

import hashlib
import json
import threading
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from headrace.inbox.sealed import sealed_windows
from simulation.servers.gateway_site import KEY, GatewayProcess, Site
from tests.inbox_builders import finish_window
from tests.serving.gateway.test_inbox import LINES, event, lines, options, post
from tests.waiting import eventually

pytestmark = pytest.mark.process
OTHER_KEY = "sk-of-another-client"


def opened(gateway: GatewayProcess, query: str, *, last: str = "", key: str = KEY) -> Any:
    headers = {"Authorization": f"Bearer {key}"} | ({"Last-Event-ID": last} if last else {})
    return urllib.request.urlopen(
        urllib.request.Request(f"{gateway.url}/v1/events/results?{query}", headers=headers), timeout=60
    )


def told(stream: Any, num: int) -> list[tuple[str, dict[str, Any]]]:
    """The next results of a stream: their ids, and what they say."""
    found: list[tuple[str, dict[str, Any]]] = []
    present: dict[str, str] = {}
    while len(found) < num:
        line = stream.readline().decode().rstrip("\n")
        name, _, value = line.partition(": ")
        if line and name:
            present[name] = value
        elif not line:
            if "data" in present:
                found.append((present["id"], json.loads(present["data"])))
            present = {}
    return found


def ids(found: list[tuple[str, dict[str, Any]]]) -> list[str]:
    return [result["event"] for _, result in found]


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """A gateway with two keys, of which `ops` reads everything; six events in three windows, of which two are done."""
    directory = tmp_path_factory.mktemp("results")
    site = Site.make(directory / "site", {})
    with site.keys.open("a") as keys:
        keys.write(f"ops:{hashlib.sha256(OTHER_KEY.encode()).hexdigest()}\n")
    site.initialize()
    with site.started(*options(directory, rows_max=2, results={"readers": ["ops"]})) as gateway:
        # None has two events that wait, so none has a window of its own.
        tenants = ["tests", "acme", "tests", "one", "acme", "another"]
        sent = [event(str(number), tenant=tenant, sequence=number) for number, tenant in enumerate(tenants)]
        assert post(gateway, lines(*sent), kind=LINES)[0] == 200
        eventually(lambda: len(sealed_windows(site.store, "slogans")) == 3, "three windows are sealed")
        for window in (2, 1):
            finish_window(site.store, sealed_windows(site.store, "slogans")[window - 1])
            eventually(lambda window=window: _num_finished(site) == 3 - window, "it is seen")
        yield site


def _num_finished(site: Site) -> int:
    return len([name for name in site.store.children("inbox/slogans/finished") if name.endswith(".json")])


@pytest.fixture
def gateway(site: Site) -> GatewayProcess:
    return site.gateways[0]


def test_results_are_told_in_the_order_in_which_they_were_made(gateway: GatewayProcess) -> None:
    with closing(opened(gateway, "campaign=slogans", key=OTHER_KEY)) as stream:
        assert stream.headers["content-type"] == "text/event-stream; charset=utf-8"
        found = told(stream, 4)
    assert [(one, result["event"]) for one, result in found] == [("1.1", "2"), ("1.2", "3"), ("2.1", "0"), ("2.2", "1")]
    result = found[2][1]
    assert (result["campaign"], result["source"], result["partition"]) == (
        "slogans",
        "shop",
        "2026-11-22|slogans-w000001",
    )
    [row] = result["rows"]
    assert (row["outcome"], row["output"], row["version_set"]) == ("answered", "answer to 0", "set-1")


def test_a_client_that_comes_back_goes_on_exactly_behind_what_it_saw(gateway: GatewayProcess) -> None:
    for asked in ({"last": "1.1"}, {"query": "&after=1.1"}, {"last": "1.1", "query": "&after=2.2"}):
        query = f"campaign=slogans{asked.get('query', '')}"
        with closing(opened(gateway, query, last=asked.get("last", ""), key=OTHER_KEY)) as stream:
            assert ids(told(stream, 3)) == ["3", "0", "1"]


def test_a_key_reads_what_its_tenant_asked_for(gateway: GatewayProcess) -> None:
    with closing(opened(gateway, "campaign=slogans")) as stream:
        assert ids(told(stream, 2)) == ["2", "0"]


def test_who_waits_is_told_as_soon_as_a_window_is_reviewed(site: Site, gateway: GatewayProcess) -> None:
    """Last of these, for it finishes the third window."""
    found: list[str] = []
    with closing(opened(gateway, "campaign=slogans&after=now", key=OTHER_KEY)) as stream:
        assert stream.readline() == b": results\n"
        listener = threading.Thread(target=lambda: found.extend(ids(told(stream, 2))))
        listener.start()
        finish_window(site.store, sealed_windows(site.store, "slogans")[2])
        listener.join()
    assert found == ["4", "5"]


REFUSED = {
    "no campaign": ("", KEY, 400, "campaign must name one that takes events here (slogans), got ''."),
    "another campaign": ("campaign=glossary", KEY, 404, "campaign must name one that takes events here (slogans)"),
    "no position": ("campaign=slogans&after=x", KEY, 400, "A position must be as 12.345"),
    "a position to come": ("campaign=slogans&after=99.1", KEY, 400, "No result of slogans has the id 99.1"),
    "a word that is none": ("campaign=slogans&from=now", KEY, 400, "The URL's query takes campaign and after"),
    "a word twice": ("campaign=slogans&campaign=a", KEY, 400, "once each, got one of them twice"),
    "a wrong key": ("campaign=slogans", "sk-wrong", 401, ""),
}


@pytest.mark.parametrize("phrase", REFUSED)
def test_what_cannot_be_told_is_refused_in_a_sentence(gateway: GatewayProcess, phrase: str) -> None:
    query, key, status, sentence = REFUSED[phrase]
    with pytest.raises(urllib.error.HTTPError) as refused:
        opened(gateway, query, key=key)
    assert refused.value.code == status
    assert sentence in json.load(refused.value)["error"]["message"]


def test_one_key_has_an_eighth_of_the_places_for_streams(make_site: Callable[..., Site], tmp_path: Path) -> None:
    site = make_site(limits={"num_units_max": 16})
    site.initialize()
    gateway = site.start(*options(tmp_path))
    with closing(opened(gateway, "campaign=slogans")), closing(opened(gateway, "campaign=slogans")):
        with pytest.raises(urllib.error.HTTPError) as refused:
            opened(gateway, "campaign=slogans")
        assert (refused.value.code, int(refused.value.headers["retry-after"])) == (429, 15)

    def is_open_again() -> bool:
        try:
            opened(gateway, "campaign=slogans").close()
        except urllib.error.HTTPError:
            return False
        return True

    eventually(is_open_again, "a client that left gives its place back")


def test_a_stream_ends_when_its_gateway_goes_down(make_site: Callable[..., Site], tmp_path: Path) -> None:
    site = make_site()
    site.initialize()
    gateway = site.start(*options(tmp_path))
    with closing(opened(gateway, "campaign=slogans")) as stream:
        assert gateway.terminate() == 0
        assert stream.read().endswith(b"\n\n")
