"""Checks of bulk generation in this project."""

from assets.generation import SITE
from headrace_dagster.assets.generation_checks import generation_checks

_made = generation_checks(SITE)
*schema_checks, shards_are_of_one_list, content_rows_checks = _made.of_a_partition
# Dagster looks for checks in lists, not in tuples.
rolled_back_checks = list(_made.of_all_partitions)
