"""`kills`: gateways are killed under calls; what the clients find."""

from pathlib import Path

from benchmarks.parts import Outcome
from benchmarks.voice.options import VoiceOptions
from benchmarks.voice.seeds import outcome_of
from simulation.killed_calls import call_under_kills


def measure_kills(options: VoiceOptions, directory: Path) -> Outcome:
    found = call_under_kills(directory, num_kills=options.kills, seed=options.seed)
    return outcome_of(found, "Calls through killed gateways", prefix="kills", num_kills_min=options.kills)
