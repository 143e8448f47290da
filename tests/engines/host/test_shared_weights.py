"""Painters whose text encoder is one file: real processes of a host."""

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from headrace.engines import media_conformance
from headrace.engines.asking import close, medium_of
from headrace.engines.event_loop import LoopThread
from headrace.engines.media import MediaTurn
from headrace.store.local import LocalStore
from headrace.store.sealed_directory import seal_directory
from headrace.version_sets.sets import Member
from simulation.tiny_pipelines import build_pixel_pipeline
from tests.engines.host.hosts import RunningHost, running_host
from tests.waiting import eventually

pytestmark = pytest.mark.process
# Of the encoder; what two processes hold beyond what was measured before is less.
ENCODER_MIB, SLACK_MIB = 98, 90


@pytest.fixture
def painters(tmp_path: Path) -> tuple[LocalStore, list[Member]]:
    store, members = LocalStore(tmp_path / "store"), list[Member]()
    directories = [
        build_pixel_pipeline(tmp_path / name, seed=seed, encoder_size=512, encoder_layers=8)
        for seed, name in enumerate(["first", "second"])
    ]
    shutil.rmtree(directories[1] / "text_encoder")
    shutil.copytree(directories[0] / "text_encoder", directories[1] / "text_encoder")
    for directory in directories:
        sealed = seal_directory(store, directory)
        member = media_conformance.painter(width=16, height=16, num_inference_steps=2)
        member = replace(member, model_name=directory.name, weights_digest=sealed.digest, weights_uri=sealed.uri)
        members.append(member)
    return store, members


def test_two_are_both_there_in_an_account_that_could_not_hold_both_whole(
    host: RunningHost, painters: tuple[LocalStore, list[Member]], loop: LoopThread
) -> None:
    store, members = painters

    def painted(member: Member, at: RunningHost) -> Any:
        engine = media_conformance.opened(
            "diffusers", member, objects=store, deployment=at.deployment(store), dtype="float32", batch_rows=1
        )
        picture = loop.run(medium_of(engine, member, MediaTurn(unit="one", text="A mill wheel.", seed=1)))
        loop.run(close(engine))
        return picture

    picture = painted(members[0], host)
    [alone] = [row for row in host.table.data if row.model.startswith("first")]
    # Libraries are shared, too, and are more than the slack of two.
    account = 2 * alone.peak_mib - ENCODER_MIB + SLACK_MIB
    assert account < 2 * alone.reserved_mib
    with running_host("--memory-mib", str(account)) as own:
        # The second one comes with a guess first, and the first one may make room for that.
        first, second, again = (painted(member, own) for member in (*members, members[0]))
        assert picture == first == again != second, "the same bytes, from a file that both map"
        painted(members[1], own)
        eventually(lambda: [row.state for row in own.table.data] == ["on the device"] * 2, "both are there")
        rows, [cpu] = own.table.data, own.table.accounts
        assert min(row.shared_mib for row in rows) >= ENCODER_MIB
        assert sum(row.reserved_mib for row in rows) > cpu.mib >= cpu.reserved_mib
