"""Base models that a campaign's file names by their weights: registered by themselves, once, without training."""

from dataclasses import replace
from pathlib import Path

import pytest

from headrace.engines.roles import EngineSettings, Role, newest_versions
from headrace.errors import InvalidInput
from headrace.handoff.versions import HandoffStore
from headrace.keys import digest_text
from headrace.registry.bases import has_unregistered_bases, register_bases, registered_bases
from headrace.registry.mlflow_models import ModelRegistry
from headrace.registry.registered import registered_models
from headrace.store.local import LocalStore
from headrace.store.sealed_directory import open_directory
from headrace.store.small_objects import PassedOver
from headrace.version_sets.media_settings import Picture
from headrace.version_sets.sets import Decoding
from tests.registry.builders import make_registry

DECODING = Decoding(temperature=0.0, top_p=1.0, max_new_tokens=8)


class Site:
    """A store, a registry, and a home directory with one model."""

    def __init__(self, home: Path, registry: ModelRegistry, model: str) -> None:
        self.home, self.registry, self.model = home, registry, model
        self.handoffs = HandoffStore(LocalStore(home / "store"))
        self.role = Role(model=model, weights="models/tiny", decoding=DECODING, engine=EngineSettings("transformers"))
        self.write("a")

    def write(self, weights: str, directory: str = "models/tiny") -> None:
        (self.home / directory).mkdir(parents=True, exist_ok=True)
        (self.home / directory / "config.json").write_text("{}")
        (self.home / directory / "model.safetensors").write_text(weights)

    def register(self, role: Role | None = None) -> list[str]:
        found = register_bases(
            self.handoffs, self.registry, "tales", {"writer": role or self.role}, self.home, run_id="run"
        )
        return [one.version for one in found]

    @property
    def is_new(self) -> bool:
        return has_unregistered_bases(self.handoffs, "tales", {"writer": self.role}, self.home)


@pytest.fixture
def site(tmp_path: Path, mlflow_directory: Path) -> Site:
    return Site(tmp_path, make_registry(mlflow_directory), f"base.{digest_text(str(tmp_path))[:16]}")


def test_weights_that_a_file_names_become_a_base_version_that_rollouts_find(site: Site) -> None:
    assert site.is_new

    assert site.register() == ["1"]

    [found] = registered_models(site.handoffs, damaged=PassedOver())
    assert (found.model_name, found.version, found.kind, found.heldout_loss) == (site.model, "1", "base", None)
    assert site.registry.find_by_digest(site.model, found.weights_digest) == "1"
    assert (open_directory(site.handoffs.objects, found.weights_digest) / "model.safetensors").read_text() == "a"


def test_what_is_registered_is_not_registered_again(site: Site) -> None:
    site.register()

    assert not site.is_new
    assert site.register() == []


def test_changed_files_of_one_directory_are_the_next_version(site: Site) -> None:
    site.register()
    site.write("other")

    assert site.is_new
    assert site.registry.next_version(site.model, "c" * 64) == "2"
    assert site.register() == ["2"]


def test_the_same_weights_under_another_name_keep_their_version(site: Site) -> None:
    site.register()
    site.write("a", "models/copy")

    assert site.register(replace(site.role, weights=str(site.home / "models/copy"))) == ["1"]


def test_a_damaged_registration_is_made_again(site: Site) -> None:
    site.register()
    [key] = (key for key in site.handoffs.objects.list("handoff") if key.endswith("manifest.json"))
    file = site.home / "store" / key
    file.chmod(0o600)
    file.write_bytes(b"")

    assert site.is_new
    assert site.register() == ["1"]
    [found] = registered_models(site.handoffs, damaged=PassedOver())
    assert found.version == "1"


@pytest.mark.parametrize(
    ("weights", "sentence"),
    [
        (
            "models",
            "tales: weights of writer must be a model directory, got .*/models, which has no config.json .* no model_",
        ),
        ("/nowhere/model", "tales: weights of writer must be a model directory or a hub name, got '/nowhere/model'"),
        ("a/b/c", "which does not exist in"),
        ("nobody/nothing", "tales: weights of writer: 'nobody/nothing' is no directory and cannot be had from the hub"),
    ],
)
def test_weights_that_are_no_model_are_refused_by_name(site: Site, weights: str, sentence: str) -> None:
    with pytest.raises(InvalidInput, match=sentence):
        site.register(replace(site.role, weights=weights))


@pytest.mark.parametrize("fields", [{"weights": " "}, {"registered": False, "version": "1"}])
def test_a_role_has_weights_to_register_or_a_servers_model(site: Site, fields: dict[str, object]) -> None:
    with pytest.raises(InvalidInput, match="weights must name a model directory or a hub name"):
        replace(site.role, engine=EngineSettings("echo"), **fields)


def test_each_role_gets_the_weights_that_it_names_whatever_else_has_its_models_name(site: Site) -> None:
    site.write("b", "models/other")
    roles = {"draft": site.role, "polish": replace(site.role, weights="models/other")}
    register_bases(site.handoffs, site.registry, "two", roles, site.home, run_id="run")
    # Another subject registers a third version of the same name afterwards.
    site.write("c", "models/third")
    site.register(replace(site.role, weights="models/third"))

    models = registered_models(site.handoffs, damaged=PassedOver())
    bases = registered_bases(site.handoffs, "two", roles)
    found = newest_versions(roles, models, whose="two", bases=bases)

    assert {label: one.version for label, one in found.items()} == {"draft": "1", "polish": "2"}
    with pytest.raises(InvalidInput, match="Materialize rollout"):
        newest_versions(roles, models, whose="two", bases={})


def test_a_pipeline_with_its_sub_directories_becomes_a_base_version(site: Site, pixel_pipeline: Path) -> None:
    role = Role(
        model=f"{site.model}.brush",
        weights=str(pixel_pipeline),
        picture=Picture(width=16, height=16),
        engine=EngineSettings("diffusers"),
    )
    assert site.register(role) == ["1"]

    [found] = registered_models(site.handoffs, damaged=PassedOver())
    opened = open_directory(site.handoffs.objects, found.weights_digest)
    files = {path.relative_to(pixel_pipeline) for path in pixel_pipeline.rglob("*") if path.is_file()}
    assert Path("transformer/diffusion_pytorch_model.safetensors") in files
    assert {path.relative_to(opened) for path in opened.rglob("*") if path.is_file()} == files
