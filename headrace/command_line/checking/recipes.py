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
from headrace.keys import ContentPartition
from headrace.settings import Settings
from headrace.store.local import LocalStore
from headrace.store.objects import ObjectStore
from headrace.store.sealed_directory import find_directory, open_directory
from headrace.training.devices import Devices
from headrace.training.memory_estimate import MIB
from headrace.training.picture_pipeline import check_shape as check_patches
from headrace.training.recipe import FLOW_MATCHING, PREFERENCE, TEXTS, Recipe, load_recipes
from headrace.training.recipe_checks import check_heldout_shards
from headrace.training.recipe_needs import RecipeNeeds, needs_of, painter_needs, refuse_conflicts, useless, weights_here
from headrace.training.sealed_examples import sealed_pictures
from headrace.training.zero import check_sequence_length


def examine_recipe(
    recipe: Recipe, settings: Settings, objects: ObjectStore | None, devices: Devices
) -> Iterator[FileFinding]:
    """Args: devices: those that a run would get; a GPU machine gives a recipe without `ranks` one GPU."""
    name = recipe.base_model or settings.base_model
    # As the run finds it: at HEADRACE_HOME, or where it always was looked for.
    at_home = recipe.base_model and not local_model_directory(name, Path.cwd())
    model, directory = _base(recipe, name, settings.home if at_home else Path.cwd(), settings, objects)
    yield model
    try:
        num_ranks = refuse_conflicts(recipe, devices)
    except InvalidTrainingRun as error:
        # A key that these devices refuse, or a batch that does not divide among the ranks.
        named = str(error.culprits.get("key", "batch"))
        yield finding(named.partition(".")[0], "fail", str(error), key=named)
        return
    passes = recipe.gradient_accumulation(num_ranks)
    each = counted(recipe.micro_batch, _NOUNS.get(recipe.objective, "sequence"))
    whose = f"each of {num_ranks} ranks" if num_ranks > 1 else "1 rank"
    yield finding("batch", "ok", f"{whose} runs {passes} times {each} a step.")
    for named, sentence in useless(recipe, devices, num_ranks):
        yield finding(named, "warn", sentence, key=named)
    yield from _without_rows(recipe, objects)
    if recipe.objective == FLOW_MATCHING:
        yield from _of_a_picture_model(recipe, objects, devices)
        return
    if directory is None:
        return
    yield from _of_a_language_model(recipe, directory, settings, objects, devices)


def _without_rows(recipe: Recipe, objects: ObjectStore | None) -> Iterator[FileFinding]:
    """Campaigns whose reviewed rows it shall learn from, and that have none: not run yet, or misspelt."""
    if recipe.row_pairs is None or objects is None:
        return
    partitions = map(ContentPartition.find, HandoffStore(objects).partitions("reviewed_content"))
    reviewed = sorted({one.campaign for one in partitions if one})
    for name in recipe.row_pairs.campaigns:
        if name not in reviewed:
            there = f"reviewed rows are there of {', '.join(reviewed) or 'no campaign'}"
            said = f"the campaign {name!r} has no reviewed rows; {there}. Mend the name, or headrace run {name} first."
            yield finding("rows", "warn", said, key="preference.rows.campaigns")


def _of_a_picture_model(recipe: Recipe, objects: ObjectStore | None, devices: Devices) -> Iterator[FileFinding]:
    pictures = sealed_pictures(objects) if objects is not None else None
    if pictures is None:
        yield finding("examples", "warn", "no captioned pictures are sealed yet, whose size decides what a rank needs.")
        return
    try:
        check_patches(recipe.picture_model, pictures, f"Recipe {recipe.key}")
    except InvalidTrainingRun as error:
        yield finding("examples", "fail", str(error), key="flow_matching.patch_pixels")
        return
    yield from _needed(recipe, painter_needs(recipe, pictures, devices), objects, devices)


_NOUNS = {FLOW_MATCHING: "picture", PREFERENCE: "pair"}


def _base(
    recipe: Recipe, name: str, home: Path, settings: Settings, objects: ObjectStore | None
) -> tuple[FileFinding, Path | None]:
    """What is said of the weights that it starts from, and their directory, if they are there."""
    if recipe.base_recipe is None:
        found = model_finding(name, home, key="base_model" if recipe.base_model else None, what="base model")
        return found, local_model_directory(name, home) if found.level == "ok" else None
    try:
        trained = HandoffStore(objects).newest("trained_model", recipe.base_recipe) if objects is not None else None
        if trained and objects is not None:
            digest = trained.table(["weights_digest"])["weights_digest"][0].as_py()
            said = f"starts from {trained.label}, weights {digest[:12]}."
            if find_directory(objects, digest) is None:
                open_directory(objects, digest)  # tells what became of them
            directory = weights_here(objects, digest)
            if directory is None:
                said = f"{said} They are fetched when it runs: what a rank needs is not told before."
            return finding("model", "ok", said, key="base_recipe"), directory
    except HeadraceError as error:
        return finding("model", "fail", str(error), key="base_recipe"), None
    said = f"{recipe.base_recipe} has trained nothing yet: materialize trained_model[{recipe.base_recipe}] first."
    try:
        load_recipes(settings.recipes).find(recipe.base_recipe)
    except InvalidTrainingRun as error:  # a broken file is told as itself
        said = f"{recipe.base_recipe} has trained nothing yet. {error}"
    return finding("model", "warn", said, key="base_recipe"), None


def _of_a_language_model(
    recipe: Recipe, directory: Path, settings: Settings, objects: ObjectStore | None, devices: Devices
) -> Iterator[FileFinding]:
    try:
        needed = needs_of(recipe, directory, objects, devices, corpus=settings.corpus)
    except (HeadraceError, OSError, ValueError) as error:
        yield finding("model", "fail", str(error), key="freeze" if "freeze" in str(error) else None)
        return
    yield from _heldout_shards(recipe, objects)
    yield from _sequences(recipe, needed)
    yield from _needed(recipe, needed, objects, devices)


def _heldout_shards(recipe: Recipe, objects: ObjectStore | None) -> Iterator[FileFinding]:
    """Whether they are among those that are sealed; before the first one nobody can tell."""
    if objects is None or not (shards := HandoffStore(objects).partitions(TEXTS)):
        return
    try:
        check_heldout_shards(recipe, shards)
    except InvalidTrainingRun as error:
        yield finding("heldout", "warn", str(error), key="heldout_shards")


def _needed(
    recipe: Recipe, needed: RecipeNeeds, objects: ObjectStore | None, devices: Devices
) -> Iterator[FileFinding]:
    available = recipe.memory_mib_per_rank or devices.memory_mib_per_rank(needed.num_ranks)
    yield _memory(needed, available, whose="GPU" if devices.num_gpus else "rank")
    if isinstance(objects, LocalStore):
        yield _disk(recipe, needed, objects)


def _sequences(recipe: Recipe, needed: RecipeNeeds) -> Iterator[FileFinding]:
    length, examples = needed.sequence_length, needed.examples
    try:
        check_sequence_length(recipe, needed.shape, length)
    except InvalidTrainingRun as error:
        named = error.culprits.get("key")
        yield finding("examples", "fail", str(error), key=str(named) if named else None)
        return
    if examples is None:
        file = "recipe" if recipe.row_pairs else "corpus file"
        none = "none are sealed yet"
        if recipe.objective == PREFERENCE and not recipe.row_pairs:
            none = "no pairs are sealed yet, which the corpus file's `example: pair` or preference.rows makes"
        said = f"{none}; sequences of {length:,} tokens are assumed, as the {file} says, or its default."
        yield finding("examples", "warn", said)
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


def _memory(needed: RecipeNeeds, available_mib: int | None, *, whose: str) -> FileFinding:
    estimate = needed.estimate
    least = " at least" if estimate.is_floor else ""
    said = f"a rank needs{least} about {estimate.mib:,} MiB when {estimate.moment}: {estimate.words()}"
    if available_mib is None:
        return finding("memory", "ok", f"{said}. How much a {whose} has cannot be told.")
    has = f"a {whose} has {available_mib:,} MiB"
    if needed.floor_bytes > available_mib * MIB:
        return finding("memory", "fail", f"{said}; {has}, less than its model state alone. {_WAYS}")
    if estimate.mib > available_mib:
        return finding("memory", "warn", f"{said}; {has} free now. {_WAYS}")
    return finding("memory", "ok", f"{said}; {has}.")


_WAYS = "Raise zero_stage, lower micro_batch, freeze parameters, or take more ranks."


def _disk(recipe: Recipe, needed: RecipeNeeds, store: LocalStore) -> FileFinding:
    """While one is written, those that are kept are there, too; the result comes on top."""
    # Of epochs nobody knows here how many steps they are.
    made = (recipe.steps - 1) // recipe.checkpoint_every if recipe.steps else recipe.checkpoints_kept
    num = min(recipe.checkpoints_kept, made) + 1
    num_bytes = num * needed.checkpoint_bytes + 4 * needed.shape.num_params
    place = next(path for path in [store.directory, *store.directory.parents] if path.exists())
    free = shutil.disk_usage(place).free
    said = f"{counted(num, 'checkpoint')} of {bytes_text(needed.checkpoint_bytes)} and the result need "
    if num_bytes > free:
        sentence = (
            f"{bytes_text(num_bytes)}; {place} has {bytes_text(free)} free. Free some, or lower checkpoints_kept."
        )
        return finding("disk", "fail", said + sentence, key="checkpoints_kept")
    return finding("disk", "ok", f"{said}{bytes_text(num_bytes)}; {bytes_text(free)} are free.")
