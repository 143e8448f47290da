"""A code location of somebody else's: its assets say what they need in their op tags."""

import dagster as dg


@dg.asset(op_tags={"headrace/gpus": "3"}, partitions_def=dg.StaticPartitionsDefinition(["mon", "tue"]))
def trained() -> None: ...


@dg.asset(op_tags={"headrace/gpus": "0.5"})
def scored() -> None: ...


@dg.asset(op_tags={"headrace/gpus": "many"})
def mistaken() -> None: ...


defs = dg.Definitions([trained, scored, mistaken])
