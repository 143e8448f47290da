"""What a Component of ours relies on in Dagster, and where it would not be needed any more."""

import dagster as dg
import pytest
from dagster.components.core.package_entry import discover_entry_point_package_objects
from dagster_shared.serdes.objects import EnvRegistryKey


class Place(dg.ConfigurableResource):
    street: str


def bound(name: str, place: Place) -> dg.AssetsDefinition:
    @dg.asset(name=name, required_resource_keys={"place"})
    def asset() -> None: ...

    [made] = dg.with_resources([asset], {"place": place})
    return made


def test_two_resources_of_one_key_end_a_code_location_even_if_they_are_bound_to_their_assets() -> None:
    """Otherwise a site needed no resource keys of its own."""
    first, second = bound("first", Place(street="Mill Lane")), bound("second", Place(street="Weir Road"))
    repository = dg.Definitions(assets=[first, second]).get_repository_def()
    with pytest.raises(dg.DagsterInvalidDefinitionError, match="Conflicting versions of resource with key 'place'"):
        repository.get_all_jobs()


def test_a_registered_module_is_asked_for_its_names_and_needs_not_have_imported_them() -> None:
    """`dir()` names what `dg` opens: our package lists one Component there, and imports it when it is asked."""
    found = discover_entry_point_package_objects()
    assert {key for key in found if key.namespace == "headrace_dagster"} == {
        EnvRegistryKey(name="Campaign", namespace="headrace_dagster")
    }


def test_an_input_is_told_what_its_upstream_asset_states_although_that_is_not_in_the_run() -> None:
    """By it a reader finds a handoff that is not called like its asset."""
    seen: list[object] = []

    class Manager(dg.IOManager):
        def handle_output(self, context: dg.OutputContext, obj: object) -> None: ...

        def load_input(self, context: dg.InputContext) -> int:
            assert context.upstream_output is not None
            seen.append((context.upstream_output.definition_metadata or {}).get("handoff"))
            return 1

    @dg.asset(metadata={"handoff": "texts"})
    def upstream() -> int:
        return 1

    @dg.asset
    def reader(upstream: int) -> None: ...

    both = [upstream, reader]
    dg.materialize(both, resources={"io_manager": Manager()})
    dg.materialize(both, selection=[reader], resources={"io_manager": Manager()})
    assert seen == ["texts", "texts"]
