"""The rules for pictures, each with pictures that break it and that do not."""

import io
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from headrace.clock import FixedClock
from headrace.errors import InvalidCampaign, InvalidInput
from headrace.generation.media_review.picture_settings import NearDuplicates, PictureReview
from headrace.generation.media_review.pictures import (
    Measured,
    Painted,
    mean_colours,
    measured,
    near_duplicates,
    picture_verdicts,
)
from headrace.generation.media_review.references import References, open_references
from headrace.handoff.media.index import MediaItem
from headrace.handoff.media.publishing import publish_media
from headrace.handoff.versions import HandoffStore
from headrace.store.local import LocalStore
from simulation.pictures import landscape

DRAW = np.random.default_rng(4)
SCENES = [landscape(DRAW, 48, 48) for _ in range(6)]


def png(picture: Image.Image) -> bytes:
    body = io.BytesIO()
    picture.save(body, "PNG")
    return body.getvalue()


def of(values: np.ndarray) -> Image.Image:
    return Image.fromarray(np.clip(values, 0, 255).astype(np.uint8))


def faults_of(*pictures: Image.Image, rejected: tuple[int, ...] = (), **settings: object) -> list[tuple[str, ...]]:
    painted = [
        Painted(measured=measured(png(picture)), caption="", is_rejected=place in rejected)
        for place, picture in enumerate(pictures)
    ]
    return [one.faults for one in picture_verdicts(painted, PictureReview(**settings))]  # pyright: ignore[reportArgumentType]


FAULTY = {
    "white": (Image.new("RGB", (32, 32), "white"), ("blank",)),
    # Its three channels differ, and none of them varies.
    "one bright colour": (Image.new("RGB", (32, 32), (255, 0, 20)), ("blank",)),
    "a slight gradient": (of(np.full((32, 32, 3), 90) + np.linspace(0, 18, 32)[:, None, None]), ("blank",)),
    "noise": (of(DRAW.uniform(0, 256, (32, 32, 3))), ("noise",)),
    "grey noise": (of(np.repeat(DRAW.normal(128, 64, (32, 32, 1)), 3, axis=2)), ("noise",)),
    "a scene": (SCENES[0], ()),
}


@pytest.mark.parametrize("case", FAULTY)
def test_a_picture_is_blank_or_noise_or_neither(case: str) -> None:
    picture, faults = FAULTY[case]
    assert faults_of(picture) == [faults]


def test_figures_are_what_numpy_says() -> None:
    found = measured(png(SCENES[0]))
    assert found
    values = np.asarray(SCENES[0], float)
    assert found.contrast == pytest.approx(values.std(axis=(0, 1)).max(), rel=1e-3)
    steps = np.abs(values[1:] - values[:-1]).mean() + np.abs(values[:, 1:] - values[:, :-1]).mean()
    assert found.variation == pytest.approx(steps)
    # 48 pixels divide into 8 fields of 6. Pillow rounds twice, once for each direction.
    fields = values.reshape(8, 6, 8, 6, 3).mean(axis=(1, 3))
    assert found.colours_C == pytest.approx(fields.reshape(-1), abs=1.0)


def test_a_limit_of_null_turns_its_rule_off() -> None:
    white, noise = FAULTY["white"][0], FAULTY["noise"][0]
    assert faults_of(white, white, noise, contrast_min=None, variation_max=None, near_duplicates=None) == [()] * 3


def test_bytes_that_are_no_picture_are_a_fault_of_their_own() -> None:
    painted = [Painted(measured=measured(b"GIF89a, not"), caption="")]
    assert picture_verdicts(painted, PictureReview())[0].faults == ("unreadable",)


def test_of_pictures_that_look_alike_the_first_stays() -> None:
    again = of(np.asarray(SCENES[0], float) + DRAW.normal(0, 3, (48, 48, 3)))
    assert faults_of(SCENES[0], SCENES[1], again, SCENES[0]) == [(), (), ("near_duplicate",), ("near_duplicate",)]


def test_a_picture_of_a_row_that_is_rejected_takes_no_others_place() -> None:
    assert faults_of(SCENES[0], SCENES[0], rejected=(0,)) == [("near_duplicate",), ()]


def test_two_colours_of_one_drawing_are_two_pictures() -> None:
    def drawing(colour: str) -> Image.Image:
        picture = Image.new("RGB", (48, 48), "white")
        picture.paste(colour, (8, 8, 40, 30))
        return picture

    assert faults_of(drawing("red"), drawing("blue"), drawing("green")) == [(), (), ()]


@given(
    st.lists(st.tuples(st.integers(0, 7), st.integers(0, 3), st.booleans()), max_size=30),
    st.integers(0, 2),
    st.sampled_from([0.0, 1.0, 2.0]),
)
def test_near_duplicates_are_those_that_comparing_each_with_all_that_stay_finds(
    drawn: list[tuple[int, int, bool]], bits_max: int, colours_max: float
) -> None:
    pictures = [
        Measured(contrast=50, variation=20, coarse_hash=bits, colours_C=np.full(192, level, np.float32))
        for bits, level, _ in drawn
    ]
    rejected = [one for _, _, one in drawn]
    settings = NearDuplicates(hash_distance_max=bits_max, colour_distance_max=colours_max)
    stays: list[int] = []
    copies: list[int] = []
    for place in sorted(range(len(drawn)), key=lambda place: (rejected[place], place)):
        bits, level, _ = drawn[place]
        alike = any(
            (bits ^ drawn[other][0]).bit_count() <= bits_max and abs(level - drawn[other][1]) <= colours_max
            for other in stays
        )
        (copies if alike else stays).append(place)
    assert near_duplicates(pictures, rejected, settings) == sorted(copies)


REFERENCES = References.of((f"scene {n}", mean_colours(picture)) for n, picture in enumerate(SCENES))


def test_a_picture_is_ranked_among_other_captions_true_pictures() -> None:
    settings = PictureReview(references="clean_images", rank_max=1)
    shown = [(SCENES[0], "Scene  0"), (SCENES[1], "scene 0"), (SCENES[2], "an unknown thing")]
    painted = [Painted(measured=measured(png(picture)), caption=caption) for picture, caption in shown]
    right, wrong, unknown = picture_verdicts(painted, settings, REFERENCES)
    assert (right.faults, right.figures["rank"], right.figures["agreement"]) == ((), 0, 1)
    assert wrong.faults == ("wrong_picture",)
    distances = [np.linalg.norm(mean_colours(SCENES[1]) - mean_colours(one)) for one in SCENES]
    assert wrong.figures["rank"] == sum(one < distances[0] for one in distances)
    assert unknown.faults == ()
    assert unknown.figures.keys() == {"contrast", "variation"}


def test_the_nearest_of_a_captions_pictures_counts() -> None:
    found = References.of([("a hill", mean_colours(one)) for one in SCENES[:3]] + [("a lake", mean_colours(SCENES[3]))])
    assert [found.rank(mean_colours(one), "a hill") for one in SCENES[:3]] == [0, 0, 0]
    assert found.rank(mean_colours(SCENES[3]), "a hill") == 1


def test_references_are_files_with_captions_or_what_is_sealed(tmp_path: Path) -> None:
    handoffs = HandoffStore(LocalStore(tmp_path / "store"), FixedClock())
    items = []
    for number, picture in enumerate(SCENES):
        file = tmp_path / "true" / f"{number}.png"
        file.parent.mkdir(exist_ok=True)
        file.write_bytes(png(picture))
        file.with_suffix(".txt").write_text(f"scene {number}")
        items.append(
            MediaItem(item_id=f"{number}", media_type="image/png", content=file.read_bytes(), caption=f"scene {number}")
        )
    (tmp_path / "true" / "broken.png").write_bytes(b"no picture")
    publish_media(handoffs, "clean_images", "shard-00", items, code_version="1", run_id="r")
    of_files = open_references(PictureReview(references="true/*"), handoffs, tmp_path)
    sealed = open_references(PictureReview(references="clean_images"), handoffs, tmp_path)
    assert of_files
    assert sealed
    assert of_files.digest == sealed.digest == REFERENCES.digest
    assert open_references(PictureReview(), handoffs, tmp_path) is None
    with pytest.raises(InvalidCampaign, match="references must have pictures with captions, got 'raw_images'"):
        open_references(PictureReview(references="raw_images"), handoffs, tmp_path)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"contrast_min": 200}, "contrast_min must be null or between 0 and 127, got 200"),
        ({"rank_max": 0}, "rank_max must be null or at least 1, got 0"),
        ({"references": "~/true/*"}, "references must be a whole path"),
        ({"caption": "{term}"}, "caption finds true pictures in references, and there are none"),
        ({"references": "true/*", "caption": "a thing"}, "caption must name a place in braces"),
    ],
)
def test_limits_that_mean_nothing_are_refused(settings: dict, message: str) -> None:
    with pytest.raises(InvalidInput, match=message):
        PictureReview(**settings)
