"""The training loop and its checkpoints beside a bare DeepSpeed loop and DeepSpeed's own `save_checkpoint`.

One gang of two ranks, ZeRO stage 2, fp32, a Llama of 6M parameters, rows of 256 tokens. The ranks take turns: some
steps of our loop (sample order, rows out of the sealed handoff, weights of tokens, curve, log), as many of a short loop
around the same engine with its tensors made beforehand, then a checkpoint of ours (digested, fsynced, published)
and one of DeepSpeed's whose files are fsynced. CPU seconds are those of a rank's threads, summed over the ranks;
checkpoints are compared by wall time, for a training stalls that long. The model's own mathematics is the same on both
sides, so what differs is the loop.
"""

import json
from pathlib import Path

from benchmarks.measuring import at_most, median, print_table, rounded
from benchmarks.parts import Outcome
from benchmarks.training.parts import Given
from benchmarks.training.training_site import make_site, run_ranks
from headrace.training.recipe import Recipe

_STEPS = 8
_BAR_LOOP, _BAR_STALL = 1.03, 1.1


def run(given: Given, directory: Path) -> Outcome:
    site = make_site(directory, hidden=256, layers=6, sequence_length=256, num_sequences=400)
    recipe = Recipe(
        name="overhead",
        model="small",
        steps=10_000,
        batch=4,
        learning_rate=1e-4,
        schedule="constant",
        precision="fp32",
        ranks=2,
    )
    config = site.config(recipe, world_size=2)
    run_ranks("benchmarks.training.loop_ranks", config, "--turns", str(given.runs), "--steps", str(_STEPS))
    turns = json.loads((config.work / "turns.json").read_text())
    loop = median(one["ours"] / one["bare"] for one in turns)
    stall = median(one["snapshot"] / one["save_checkpoint"] for one in turns)
    step = {side: median(one[side] for one in turns) for side in ("ours", "bare", "snapshot", "save_checkpoint")}
    print_table(
        f"Training loop, {len(turns)} turns of {_STEPS} steps, medians",
        ["", "ours", "bare DeepSpeed", "ratio"],
        [
            ["CPU s a step, both ranks", f"{step['ours']:.4f}", f"{step['bare']:.4f}", f"{loop:.3f}"],
            ["wall s a checkpoint", f"{step['snapshot']:.3f}", f"{step['save_checkpoint']:.3f}", f"{stall:.3f}"],
        ],
    )
    body = {
        "cpu_seconds_a_step": {"ours": rounded(step["ours"]), "bare": rounded(step["bare"])},
        "checkpoint_seconds": {"ours": rounded(step["snapshot"]), "save_checkpoint": rounded(step["save_checkpoint"])},
        "checkpoint_mb": rounded(median(one["checkpoint_mb"] for one in turns)),
        "turns": len(turns),
    }
    bars = {
        "loop_overhead": at_most(rounded(loop, 4), _BAR_LOOP),
        "checkpoint_stall": at_most(rounded(stall, 4), _BAR_STALL),
    }
    return Outcome(body=body, bars=bars)
