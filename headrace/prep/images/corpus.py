"""The definition of a corpus of captioned pictures: its files, what is kept of them, and the size they are sealed at.

One YAML file describes one corpus (HEADRACE_IMAGES). It is a file of its own beside the corpus of texts: pictures have
no prompt, no sequence and no base model, and a project may have both. Everything is checked when the file is loaded,
before a picture is read.
"""

import re
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal

from annotated_types import Ge, Gt, Le

from headrace.errors import InvalidInput
from headrace.keys import SHARD_PLACEHOLDER, check_name, check_num_shards, corpus_shard, digest_text
from headrace.prep.images.resizing import Resize
from headrace.prep.rule_sets import QualityRules, refuse_shares, with_limits_of_set
from headrace.store.objects import canonical_json
from headrace.user_files.finding import check_pattern
from headrace.user_files.ranges import Because, check_ranges
from headrace.user_files.shapes import Before, from_file_of_variable
from headrace.user_files.yaml_file import read_yaml

_COLOUR = re.compile(r"#[0-9a-f]{6}", re.IGNORECASE)
# Every one of these decides what raw_images holds; the others judge what is there.
_READING = ("name", "files", "columns", "num_shards", "decode_pixels_max", "background", "resize")


def _captions_of_set(rules: Any) -> Any:
    """As for texts, but a section that names no set is of the set for captions."""
    return with_limits_of_set({"set": "short", **rules} if isinstance(rules, dict) else rules)


@dataclass(frozen=True, kw_only=True)
class ImageRules:
    """Which pictures are dropped for what they are; null turns a rule off."""

    width_min: Annotated[int, Ge(1)] | None = 64
    """Narrower pictures are dropped, in pixels as the file has them."""
    height_min: Annotated[int, Ge(1)] | None = 64
    """Lower pictures are dropped, in pixels as the file has them."""
    pixels_max: Annotated[int, Ge(1)] | None = None
    """Pictures with more pixels are dropped."""
    aspect_max: Annotated[float, Ge(1)] | None = 3.0
    """Pictures whose longer side is more than this many times the shorter one are dropped (DataComp's limit)."""
    contrast_min: Annotated[float, Ge(0), Le(127)] | None = 4.0
    """Pictures whose channel values differ less, by their standard deviation, are blank."""
    animated: Literal["drop", "first_frame"] = "drop"
    """What becomes of a file that moves: its first frame is often an empty one."""
    file_name_captions: Literal["drop", "keep"] = "drop"
    """What becomes of a picture whose caption is the name of a file, such as `IMG_2041.JPG`."""
    caption_repeats_max: Annotated[int, Ge(1)] | None = None
    """Pictures are dropped if more of them than this have the same caption; null: captions may be classes."""

    def __post_init__(self) -> None:
        check_ranges(self)


@dataclass(frozen=True, kw_only=True)
class ImageDuplicates:
    """Two pictures are duplicates if they look alike: resized, recompressed, brightened or cropped a little."""

    hash_distance_max: Annotated[int, Ge(0), Le(96)] = 44
    """How many of the 256 bits of their perceptual hashes may differ; whole lines of other text make 50 or more, one
    other digit 20 to 30."""
    colour_distance_max: Annotated[float, Ge(0), Le(255)] = 14.0
    """How far apart the colours of any ninth of two pictures may lie, of 255, brightness aside: a red and a blue one
    are two, a coloured and a grey one too."""
    captions: Literal["ignored", "compared"] = "ignored"
    """`compared`: duplicates must have the same caption too, so that a picture may keep several captions."""

    def __post_init__(self) -> None:
        check_ranges(self)


@dataclass(frozen=True, kw_only=True)
class CaptionExamples:
    """What a picture model gets of the captions."""

    caption_encoder: str
    """Directory (absolute, or relative to HEADRACE_HOME) or hub name of a text model, whose hidden states stand for a
    caption. Recipes of picture models name the same as their `base_model`."""
    caption_tokens: Annotated[int, Ge(2), Le(1024)] = 64
    """Captions are cut or padded to as many tokens; the prompts of a trained model are, too."""

    def __post_init__(self) -> None:
        check_ranges(self)
        if not self.caption_encoder.strip():
            raise InvalidInput("caption_encoder must be a model directory or a hub name, got nothing.")


@dataclass(frozen=True, kw_only=True)
class ImageCorpus:
    """One corpus of captioned pictures, as its YAML file describes it."""

    name: str
    """Names the corpus in messages and in what is made from it."""
    files: tuple[str, ...]
    """Globs of pictures (with `NAME.txt` beside `NAME.jpg` for its caption), WebDataset tars, or tables (JSON Lines,
    CSV, Parquet); `{shard}` stands for the shard's key. Without it, hashes of the files' paths choose their shards."""
    columns: dict[str, str] = field(default_factory=lambda: {"image": "image", "caption": "caption"})
    """`image` and `caption` → their columns in a table, or the caption's key in a tar's `NAME.json`. An image is the
    file's bytes, a struct with `bytes`, or a path that starts at the table's directory and stays below it."""
    num_shards: int = 1
    """Partitions; one is read in one run."""
    quarantine_share_max: Annotated[float, Ge(0), Le(1)] = 0.01
    """Largest unreadable share of a shard's pictures, or of its files; beyond it the partition fails."""
    decode_pixels_max: Annotated[
        int, Ge(1), Le(178_956_970), Because("the decoder takes more for an attack on memory")
    ] = 100_000_000
    """Pictures with more pixels are set aside without being decoded."""
    background: str = "#ffffff"
    """What shows through where a picture is transparent."""
    rules: ImageRules = field(default_factory=ImageRules)
    captions: Annotated[QualityRules, Before(_captions_of_set)] = field(
        default_factory=lambda: QualityRules.of("short")
    )
    """Rules for captions, as a corpus of texts has them, without `share_max`; without a `set` they are those of the
    set `short`."""
    duplicates: ImageDuplicates | None = field(default_factory=ImageDuplicates)
    """null keeps pictures that look alike; they are then on one side of the split."""
    resize: Resize = field(default_factory=Resize)
    heldout_share: Annotated[float, Gt(0), Le(0.5)] = 0.02
    """The share of captions, or pictures, that training never sees: a stable hash decides."""
    split_by: Literal["caption", "picture"] = "caption"
    """`caption`: pictures with equal captions are on one side of the split; `picture`: only those that look alike, as
    where captions are names of classes."""
    dropped_share_max: Annotated[float, Ge(0), Le(1)] = 0.9
    """Largest share of the corpus's pictures that rules and duplicates may take; beyond it the run fails."""
    examples: CaptionExamples | None = None
    """For training a picture model on them; null: picture_examples cannot be made. Training wants squares: `resize:
    {form: crop}`."""

    def __post_init__(self) -> None:
        check_name("name", self.name)
        check_num_shards(self.num_shards)
        check_ranges(self)
        if not self.files:
            raise InvalidInput("files must list at least one glob, got an empty list.")
        for number, pattern in enumerate(self.files):
            check_pattern(f"files[{number}]", pattern, placeholder=SHARD_PLACEHOLDER)
        if set(self.columns) != {"image", "caption"}:
            raise InvalidInput(f"columns must map image and caption, and nothing else, got {sorted(self.columns)}.")
        if self.columns["image"] == self.columns["caption"]:
            raise InvalidInput(
                f"columns must map image and caption to two columns, got {self.columns['image']!r} twice."
            )
        if not _COLOUR.fullmatch(self.background):
            raise InvalidInput(f"background must be a colour such as '#ffffff', got {self.background!r}.")
        refuse_shares("captions", self.captions, "dropped_share_max says what all rules together may drop")

    @property
    def judging_digest(self) -> str:
        """Digest of the settings that decide what is kept of what was read."""
        # What may be dropped or unreadable changes no picture; nor does what is made of the kept ones.
        left_out = {*_READING, "dropped_share_max", "quarantine_share_max", "examples"}
        body = {name: value for name, value in asdict(self).items() if name not in left_out}
        return digest_text("image_judging", canonical_json(body).decode())

    @property
    def background_rgb(self) -> tuple[int, int, int]:
        red, green, blue = bytes.fromhex(self.background[1:])
        return red, green, blue

    @property
    def shard_keys(self) -> tuple[str, ...]:
        return tuple(corpus_shard(index) for index in range(self.num_shards))

    def globs(self, shard: str) -> tuple[tuple[str, bool], ...]:
        """One shard's globs, each with whether it names the shard itself (then no file is dealt by hash)."""
        return tuple((glob.replace(SHARD_PLACEHOLDER, shard), SHARD_PLACEHOLDER in glob) for glob in self.files)


def load_images(path: Path) -> ImageCorpus:
    """Reads and checks an images file.

    Raises:
        InvalidInput: the file is missing, not YAML, or describes an unreadable corpus.
    """
    return from_file_of_variable(ImageCorpus, path, "Images file", "HEADRACE_IMAGES")


def image_shard_keys_in(path: Path) -> tuple[tuple[str, ...], str | None]:
    """The shards of an images file, and why it cannot be read (None: it can, or there is none).

    Of a broken file as many as it still tells, else one: then its assets exist, and their runs say what is wrong.
    """
    one = (corpus_shard(0),)
    if not path.exists():
        return one, None
    try:
        return load_images(path).shard_keys, None
    except InvalidInput as error:
        faults = str(error)
    with suppress(InvalidInput):
        content = read_yaml(path, "Images file").content
        number = content.get("num_shards") if isinstance(content, dict) else None
        if type(number) is int:
            return tuple(corpus_shard(index) for index in range(check_num_shards(number))), faults
    return one, faults


def makes_examples_in(path: Path) -> bool:
    """Whether an images file says what reads captions; False: it does not, is broken, or there is none."""
    with suppress(InvalidInput):
        return path.exists() and load_images(path).examples is not None
    return False
