"""The MLmodel of a registered version, by which MLflow's own `load_model` opens its weights where they lie.

MLflow looks for weights among a run's artifacts, and ours stay in the store. So the file refers to them as MLflow's own
does after `save_pretrained=False`: it names where to load from and a revision, and transformers takes a directory for
the former. The price: it holds for the machines that see the store's directory under this path, until the weights are
collected and sealed again elsewhere. `headrace model show` knows the present path always.
"""

from pathlib import Path
from urllib.parse import urlsplit
from urllib.request import url2pathname

from headrace.adapters.sealed import is_adapter
from headrace.store.objects import canonical_json

FILE_NAME = "MLmodel"


def mlmodel_text(weights_uri: str, weights_digest: str) -> str | None:
    """The file's content, as JSON, which is YAML; None: the weights lie in no directory that transformers opens."""
    if not weights_uri.startswith("file:"):
        return None
    directory = str(Path(url2pathname(urlsplit(weights_uri).path)))
    # A pipeline of diffusers, of which MLflow has no flavor; an adapter, whose base the flavor would look for on a hub.
    if Path(directory, "model_index.json").is_file() or is_adapter(Path(directory)):
        return None
    flavor = {
        "task": "text-generation",
        "instance_type": "TextGenerationPipeline",
        "pipeline_model_type": "AutoModelForCausalLM",
        "source_model_name": directory,
        "source_model_revision": weights_digest,
        "components": ["tokenizer"],
        "tokenizer_type": "AutoTokenizer",
        "tokenizer_name": directory,
        "tokenizer_revision": weights_digest,
    }
    return canonical_json({"flavors": {"transformers": flavor}}).decode() + "\n"
