"""Registration puts tensors into segments where weights are fetched from elsewhere."""

from pathlib import Path

from headrace.registry.registration import index_weights
from headrace.store.local import LocalStore
from headrace.store.sealed_directory import find_index, seal_directory
from simulation.models import model_of
from tests.store.tensors.weights_builder import CountingStore, make_tensors, write_weights


def test_registered_weights_are_indexed_in_a_remote_store_alone(tmp_path: Path) -> None:
    source = write_weights(tmp_path / "one", make_tensors(layers=1))
    for store in (CountingStore(tmp_path / "remote"), LocalStore(tmp_path / "store")):
        digest = seal_directory(store, source).digest
        index_weights(store, [model_of("tiny", number, weights_digest=digest) for number in (1, 2)])
        assert (find_index(store, digest) is not None) == store.checks_what_it_fetches
