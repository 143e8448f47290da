"""Steps in processes of their own: what one seals, the other maps, and Dagster's record holds what both did."""

from pathlib import Path

import dagster as dg
import pytest

from headrace.handoff.versions import HandoffStore
from headrace.store.local import LocalStore
from tests.headrace_dagster.two_processes import STORE_VARIABLE, two_processes


@pytest.mark.process
def test_partitions_of_one_run_go_from_process_to_process(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(STORE_VARIABLE, str(tmp_path / "store"))
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parents[2]))
    whole = {"dagster/asset_partition_range_start": "a", "dagster/asset_partition_range_end": "b"}
    with dg.DagsterInstance.local_temp(str(tmp_path)) as instance:
        result = dg.execute_job(dg.reconstructable(two_processes), instance, tags=whole, raise_on_error=True)
        assert result.success
        handoffs = HandoffStore(LocalStore(tmp_path / "store"))
        for key in ("a", "b"):
            (row,) = handoffs.open("followed", key).table().to_pylist()
            assert row["letter"] == key
            assert row["process"] != row["reader"]
            assert row["read"] == handoffs.open("letters", key).content_digest
        recorded = {
            (asset, record.partition_key): (record.asset_materialization.tags or {})
            for asset in ("letters", "followed")
            for record in instance.fetch_materializations(dg.AssetKey(asset), limit=10).records
            if record.asset_materialization
        }
        assert {place: tags["dagster/data_version"] for place, tags in recorded.items()} == {
            (asset, key): handoffs.open(asset, key).content_digest
            for asset in ("letters", "followed")
            for key in ("a", "b")
        }
