"""Whether sealed preference pairs keep what they promise, looked at without the code that made them.

Every row that a pair names is read again, at the version that the pairs' manifest names; and no question of a pair that
trains stands among what is held out.
"""

from collections import defaultdict
from collections.abc import Iterable

import polars as pl

from headrace.errors import HandoffMissing
from headrace.generation.content_checks import Finding
from headrace.handoff.row_tables import REVIEWED
from headrace.handoff.versions import Handoff, HandoffStore
from headrace.prep.text_keys import text_key

_NUM_NAMED = 3


def check_rows_of_pairs(handoffs: HandoffStore, pairs: Handoff) -> Finding:
    """Each chosen row was kept, each rejected one was not, both with these texts, and no row is in two pairs."""
    table = pairs.polars(
        [
            *("pair_id", "prompt", "chosen", "rejected", "chosen_row_id", "rejected_row_id"),
            *("chosen_partition", "rejected_partition"),
        ]
    )
    wanted: dict[str, dict[str, tuple[bool, str, str]]] = defaultdict(dict)
    for row in table.to_dicts():
        for side in ("chosen", "rejected"):
            wanted[row[f"{side}_partition"]][row[f"{side}_row_id"]] = (side == "chosen", row[side], row["prompt"])
    faults, gone = [], []
    for partition, rows in wanted.items():
        name = f"{REVIEWED}[{partition}]"
        version = pairs.manifest.input_versions.get(name, "").partition(" ")[0].removeprefix("v")
        if not version.isdecimal():
            faults.append(f"{name} is not among what the pairs were made of")
            continue
        try:
            faults += _faults_of(handoffs.open(REVIEWED, partition, int(version)), rows)
        except HandoffMissing:
            gone.append(f"{name} v{version}")
    ids = pl.concat([table["chosen_row_id"], table["rejected_row_id"]])
    if num_twice := len(ids) - ids.n_unique():
        faults.append(f"{num_twice} rows are in more than one pair")
    said = [
        *faults[:_NUM_NAMED],
        *([f"Not looked at, since garbage collection took it: {', '.join(gone)}"] if gone else []),
    ]
    return Finding(
        passed=not faults,
        description=". ".join(said) or f"All {len(ids):,} rows of {table.height:,} pairs were found as they are told.",
        figures={"num_pairs": table.height, "num_rows": len(ids), "num_faults": len(faults)},
    )


def check_nothing_heldout_trains(pairs: Handoff, documents: Iterable[Handoff]) -> Finding:
    """Args: documents: the newest clean_documents of all shards."""
    table = pairs.polars(["split", "prompt", "term"])
    of_side = {side: table.filter(pl.col("split") == side) for side in ("train", "heldout")}
    heldout = {text_key(prompt) for prompt in of_side["heldout"]["prompt"]}
    num_documents = 0
    for handoff in documents:
        found = handoff.lazy(["term", "text", "split"]).filter(pl.col("split") == "heldout").collect()
        num_documents += found.height
        heldout |= {text_key(text if term is None else term) for term, text in found.select("term", "text").rows()}
    learnt = {
        key: prompt
        for prompt, term in of_side["train"].select("prompt", "term").rows()
        for key in {text_key(prompt), text_key(prompt if term is None else term)}
    }
    both = [learnt[key] for key in sorted(learnt.keys() & heldout)]
    return Finding(
        passed=not both,
        description=(
            f"{len(both):,} questions of pairs that train are held out, such as {both[0]!r}."
            if both
            else f"No question of {of_side['train'].height:,} pairs that train is among {num_documents:,} held-out "
            f"documents, or among the questions of {of_side['heldout'].height:,} held-out pairs."
        ),
        figures={
            "num_pairs_train": of_side["train"].height,
            "num_pairs_heldout": of_side["heldout"].height,
            "num_heldout_documents": num_documents,
            "num_on_both_sides": len(both),
        },
    )


def _faults_of(reviewed: Handoff, rows: dict[str, tuple[bool, str, str]]) -> list[str]:
    found = reviewed.polars(["row_id", "kept", "output", "prompt"])
    there = {row_id: rest for row_id, *rest in found.filter(pl.col("row_id").is_in(list(rows))).rows()}
    faults = []
    for row_id, told in rows.items():
        if row_id not in there:
            faults.append(f"row {row_id[:12]} is not in {reviewed.label}")
        elif tuple(there[row_id]) != told:
            faults.append(
                f"row {row_id[:12]} of {reviewed.label} has another verdict, text or prompt than its pair tells"
            )
    return faults
