"""What a generation engine is: prompts with seeds in, texts out. Engines know nothing of claims or campaigns."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal, Protocol

# What a table's column holds.
_COUNT_MAX = 2**31 - 1


@dataclass(frozen=True, kw_only=True)
class GenerationRequest:
    """One row to make. All randomness in its output comes from `seed`."""

    row_id: str
    prompt: str
    seed: int


@dataclass(frozen=True, kw_only=True)
class GenerationResult:
    """One row's output. `length`: the token limit cut it off; `error`: there is no output, and `error` says why.

    Counts are None where nobody knows them; `note` says what was wrong with those that came.
    """

    text: str
    num_prompt_tokens: int | None
    num_output_tokens: int | None
    finish_reason: Literal["stop", "length", "error"]
    error: str | None = None
    note: str | None = None


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
    text = text.encode(errors="replace").decode()
    return GenerationResult(text="", num_prompt_tokens=0, num_output_tokens=0, finish_reason="error", error=text[:500])


def storable(result: GenerationResult) -> GenerationResult:
    """The result as a table can hold it, whatever engine made it: a row that cannot be stored is that row's error, so
    that its neighbours are; a count that means nothing is None, with a note."""
    if not isinstance(result.text, str):
        return failed(f"the output is of type {type(result.text).__name__}, not text")
    try:
        result.text.encode()
    except UnicodeEncodeError as error:
        return failed(f"the output cannot be written as UTF-8: {error.reason} at character {error.start}")
    if result.finish_reason not in ("stop", "length", "error"):
        return failed(f"the output ended with {result.finish_reason!r}, which is none of stop, length and error")
    if result.finish_reason == "error":
        # Its text as an error's, and a reason in any case.
        return failed(result.error or "the engine gave no reason")
    for name in ("num_prompt_tokens", "num_output_tokens"):
        count = getattr(result, name)
        if count is not None and not (type(count) is int and 0 <= count <= _COUNT_MAX):
            note = f"{name} is {str(count)[:40]}: not counted"
            result = replace(result, **{name: None}, note=f"{result.note}; {note}" if result.note else note)
    return result
