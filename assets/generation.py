"""Bulk generation in this project: every campaign of its files, one campaign shard a run, and one report a day."""

from assets.partitions import campaigns, content, days
from headrace_dagster.assets.asset_site import Site
from headrace_dagster.assets.generation import generation_assets

SITE = Site(content=content, days=days, campaigns=campaigns)

_made = generation_assets(SITE)
prompts = _made["prompts"]
generated_content = _made["generated_content"]
generated_images = _made["generated_images"]
generated_speech = _made["generated_speech"]
clips = _made["clips"]
reviewed_content = _made["reviewed_content"]
rolled_back_rows = _made["rolled_back_rows"]
campaign_report = _made["campaign_report"]
