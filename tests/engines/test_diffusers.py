"""Pictures by the diffusers engine: the stock pipeline's own, and what it refuses to open."""

import asyncio
import io
import json
import re
import sys
import threading
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from headrace.engines.asker import Asker, asking_for
from headrace.engines.base import EngineFailed, NoAnswer, TurnRefused
from headrace.engines.deployment import Deployment
from headrace.engines.local.pipeline_files import PIPELINE_INDEX, check_painter, size_multiple
from headrace.engines.media import UNREAD, MediaAnswer, MediaTurn
from headrace.engines.media_conformance import opened, painter
from headrace.errors import InvalidInput
from headrace.fairness import WorkClass
from headrace.version_sets.sets import Member

ASKED = {"width": 16, "height": 16, "num_inference_steps": 3, "guidance_scale": 2.5}
TEXTS = ("a mill wheel", "water", "someone who operates a mill")


def painted(directory: Path, asked: Any, turns: Sequence[MediaTurn], **options: Any) -> list[MediaAnswer | NoAnswer]:
    """What an engine that is opened for them alone makes of the turns."""

    async def made() -> list[MediaAnswer | NoAnswer]:
        engine = open_at(directory, painter(**asked), **options)
        try:
            return await engine.make_together(turns)
        finally:
            await engine.close()

    return asyncio.run(made())


def open_at(directory: Path, member: Member, **options: Any) -> Any:
    unsealed = Deployment(unsealed={member.weights_digest: directory})
    return opened("diffusers", member, deployment=unsealed, **({"dtype": "float32", "batch_rows": 1} | options))


def turns_of(*texts: str) -> list[MediaTurn]:
    return [MediaTurn(unit=str(seed), text=text, seed=seed) for seed, text in enumerate(texts)]


def pixels(answer: MediaAnswer | NoAnswer) -> np.ndarray:
    assert isinstance(answer, MediaAnswer), answer
    return np.asarray(Image.open(io.BytesIO(answer.content)))


def stock_pixels(directory: Path, text: str, seed: int) -> np.ndarray:
    from diffusers.pipelines.pipeline_utils import DiffusionPipeline

    stock: Any = DiffusionPipeline.from_pretrained(str(directory))
    stock.set_progress_bar_config(disable=True)
    given = {} if "Stable" in type(stock).__name__ else {"use_resolution_binning": False}
    return np.asarray(stock([text], generator=[torch.Generator().manual_seed(seed)], **ASKED, **given).images[0])


@pytest.mark.parametrize("kind", ["pixel", "latent"])
def test_a_batch_of_one_is_the_stock_pipelines_picture_bit_for_bit(kind: str, request: pytest.FixtureRequest) -> None:
    directory = request.getfixturevalue(f"{kind}_pipeline")
    answers = painted(directory, ASKED, turns_of(*TEXTS))
    for seed, (text, answer) in enumerate(zip(TEXTS, answers, strict=True)):
        assert (pixels(answer) == stock_pixels(directory, text, seed)).all(), text


@pytest.mark.parametrize("asked", [ASKED, ASKED | {"scheduler": "FlowMatchHeunDiscreteScheduler"}, None])
def test_a_live_picture_is_painted_between_two_steps_of_a_batch_and_changes_no_bit_of_it(
    pixel_pipeline: Path, latent_pipeline: Path, asked: dict[str, Any] | None
) -> None:
    directory = pixel_pipeline if asked else latent_pipeline
    asked = (asked or ASKED) | {"num_inference_steps": 12}
    [live] = turns_of("a live wheel")
    batch = turns_of(*TEXTS)
    alone = [*painted(directory, asked, batch, batch_rows=4), *painted(directory, asked, [live], batch_rows=4)]

    async def beside() -> tuple[list[Any], list[str]]:
        engine = open_at(directory, painter(**asked), batch_rows=4)
        is_asked, ended, goes_on = threading.Event(), list[str](), engine._goes_on
        # The batch takes no step before the live turn is there.
        engine._goes_on = lambda *given: is_asked.wait(60) and goes_on(*given)
        made = asyncio.ensure_future(engine.make_together(batch))
        await asyncio.sleep(0)
        while engine._num_waiting:
            await asyncio.sleep(0.001)
        picture = asyncio.ensure_future(engine.make(live))
        for name, one in (("batch", made), ("live", picture)):
            one.add_done_callback(lambda _, name=name: ended.append(name))
        await asyncio.sleep(0)
        is_asked.set()
        answers = [*await made, await picture]
        await engine.close()
        return answers, ended

    answers, ended = asyncio.run(beside())
    assert [one.content for one in answers] == [one.content for one in alone if isinstance(one, MediaAnswer)]
    assert ended == ["live", "batch"]


def test_of_pictures_that_wait_live_ones_come_first_and_batch_ones_never_wait_for_good(pixel_pipeline: Path) -> None:
    """One picture a batch, of two steps. Flex ones wait all the time; a batch one begins after sixteen of them."""
    asked, order = ASKED | {"num_inference_steps": 2}, list[str]()

    async def run() -> None:
        engine, begins = open_at(pixel_pipeline, painter(**asked), batch_rows=1), threading.Event()
        goes_on = engine._goes_on
        # The first one takes no step before all others are there.
        engine._goes_on = lambda *given: begins.wait(60) and goes_on(*given)

        async def one(work_class: WorkClass) -> None:
            with asking_for(Asker(work_class=work_class)):
                await engine.make(turns_of("a wheel")[0])
            order.append(work_class)

        first = asyncio.ensure_future(one("batch"))
        await asyncio.sleep(0)
        while engine._num_waiting:
            await asyncio.sleep(0.001)
        many: list[WorkClass] = ["flex" for _ in range(20)]
        classes: list[WorkClass] = ["batch", *many, "live"]
        others = [asyncio.ensure_future(one(work_class)) for work_class in classes]
        await asyncio.sleep(0)
        begins.set()
        await asyncio.gather(first, *others)
        await engine.close()

    asyncio.run(run())
    assert order[0] == "live"
    assert order.index("batch") <= 3, "the first one takes a step for each that goes before"
    second = [place for place, one in enumerate(order) if one == "batch"][1]
    assert second - order.index("batch") <= 16 + 2 + 1, "sixteen before it, and one for each of its steps"
    assert "flex" in order[second:]


def test_text_seed_guidance_and_scheduler_make_other_pictures(pixel_pipeline: Path) -> None:
    one, other_seed, other_text = painted(
        pixel_pipeline,
        ASKED,
        [MediaTurn(unit="", text=text, seed=seed) for text, seed in (("a", 0), ("a", 1), ("b", 0))],
    )
    [unguided] = painted(pixel_pipeline, ASKED | {"guidance_scale": 1}, turns_of("a"))
    [heun] = painted(pixel_pipeline, ASKED | {"scheduler": "FlowMatchHeunDiscreteScheduler"}, turns_of("a"))
    found = [pixels(each).tobytes() for each in (one, other_seed, other_text, unguided, heun)]
    assert len(set(found)) == len(found)


def test_what_the_member_leaves_open_is_the_pipelines_own(latent_pipeline: Path) -> None:
    size = {"width": 16, "height": 16}
    left, spelt = (
        painted(latent_pipeline, size | asked, turns_of("a"))
        for asked in ({}, {"num_inference_steps": 50, "guidance_scale": 7.5, "scheduler": "DDIMScheduler"})
    )
    assert (pixels(left[0]) == pixels(spelt[0])).all()


def test_an_empty_text_is_refused_and_the_others_are_painted(pixel_pipeline: Path) -> None:
    empty, mill = painted(pixel_pipeline, ASKED, turns_of(" \n", "a mill"), batch_rows=2)
    assert isinstance(empty, TurnRefused)
    assert pixels(mill).shape == (16, 16, 3)


def test_a_closed_engine_says_so(pixel_pipeline: Path) -> None:
    async def asked_late() -> MediaAnswer:
        engine = open_at(pixel_pipeline, painter(**ASKED))
        await engine.close()
        return await engine.make(turns_of("a")[0])

    with pytest.raises(EngineFailed, match=r"The engine of model 1 is closed\."):
        asyncio.run(asked_late())


@pytest.mark.parametrize(
    ("kind", "asked", "why"),
    [
        ("pixel", {"width": 18}, r"PRXPixelPipeline of 'painter' .* multiples of 4 pixels, got 18 x 16\."),
        ("latent", {"height": 15}, r"multiples of 2 pixels, got 16 x 15\."),
        ("pixel", {"scheduler": "Brownian"}, r"'painter' must be a scheduler of diffusers, got 'Brownian'\."),
        ("pixel", {"scheduler": "AutoencoderKL"}, r"must be a scheduler of diffusers, got 'AutoencoderKL'\."),
        ("pixel", {"scheduler": "DDIMScheduler"}, "trained for FlowMatchEulerDiscreteScheduler, got 'DDIMScheduler'"),
        ("latent", {"scheduler": "FlowMatchEulerDiscreteScheduler"}, r"must be one of .*DDIMScheduler.*, got 'Flow"),
    ],
)
def test_what_a_pipeline_cannot_paint_is_refused_when_it_is_opened(
    kind: str, asked: dict[str, Any], why: str, request: pytest.FixtureRequest
) -> None:
    with pytest.raises(InvalidInput, match=why):
        open_at(request.getfixturevalue(f"{kind}_pipeline"), painter(**ASKED | asked))


def test_a_directory_that_is_no_pipeline_is_refused(tiny_model: Path, tmp_path: Path) -> None:
    with pytest.raises(
        InvalidInput, match=r"must be a pipeline of diffusers, got .*, which has no model_index\.json\."
    ):
        open_at(tiny_model, painter(**ASKED))
    (tmp_path / "model_index.json").write_text('{"_class_name": "PRXPixelPipeline"}')
    with pytest.raises(InvalidInput, match=r"of 'painter' cannot be loaded as a pipeline of diffusers: "):
        open_at(tmp_path, painter(**ASKED))


def test_a_pipeline_that_takes_no_text_is_refused(tmp_path: Path) -> None:
    from diffusers.models.unets.unet_2d import UNet2DModel
    from diffusers.pipelines.ddpm.pipeline_ddpm import DDPMPipeline
    from diffusers.schedulers.scheduling_ddpm import DDPMScheduler

    blocks: dict[str, Any] = {"down_block_types": ["DownBlock2D"], "up_block_types": ["UpBlock2D"]}
    unet = UNet2DModel(sample_size=16, block_out_channels=(8,), layers_per_block=1, norm_num_groups=8, **blocks)
    DDPMPipeline(unet, DDPMScheduler()).save_pretrained(tmp_path)
    with pytest.raises(InvalidInput, match=r"got DDPMPipeline, which takes no prompt\."):
        open_at(tmp_path, painter(**ASKED))


def test_the_package_that_is_missing_is_named(pixel_pipeline: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "diffusers", None)
    monkeypatch.delitem(sys.modules, "diffusers.pipelines.pipeline_utils", raising=False)
    with pytest.raises(
        InvalidInput, match=r"needs diffusers, which is not installed\. Run pip install 'headrace\[pict"
    ):
        open_at(pixel_pipeline, painter(**ASKED))


def test_a_pipeline_whose_rows_depend_on_each_other_is_not_deterministic(
    pixel_pipeline: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from diffusers.pipelines.pipeline_utils import DiffusionPipeline
    from diffusers.pipelines.prx.pipeline_prx_pixel import PRXPixelPipeline

    def is_deterministic(directory: Path) -> bool:
        engine = open_at(directory, painter(**ASKED))
        asyncio.run(engine.close())
        return engine.deterministic

    stock: Any = DiffusionPipeline.from_pretrained(str(pixel_pipeline))
    stock.scheduler.register_to_config(stochastic_sampling=True)
    stock.save_pretrained(tmp_path)
    assert is_deterministic(pixel_pipeline)
    assert not is_deterministic(tmp_path)

    def padded_to_the_longest(self: Any, prompts: list[str], device: Any, **_: Any) -> tuple[Any, Any]:
        found = self.tokenizer(prompts, padding=True, return_tensors="pt")
        return found["input_ids"], found["attention_mask"].bool()

    monkeypatch.setattr(PRXPixelPipeline, "_tokenize_prompts", padded_to_the_longest)
    assert not is_deterministic(pixel_pipeline)


@pytest.mark.parametrize("kind", ["pixel", "latent"])
def test_files_tell_the_sizes_that_the_loaded_pipeline_paints(kind: str, request: pytest.FixtureRequest) -> None:
    from diffusers.pipelines.pipeline_utils import DiffusionPipeline

    directory = request.getfixturevalue(f"{kind}_pipeline")
    index = json.loads((directory / PIPELINE_INDEX).read_text())
    stock: Any = DiffusionPipeline.from_pretrained(str(directory))
    patch = stock.transformer.config.patch_size if kind == "pixel" else 1
    assert size_multiple(directory, index) == stock.vae_scale_factor * patch
    left = check_painter(painter(**ASKED), directory)
    assert left == f"Whether its parts load shows when a run opens {type(stock).__name__}."
    with pytest.raises(InvalidInput) as told:
        check_painter(painter(**ASKED | {"width": 17}), directory)
    with pytest.raises(InvalidInput, match=re.escape(str(told.value))):
        open_at(directory, painter(**ASKED | {"width": 17}))


LONG = ("a mill wheel of oak that turns in the water of a mill race, " * 4) + "in watercolour"


@pytest.mark.parametrize("kind", ["pixel", "latent"])
def test_the_end_of_a_text_that_is_not_read_is_told(kind: str, request: pytest.FixtureRequest) -> None:
    directory = request.getfixturevalue(f"{kind}_pipeline")
    texts = ("a mill", LONG, f"{LONG} and more", LONG.replace("watercolour", "oil"), LONG.replace("wheel", "water", 1))
    turns = [MediaTurn(unit="", text=text, seed=1) for text in texts]
    whole, *cut = [one for one in painted(directory, ASKED, turns, batch_rows=5) if isinstance(one, MediaAnswer)]
    assert (whole.note, whole.attributes) == ("", {})
    told = r"the text is longer than the \d+ tokens that the model reads: its end is not painted"
    for text, one in zip(texts[1:], cut, strict=True):
        assert re.fullmatch(told, one.note)
        assert text.endswith(one.attributes[UNREAD])
        assert 0 < len(one.attributes[UNREAD]) < len(text)
    # What is not read makes no other picture, and what is read does.
    assert len({pixels(one).tobytes() for one in cut[:3]}) == 1
    assert len({pixels(one).tobytes() for one in cut}) == 2


@pytest.mark.parametrize("kind", ["pixel", "latent"])
def test_sealed_weights_that_are_opened_again_tell_the_same_without_encoding_again(
    kind: str, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    from headrace.engines.local import pipelines

    directory = request.getfixturevalue(f"{kind}_pipeline")
    sealed = replace(painter(**ASKED), weights_digest=f"{kind} weights")
    monkeypatch.setattr(pipelines, "_READINGS", {})

    def told() -> tuple[bool, Any]:
        engine = open_at(directory, sealed)
        [answer] = asyncio.run(engine.make_together([MediaTurn(unit="", text=LONG, seed=1)]))
        asyncio.run(engine.close())
        return engine.deterministic, (answer.note, answer.attributes, answer.content)

    first = told()
    monkeypatch.setattr(pipelines, "_encodes_alike", lambda *_: pytest.fail("encoded again"))
    assert told() == first
    assert first[1][0]


def test_pixels_that_are_no_numbers_cost_their_own_row_alone(latent_pipeline: Path, tmp_path: Path) -> None:
    from diffusers.pipelines.pipeline_utils import DiffusionPipeline

    stock: Any = DiffusionPipeline.from_pretrained(str(latent_pipeline))
    marked = stock.tokenizer("~", add_special_tokens=False).input_ids[-1]
    with torch.no_grad():
        stock.text_encoder.get_input_embeddings().weight[marked] = float("nan")
    stock.save_pretrained(tmp_path)
    broken, well = painted(tmp_path, ASKED, turns_of("a ~ wheel", "a mill"), batch_rows=2)
    assert isinstance(broken, EngineFailed)
    assert re.search(r"painted pixels that are no numbers, and shows nothing\. Lower guidance_scale, or", str(broken))
    assert (pixels(well) == stock_pixels(latent_pipeline, "a mill", 1)).all()


def test_guidance_has_a_limit() -> None:
    with pytest.raises(
        InvalidInput, match=r"guidance_scale from 0 to 1000, got guidance_scale=1e\+30: models are used"
    ):
        painter(**ASKED | {"guidance_scale": 1e30})
