"""Bulk generation on a host: the rows and files of a run without one, whatever is killed meanwhile."""

import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from headrace.engines.media_rows import open_media_rows
from headrace.engines.rows import open_rows
from headrace.generation.bulk import Outcome
from headrace.version_sets.sets import VersionSet
from tests.engines.host.hosts import RunningHost, running_host, started_host
from tests.generation.media_builders import MediaSite, make_media_campaign, make_media_site
from tests.waiting import eventually

pytestmark = pytest.mark.process


def digests(outcome: Outcome) -> dict[str, str]:
    assert outcome.sealed
    return {outcome.content.asset: outcome.content.content_digest} | {
        kind: one.content_digest for kind, one in outcome.sealed.media.items()
    }


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Of a run that opens its engines itself."""
    return digests(make_media_site(tmp_path_factory.mktemp("whole")).generate())


def on_host(site: MediaSite, host: RunningHost, run: str = "run-1", **changes: Any) -> Outcome:
    deployment = host.deployment(site.objects)

    def rows(version_set: VersionSet) -> Any:
        return open_rows(version_set, site.objects, deployment)

    def media(version_set: VersionSet, role: str) -> Any:
        return open_media_rows(version_set, role, site.objects, deployment)

    return site.generate(site.open_claim(run), open_engine=rows, open_media=media, **changes)


def test_texts_pictures_and_recordings_are_those_of_a_run_without_a_host(
    host: RunningHost, tmp_path: Path, whole: dict[str, str]
) -> None:
    hits = sum(row.hits for row in host.table.data)
    assert digests(on_host(make_media_site(tmp_path), host)) == whole
    assert sum(row.hits for row in host.table.data) >= hits + 12, "4 micro-batches of three roles"


def test_rows_are_the_same_whichever_process_is_killed_between_two_batches(
    tmp_path: Path, whole: dict[str, str]
) -> None:
    site, seen = make_media_site(tmp_path), list[int]()
    with running_host("--memory-mib", "3000") as host:

        def kill_one(*_: object) -> None:
            seen.append(len(seen))
            if len(seen) == 6:
                host.process.kill()
                host.process.wait()
                host.process = started_host(host.socket_file, "--memory-mib", "3000").process
            elif len(seen) in (2, 10):
                for row in host.table.data:
                    if row.pid:
                        os.kill(row.pid, signal.SIGKILL)

        assert digests(on_host(site, host, progress=kill_one)) == whole
        assert len(seen) > 10
    assert all(count == 0 for count in error_counts(site))


def error_counts(site: MediaSite) -> list[int]:
    rows = site.content_rows()
    return [sum(row["finish_reason"] == "error" for row in rows), len(rows) - len({row["row_id"] for row in rows})]


def test_a_killed_run_is_continued_by_another_and_every_row_is_there_once(
    host: RunningHost, tmp_path: Path, whole: dict[str, str]
) -> None:
    site = make_media_site(tmp_path)
    script = f"""
import os, signal
from pathlib import Path
from tests.engines.host.hosts import RunningHost
from tests.engines.host.test_bulk import on_host
from tests.generation.media_builders import MediaSite, make_media_campaign

count = []
def die(*_):
    count.append(1)
    if len(count) == 6:
        os.kill(os.getpid(), signal.SIGKILL)

site = MediaSite(Path({str(tmp_path)!r}), campaign=make_media_campaign())
on_host(site, RunningHost(None, Path({str(host.socket_file)!r})), run="killed", progress=die)
"""
    root = Path(__file__).resolve().parents[3]
    killed = subprocess.run([sys.executable, "-c", script], cwd=root, check=False)
    assert killed.returncode == -signal.SIGKILL
    eventually(lambda: all(row.at_work == 0 for row in host.table.data), "its turns are over")
    assert digests(on_host(MediaSite(tmp_path, campaign=make_media_campaign()), host, run="killed")) == whole
    assert error_counts(site) == [0, 0]
