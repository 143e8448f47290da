"""`headrace dropped`: which documents which rule dropped, with what it measured."""

import os
from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from headrace.command_line.bodies.dropped import DroppedBody, DroppedShardBody
from headrace.command_line.options import AsJson, Store, examples
from headrace.errors import InvalidInput
from headrace.text.terminal import say

if TYPE_CHECKING:
    from headrace.chat.tokenizer import ChatTokenizer
    from headrace.handoff.versions import HandoffStore
    from headrace.prep.corpus import Corpus
    from headrace.prep.dropped_documents import DroppedOfShard
    from headrace.prep.drops import DroppedDocument, Measured
    from headrace.prep.rule_sets import Source
    from headrace.settings import Settings

_ROWS_SHOWN = 20
_SEALED = {
    "these": "as {clean} {version} holds it",
    "others": "not as {clean} {version} holds it, which was made from other {noun}s or rules",
    "none yet": "{clean} is not made yet",
}
# What one of them is called, and the assets before and after the rules.
_TEXTS, _PICTURES = ("document", "raw_documents", "clean_documents"), ("picture", "raw_images", "clean_images")


@examples(
    "headrace dropped                                    every shard: counts, and the first documents",
    "headrace dropped --shard shard-03 --rule near_duplicate -n 0",
    "headrace dropped --json | jq -r '.documents[] | [.rule, .file, .line] | @tsv'",
)
def dropped(
    context: typer.Context,
    shard: Annotated[str | None, typer.Option(metavar="SHARD", help="Only this shard of the corpus.")] = None,
    rule: Annotated[str | None, typer.Option(metavar="RULE", help="List only what this rule drops.")] = None,
    num_rows: Annotated[
        int | None,
        typer.Option("-n", "--rows", min=0, help="How many documents to list; 0: all. Default: 20, with --json all."),
    ] = None,
    images: Annotated[bool, typer.Option("--images", help="Of the captioned pictures, not of the texts.")] = False,
    store: Store = None,
    as_json: AsJson = False,
) -> None:
    """Show which documents which rule drops of the corpus: id, file and line, first words, what it measured, its limit.

    Judged anew from the sealed raw documents and labels, by the corpus file as it is, so a changed rule shows what it
    would drop; of a corpus of dedup.one_run_below bytes or more, as sealed in duplicates. Documents that nobody could
    read are in the asset quarantine, pictures in image_quarantine.
    """
    from headrace.command_line.opening import open_handoffs
    from headrace.command_line.output import print_json
    from headrace.command_line.project import find_project
    from headrace.errors import HandoffMissing
    from headrace.prep.cleaning import rule_sources
    from headrace.prep.corpus import load_corpus
    from headrace.prep.dropped_documents import dropped_of_shard, every_rule, judged_now

    settings = find_project(Path.cwd(), os.environ).settings()
    most = num_rows if num_rows is not None else 0 if as_json else _ROWS_SHOWN
    if images:
        found, unread = _of_images(settings, open_handoffs(context, store), shard, rule)
        if as_json:
            print_json(asdict(_body(found, unread, most, looked_at_length=False)))
        else:
            _print(found, unread, most, None, _PICTURES, {})
        return
    corpus = load_corpus(settings.corpus)
    handoffs = open_handoffs(context, store)
    shards = _checked("shard", shard, corpus.shard_keys)
    _checked("rule", rule, every_rule(corpus))
    tokenizer = _tokenizer(corpus, settings)
    verdicts = judged_now(corpus, handoffs, shards)
    unread = [key for key in shards if key not in verdicts]
    found = [
        dropped_of_shard(corpus, handoffs, key, rule=rule, tokenizer=tokenizer, verdict=verdicts[key])
        for key in shards
        if key in verdicts
    ]
    if not found:
        raise HandoffMissing(f"No raw_documents of {', '.join(unread)} are sealed: materialize raw_documents first.")
    if as_json:
        print_json(asdict(_body(found, unread, most, looked_at_length=tokenizer is not None)))
    else:
        _print(found, unread, most, None if tokenizer else settings.base_model, _TEXTS, rule_sources(corpus))


def _of_images(
    settings: "Settings", handoffs: "HandoffStore", shard: str | None, rule: str | None
) -> "tuple[list[DroppedOfShard], list[str]]":
    """Of the wanted shards what is dropped, and those that are not read yet."""
    from headrace.prep.images.corpus import load_images
    from headrace.prep.images.dropped import dropped_images
    from headrace.prep.images.judging import rule_names

    corpus = load_images(settings.images)
    shards = _checked("shard", shard, corpus.shard_keys)
    _checked("rule", rule, rule_names(corpus))
    found = {one.shard: one for one in dropped_images(corpus, handoffs, rule=rule)}
    return [found[key] for key in shards if key in found], [key for key in shards if key not in found]


def _checked(what: str, wanted: str | None, there: "tuple[str, ...] | list[str]") -> "tuple[str, ...] | list[str]":
    if wanted is None:
        return there
    if wanted not in there:
        raise InvalidInput(f"The corpus has no {what} {wanted!r}, but {', '.join(there)}.")
    return (wanted,)


def _tokenizer(corpus: "Corpus", settings: "Settings") -> "ChatTokenizer | None":
    """None: the base model is not on this machine; nothing is fetched for a look."""
    if not Path(settings.base_model).is_dir():
        return None
    from headrace.prep.example_kinds import tokenizer_for

    return tokenizer_for(corpus, settings.base_model)


def _counts(found: "list[DroppedOfShard]") -> Counter[str]:
    counts: Counter[str] = Counter()
    for one in found:
        counts.update(one.counts)
    return counts


def _documents(found: "list[DroppedOfShard]", most: int) -> "list[DroppedDocument]":
    documents = [document for one in found for document in one.documents]
    return documents[:most] if most else documents


def _print(
    found: "list[DroppedOfShard]",
    unread: list[str],
    most: int,
    no_tokenizer: str | None,
    words: tuple[str, str, str],
    sources: "Mapping[str, Source]",
) -> None:
    from headrace.command_line.output import counted, print_heading, print_lines, print_table
    from headrace.text.visible import one_line

    noun, raw, clean = words
    for one in found:
        num_dropped = sum(one.counts.values())
        version = f"v{one.clean.version}" if one.clean else ""
        standing = _SEALED[one.sealed].format(version=version, clean=clean, noun=noun)
        print_lines([f"{one.shard}: {num_dropped:,} of {counted(one.num_documents, noun)} dropped, {standing}."])
    if unread:
        print_lines([f"{', '.join(unread)}: {raw} is not sealed yet."])
    if no_tokenizer:
        print_lines([f"What is too long for a sequence is not told: there is no base model {no_tokenizer}."])
    say()
    counts = _counts(found)
    whose = ["SOURCE"] if sources else []
    rows = [[rule, *(sources.get(rule, "ours") for _ in whose), f"{count:,}"] for rule, count in counts.items()]
    print_table(["RULE", *whose, "DROPPED"], rows, right=["DROPPED"])
    shown = _documents(found, most)
    if not shown:
        return
    num_listed = sum(len(one.documents) for one in found)
    print_heading(f"{counted(len(shown), noun)} of {num_listed:,}" + (": -n 0 for all" * (len(shown) < num_listed)))
    rows = [
        [
            *([document.shard] if len(found) > 1 else []),
            document.rule,
            _number(document.measured) if document.copy_of is None else _copy_text(document),
            _number(document.limit),
            document.document_id,
            f"{document.file}:{document.line}",
            one_line(document.excerpt),
        ]
        for document in shown
    ]
    headers = [*(["SHARD"] if len(found) > 1 else []), "RULE", "MEASURED", "LIMIT", noun.upper(), "FILE", "BEGINS"]
    print_table(headers, rows)


def _copy_text(document: "DroppedDocument") -> str:
    alike = "" if document.measured is None else f"{_number(document.measured)} like "
    shard = "" if document.copy_of_shard == document.shard else f" of {document.copy_of_shard}"
    return f"{alike}{document.copy_of}{shard}, {document.copy_of_file}:{document.copy_of_line}"


def _number(value: "Measured") -> str:
    if value is None:
        return ""
    return f"{value:.3g}" if isinstance(value, float) else str(value)


def _body(found: "list[DroppedOfShard]", unread: list[str], most: int, *, looked_at_length: bool) -> DroppedBody:
    return DroppedBody(
        shards=tuple(
            DroppedShardBody(
                shard=one.shard,
                num_documents=one.num_documents,
                counts=one.counts,
                clean_documents_version=one.clean.version if one.clean else None,
                is_as_sealed=None if one.sealed == "none yet" else one.sealed == "these",
            )
            for one in found
        ),
        unread_shards=tuple(unread),
        looked_at_length=looked_at_length,
        num_documents_listed=sum(len(one.documents) for one in found),
        documents=tuple(_documents(found, most)),
    )
