"""Clean pictures and captions as a picture model's examples, beside diffusers' own reading of prompts."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from headrace.errors import InvalidInput
from headrace.handoff.versions import HandoffStore
from headrace.prep.images.picture_examples import CaptionEncoder, build_picture_examples
from headrace.store.local import LocalStore
from headrace.training.examples import ExamplesInput
from headrace.training.picture_examples import open_pictures
from tests.picture_builders import (
    SIDE,
    TOKENS,
    build_caption_encoder,
    captioned,
    picture,
    seal_examples,
    seal_pictures,
)


@pytest.fixture(scope="module")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_caption_encoder(tmp_path_factory.mktemp("encoder"))


@pytest.fixture
def handoffs(tmp_path: Path) -> HandoffStore:
    return HandoffStore(LocalStore(tmp_path / "store"))


def test_each_picture_is_a_row_with_its_pixels_and_one_row_has_no_caption(
    handoffs: HandoffStore, encoder: Path
) -> None:
    handoff = seal_examples(handoffs, seal_pictures(handoffs, captioned()), encoder)
    table = handoff.table(["split", "caption"], plain=True)
    assert table.num_rows == 17
    assert sorted(set(table["split"].to_pylist())) == ["empty", "heldout", "train"]
    given = [ExamplesInput(partition="shard-00", version=1, content_digest=handoff.content_digest)]
    taught, heldout, empty = (open_pictures(handoffs, given, split) for split in ("train", "heldout", "empty"))
    assert (len(taught), heldout.captions, empty.captions) == (15, ["blue mill"], [""])
    number = taught.captions.index("red gate")
    pixels = np.asarray(picture("red", "gate"), np.float32).transpose(2, 0, 1) / 127.5 - 1
    assert np.allclose(taught.take([number]).pixels_BCHW[0].numpy(), pixels)


def test_captions_have_the_states_and_the_mask_with_which_diffusers_reads_prompts(
    encoder: Path,
) -> None:
    from diffusers.pipelines.prx.pipeline_prx_pixel import PRXPixelPipeline
    from diffusers.schedulers.scheduling_flow_match_euler_discrete import FlowMatchEulerDiscreteScheduler
    from transformers import AutoModel, AutoTokenizer

    pipeline: Any = PRXPixelPipeline(
        transformer=None,  # pyright: ignore[reportArgumentType] (only prompts are read)
        scheduler=FlowMatchEulerDiscreteScheduler(),
        text_encoder=AutoModel.from_pretrained(encoder),
        tokenizer=AutoTokenizer.from_pretrained(encoder),
        prompt_max_tokens=TOKENS,
    )
    captions = ["a wheel that water turns", "", "grain &amp; flour", "a channel " * 9]
    theirs, their_mask, *_ = pipeline.encode_prompt(captions, device="cpu", do_classifier_free_guidance=False)
    ours, our_mask = CaptionEncoder(encoder, tokens=TOKENS).encode(captions)
    assert (our_mask == their_mask.numpy()).all()
    assert np.abs(ours.astype(np.float32) - theirs.float().numpy()).max() < 2e-3  # half precision


def test_pictures_of_several_sizes_are_refused(handoffs: HandoffStore, encoder: Path) -> None:
    items = captioned()[:3] + captioned(side=2 * SIDE)[5:7]
    with pytest.raises(InvalidInput, match="has pictures of 2 sizes: 16x16, 32x32. Set resize: {form: crop"):
        build_picture_examples(seal_pictures(handoffs, items), CaptionEncoder(encoder, tokens=TOKENS), tokens=TOKENS)
