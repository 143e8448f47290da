"""A training that changes its number of ranks on its way, and what it goes on from.

The legs run once for all tests, in one process that forks its gangs (`elastic_legs.py`); what is done with the two
ranks' checkpoint that they leave needs no gang.
"""

import json
import os
import shutil
import subprocess
import sys
from argparse import Namespace
from pathlib import Path
from typing import Any

import pytest

from headrace.clock import FixedClock
from headrace.errors import InvalidInput
from headrace.store.local import LocalStore
from headrace.training.attempts import open_attempt, training_key
from headrace.training.checkpoints import UNIVERSAL, Checkpoint, damaged_files, drop_unnamed, newest_whole
from headrace.training.guard import Worker
from simulation.forked_gangs import ENVIRONMENT
from tests.processes.elastic_legs import CASES, RECIPE, STAGES

DEAD = Worker(pid=2**22 - 1, started=1)

pytestmark = [pytest.mark.process, pytest.mark.timeout(1800)]


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("elastic")


@pytest.fixture(scope="module")
def legs(directory: Path, tiny_model: Path) -> dict[str, Any]:
    done = subprocess.run(
        [sys.executable, "-m", "tests.processes.elastic_legs", directory, tiny_model, *CASES],
        cwd=Path(__file__).parents[2],
        env={**os.environ, **ENVIRONMENT},
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    return json.loads(done.stdout.splitlines()[-1])


@pytest.mark.parametrize("case", CASES)
def test_a_training_that_goes_from_two_ranks_to_one_and_back_ends_as_if_nothing_had_happened(
    legs: dict[str, Any], case: str
) -> None:
    straight, elastic = legs[case]["straight"], legs[case]["elastic"]
    assert elastic["attempt"] == 3
    assert elastic["state_digest"] == straight["state_digest"]
    assert elastic["weights_digest"] == straight["weights_digest"]
    assert elastic["train_loss_last"] == pytest.approx(straight["train_loss_last"], rel=1e-6)


def test_the_log_and_the_metadata_say_which_ranks_took_which_steps(legs: dict[str, Any]) -> None:
    ran = legs["3"]
    assert "ranks" not in ran["straight"]
    assert "2 ranks go on from a checkpoint of 1 rank: weights, moments and the order of examples are its own" in str(
        ran["said"]
    )
    assert ran["elastic"]["ranks"].startswith("2 ranks to step ")
    assert ran["elastic"]["ranks"].endswith(f", 2 ranks to step {RECIPE['steps']}")


@pytest.mark.parametrize("case", CASES)
def test_a_conversion_goes_when_the_new_ranks_have_checkpoints_of_their_own(legs: dict[str, Any], case: str) -> None:
    assert legs[case]["forms"] == ["ranks", "ranks"], "one of each number of ranks, and nothing else"


def two_ranks(legs: dict[str, Any], directory: Path, case: object, copy: Path) -> tuple[LocalStore, Checkpoint, int]:
    """The checkpoint of two ranks, in a store of its own, and a new attempt."""
    store = LocalStore(shutil.copytree(directory / f"{case}-two-ranks", copy))
    [training_id] = store.children("training")
    found = newest_whole(store, training_id, world_size=2)
    assert found
    return store, found, open_attempt(store, training_id, worker=DEAD, run_id="r", clock=FixedClock())


@pytest.mark.parametrize("stage", STAGES)
def test_the_universal_form_holds_what_deepspeeds_own_converter_puts_there(
    legs: dict[str, Any], directory: Path, tmp_path: Path, stage: int
) -> None:
    import torch
    from deepspeed.checkpoint import ds_to_universal

    from headrace.training.universal import convert

    store, source, attempt = two_ranks(legs, directory, stage, tmp_path / "store")
    universal = convert(store, source, attempt=attempt)
    assert (universal.form, universal.step, damaged_files(store, universal)) == (UNIVERSAL, source.step, [])
    theirs = tmp_path / "theirs/state"
    options = {"num_extract_workers": 1, "num_merge_workers": 1, "keep_temp_folder": False, "strict": True}
    ds_to_universal.main(
        Namespace(
            input_folder=str(source.directory(store) / "state"),
            output_folder=str(theirs),
            inject_missing_state=True,
            **options,
        )
    )
    # It gives a tied weight's second name a directory too, which nobody reads.
    files = {path.relative_to(theirs) for path in theirs.glob("zero/*/*.pt") if path.parent.name != "lm_head.weight"}
    ours = universal.directory(store) / "state"
    assert files == {path.relative_to(ours) for path in ours.glob("zero/*/*.pt") if stage < 3 or path.name != "step.pt"}
    for file in files:
        found, wanted = torch.load(ours / file, weights_only=False), torch.load(theirs / file, weights_only=False)
        if file.name != "step.pt":
            found, wanted = found["param"].flatten(), (wanted["param"] if stage < 3 else wanted).flatten()
        assert torch.equal(found, wanted), file


@pytest.mark.parametrize("stage", STAGES)
def test_weights_out_of_a_checkpoint_are_those_of_deepspeeds_own_tool(
    legs: dict[str, Any], directory: Path, tmp_path: Path, tiny_model: Path, stage: int
) -> None:
    import torch
    from deepspeed.utils.zero_to_fp32 import get_fp32_state_dict_from_zero_checkpoint
    from transformers import AutoModelForCausalLM

    from headrace.training.consolidate import main

    store, source, _ = two_ranks(legs, directory, stage, tmp_path / "store")
    out = tmp_path / "weights"
    main(
        [
            *("--store", str(store.directory), "--training-id", source.training_id, "--out", str(out)),
            *("--base", str(tiny_model), "--max-shard-bytes", "1000000"),
        ]
    )
    assert (out / "model.safetensors.index.json").exists()
    loaded: Any = AutoModelForCausalLM.from_pretrained(out, dtype=torch.float32)
    theirs = get_fp32_state_dict_from_zero_checkpoint(str(source.directory(store)), tag="state")
    assert theirs
    for name, weight in loaded.named_parameters():
        assert torch.equal(weight, theirs[name]), name


def test_adapters_without_their_base_are_no_weights(legs: dict[str, Any], directory: Path, tmp_path: Path) -> None:
    from headrace.training.consolidate import consolidate

    store, source, _ = two_ranks(legs, directory, "adapters-3", tmp_path / "store")
    with pytest.raises(InvalidInput, match="holds adapters without their base, which make no model"):
        consolidate(source.directory(store), source.world_size, tmp_path / "weights")
    assert not (tmp_path / "weights").exists()


def killed_at(file: int, store: LocalStore, source: Checkpoint, attempt: int) -> None:
    """A conversion whose process ends, as by `kill -9`, when it begins its `file`th file."""
    import torch

    from headrace.training import universal

    # The threads of this process's parent are not in it.
    torch.set_num_threads(1)
    begun = 0
    write_file = universal.write_file

    def counted(*arguments: Any) -> Any:
        nonlocal begun
        begun += 1
        if begun > file:
            os._exit(9)
        return write_file(*arguments)

    universal.write_file = counted
    universal.convert(store, source, attempt=attempt)
    os._exit(0)


def test_a_conversion_that_is_killed_at_any_file_leaves_the_checkpoint_that_it_reads(
    legs: dict[str, Any], directory: Path, tmp_path: Path
) -> None:
    from headrace.training.universal import convert

    store, source, attempt = two_ranks(legs, directory, 1, tmp_path / "store")
    parts = training_key(source.training_id, "parts")
    num_files = len(convert(store, source, attempt=attempt).files)
    store, source, attempt = two_ranks(legs, directory, 1, tmp_path / "again")
    before = set(store.children(parts))
    for file in (0, 1, num_files // 2, num_files - 1):
        pid = os.fork()
        if not pid:
            try:
                killed_at(file, store, source, attempt)
            finally:
                os._exit(1)
        assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 9
        assert newest_whole(store, source.training_id, world_size=1) == source
        assert len(set(store.children(parts)) - before) == (1 if file else 0)
        drop_unnamed(store, source.training_id)
        assert set(store.children(parts)) == before


def test_a_conversion_that_finds_the_disk_full_leaves_nothing_of_its_own(
    legs: dict[str, Any], directory: Path, tmp_path: Path
) -> None:
    import torch

    from headrace.training import universal

    store, source, attempt = two_ranks(legs, directory, 1, tmp_path / "store")
    before = store.children(training_key(source.training_id, "parts"))
    pid = os.fork()
    if not pid:
        import resource
        import signal

        status = 1
        try:
            torch.set_num_threads(1)
            signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
            resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, 200_000))
            universal.convert(store, source, attempt=attempt)
        except Exception as error:  # noqa: BLE001 (the child's verdict is its status)
            status = 7 if "file size limit" in str(error) else 2
        finally:
            os._exit(status)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 7
    assert store.children(training_key(source.training_id, "parts")) == before
    assert newest_whole(store, source.training_id, world_size=1) == source
