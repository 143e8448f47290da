"""Data Designer's quick start on a file of prompts and a server of one's own: `python THIS URL NUM_RECORDS`.

Runs with the interpreter of its own place (`make bench-setup`). Its lines are counted from here on, as a user writes
them: the model is told where its server is, the seed data are the prompts, and a preview comes before all rows.
"""

import sys

import data_designer.config as dd  # pyright: ignore[reportMissingImports] (a peer: make bench-setup)
from data_designer.interface import DataDesigner  # pyright: ignore[reportMissingImports]

designer = DataDesigner(model_providers=[dd.ModelProvider(name="local", endpoint=sys.argv[1], api_key="none")])
builder = dd.DataDesignerConfigBuilder([dd.ModelConfig(alias="writer", model="writer", provider="local")])
builder.with_seed_dataset(dd.LocalFileSeedSource(path="products.csv"))
prompt = "A tagline for {{ product }}."
builder.add_column(dd.LLMTextColumnConfig(name="tagline", model_alias="writer", prompt=prompt))
designer.preview(builder, num_records=5).display_sample_record()
results = designer.create(builder, num_records=int(sys.argv[2]), dataset_name="taglines")
results.load_dataset().to_parquet("taglines.parquet")
