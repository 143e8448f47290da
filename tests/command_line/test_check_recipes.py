"""What `headrace check` tells of a recipe before anything is trained."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from headrace.clock import SystemClock
from headrace.command_line.checking import recipes
from headrace.command_line.checking.recipes import examine_recipe
from headrace.handoff.schemas import TOKENIZED_DOCUMENTS
from headrace.handoff.versions import HandoffStore
from headrace.placement.demand import CPUS, GPU_MEMORY_MIB, GPUS, MEMORY_MIB
from headrace.prep.corpus import Corpus
from headrace.settings import Settings, settings_of
from headrace.store.indexing import index_directory
from headrace.store.local import LocalStore
from headrace.store.sealed_directory import give_up_sealing, seal_directory
from headrace.training.devices import Devices
from headrace.training.lora_settings import Lora, num_adapter_params
from headrace.training.model_widths import tensor_shapes
from headrace.training.preference_settings import Preference, RowPairs
from headrace.training.recipe_needs import SEQUENCE_LENGTH, demand_tags, needs_of
from headrace.training.recipe_parts import EarlyStop, Guards, LossSpike
from headrace.training.tables import base_model_table
from tests.command_line.checked_project import Project as CheckedProject
from tests.training_builders import make_recipe, packed_rows

CPU = Devices(num_gpus=0, memory_mib=8000)


@pytest.fixture
def settings(tmp_path: Path, tiny_model: Path) -> Settings:
    return settings_of({"HEADRACE_HOME": str(tmp_path), "HEADRACE_BASE_MODEL": str(tiny_model)}, tmp_path)


@pytest.fixture
def store(tmp_path: Path, tiny_model: Path) -> LocalStore:
    """With one shard of sealed examples, of which no row has more than 64 tokens."""
    objects = LocalStore(tmp_path / "store")
    rows = packed_rows(tiny_model, num_sequences=20)
    HandoffStore(objects).publish("training_examples", "shard-00", rows, code_version="1", run_id="test")
    return objects


def told(settings: Settings, store: LocalStore | None, devices: Devices = CPU, **recipe: object) -> dict[str, str]:
    """Sentences by check, each after its level."""
    found = examine_recipe(make_recipe(**recipe), settings, store, devices)
    return {one.check: f"{one.level} {one.sentence}" for one in found}


def test_a_recipe_is_told_with_its_batch_sequences_memory_and_disk(settings: Settings, store: LocalStore) -> None:
    found = told(settings, store, precision="fp32")
    assert found["batch"] == "ok each of 2 ranks runs 1 times 1 sequence a step."
    assert found["examples"] == "ok 20 sequences of 64 tokens; no example is longer."
    assert found["memory"].startswith("ok a rank needs about ")
    assert "optimizer" in found["memory"]
    assert found["memory"].endswith("; a rank has 4,000 MiB.")
    assert found["disk"].startswith("ok 1 checkpoint of ")


def test_before_the_first_examples_the_corpus_file_says_how_long_they_are(settings: Settings, tmp_path: Path) -> None:
    assert "sequences of 256 tokens are assumed, as the corpus file says, or" in told(settings, None)["examples"]
    settings.corpus.parent.mkdir(parents=True)
    settings.corpus.write_text("sequence_length: 1024\n")
    assert told(settings, None)["examples"].startswith("fail Recipe tiny.test: training examples are 1024 tokens long")
    settings.corpus.write_text(f"sequence_length: 1{'0' * 400}\n")
    assert "sequences of 256 tokens are" in told(settings, None)["examples"], "the corpus file's own check refuses it"


def test_the_stand_in_for_a_corpus_file_is_its_default() -> None:
    assert Corpus.__dataclass_fields__["sequence_length"].default == SEQUENCE_LENGTH


REFUSED = {
    "a batch that does not divide": ({"batch": 3}, CPU, "batch", "fail", "batch=3 does not divide into 2 ranks"),
    "half precision on a CPU": ({"precision": "fp16"}, CPU, "precision", "fail", "precision='fp16' needs a GPU"),
    "more ranks than GPUs": (
        {"ranks": 4, "batch": 4},
        Devices(num_gpus=2, memory_mib=None),
        "ranks",
        "fail",
        "wants 4 ranks, one a GPU, and 2 GPUs are visible",
    ),
    "a precision that the CPU emulates": (
        {"precision": "bf16"},
        Devices(num_gpus=0, memory_mib=8000, computes_bf16=False),
        "precision",
        "warn",
        "this CPU has no bf16 instructions",
    ),
    "a stage that divides nothing": (
        {"ranks": 1, "zero_stage": 2},
        CPU,
        "zero_stage",
        "warn",
        "stage 2 divides nothing: there is 1 rank",
    ),
    "a machine without room for the model": (
        {"memory_mib_per_rank": 4},
        CPU,
        "memory",
        "fail",
        "a rank has 4 MiB, less than its model state alone. Raise zero_stage",
    ),
    "a machine without room for a pass": (
        {"memory_mib_per_rank": 300},
        CPU,
        "memory",
        "warn",
        "a rank has 300 MiB free now. Raise zero_stage",
    ),
    "prefixes that freeze all": (
        {"freeze": ("model.",)},
        CPU,
        "model",
        "fail",
        "freeze=['model.'] matches every parameter",
    ),
    "a patience that no evaluation exhausts": (
        {"evaluate_every": 2, "early_stop": EarlyStop(patience=4)},
        CPU,
        "early_stop",
        "warn",
        "patience 4 stops nothing: 4 evaluations come before the last step. Lower it, or evaluate_every=2.",
    ),
    "a window as long as the training": (
        {"guards": Guards(loss_spike=LossSpike(window=10))},
        CPU,
        "guards",
        "warn",
        "window 10 compares nothing: the training has 10 steps.",
    ),
    "a held-out shard that is not there": (
        {"heldout_shards": ("own",)},
        CPU,
        "heldout",
        "warn",
        "heldout_shards names 'own', and training_examples has shard-00.",
    ),
    "a base in four bits on a CPU": (
        {"precision": "bf16", "lora": Lora(quantize="nf4")},
        CPU,
        "lora",
        "fail",
        "lora.quantize: Recipe tiny.test: lora.quantize='nf4' holds the base in 4 bits",
    ),
    "rows of a campaign that has none": (
        {"objective": "preference", "preference": Preference(rows=RowPairs(campaigns=("tales",)))},
        CPU,
        "rows",
        "warn",
        "the campaign 'tales' has no reviewed rows; reviewed rows are there of no campaign. Mend the name, or",
    ),
    "pairs that nothing makes": (
        {"objective": "preference"},
        CPU,
        "examples",
        "warn",
        "no pairs are sealed yet, which the corpus file's `example: pair` or preference.rows makes; sequences of",
    ),
    "pairs that are longer than the model's positions": (
        {
            "objective": "preference",
            "preference": Preference(rows=RowPairs(campaigns=("tales",), sequence_length=100_000)),
        },
        CPU,
        "examples",
        "fail",
        "lower preference.rows.sequence_length and materialize preference_pairs again.",
    ),
    "a prefix that freezes nothing": ({"freeze": ("encoder.",)}, CPU, "model", "fail", "freeze='encoder.' matches"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_would_fail_or_do_nothing_is_told_with_its_key(settings: Settings, store: LocalStore, case: str) -> None:
    recipe, devices, check, level, sentence = REFUSED[case]
    found = told(settings, store, devices, **recipe)[check]
    assert found.startswith(level)
    assert sentence in found


BROKEN = {
    "a pointer of Git LFS": ("model.safetensors", b"version https://git-lfs.github.com/spec/v1\n", "git lfs pull"),
    "an empty file": ("model.safetensors", b"", "is no whole safetensors file (0 bytes)"),
    "a header that is no mapping": ("model.safetensors", b"\2\0\0\0\0\0\0\0[]", "is no whole safetensors file"),
    "a config that is a list": ("config.json", b"[]", "must be an object of JSON, got list"),
    "a config of another encoding": ("config.json", '{"a": "é"}'.encode("latin-1"), "cannot be read as JSON"),
}


@pytest.mark.parametrize("case", BROKEN)
def test_a_broken_file_of_the_base_model_is_named(
    settings: Settings, tiny_model: Path, tmp_path: Path, case: str
) -> None:
    name, content, sentence = BROKEN[case]
    base = shutil.copytree(tiny_model, tmp_path / "base")
    (base / name).write_bytes(content)
    found = told(settings, None, base_model=str(base))["model"]
    assert found.startswith(f"fail {base / name} ")
    assert sentence in found


def test_a_base_model_whose_download_broke_off_is_told(settings: Settings, tiny_model: Path, tmp_path: Path) -> None:
    base = shutil.copytree(tiny_model, tmp_path / "base")
    os.truncate(base / "model.safetensors", (base / "model.safetensors").stat().st_size - 1)
    assert "is no whole safetensors file" in told(settings, None, base_model=str(base))["model"]


@pytest.mark.parametrize(
    ("key", "value"),
    [("num_experts_per_tok", "2"), ("hidden_act", ["silu"]), ("max_position_embeddings", "512"), ("n_layer", True)],
)
def test_what_a_config_tells_in_no_number_is_not_known(
    settings: Settings, tiny_model: Path, tmp_path: Path, key: str, value: object
) -> None:
    base = shutil.copytree(tiny_model, tmp_path / "base")
    config = json.loads((base / "config.json").read_text())
    (base / "config.json").write_text(json.dumps(config | {key: value}))
    assert told(settings, None, base_model=str(base))["memory"].startswith("ok a rank needs about ")


def test_a_misspelt_base_recipe_is_told_with_the_nearest_one(settings: Settings, store: LocalStore) -> None:
    settings.recipes.mkdir(parents=True)
    (settings.recipes / "a.yaml").write_text("name: define\nmodel: tiny\nsteps: 1\nbatch: 2\nlearning_rate: 1.0e-3\n")
    found = told(settings, store, base_recipe="tiny.defin")["model"]
    assert found.startswith("warn base_recipe: tiny.defin has trained nothing yet. No file in ")
    assert found.endswith("did you mean 'tiny.define'?")
    unmade = told(settings, store, base_recipe="tiny.define")["model"]
    assert unmade.endswith("tiny.define has trained nothing yet: materialize trained_model[tiny.define] first.")


def test_examples_that_are_longer_than_the_sequence_are_counted(settings: Settings, store: LocalStore) -> None:
    tokenized = {"key": [bytes(16)] * 4, "token_ids": [[1] * 9, [1] * 64, [1] * 65, [1] * 200], "spans": [[]] * 4}

    rows = pa.table(tokenized, schema=TOKENIZED_DOCUMENTS)
    HandoffStore(store).publish("tokenized_documents", "shard-00", rows, code_version="1", run_id="test")
    assert "2 of 4 examples are longer, the longest has 200: raise sequence_length" in told(settings, store)["examples"]


class Remote:
    """A store that is not in a directory of this machine."""

    def __init__(self, store: LocalStore) -> None:
        self._store = store

    def __getattr__(self, name: str) -> Any:
        return getattr(self._store, name)


def test_weights_of_a_remote_store_are_not_fetched_to_be_checked(
    settings: Settings, store: LocalStore, tiny_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sealed = base_model_table(seal_directory(store, tiny_model))
    HandoffStore(store).publish("trained_model", "tiny.define", sealed, code_version="1", run_id="test")
    assert "memory" in told(settings, store, base_recipe="tiny.define")
    monkeypatch.setattr(recipes, "open_directory", lambda *_: pytest.fail("the weights were fetched"))
    found = told(settings, Remote(store), base_recipe="tiny.define")  # pyright: ignore[reportArgumentType]
    assert "They are fetched when it runs: what a rank needs is not told before." in found["model"]


def test_weights_whose_whole_files_were_collected_are_not_put_together_to_be_checked(
    settings: Settings, store: LocalStore, tiny_model: Path
) -> None:
    whole = seal_directory(store, tiny_model)
    HandoffStore(store).publish(
        "trained_model", "tiny.define", base_model_table(whole), code_version="1", run_id="test"
    )
    index_directory(store, whole.digest)
    give_up_sealing(store, whole, SystemClock())
    store.delete_prefix(whole.key)
    found = told(settings, store, base_recipe="tiny.define")
    assert found["model"].startswith("ok base_recipe: starts from trained_model[tiny.define]")
    assert "They are fetched when it runs" in found["model"]
    assert not (store.node_directory() / "cache").exists()


def test_a_full_disk_is_told_before_the_first_checkpoint(
    settings: Settings, store: LocalStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = shutil.disk_usage(settings.home)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage._replace(free=5_000_000))
    found = told(settings, store, steps=1000, checkpoint_every=10)["disk"]
    assert found.startswith("fail checkpoints_kept: 3 checkpoints of ")
    assert "has 5.0 MB free. Free some, or lower checkpoints_kept." in found


def test_a_runs_demand_is_what_its_recipe_needs(settings: Settings, store: LocalStore, tiny_model: Path) -> None:
    recipe = make_recipe(ranks=2, precision="fp32")
    on_cpu = needs_of(recipe, tiny_model, store, CPU, corpus=settings.corpus)
    tags = demand_tags(on_cpu.estimate, num_ranks=2, has_gpus=False)
    assert tags.keys() == {GPUS, CPUS, MEMORY_MIB}
    assert tags[GPUS] == "0"
    assert 1 <= int(tags[CPUS]) <= 2, "a core a rank, as far as there are any"
    assert tags[MEMORY_MIB] == str(2 * on_cpu.estimate.mib)
    on_gpus = needs_of(recipe, tiny_model, store, Devices(num_gpus=2, memory_mib=None), corpus=settings.corpus)
    tags = demand_tags(on_gpus.estimate, num_ranks=2, has_gpus=True)
    assert tags[GPUS] == "2"
    assert int(tags[GPU_MEMORY_MIB]) > on_gpus.estimate.mib


def test_adapters_need_less_than_whole_weights(settings: Settings, store: LocalStore, tiny_model: Path) -> None:
    whole, adapters = (
        needs_of(make_recipe(lora=lora, precision="fp32"), tiny_model, store, CPU, corpus=settings.corpus)
        for lora in (None, Lora(rank=4))
    )
    assert adapters.shape.num_params_trained == num_adapter_params(Lora(rank=4), tensor_shapes(tiny_model))
    assert adapters.checkpoint_bytes == 16 * adapters.shape.num_params_trained
    assert adapters.checkpoint_bytes < whole.checkpoint_bytes / 5
    assert adapters.estimate.mib < whole.estimate.mib


def test_a_recipe_is_checked_without_torch(checked_project: CheckedProject) -> None:
    script = (
        "import sys\nfrom headrace.command_line.main import app\n"
        f"sys.argv = ['headrace', 'check', '--offline', {str(checked_project.recipe)!r}]\n"
        "try:\n    app()\nexcept SystemExit:\n    pass\n"
        "print([name for name in ('torch', 'transformers', 'deepspeed') if name in sys.modules])"
    )
    environment = {name: value for name, value in os.environ.items() if not name.startswith("HEADRACE_")}
    done = subprocess.run(
        [sys.executable, "-c", script],
        cwd=checked_project.root,
        env=environment,
        capture_output=True,
        text=True,
        check=True,
        timeout=120,
    )
    assert "a rank needs about" in done.stdout, done.stdout + done.stderr
    assert done.stdout.splitlines()[-1] == "[]"
