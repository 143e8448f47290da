"""`kills`: gateways are killed under calls; what the clients find."""

from pathlib import Path

from benchmarks.measuring import at_least, at_most, print_table
from benchmarks.parts import Outcome
from benchmarks.voice.options import VoiceOptions
from simulation.killed_calls import call_under_kills


def measure_kills(options: VoiceOptions, directory: Path) -> Outcome:
    found = call_under_kills(directory, num_kills=options.kills, seed=options.seed)
    figures = {
        "kills": found.num_kills,
        "turns": found.num_turns,
        "cut": found.num_cut,
        "returns": found.num_returns,
        "stale": len(found.stale),
        "lost": len(found.lost),
        "twice": len(found.twice),
        "context": len(found.context),
    }
    print_table("Calls through killed gateways", [*figures], [[str(value) for value in figures.values()]])
    for fault in [*found.stale, *found.lost, *found.twice, *found.context][:10]:
        print(fault)
    faults = ("stale", "lost", "twice", "context")
    return Outcome(
        body=figures,
        bars={f"kills_{fault}": at_most(figures[fault], 0) for fault in faults}
        | {"kills_done": at_least(found.num_kills, options.kills)},
    )
