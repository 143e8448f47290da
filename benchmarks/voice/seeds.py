"""`seeds`: calls under kills, lost connections and barge-ins in simulated time."""

import multiprocessing
import os
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

from benchmarks.measuring import Bars, at_least, at_most, print_table
from benchmarks.parts import Outcome
from benchmarks.voice.options import VoiceOptions
from simulation.simulated_calls import talk_through
from simulation.talking import Found

_SEEDS_A_TASK = 25


def measure_seeds(options: VoiceOptions, directory: Path) -> Outcome:
    first = options.seed * 1_000_000
    seeds = range(first, first + options.seeds)
    tasks = [seeds[at : at + _SEEDS_A_TASK] for at in range(0, len(seeds), _SEEDS_A_TASK)]
    whole = Found()
    with ProcessPoolExecutor(os.cpu_count(), mp_context=multiprocessing.get_context("spawn")) as processes:
        for found in processes.map(talk_through, tasks):
            whole.add(found)
    return outcome_of(whole, f"{len(seeds):,} schedules of simulated calls", prefix="seeds", num_kills_min=1)


def outcome_of(found: Found, title: str, *, prefix: str, num_kills_min: int) -> Outcome:
    figures = {
        "kills": found.num_kills,
        "turns": found.num_turns,
        "cut": found.num_cut,
        "cut_unheard": found.num_unheard,
        "returns": found.num_returns,
        "stale": len(found.stale),
        "lost": len(found.lost),
        "twice": len(found.twice),
        "context": len(found.context),
    }
    print_table(title, [*figures], [[f"{value:,}" for value in figures.values()]])
    for fault in found.faults[:10]:
        print(fault)
    bars = Bars({f"{prefix}_{fault}": at_most(figures[fault], 0) for fault in ("stale", "lost", "twice", "context")})
    bars[f"{prefix}_kills"] = at_least(found.num_kills, num_kills_min)
    return Outcome(body=figures, bars=bars)
