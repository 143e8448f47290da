"""Hugging Face's Trainer with DeepSpeed: the same model, rows and kills as ours, in a process that forks its ranks.

It saves a checkpoint every few steps and resumes from `get_last_checkpoint`, as its documentation says.
"""

import json
import os
import random
import shutil
import signal
import sys
import time
from hashlib import sha256
from pathlib import Path
from typing import Any, cast

from benchmarks.training.forks import Kill, answer, drawn
from benchmarks.training.stock_checkpoints import without_compiled_operator
from benchmarks.training.training_site import Site, make_site
from headrace.handoff.versions import HandoffStore
from headrace.store.sealed_directory import open_directory
from headrace.training.recipe import Recipe
from headrace.training.train import import_libraries
from simulation.forked_gangs import Children, free_port, place_of

_SECONDS_MAX = 180
_TICK_SECONDS = 0.005


def main() -> int:
    task = json.loads(sys.argv[1])
    import_libraries()
    from benchmarks.training.elastic_side import recipe_of as elastic_recipe
    from benchmarks.training.resume_side import recipe_of, site_of

    directory = Path(task["directory"])
    if task.get("elastic"):
        site = make_site(directory, hidden=64, layers=2, sequence_length=64, num_sequences=60)
        peer = Peer(site, elastic_recipe(2), directory / "trainer")
        peer.run(2, Kill(7, 0, 0.0))
        ended = peer.run(1)
        return answer({"resumed": ended, "told": "resumes" if ended else f"refuses: {peer.complaint()}"})
    site = site_of(directory)
    draw = random.Random(task["seed"])
    runs = []
    for stage in task["stages"]:
        recipe = recipe_of(stage)
        straight = Peer(site, recipe, directory / f"trainer-{stage}")
        assert straight.run(2), straight.complaint()
        while sum(run["stage"] == stage for run in runs) < task["kills"]:
            peer = Peer(site, recipe, directory / f"trainer-{stage}-killed")
            kill = drawn(draw, steps=recipe.steps, ranks=2, step_seconds=task["step_seconds"])
            if peer.run(2, kill):
                continue  # too late
            ended = peer.run(2)
            equal = ended and peer.digest() == straight.digest()
            told = "" if ended else peer.complaint()
            runs.append({"stage": stage, "killed_behind": kill.step, "ended": ended, "equal": equal, "told": told})
    return answer({"runs": runs})


class Peer:
    """One training in `directory`, which is emptied first."""

    def __init__(self, site: Site, recipe: Recipe, directory: Path) -> None:
        self._site, self._recipe, self._directory = site, recipe, directory
        shutil.rmtree(directory, ignore_errors=True)
        directory.mkdir(parents=True)

    def run(self, ranks: int, kill: Kill | None = None) -> bool:
        """Whether it came to its end."""
        port, told = free_port(), self._directory / "step"
        told.unlink(missing_ok=True)
        for log in self._directory.glob("rank-*.log"):
            log.unlink()
        gang = Children()
        for rank in range(ranks):
            gang.fork(rank, self._train, place_of(rank, ranks, port), self._directory / f"rank-{rank}.log")
        begun, due = time.monotonic(), float("inf")
        while gang.pids:
            gang.reap()
            if kill and due == float("inf") and _step(told) >= kill.step:
                due = time.monotonic() + kill.seconds
            if kill and time.monotonic() >= due and kill.rank in gang.pids:
                os.kill(gang.pids[kill.rank], signal.SIGKILL)
            if time.monotonic() >= begun + _SECONDS_MAX:
                gang.kill()
            time.sleep(_TICK_SECONDS)
        return gang.status == 0

    def digest(self) -> str:
        return sha256((self._directory / "end" / "model.safetensors").read_bytes()).hexdigest()

    def complaint(self) -> str:
        """The last line that a rank raised; the first rank's that says more than that it lost the others."""
        lines = [
            line.strip()
            for log in sorted(self._directory.glob("rank-*.log"))
            for line in log.read_text(errors="replace").splitlines()
            if "Error" in line or "Exception" in line
        ]
        return (next((line for line in lines if "closed by peer" not in line), "") or "no word")[:200]

    def _train(self) -> int:
        from accelerate.state import PartialState
        from transformers import AutoModelForCausalLM, Trainer, TrainerCallback, TrainingArguments
        from transformers.trainer_utils import get_last_checkpoint

        recipe, told = self._recipe, self._directory / "step"
        without_compiled_operator()
        # Without the name of the backend it believes that it is alone.
        PartialState(backend="gloo")
        ranks = int(os.environ["WORLD_SIZE"])
        arguments = TrainingArguments(
            output_dir=str(self._directory / "checkpoints"),
            max_steps=recipe.steps,
            per_device_train_batch_size=1,
            gradient_accumulation_steps=recipe.batch // ranks,
            learning_rate=recipe.learning_rate,
            weight_decay=recipe.weight_decay,
            warmup_steps=recipe.warmup_steps,
            max_grad_norm=recipe.clip_norm,
            lr_scheduler_type="cosine",
            save_steps=recipe.checkpoint_every,
            save_total_limit=2,
            seed=recipe.seed,
            report_to=[],
            disable_tqdm=True,
            accelerator_config={"use_configured_state": True},
            deepspeed={
                "train_batch_size": "auto",
                "train_micro_batch_size_per_gpu": "auto",
                "gradient_accumulation_steps": "auto",
                "gradient_clipping": "auto",
                "zero_allow_untested_optimizer": True,
                "zero_force_ds_cpu_optimizer": False,
                "zero_optimization": {
                    "stage": recipe.zero_stage,
                    "stage3_gather_16bit_weights_on_model_save": recipe.zero_stage == 3,
                },
            },
        )

        class Tell(TrainerCallback):
            def on_step_end(self, args: Any, state: Any, control: Any, **more: Any) -> None:
                if state.is_world_process_zero:
                    told.write_text(str(state.global_step))

        base = open_directory(self._site.store, self._site.base_digest)
        trainer = Trainer(
            model=AutoModelForCausalLM.from_pretrained(base),
            args=arguments,
            train_dataset=cast(Any, self._rows()),
            callbacks=[Tell()],
        )
        directory = self._directory / "checkpoints"
        last = get_last_checkpoint(str(directory)) if directory.is_dir() else None
        trainer.train(resume_from_checkpoint=last)
        trainer.save_model(str(self._directory / "end"))
        return 0

    def _rows(self) -> list[dict[str, Any]]:
        [given] = self._site.inputs
        table = HandoffStore(self._site.store).open("training_examples", given.partition, given.version).table()
        rows = table.select(["split", "input_ids", "labels", "position_ids"]).to_pylist()
        return [{key: row[key] for key in row if key != "split"} for row in rows if row["split"] == "train"]


def _step(told: Path) -> int:
    try:
        return int(told.read_text() or 0)
    except FileNotFoundError:
        return 0


if __name__ == "__main__":
    raise SystemExit(main())
