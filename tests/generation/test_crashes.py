"""kill -9 at any line, and two processes at once: no row lost, none twice, one batch redone at most, same bytes."""

import shutil
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import pytest

from headrace.engines.rows import ChainRows, GenerationRequest, GenerationResult
from headrace.generation.claims import unsettled
from headrace.generation.micro_batches import committed
from headrace.generation.mirroring import MirrorStopped
from tests.generation.builders import Site, make_site

pytestmark = pytest.mark.process

KILLED_WORKER = Path(__file__).parent / "killed_worker.py"
CHECKOUT = Path(__file__).resolve().parents[2]

# A worker whose batches take long enough for another one to come, or for a kill.
SLOW_WORKER = """
import sys
from pathlib import Path
from tests.generation.builders import Site
from headrace.engines.echo import EchoEngine
from tests.generation.builders import make_member
from tests.generation.test_crashes import SlowRows
site = Site(Path(sys.argv[1]))
claim = site.open_claim(sys.argv[2])
print("claimed", flush=True)
outcome = site.generate(claim, engine=SlowRows.of(make_member(), EchoEngine(make_member())))
print(outcome.num_generated_now, outcome.content.version, outcome.content.content_digest, flush=True)
"""


class SlowRows(ChainRows):
    def generate(self, requests: Sequence[GenerationRequest]) -> list[GenerationResult]:
        time.sleep(0.3)
        return super().generate(requests)


def slow_worker(directory: Path, run: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", SLOW_WORKER, str(directory), run], cwd=CHECKOUT, stdout=subprocess.PIPE, text=True
    )


def digest_of(site: Site) -> str:
    return site.handoffs.open("generated_content", site.partition.key).content_digest


def killed_sites(directory: Path, num_kills: int, mode: str) -> list[Site]:
    killed = [sys.executable, str(KILLED_WORKER), str(directory), str(num_kills), mode]
    directories = subprocess.run(killed, check=True, capture_output=True, text=True).stdout.split()
    return [Site(Path(directory)) for directory in directories]


@pytest.fixture(scope="module")
def killed_mirrors(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Sites of runs that were killed while they mirrored; for copies."""
    directory = tmp_path_factory.mktemp("killed-mirrors")
    killed_sites(directory, 18, "mirror")
    return directory


def test_a_worker_killed_at_any_line_loses_and_doubles_no_row(tmp_path: Path) -> None:
    sites = killed_sites(tmp_path, 40, "generate")
    whole = digest_of(Site(tmp_path / "whole"))
    num_left_over: list[int] = []
    for site in sites:
        claim = site.open_claim("run-killed")
        num_left_over.append(len(committed(site.objects, claim)))
        outcome = site.generate(claim)
        # What was committed is not made again.
        assert outcome.num_generated_now == sum(
            size for index, size in enumerate([2, 2, 2, 1]) if index >= num_left_over[-1]
        )
        assert claim.attempt == 1
        assert site.handoffs.versions("generated_content", site.partition.key) == [1]
        assert digest_of(site) == whole
    assert sorted(set(num_left_over)) == [0, 1, 2, 3, 4]


def copied_sites(killed: Path, directory: Path) -> list[Site]:
    shutil.copytree(killed, directory, dirs_exist_ok=True)
    return [Site(path) for path in sorted(directory.glob("killed-*"))]


def test_a_mirror_killed_at_any_line_is_gone_on_with_and_published_nowhere(
    killed_mirrors: Path, tmp_path: Path
) -> None:
    sites = copied_sites(killed_mirrors, tmp_path)
    whole = Site(tmp_path / "whole").handoffs
    key = sites[0].partition.key
    num_left_over = set()
    for site in sites:
        made = unsettled(site.objects, "glossary")
        num_left = len(committed(site.objects, made[0])) if made else None
        mirror = site.mirror(root_run_id="run-killed")
        if num_left is not None:
            num_left_over.add(num_left)
            assert mirror.outcome.num_generated_now == [7, 5, 3, 1, 0][num_left]
        for asset in ("mirrored_content", "mirror_execution", "mirror_comparison"):
            assert site.handoffs.versions(asset, key) == [1]
        for asset in ("mirrored_content", "mirror_comparison"):
            assert site.handoffs.open(asset, key).content_digest == whole.open(asset, key).content_digest
        assert site.handoffs.versions("generated_content", key) == [1]
        assert site.handoffs.versions("execution", key) == [1]
    assert len(num_left_over) >= 4


def test_a_killed_mirror_of_a_set_that_is_aborted_meanwhile_is_never_sealed(
    killed_mirrors: Path, tmp_path: Path
) -> None:
    num_stopped = 0
    for site in copied_sites(killed_mirrors, tmp_path):
        candidate = site.state.candidate
        assert candidate
        settled = [key for key in site.objects.list("claims") if "/mirrors/" in key and ".settled." in key]
        site.abort(2)
        try:
            site.mirror(candidate, root_run_id="run-killed")
        except MirrorStopped:
            num_stopped += 1
            assert not settled
        found = site.handoffs.find("mirrored_content", site.partition.key, version_set=candidate)
        assert (found is not None) == bool(settled)
        assert site.handoffs.versions("generated_content", site.partition.key) == [1]
        if not settled:
            published = site.claims.attempts(site.partition.key, site.open_claim().inputs_digest)
            prefixes = {one.batches_prefix for one in published}
            assert {key.rpartition("/")[0] for key in site.objects.list("batches")} == prefixes
    assert num_stopped > 3


def test_a_worker_killed_while_it_takes_another_set_leaves_nothing_of_the_old_one(tmp_path: Path) -> None:
    sites = killed_sites(tmp_path, 14, "repin")
    whole = digest_of(Site(tmp_path / "whole"))
    for site in sites:
        claim = site.open_claim("run-killed")
        site.generate(claim)
        assert (claim.attempt, claim.version_set) == (2, site.state.stable)
        assert digest_of(site) == whole
        assert site.handoffs.versions("generated_content", site.partition.key) == [1]
        first, second = site.claims.attempts(site.partition.key, claim.inputs_digest)
        assert second == claim
        assert site.objects.list(first.batches_prefix) == []


def test_a_worker_killed_from_outside_is_gone_on_with(tmp_path: Path) -> None:
    site, whole = make_site(tmp_path / "killed"), make_site(tmp_path / "whole")
    whole.generate()
    worker = slow_worker(site.directory, "run-1")
    assert worker.stdout
    assert worker.stdout.readline() == "claimed\n"
    claim = site.open_claim("run-1")
    while not committed(site.objects, claim):
        time.sleep(0.02)
    worker.kill()
    worker.wait()
    num_committed = len(committed(site.objects, claim))
    outcome = site.generate(site.open_claim("run-1"))
    assert 0 < num_committed < 4
    assert outcome.num_generated_now == 7 - 2 * num_committed
    assert digest_of(site) == digest_of(whole)


def test_two_processes_on_one_partition_seal_it_once(tmp_path: Path) -> None:
    site, whole = make_site(tmp_path / "shared"), make_site(tmp_path / "whole")
    whole.generate()
    workers = [slow_worker(site.directory, run) for run in ("run-1", "run-2")]
    reports = []
    for worker in workers:
        output, _ = worker.communicate()
        assert worker.returncode == 0
        reports.append(output.splitlines()[-1].split())
    assert sum(int(num_rows) for num_rows, _, _ in reports) == 7
    assert {(version, digest) for _, version, digest in reports} == {("1", digest_of(whole))}
    assert site.handoffs.versions("generated_content", site.partition.key) == [1]
    assert site.handoffs.versions("execution", site.partition.key) == [1]
