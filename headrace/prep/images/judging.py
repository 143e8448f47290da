"""Judges all pictures of a corpus at once: which rule drops each one, whose copy it is, on which side of the split.

Order: rules for pictures, rules for captions, captions that too many pictures have, exact duplicates, near duplicates,
split. A picture counts for the first rule that drops it. It takes what was measured, no picture: about 500 bytes a
picture, so ten million of them in 5 GB; nothing here is divided into shards, and an added shard has all judged again,
which costs seconds a million.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, cast

import polars as pl
import pyarrow as pa

from headrace.handoff.schemas import IMAGE_VERDICTS, conform
from headrace.prep.broken_text import LOST, broken
from headrace.prep.corpus import Corpus
from headrace.prep.drops import TooMuchDropped
from headrace.prep.images.corpus import ImageCorpus
from headrace.prep.images.duplicates import EXACT_DUPLICATE, NEAR_DUPLICATE, best_first, copies
from headrace.prep.images.split import sides
from headrace.prep.normalization import in_form
from headrace.prep.quality import Rule, first_rule, quality_rules, with_counts
from headrace.prep.text_keys import text_keys_of

# Rust's syntax. A name that a camera, a phone or a program gave, or any name of a picture's file.
_FILE_NAME = (
    r"(?i)^\S+\.(jpe?g|png|webp|gif|bmp|tiff?|avif|heic)$"
    r"|^(img|dsc[nf]?|dcim|pxl|mvi|vid|gopr|photo|image|picture|screenshot|untitled)[-_ ]?[-_ 0-9]*\d[-_ 0-9]*$"
)
_CAPTION_REPEATED = "caption_repeated"


@dataclass(frozen=True, kw_only=True)
class Judged:
    """`drops`: every rule that was applied, in order, with how many pictures it dropped."""

    verdicts: pa.Table
    num_images: int
    drops: dict[str, int]
    num_heldout: int


def judge(corpus: ImageCorpus, shards: Mapping[str, pa.Table]) -> Judged:
    """Args:
        shards: by its key, each shard's IMAGE_SIGNATURES.

    Raises:
        TooMuchDropped: more is dropped than the corpus allows.
    """
    pictures = judged(corpus, shards)
    drops = num_dropped(corpus, pictures)
    _refuse_if_too_much_dropped(corpus, drops, pictures.height)
    verdicts = pictures.select(IMAGE_VERDICTS.names).to_arrow().cast(IMAGE_VERDICTS)
    return Judged(
        verdicts=conform("image_verdicts", verdicts),
        num_images=pictures.height,
        drops=drops,
        num_heldout=int((pictures.get_column("split") == "heldout").sum()),
    )


def judged(corpus: ImageCorpus, shards: Mapping[str, pa.Table]) -> pl.DataFrame:
    """Every picture in the order of its place, with the columns of IMAGE_VERDICTS beside those of IMAGE_SIGNATURES."""
    tables = (pl.DataFrame(table).with_columns(pl.lit(shard).alias("shard")) for shard, table in shards.items())
    pictures = _with_captions(best_first(pl.concat(tables)), corpus)
    pictures = _with_copies(_with_rules(pictures, corpus), corpus)
    kept = pictures.get_column("rule").is_null()
    split = pl.Series([None], dtype=pl.String).new_from_index(0, pictures.height)
    split = split.scatter(kept.arg_true(), sides(pictures.filter(kept), corpus))
    return pictures.with_columns(split.alias("split")).sort("source_file", "source_line", "image_id")


def num_dropped(corpus: ImageCorpus, pictures: pl.DataFrame) -> dict[str, int]:
    """Every rule that was applied, in order, with how many of the pictures it dropped."""
    counts = dict(pictures.get_column("rule").drop_nulls().value_counts().iter_rows())
    return {rule: counts.get(rule, 0) for rule in rule_names(corpus)}


def rule_names(corpus: ImageCorpus) -> list[str]:
    """Every rule that is applied to the corpus's pictures, in order."""
    rules = [*(rule.name for rule in _picture_rules(corpus)), *(name for name, _ in _caption_rules(corpus))]
    if corpus.rules.caption_repeats_max is not None:
        rules.append(_CAPTION_REPEATED)
    return [*rules, *((EXACT_DUPLICATE, NEAR_DUPLICATE) if corpus.duplicates else ())]


def _picture_rules(corpus: ImageCorpus) -> list[Rule]:
    width, height = pl.col("width").cast(pl.Int64), pl.col("height").cast(pl.Int64)
    aspect = pl.max_horizontal(width, height) / pl.min_horizontal(width, height)
    rules = corpus.rules
    bounds = (
        ("too_narrow", width, rules.width_min, pl.Expr.lt),
        ("too_low", height, rules.height_min, pl.Expr.lt),
        ("too_many_pixels", width * height, rules.pixels_max, pl.Expr.gt),
        ("too_elongated", aspect, rules.aspect_max, pl.Expr.gt),
        ("blank", pl.col("contrast"), rules.contrast_min, pl.Expr.lt),
    )
    found = [
        Rule(name=name, drops=beyond(measured, limit), measured=measured, limit=limit)
        for name, measured, limit, beyond in bounds
        if limit is not None
    ]
    if rules.animated == "drop":
        found.append(Rule(name="animated", drops=pl.col("animated"), measured=pl.col("format").cast(pl.String)))
    if rules.file_name_captions == "drop":
        text = pl.col("text").str.strip_chars()
        found.append(Rule(name="caption_is_file_name", drops=text.str.contains(_FILE_NAME), measured=text))
    return found


def _caption_rules(corpus: ImageCorpus) -> list[tuple[str, Rule]]:
    """Those of texts, under the names that they have for captions."""
    rules = quality_rules(_as_of_texts(corpus))
    # A caption fills no template; one that is missing is empty.
    return [
        (f"caption_{rule.name.removeprefix('text_')}", rule) for rule in rules if rule.name != "template_incomplete"
    ]


def _as_of_texts(corpus: ImageCorpus) -> Corpus:
    """What the rules for texts look at of a corpus: `rules`, `labels`, `required_columns`."""
    return cast("Corpus", _Captions(rules=corpus.captions))


@dataclass(frozen=True, kw_only=True)
class _Captions:
    """What rules ask of a corpus."""

    rules: Any
    labels: None = None
    language: None = None
    personal_data: None = None
    required_columns: tuple[str, ...] = ("text",)


def _with_captions(pictures: pl.DataFrame, corpus: ImageCorpus) -> pl.DataFrame:
    """With captions in their normal form, as `caption` and the rules' `text`, and the key under which two are equal."""
    captions = pictures.get_column("caption").fill_null("")
    found, repaired = broken(captions)
    if corpus.captions.broken_characters == "repair":
        captions, found = repaired, repaired.str.extract(LOST, 0)
    return (
        pictures.with_columns(captions.alias("text"), found.alias("broken"))
        .with_columns(in_form(pl.col("text"), "line"))
        .with_columns(
            pl.when(pl.col("text") != "").then("text").alias("caption"),
            text_keys_of(pl.col("text")).alias("caption_key"),
        )
    )


def _with_rules(pictures: pl.DataFrame, corpus: ImageCorpus) -> pl.DataFrame:
    """With `rule`, `measured` and `limit` of what is dropped for itself, or for its caption."""
    captions = _as_of_texts(corpus)
    counted = with_counts(pictures, captions)
    of_caption = first_rule(pictures, captions)
    rules = [(rule.name, rule.drops, rule) for rule in _picture_rules(corpus)]
    rules += [(name, of_caption == rule.name, rule) for name, rule in _caption_rules(corpus)]
    if (most := corpus.rules.caption_repeats_max) is not None:
        repeats = pl.len().over("caption_key")
        rules.append(
            (_CAPTION_REPEATED, repeats > most, Rule(name="", drops=repeats > most, measured=repeats, limit=most))
        )
    rule_of = pl.coalesce(pl.when(drops).then(pl.lit(name)) for name, drops, _ in rules)
    judged = counted.with_columns(rule_of.cast(pl.String).alias("rule"))
    by_name = [(pl.col("rule") == name, rule) for name, _, rule in rules]
    return pictures.with_columns(
        judged.select(
            "rule",
            pl.coalesce(pl.when(drops).then(_shown(rule.measured)) for drops, rule in by_name).alias("measured"),
            pl.coalesce(pl.when(drops).then(_limit(rule)) for drops, rule in by_name).alias("limit"),
        )
    )


def _limit(rule: Rule) -> pl.Expr:
    return pl.lit(None if rule.limit is None else f"{rule.limit}", pl.String)


def _shown(measured: pl.Expr) -> pl.Expr:
    return measured.cast(pl.String).str.slice(0, 80)


def _with_copies(pictures: pl.DataFrame, corpus: ImageCorpus) -> pl.DataFrame:
    nothing = pl.lit(None, pl.String)
    pictures = pictures.with_columns(nothing.alias("copy_of"), nothing.alias("copy_of_shard"))
    if corpus.duplicates is None:
        return pictures
    places = pictures.get_column("rule").is_null().arg_true()
    kept = pictures[places]
    if kept.is_empty():
        return pictures
    found = copies(kept, corpus.duplicates)
    is_copy = found.get_column("rule").is_not_null()
    copied = found.filter(is_copy)
    is_near = pl.col("rule") == NEAR_DUPLICATE
    values = copied.select(
        "rule",
        pl.col("distance").cast(pl.String).alias("measured"),
        pl.when(is_near).then(pl.lit(str(corpus.duplicates.hash_distance_max))).alias("limit"),
        kept.get_column("image_id").gather(copied.get_column("copy_of")).alias("copy_of"),
        kept.get_column("shard").gather(copied.get_column("copy_of")).alias("copy_of_shard"),
    )
    # `scatter` writes into its series.
    return pictures.with_columns(
        pictures.get_column(name).clone().scatter(places.filter(is_copy), values.get_column(name))
        for name in values.columns
    )


def _refuse_if_too_much_dropped(corpus: ImageCorpus, drops: dict[str, int], num_images: int) -> None:
    num_dropped = sum(drops.values())
    if num_dropped <= corpus.dropped_share_max * num_images:
        return
    worst = max(drops, key=lambda rule: drops[rule])
    raise TooMuchDropped(
        f"Images {corpus.name}: {num_dropped:,} of {num_images:,} pictures are dropped, most of them "
        f"({drops[worst]:,}) by {worst}, where dropped_share_max allows {corpus.dropped_share_max:.0%}. `headrace "
        "dropped --images` shows them: correct the rules in the images file, or raise dropped_share_max.",
        corpus=corpus.name,
        rule=worst,
    )
