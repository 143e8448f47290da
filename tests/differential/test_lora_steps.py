"""Adapters at every ZeRO stage: against plain peft and PyTorch, resumed, merged, measured, and answering.

One gang start for all of them, and two for a training that is killed.
"""

import asyncio
import json
import math
import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import peft
import pytest
import torch
import transformers
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

from headrace.adapters.loading import load_causal_model
from headrace.adapters.sealed import Opened, open_weights, with_base
from headrace.engines.base import Answer
from headrace.engines.deployment import Deployment
from headrace.engines.registry import open_engine
from headrace.errors import HandoffMissing, InvalidInput
from headrace.handoff.versions import HandoffStore
from headrace.registry.model_versions import to_table
from headrace.store.local import LocalStore
from headrace.store.sealed_directory import find_directory, open_directory, seal_directory
from headrace.training.attempts import TrainingResult, read_curve
from headrace.training.evaluate import Measure
from headrace.training.examples import open_examples
from headrace.training.heldout import choose_sequences
from headrace.training.lora_settings import Lora, num_adapter_params
from headrace.training.preference_settings import Preference
from headrace.training.recipe import PREFERENCE, Recipe
from headrace.training.session import Outcome, train
from headrace.training.zero import read_model_shape
from headrace.version_sets.sets import EngineSpec
from simulation.models import model_of
from simulation.tiny_model import build_tiny_model
from tests.command_line.builders import checked_json, run
from tests.differential.one_gang import WORLD_SIZE, gang_config, train_in_one_gang, training_id
from tests.differential.plain_training import PlainTraining, Weights, distance_share, train_plainly
from tests.pair_builders import make_pair_bench
from tests.processes.killed_training import run_until_checkpoint
from tests.rollout.builders import make_member
from tests.serving.engines.turns import make_turn
from tests.training_builders import Bench, make_bench, make_recipe

pytestmark = [pytest.mark.process, pytest.mark.timeout(1800)]

STAGES = (0, 1, 2, 3)
STEPS, CHECKPOINT_EVERY = 6, 2
# A rate that moves the adapters well beyond rounding.
RECIPE = {
    "steps": STEPS,
    "batch": 4,
    "weight_decay": 0.5,
    "clip_norm": 0.5,
    "learning_rate": 1e-2,
    "warmup_steps": 2,
    "precision": "fp32",
    "lora": Lora(rank=4, alpha=8),
    "step_timeout_seconds": 120,
}
DROPPED = RECIPE | {"lora": Lora(rank=4, alpha=8, dropout=0.2), "checkpoint_every": CHECKPOINT_EVERY}
CASES: dict[tuple[str, int], dict[str, Any]] = {
    **{("fp32", stage): RECIPE for stage in STAGES},
    **{("dropout", stage): DROPPED for stage in STAGES},
    **{("resumed", stage): DROPPED for stage in STAGES},
    ("bf16", 2): RECIPE | {"precision": "bf16"},
    ("best", 2): RECIPE | {"evaluate_every": 2, "keep": "best", "heldout_tokens_min": 100},
    ("preferred", 2): RECIPE | {"objective": PREFERENCE, "preference": Preference(beta=0.5)},
    ("merged", 3): RECIPE | {"lora": Lora(rank=4, alpha=8, merge=True)},
}
# Stage 3 last.
ORDER = sorted(CASES, key=lambda case: case[1])
# Of the distance moved: rounding; in bf16 weights have eight bits.
BOUNDS = {"fp32": 1e-5, "bf16": 0.05}

# Opens the merged directory with nothing of ours, nor of peft's.
PLAIN = """
import sys
sys.modules["peft"] = None
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer
model = AutoModelForCausalLM.from_pretrained(sys.argv[1], dtype=torch.float32).eval()
ids = torch.arange(3, 40)[None]
with torch.no_grad():
    torch.save(model(ids).logits, sys.argv[2])
assert AutoTokenizer.from_pretrained(sys.argv[1]).chat_template
assert not any(name.split(".")[0] == "headrace" for name in sys.modules)
"""


@dataclass(frozen=True)
class Trained:
    bench: Bench
    pairs: Bench
    base: Path
    results: dict[tuple[str, int], TrainingResult]
    references: dict[str, PlainTraining]
    start: Weights

    def directory(self, case: str, stage: int) -> Path:
        return open_directory(self.bench.store, self.results[case, stage].weights_digest)

    def logits(self, case: str, stage: int, *, merge: bool = False) -> torch.Tensor:
        opened = open_weights(self.bench.store, self.results[case, stage].weights_digest)
        model = load_causal_model(opened, dtype=torch.float32, merge=merge).eval()
        with torch.no_grad():
            return model(torch.arange(3, 40)[None]).logits


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Trained]:
    directory = tmp_path_factory.mktemp("lora")
    base = build_tiny_model(directory / "base")
    bench = make_bench(directory, base)
    pairs = make_pair_bench(directory / "pairs", base)
    results = train_all(bench, pairs, directory)
    num_threads = torch.get_num_threads()
    torch.set_num_threads(1)  # as a rank has
    examples = open_examples(HandoffStore(bench.store), bench.inputs, "train")
    references = {
        case: train_plainly(base, examples, recipe_of(case, stage), world_size=WORLD_SIZE, prepared=with_peft)
        for case, stage in (("fp32", 0), ("bf16", 2))
    }
    fresh = with_peft(AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32))
    yield Trained(bench, pairs, base, results, references, adapters_of(dict(fresh.named_parameters())))
    torch.set_num_threads(num_threads)


def recipe_of(case: str, stage: int) -> Recipe:
    return make_recipe(**CASES[case, stage], zero_stage=stage)


def with_peft(model: Any) -> Any:
    """As people write it: nothing of ours."""
    torch.manual_seed(0)
    config = LoraConfig(r=4, lora_alpha=8, target_modules="all-linear", task_type="CAUSAL_LM")
    return get_peft_model(model, config, autocast_adapter_dtype=False)


def adapters_of(weights: Weights) -> Weights:
    return {name.replace(".default", ""): one.detach().clone() for name, one in weights.items() if ".lora_" in name}


def train_all(bench: Bench, pairs: Bench, directory: Path) -> dict[tuple[str, int], TrainingResult]:
    configs = [
        gang_config(directory, number, pairs if case == "preferred" else bench, recipe_of(case, stage))
        for number, (case, stage) in enumerate(ORDER)
    ]
    resuming = {
        number: ORDER.index(("dropout", stage)) for number, (case, stage) in enumerate(ORDER) if case == "resumed"
    }
    return dict(zip(ORDER, train_in_one_gang(directory, configs, resuming=resuming), strict=True))


@pytest.mark.parametrize(("case", "stage"), [case for case in CASES if case[0] in BOUNDS])
def test_adapters_end_where_plain_peft_does(trained: Trained, case: str, stage: int) -> None:
    found = load_file(trained.directory(case, stage) / "adapter_model.safetensors")
    reference = adapters_of(trained.references[case].weights)
    assert found.keys() == reference.keys() == trained.start.keys()
    share = distance_share(found, reference, trained.start)
    print(f"\n{case} at stage {stage}: {share:.1e} of the distance that plain peft's adapters moved")
    assert share <= BOUNDS[case]


@pytest.mark.parametrize("stage", STAGES)
def test_a_curve_tells_plain_pefts_losses(trained: Trained, stage: int) -> None:
    losses = [row["loss"] for row in read_curve(trained.bench.store, trained.results["fp32", stage])]
    assert losses == pytest.approx(trained.references["fp32"].losses, rel=1e-4)
    assert losses[-1] < losses[0] - 0.1


@pytest.mark.parametrize("stage", STAGES)
def test_a_resumed_training_ends_bit_for_bit_like_one_that_was_not(trained: Trained, stage: int) -> None:
    straight, resumed = trained.results["dropout", stage], trained.results["resumed", stage]
    assert resumed.resumed_from_step == 4
    assert resumed.state_digest == straight.state_digest
    assert resumed.weights_digest == straight.weights_digest
    assert straight.weights_digest != trained.results["fp32", stage].weights_digest, "nothing was dropped"


def train_dropped(directory: str, base: str) -> Outcome:
    bench = make_bench(Path(directory), Path(base))
    request = bench.request(**DROPPED, zero_stage=2)
    return train(request, bench.place(dict(os.environ)))


def killed_once(work: str, directory: Path, base: Path) -> Outcome:
    directory.mkdir()
    run_until_checkpoint(f"{work}; train_dropped({str(directory)!r}, {str(base)!r})", directory)
    return train_dropped(str(directory), str(base))


def test_a_training_that_is_killed_ends_bit_for_bit_like_one_that_was_not(trained: Trained, tmp_path: Path) -> None:
    work = f"import sys; sys.path.insert(0, {str(Path(__file__).parents[2])!r}); from {__name__} import train_dropped"
    # On a busy machine so short a training may end before its kill is there: then once more.
    directories = [tmp_path / str(number) for number in range(5)]
    outcomes = (killed_once(work, directory, trained.base) for directory in directories)
    outcome = next((one for one in outcomes if one.result.resumed_from_step), None)
    assert outcome, "no kill came in time"
    assert outcome.result.resumed_from_step >= CHECKPOINT_EVERY
    assert outcome.result.state_digest == trained.results["dropout", 2].state_digest
    assert outcome.result.weights_digest == trained.results["dropout", 2].weights_digest


@pytest.mark.parametrize("stage", STAGES)
def test_a_checkpoint_has_no_base_in_it(trained: Trained, stage: int) -> None:
    store = trained.bench.store
    key = f"training/{training_id(ORDER.index(('dropout', stage)))}/parts"
    num_bytes = sum(entry.num_bytes for entry in store.entries(key))
    adapters = (trained.directory("dropout", stage) / "adapter_model.safetensors").stat().st_size
    base = (trained.base / "model.safetensors").stat().st_size
    # Two checkpoints, each with weights, masters and two moments.
    assert num_bytes < 12 * adapters
    assert 12 * adapters < 2 * base, "or this proves nothing"


def test_the_directory_is_pefts_own_and_names_its_base_by_digest(trained: Trained) -> None:
    directory = trained.directory("fp32", 2)
    names = {path.name for path in directory.iterdir()}
    assert {"adapter_config.json", "adapter_model.safetensors", "tokenizer.json", "chat_template.jinja"} <= names
    assert not names & {"config.json", "model.safetensors", "generation_config.json"}
    config = json.loads((directory / "adapter_config.json").read_text())
    assert config["base_model_name_or_path"] == f"headrace://weights/{trained.bench.base_digest}"
    sealed = find_directory(trained.bench.store, trained.results["fp32", 2].weights_digest)
    assert sealed
    assert sealed.attributes["needs_weights"] == trained.bench.base_digest
    base: Any = AutoModelForCausalLM.from_pretrained(trained.base, dtype=torch.float32)
    plain = PeftModel.from_pretrained(base, str(directory)).eval()
    with torch.no_grad():
        assert torch.equal(plain(torch.arange(3, 40)[None]).logits, trained.logits("fp32", 2))


def test_merged_weights_are_a_plain_model_that_answers_as_its_adapters_on_their_base(
    trained: Trained, tmp_path: Path
) -> None:
    merged = trained.directory("merged", 3)
    assert not (merged / "adapter_config.json").exists()
    told = tmp_path / "logits.pt"
    subprocess.run(
        [sys.executable, "-P", "-c", PLAIN, str(merged), str(told)],
        cwd=tmp_path,
        check=True,
        env={**os.environ, "HF_HUB_OFFLINE": "1"},
    )
    beside, base = trained.logits("fp32", 3), trained.logits("fp32", 3) * 0
    with torch.no_grad():
        base = AutoModelForCausalLM.from_pretrained(trained.base, dtype=torch.float32)(torch.arange(3, 40)[None]).logits
    assert (beside - base).abs().max() > 0.1, "the adapters do something"
    for logits in (torch.load(told), trained.logits("fp32", 3, merge=True)):
        assert torch.allclose(logits, beside, atol=1e-5)


def test_an_adapter_is_measured_on_its_base(trained: Trained) -> None:
    examples = open_examples(HandoffStore(trained.bench.store), trained.bench.inputs, "heldout")
    adapter = open_weights(trained.bench.store, trained.results["fp32", 2].weights_digest)
    losses = {
        name: Measure(opened, examples, "cpu").loss(np.arange(4))
        for name, opened in (
            ("base", Opened(directory=trained.base)),
            ("adapter", adapter),
            ("merged", Opened(directory=trained.directory("merged", 3))),
        )
    }
    assert losses["adapter"] < losses["base"] * 0.98
    assert losses["adapter"] == pytest.approx(losses["merged"], rel=1e-3)


def test_the_adapters_of_the_best_evaluation_are_sealed(trained: Trained) -> None:
    store, result = trained.bench.store, trained.results["best", 2]
    assert result.exported_step == result.best_step
    examples = open_examples(HandoffStore(store), trained.bench.inputs, "heldout")
    chosen = choose_sequences(examples, 100)
    measured = Measure(open_weights(store, result.weights_digest), examples, "cpu").loss(chosen)
    assert measured / examples.num_loss_tokens(chosen) == pytest.approx(result.heldout_loss_best, rel=1e-4)


def test_preferences_move_adapters_away_from_their_base(trained: Trained) -> None:
    store, result = trained.pairs.store, trained.results["preferred", 2]
    losses = [row["loss"] for row in read_curve(store, result)]
    assert losses[0] == pytest.approx(math.log(2), abs=1e-6), "before the first step they are their base"
    assert losses[-1] < losses[0] - 0.001
    sealed = find_directory(store, result.weights_digest)
    assert sealed
    assert sealed.attributes["needs_weights"] == trained.pairs.base_digest
    assert open_weights(store, result.weights_digest).base == open_directory(store, trained.pairs.base_digest)


def test_what_the_planner_counts_is_what_peft_makes(trained: Trained) -> None:
    made = sum(one.numel() for one in trained.start.values())
    shape = read_model_shape(trained.base, lora=Lora(rank=4))
    assert shape.num_params_trained == made
    assert shape.num_params == read_model_shape(trained.base).num_params + made
    assert num_adapter_params(Lora(rank=4, targets=("q_proj",)), {"model.q_proj.weight": (8, 6)}) == 4 * 14


@pytest.mark.parametrize("merge", [False, True])
def test_an_engine_answers_with_the_adapter_on_its_base(trained: Trained, merge: bool) -> None:
    spec = EngineSpec(name="transformers", dtype="float32", merge_adapter=merge)
    digests = {case: trained.results[case, 3].weights_digest for case in ("fp32", "merged")}
    texts = {}
    for case, digest in (digests | {"base": trained.bench.base_digest}).items():
        member = make_member(weights_digest=digest)
        engine = open_engine(member, spec, trained.bench.store, Deployment())
        answers = asyncio.run(engine.answer_together([make_turn(f"Define {n}.", temperature=0.0) for n in range(4)]))
        asyncio.run(engine.close())
        texts[case] = [answer.text for answer in answers if isinstance(answer, Answer)]
    assert texts["fp32"] == texts["merged"] != texts["base"]


def test_an_adapters_version_is_shown_with_its_base_and_exported_merged(trained: Trained, tmp_path: Path) -> None:
    store, digest = trained.bench.store, trained.results["fp32", 3].weights_digest
    rows = [model_of("tiny", 1, weights_digest=digest), model_of("tiny", 2, weights_digest=trained.bench.base_digest)]
    HandoffStore(store).publish("registered_version", "tiny.lora", to_table(rows), code_version="1", run_id="r")
    shown = checked_json(run("model", "show", "tiny:1", "--json", store=store.directory), "model-show")
    assert shown["base"] == str(open_directory(store, trained.bench.base_digest))
    loaded = eval(shown["load"], {"peft": peft, "transformers": transformers})
    assert isinstance(loaded, PeftModel)

    exported = run("model", "export", "tiny:1", tmp_path / "whole", "--merged", store=store.directory)
    assert exported.exit_code == 0, exported.output
    plain: Any = AutoModelForCausalLM.from_pretrained(tmp_path / "whole", dtype=torch.float32).eval()
    with torch.no_grad():
        logits = plain(torch.arange(3, 40)[None]).logits
    # Saved as the base is, in bfloat16.
    assert torch.allclose(logits, trained.logits("fp32", 3), atol=0.05)
    refused = run("model", "export", "tiny:2", tmp_path / "other", "--merged", store=store.directory)
    assert "--merged is for adapters, and tiny:2 is a whole model. Leave it out." in refused.output


def test_a_foreign_adapter_is_refused_by_what_its_base_is_called(trained: Trained, tmp_path: Path) -> None:
    base: Any = AutoModelForCausalLM.from_pretrained(trained.base, dtype=torch.float32)
    with_peft(base).save_pretrained(tmp_path)
    with pytest.raises(InvalidInput, match="must name its base by digest, as headrace://weights/…, got '/"):
        with_base(trained.bench.store, tmp_path)
    (tmp_path / "adapter_config.json").write_text("[]")
    with pytest.raises(InvalidInput, match="is no config of an adapter"):
        with_base(trained.bench.store, tmp_path)


def test_an_adapter_whose_base_is_gone_says_so(trained: Trained, tmp_path: Path) -> None:
    digest = seal_directory(LocalStore(tmp_path), trained.directory("fp32", 0)).digest
    with pytest.raises(HandoffMissing, match=f"The base {trained.bench.base_digest[:12]} of the adapter in"):
        open_weights(LocalStore(tmp_path), digest)
