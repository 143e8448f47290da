"""Data Designer's rows from a local server, gone on with where an earlier run stopped: `python THIS URL NUM_RECORDS`.

Runs with the interpreter of its own place (`make bench-setup`), in a directory of its own.
"""

import sys

import data_designer.config as dd  # pyright: ignore[reportMissingImports] (a peer: make bench-setup)
from data_designer.interface import DataDesigner  # pyright: ignore[reportMissingImports]

designer = DataDesigner(model_providers=[dd.ModelProvider(name="local", endpoint=sys.argv[1], api_key="none")])
# What it keeps at a kill are whole batches of so many rows: as many as our micro-batch has.
designer.set_run_config(dd.RunConfig(buffer_size=4))
builder = dd.DataDesignerConfigBuilder([dd.ModelConfig(alias="writer", model="writer", provider="local")])
builder.with_seed_dataset(dd.LocalFileSeedSource(path="products.csv"))
prompt = "A tagline for {{ product }}."
builder.add_column(dd.LLMTextColumnConfig(name="tagline", model_alias="writer", prompt=prompt))
results = designer.create(
    builder, num_records=int(sys.argv[2]), dataset_name="taglines", resume=dd.ResumeMode.IF_POSSIBLE
)
results.load_dataset().to_parquet("taglines.parquet")
