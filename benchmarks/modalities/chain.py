"""A campaign of three kinds in a local store: models, rollout and prompts, and runs that make its partition."""

import os
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from importlib import metadata
from pathlib import Path
from typing import Any

from headrace.engines.deployment import Deployment
from headrace.engines.media_rows import open_media_rows
from headrace.engines.registry import engine_names
from headrace.engines.roles import EngineSettings, Role
from headrace.engines.rows import open_rows
from headrace.generation.bulk import Outcome
from headrace.generation.campaign import Campaign, PromptSource
from headrace.handoff.media.reading import MediaSet
from headrace.registry.model_versions import ModelVersion
from headrace.rollout.states import INITIALIZED
from headrace.store.local import LocalStore
from headrace.store.sealed_directory import seal_directory
from headrace.version_sets.media_settings import Picture, Speech
from headrace.version_sets.sets import Decoding, VersionSet
from simulation.campaign_site import CampaignSite
from simulation.models import model_of

WORDS = ("wheel", "mill", "water", "stone", "grain", "river", "race", "sluice", "flour", "axle", "gear", "bucket")
# Table by kind: where a partition's pictures and recordings are.
TABLES = {"image": "generated_images", "speech": "generated_speech"}


def texts_of(count: int) -> list[str]:
    """Different texts of different lengths."""
    return [
        f"{' '.join(WORDS[(one + step * step) % len(WORDS)] for step in range(1 + one % 5))} {one}"
        for one in range(count)
    ]


@dataclass(frozen=True, kw_only=True)
class Models:
    """Directories of a writer's and a painter's weights. `size`: pixels of what the painter paints."""

    writer: Path
    painter: Path
    size: int


def tiny_models(directory: Path) -> Models:
    """A language model and a pipeline of under two million parameters, which have learnt nothing."""
    from simulation.tiny_model import build_tiny_model
    from simulation.tiny_pipelines import build_pixel_pipeline

    writer = build_tiny_model(directory / "writer")
    return Models(writer=writer, painter=build_pixel_pipeline(directory / "painter"), size=16)


def voice() -> Role:
    """A model's voice if one is installed, else the engine that draws tones."""
    if "hibari" in engine_names():
        with suppress(metadata.PackageNotFoundError):
            version = metadata.version("hibari-tts")
            return Role(
                model="hibari", version=version, registered=False, engine=EngineSettings("hibari"), speech=Speech()
            )
    return Role(model="voice", engine=EngineSettings("echo"), speech=Speech())


def chain_campaign(models: Models, *, micro_batch_rows: int, num_tokens: int = 12, dtype: str = "float32") -> Campaign:
    local: dict[str, Any] = {"dtype": dtype, "batch_rows": 4}
    picture = Picture(width=models.size, height=models.size, num_inference_steps=4, guidance_scale=2)
    roles = {
        "writer": Role(
            model="pen",
            engine=EngineSettings("transformers", **local),
            decoding=Decoding(temperature=0.7, top_p=0.9, max_new_tokens=num_tokens),
        ),
        "painter": Role(
            model="brush", engine=EngineSettings("diffusers", **local), picture=picture, template="{prompt}: {text}"
        ),
        "speaker": replace(voice(), template="{prompt}."),
    }
    return Campaign(
        name="plates",
        roles=roles,
        chain=tuple(roles),
        prompts=PromptSource(files="prompts.jsonl"),
        micro_batch_rows=micro_batch_rows,
    )


class ChainSite(CampaignSite):
    """A site whose engines are real. `asked` is called before each call of an engine with the role and its rows."""

    def __init__(self, directory: Path, campaign: Campaign) -> None:
        super().__init__(LocalStore(directory), campaign)

    def make_set(self, models: Models) -> VersionSet:
        """The set of these models, sealed and kept."""
        sealed = {
            "pen": seal_directory(self.objects, models.writer),
            "brush": seal_directory(self.objects, models.painter),
        }

        def version_of(model: str) -> ModelVersion:
            found = model_of(model, 1)
            if weights := sealed.get(model):
                return replace(found, weights_digest=weights.digest, weights_uri=weights.uri)
            return found

        parts = self.campaign.parts
        found = self.campaign.version_set(
            {role: version_of(part.model) for role, part in parts.items() if part.registered}
        )
        self.sets.put(found)
        return found

    def roll_out_set(self, event: str, version_set: VersionSet, **fields: Any) -> None:
        said = {
            "version_set": version_set.id,
            "weights_digest": version_set.weights_digest,
            "num_rows": 0,
            "reason": "",
        }
        self.journal.append(event, said | fields, expected=self.journal.head())

    def prepare(self, models: Models, texts: Sequence[str]) -> None:
        self.roll_out_set(INITIALIZED, self.make_set(models))
        self.put_prompts(0, texts)

    def make(
        self, run: str, asked: Callable[[str, Sequence[str]], None] = lambda role, rows: None, **how: Any
    ) -> Outcome:
        """Makes what is missing of the partition, and seals it."""

        def open_texts(version_set: VersionSet) -> Any:
            return Told(open_rows(version_set, self.objects, Deployment()), "writer", asked)

        def open_media(version_set: VersionSet, role: str) -> Any:
            return Told(open_media_rows(version_set, role, self.objects, Deployment()), role, asked)

        return self.generate(self.claim(run, **how), run=run, open_engine=open_texts, open_media=open_media)

    def made(self) -> dict[str, str | bytes]:
        """What the newest sealed partition holds: role and prompt → its text, or its file."""
        content = self.handoffs.open("generated_content", self.partition().key).table()
        prompts = dict(zip(content["row_id"].to_pylist(), content["prompt"].to_pylist(), strict=True))
        found: dict[str, str | bytes] = {
            f"writer of {prompts[row]}": text
            for row, text in zip(content["row_id"].to_pylist(), content["output"].to_pylist(), strict=True)
        }
        for asset in TABLES.values():
            media = MediaSet.open(self.handoffs.open(asset, self.partition().key))
            for item_id in media.ids():
                row, _, role = item_id.rpartition("/")
                found[f"{role} of {prompts[row]}"] = media.read(item_id)
        return found


class Told:
    """Rows of an engine, each call of which is told first."""

    def __init__(self, rows: Any, role: str, asked: Callable[[str, Sequence[str]], None]) -> None:
        self._rows, self._role, self._asked = rows, role, asked
        self.name, self.build, self.deterministic = rows.name, rows.build, rows.deterministic

    def generate(self, requests: Sequence[Any]) -> list[Any]:
        self._asked(self._role, [one.row_id for one in requests])
        return self._rows.generate(requests)

    def close(self) -> None:
        self._rows.close()


def logged(path: Path) -> Callable[[str, Sequence[str]], None]:
    """Appends a line for each call of an engine, which a kill of this process leaves there."""

    def asked(role: str, rows: Sequence[str]) -> None:
        descriptor = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
        try:
            os.write(descriptor, f"{role} {','.join(rows)}\n".encode())
        finally:
            os.close(descriptor)

    return asked
