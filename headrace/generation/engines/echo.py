"""The `echo` engine: words drawn by the row's seed instead of a model. For tests and dry runs of a whole pipeline.

Milliseconds a partition, no weights, and the same bytes for the same version set: what a test of claims, retries and
rollouts needs. It says nothing about quality; its outputs pass the review's default rules.
"""

import random
from collections.abc import Sequence

from headrace.generation.engines.base import GenerationRequest, GenerationResult
from headrace.rollout.version_sets import Member

_WORDS = (
    "channel", "vessel", "wheel", "mill", "river", "grain", "stone", "miller", "axle", "current", "bridge", "basin",
    "gate", "flume", "weir", "carries", "turns", "grinds", "lifts", "holds", "moves", "falls", "near", "under", "over",
    "beside", "slow", "quick", "narrow", "broad", "old", "wooden", "iron", "of", "the", "that", "a", "and", "from",
)  # fmt: skip


class EchoEngine:
    name = "echo"
    build = ""
    deterministic = True

    def __init__(self, member: Member) -> None:
        self._member = member

    def generate(self, requests: Sequence[GenerationRequest]) -> list[GenerationResult]:
        return [self._result(request) for request in requests]

    def close(self) -> None:
        pass

    def _result(self, request: GenerationRequest) -> GenerationResult:
        draw = random.Random(f"{request.seed} {self._member.weights_digest}")
        num_words = min(draw.randint(6, 14), self._member.decoding.max_new_tokens)
        return GenerationResult(
            text=" ".join(draw.sample(_WORDS, num_words)),
            num_prompt_tokens=len(self._member.user_template.format(text=request.prompt).split()),
            num_output_tokens=num_words,
            finish_reason="stop",
        )
