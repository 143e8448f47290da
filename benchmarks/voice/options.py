"""What the parts are given."""

from dataclasses import dataclass

from benchmarks.parts import Options


@dataclass(frozen=True, kw_only=True)
class VoiceOptions(Options):
    seconds: float
    calls: int
    peer_calls: int
    rounds: int
    kills: int
    seed: int
    seeds: int
