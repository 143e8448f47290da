"""Pictures and recordings of previewed rows: the same bytes as a run's, as files that a person opens."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from headrace.engines.media_rows import MediaRequest, MediaResult
from headrace.engines.rows import GenerationResult
from headrace.errors import InvalidInput
from headrace.generation.requests import Row
from headrace.generation.step_work import OpenMedia, make_media, media_request, media_seed
from headrace.generation.steps import Step, steps_of
from headrace.handoff.media.file_names import file_name
from headrace.version_sets.sets import VersionSet


@dataclass(frozen=True, kw_only=True)
class PreviewedPart:
    """A picture or a recording of a row."""

    role: str
    asked: str
    seed: int
    finish_reason: Literal["stop", "error", "refused", "skipped"]
    error: str | None
    note: str | None
    """What of its text is not in it; null: nothing is left out."""
    file: str | None
    """null: there is none."""
    media_type: str | None
    num_bytes: int | None


@dataclass(frozen=True, kw_only=True)
class MakingParts:
    """Makes the steps after the texts.

    Attributes:
        texts: of `rows`, in their order.
        prompts: by prompt id, the rows of PROMPTS.
        directory: where files go, as `001-ROW-ROLE.png`; None: they are not kept.
    """

    version_set: VersionSet
    rows: Sequence[Row]
    texts: Sequence[GenerationResult]
    prompts: Mapping[str, Mapping[str, Any]]
    row_attempts: int
    open_media: OpenMedia | None
    directory: Path | None

    def parts(self, step: Step) -> list[PreviewedPart]:
        """One for each row.

        Raises:
            InvalidInput: nobody says how the step's engine is opened.
            EngineUnavailable: the engine cannot be loaded, or does not answer.
        """
        asked = [self._asked(step, row, text) for row, text in zip(self.rows, self.texts, strict=True)]
        made = self._made(step, [one for one in asked if isinstance(one, MediaRequest)])
        return [
            self._part(step, number, row, request, made.get(row.row_id) or MediaResult.none("skipped", str(request)))
            for number, (row, request) in enumerate(zip(self.rows, asked, strict=True), 1)
        ]

    def _asked(self, step: Step, row: Row, text: GenerationResult) -> MediaRequest | str:
        return media_request(
            self.version_set,
            step,
            row,
            text="" if text.finish_reason == "error" else text.text,
            prompt=self.prompts[row.prompt_id],
            writers=steps_of(self.version_set)[0].roles,
        )

    def _made(self, step: Step, requests: Sequence[MediaRequest]) -> dict[str, MediaResult]:
        if not requests:
            return {}
        if self.open_media is None:
            raise InvalidInput(f"Role {step.role!r} makes {step.kind}, and nothing here opens its engine.")
        engine = self.open_media(self.version_set, step.role)
        try:
            tried = make_media(engine, requests, self.row_attempts)
        finally:
            engine.close()
        return {one.row_id: result for one, (result, _) in zip(requests, tried, strict=True)}

    def _part(
        self, step: Step, number: int, row: Row, request: MediaRequest | str, result: MediaResult
    ) -> PreviewedPart:
        facts, content = result.facts, result.content
        file: Path | None = None
        if self.directory is not None and content is not None and facts is not None:
            self.directory.mkdir(parents=True, exist_ok=True)
            file = self.directory / file_name(f"{number:03d}-{row.row_id[:12]}-{step.role}", facts.media_type)
            file.write_bytes(content)
        return PreviewedPart(
            role=step.role,
            asked=request.text if isinstance(request, MediaRequest) else "",
            seed=media_seed(step, row),
            finish_reason=result.finish_reason,
            error=result.error,
            note=result.note,
            file=str(file) if file else None,
            media_type=facts.media_type if facts else None,
            num_bytes=len(content) if content is not None else None,
        )
