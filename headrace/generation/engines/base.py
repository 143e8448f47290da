"""What a generation engine is: prompts with seeds in, texts out. Engines know nothing of claims or campaigns."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, Protocol


@dataclass(frozen=True, kw_only=True)
class GenerationRequest:
    """One row to make. All randomness in its output comes from `seed`."""

    row_id: str
    prompt: str
    seed: int


@dataclass(frozen=True, kw_only=True)
class GenerationResult:
    """One row's output. `length`: the token limit cut it off; `error`: there is no output, and `error` says why."""

    text: str
    num_prompt_tokens: int
    num_output_tokens: int
    finish_reason: Literal["stop", "length", "error"]
    error: str | None = None


class TextEngine(Protocol):
    """A loaded model with one version set member's prompt template and decoding.

    `deterministic`: the same requests in the same order give the same bytes on the same kind of machine. `build` is
    what the engine runs on here, in the words of a version set's `engine.build`.
    """

    @property
    def name(self) -> str: ...

    @property
    def build(self) -> str: ...

    @property
    def deterministic(self) -> bool: ...

    def generate(self, requests: Sequence[GenerationRequest]) -> list[GenerationResult]:
        """One result a request, in their order. A row that cannot be made is an `error` result, or any exception if
        the engine cannot tell which row it was: the caller then tries the rows one by one.

        Raises:
            EngineUnavailable: no row can be made now; a later run goes on from here.
        """
        ...

    def close(self) -> None: ...


def failed(error: BaseException | str) -> GenerationResult:
    """The result of a row without an output."""
    text = error if isinstance(error, str) else f"{type(error).__name__}: {error}"
    return GenerationResult(text="", num_prompt_tokens=0, num_output_tokens=0, finish_reason="error", error=text[:500])
