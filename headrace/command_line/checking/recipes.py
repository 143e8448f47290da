"""What a recipe that can be read will do: its batch, what its sequences hold, and what a rank and the disk must hold.

Nothing is loaded: the base model tells its sizes in config.json and the headers of its files, the examples theirs in
what is sealed. Before the first examples the corpus file's sequence length stands in.
"""

import shutil
from collections.abc import Iterator
from pathlib import Path

from headrace.command_line.checking.named_files import model_finding
from headrace.command_line.checking.report import FileFinding, finding
from headrace.command_line.output import bytes_text, counted
from headrace.engines.model_directory import local_model_directory
from headrace.errors import HeadraceError, InvalidTrainingRun
from headrace.handoff.versions import HandoffStore
from headrace.settings import Settings
from headrace.store.local import LocalStore
from headrace.store.objects import ObjectStore
from headrace.store.sealed_directory import open_directory
from headrace.training.devices import Devices
from headrace.training.memory_estimate import MIB, MemoryEstimate, estimate_memory, floor_bytes
from headrace.training.model_widths import read_widths
from headrace.training.recipe import FLOW_MATCHING, PREFERENCE, Recipe
from headrace.training.recipe_needs import ExamplesShape, checkpoint_bytes, load_of, refuse_conflicts, useless
from headrace.training.sealed_examples import SealedExamples, sealed_examples, sealed_pairs
from headrace.training.zero import ModelShape, check_sequence_length, read_model_shape
from headrace.user_files.yaml_file import read_yaml


def examine_recipe(
    recipe: Recipe, settings: Settings, objects: ObjectStore | None, devices: Devices
) -> Iterator[FileFinding]:
    """Args: devices: those that a run would get; a GPU machine gives a recipe without `ranks` one GPU."""
    name = recipe.base_model or settings.base_model
    model, directory = _base(recipe, name, objects)
    yield model
    try:
        num_ranks = refuse_conflicts(recipe, devices)
    except InvalidTrainingRun as error:
        named = str(error.culprits.get("key", "batch"))
        yield finding(named, "fail", str(error), key=named)
        return
    passes = recipe.gradient_accumulation(num_ranks)
    each = counted(recipe.micro_batch, _NOUNS.get(recipe.objective, "sequence"))
    whose = f"each of {num_ranks} ranks" if num_ranks > 1 else "1 rank"
    yield finding("batch", "ok", f"{whose} runs {passes} times {each} a step.")
    for named, sentence in useless(recipe, devices, num_ranks):
        yield finding(named, "warn", sentence, key=named)
    if recipe.objective == FLOW_MATCHING or directory is None:
        return
    yield from _of_a_language_model(recipe, directory, settings, objects, devices, num_ranks)


_NOUNS = {FLOW_MATCHING: "picture", PREFERENCE: "pair"}


def _base(recipe: Recipe, name: str, objects: ObjectStore | None) -> tuple[FileFinding, Path | None]:
    """What is said of the weights that it starts from, and their directory, if they are there."""
    if recipe.base_recipe is None:
        found = model_finding(name, Path.cwd(), key="base_model" if recipe.base_model else None, what="base model")
        return found, local_model_directory(name, Path.cwd()) if found.level == "ok" else None
    try:
        trained = HandoffStore(objects).newest("trained_model", recipe.base_recipe) if objects is not None else None
        if trained and objects is not None:
            digest = trained.table(["weights_digest"])["weights_digest"][0].as_py()
            said = f"starts from {trained.label}, weights {digest[:12]}."
            return finding("base_recipe", "ok", said, key="base_recipe"), open_directory(objects, digest)
    except HeadraceError as error:
        return finding("base_recipe", "fail", str(error), key="base_recipe"), None
    said = f"{recipe.base_recipe} has trained nothing yet: materialize trained_model[{recipe.base_recipe}] first."
    return finding("base_recipe", "warn", said, key="base_recipe"), None


def _sealed(recipe: Recipe, objects: ObjectStore) -> SealedExamples | None:
    if recipe.objective == PREFERENCE:
        return sealed_pairs(objects, recipe.examples_asset, recipe.key if recipe.row_pairs else None)
    return sealed_examples(objects)


def _of_a_language_model(
    recipe: Recipe,
    directory: Path,
    settings: Settings,
    objects: ObjectStore | None,
    devices: Devices,
    num_ranks: int,
) -> Iterator[FileFinding]:
    try:
        shape, widths = read_model_shape(directory, recipe.freeze), read_widths(directory, recipe.freeze)
    except (InvalidTrainingRun, OSError, ValueError) as error:
        yield finding("model", "fail", str(error), key="freeze" if recipe.freeze else None)
        return
    examples = _sealed(recipe, objects) if objects is not None else None
    planned = recipe.row_pairs.sequence_length if recipe.row_pairs else _sequence_length(settings.corpus)
    length = examples.sequence_length if examples else planned
    yield from _sequences(recipe, shape, examples, length)
    known = ExamplesShape(sequence_length=length, loss_tokens=examples.loss_tokens if examples else None)
    load = load_of(recipe, known, world_size=num_ranks, device="cuda" if devices.num_gpus else "cpu")
    estimate = estimate_memory(shape, widths, load)
    available = recipe.memory_mib_per_rank or devices.memory_mib_per_rank(num_ranks)
    yield _memory(estimate, floor_bytes(shape, widths, load), available, whose="GPU" if devices.num_gpus else "rank")
    if isinstance(objects, LocalStore):
        yield _disk(recipe, checkpoint_bytes(shape, load), shape, objects)


def _sequences(
    recipe: Recipe, shape: ModelShape, examples: SealedExamples | None, length: int
) -> Iterator[FileFinding]:
    try:
        check_sequence_length(recipe, shape, length)
    except InvalidTrainingRun as error:
        yield finding("examples", "fail", str(error))
        return
    if examples is None:
        file = "recipe" if recipe.row_pairs else "corpus file"
        yield finding("examples", "warn", f"none are sealed yet; the {file} says sequences of {length:,} tokens.")
        return
    if recipe.objective == PREFERENCE:
        said = f"{counted(examples.num_rows, 'pair')}; the longest answer with its prompt has {length:,} tokens."
        yield finding("examples", "ok", said)
        return
    said = f"{counted(examples.num_rows, 'sequence')} of {length:,} tokens"
    if not examples.num_longer:
        yield finding("examples", "ok", f"{said}; no example is longer.")
        return
    share = examples.num_longer / examples.num_documents
    yield finding(
        "examples",
        "warn" if share > 0.01 else "ok",
        f"{said}; {examples.num_longer:,} of {counted(examples.num_documents, 'example')} are longer, the longest has "
        f"{examples.longest:,}: raise sequence_length of the corpus file, or let example.overlong cut them.",
    )


def _memory(estimate: MemoryEstimate, floor: int, available_mib: int | None, *, whose: str) -> FileFinding:
    least = " at least" if estimate.is_floor else ""
    said = f"a rank needs{least} about {estimate.mib:,} MiB when {estimate.moment}: {estimate.words()}"
    if available_mib is None:
        return finding("memory", "ok", f"{said}. How much a {whose} has cannot be told.")
    has = f"a {whose} has {available_mib:,} MiB"
    if floor > available_mib * MIB:
        return finding("memory", "fail", f"{said}; {has}, less than its model state alone. {_WAYS}")
    if estimate.mib > available_mib:
        return finding("memory", "warn", f"{said}; {has} free now. {_WAYS}")
    return finding("memory", "ok", f"{said}; {has}.")


_WAYS = "Raise zero_stage, lower micro_batch, freeze parameters, or take more ranks."


def _disk(recipe: Recipe, num_bytes: int, shape: ModelShape, store: LocalStore) -> FileFinding:
    """While one is written, those that are kept are there, too; the result comes on top."""
    num = min(recipe.checkpoints_kept, max(0, (recipe.steps - 1) // recipe.checkpoint_every)) + 1
    needed = num * num_bytes + 4 * shape.num_params
    place = next(path for path in [store.directory, *store.directory.parents] if path.exists())
    free = shutil.disk_usage(place).free
    said = f"{counted(num, 'checkpoint')} of {bytes_text(num_bytes)} and the result need {bytes_text(needed)}"
    if needed > free:
        sentence = f"{said}; {place} has {bytes_text(free)} free. Free some space, or lower checkpoints_kept."
        return finding("disk", "fail", sentence, key="checkpoints_kept")
    return finding("disk", "ok", f"{said}; {bytes_text(free)} are free.")


def _sequence_length(corpus: Path) -> int:
    """Of the corpus file, without reading it as one: that imports all of data prep."""
    try:
        content = read_yaml(corpus, "Corpus").content
        length = content.get("sequence_length") if isinstance(content, dict) else None
    except (HeadraceError, OSError):
        length = None
    return length if isinstance(length, int) and length > 1 else _SEQUENCE_LENGTH


# A corpus file's default (headrace.prep.corpus); tests compare the two.
_SEQUENCE_LENGTH = 256
