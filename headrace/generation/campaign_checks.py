"""What the sections of a campaign's file must have in common with its chain: roles, templates, limits, films, budget.

Each refusal is of a file whose keys are right one by one, and would make no row, or not what it says.
"""

import re
from typing import TYPE_CHECKING

from headrace.engines.messages import places_of
from headrace.engines.prices import check_prices
from headrace.engines.roles import check_chain
from headrace.errors import InvalidCampaign, InvalidInput
from headrace.handoff.media.pictures import PIXELS_MAX
from headrace.text_templates import check_filled, placeholders

if TYPE_CHECKING:
    from headrace.generation.campaign import Campaign

# Batches of a role that paints or speaks lie in a directory of its name, beside the texts' own batches.
_BATCH_NAME = re.compile(r"b\d{5,}\.arrow")


def check_roles(campaign: "Campaign") -> None:
    """Who answers, and what each is asked. Raises: InvalidCampaign, InvalidInput."""
    _check_described(campaign)
    _check_events(campaign)
    _check_variations(campaign)
    _check_system_turns(campaign)


def check_sections(campaign: "Campaign") -> None:
    """What is said of the parts of rows, beside the roles. Raises: InvalidCampaign."""
    _check_budget(campaign)
    _check_review(campaign)
    _check_clips(campaign)
    _check_apart(campaign)


def _check_described(campaign: "Campaign") -> None:
    in_short = {"model": campaign.model, "prompt_template": campaign.prompt_template, "decoding": campaign.decoding}
    in_short |= {"engine": campaign.engine, "weights": campaign.weights, "registered": not campaign.registered}
    in_short["version"] = campaign.version != "newest"
    given = [key for key, value in in_short.items() if value]
    if campaign.roles:
        if given:
            raise InvalidCampaign(
                f"roles says who answers, and {', '.join(given)} would describe one writer more: move them into "
                "roles, or leave roles out."
            )
        check_chain(campaign.roles, campaign.chain)
        _check_templates(campaign)
        return
    if campaign.chain:
        raise InvalidCampaign(f"chain orders the roles, and there are none, got {list(campaign.chain)!r}.")
    if not campaign.model:
        raise InvalidCampaign("lacks the key 'model', which says who writes; or describe several writers as roles.")
    # Describes the writer, and so checks it.
    _ = campaign.parts


def _check_events(campaign: "Campaign") -> None:
    if campaign.takes_events and campaign.num_shards != 1:
        raise InvalidCampaign(
            f"num_shards divides a day's list, and a campaign with an inbox has windows instead, got "
            f"{campaign.num_shards}: take it out. rows_max of the inbox bounds a window's rows."
        )


def _check_templates(campaign: "Campaign") -> None:
    """What roles that paint or speak are asked can be filled in from what a row has, each place in one way."""
    taken = {"prompt", *campaign.prompts.carry, *(["term"] if campaign.prompts.term_column is not None else [])}
    if campaign.makers and campaign.writers and campaign.writers[-1] in taken:
        raise InvalidCampaign(
            f"roles: {{{campaign.writers[-1]}}} in a template would stand for two things, what the role "
            f"{campaign.writers[-1]!r} writes and what every prompt has: give the role another name."
        )
    for role in campaign.makers:
        if _BATCH_NAME.fullmatch(role):
            raise InvalidCampaign(
                f"roles: a role's name must not be that of a micro-batch's object, got {role!r}: give it another."
            )
        _check_places(campaign, f"roles: {role}: template", campaign.roles[role].template or "{text}")


def _check_places(campaign: "Campaign", name: str, template: str) -> None:
    known = places_of(campaign.writers, campaign.prompts.carry, has_term=campaign.prompts.term_column is not None)
    check_filled(name, template, texts=known - set(campaign.prompts.carry))
    if unknown := sorted(placeholders("template", template) - known):
        raise InvalidCampaign(
            f"{name} may use {', '.join(f'{{{one}}}' for one in sorted(known))}, got {{{unknown[0]}}} in "
            f"{template!r}: name a column of the prompt files in carry, or the term's in term_column."
        )


def _check_variations(campaign: "Campaign") -> None:
    wanted = campaign.prompts.variations
    if wanted > 1 and not campaign.makers and not any(part.decoding.temperature for part in campaign.parts.values()):
        raise InvalidCampaign(
            f"prompts: variations must be 1 where the temperature is 0, or a prompt's rows would all be equal, got "
            f"{wanted}. Raise the temperature."
        )


def _check_system_turns(campaign: "Campaign") -> None:
    columns = {campaign.prompts.column, *campaign.prompts.carry}
    if campaign.prompts.template is not None:
        columns |= placeholders("template", campaign.prompts.template)
    for role, part in campaign.parts.items():
        place = f"roles: {role}: prompt_template" if campaign.roles else "prompt_template"
        try:
            part.prompt_template.check_literal(*sorted(columns))
        except InvalidInput as error:
            raise InvalidCampaign(f"{place}: {error}") from error


def _check_budget(campaign: "Campaign") -> None:
    models = [campaign.parts[role].model for role in campaign.writers]
    check_prices(campaign.prices, models)
    if campaign.budget is None or not campaign.budget.counts_tokens:
        return
    if not models:
        raise InvalidCampaign(
            "budget: tokens and money count a writer's tokens, and no role of chain writes: state seconds."
        )
    if len(models) > 1:
        raise InvalidCampaign(
            "budget: tokens and money count one writer's tokens, of which rows keep the last role's alone, got "
            f"{len(models)} roles: state seconds."
        )
    if campaign.budget.money is not None and models[0] not in campaign.prices:
        raise InvalidCampaign(
            f"budget: money needs prices of {models[0]!r}, got {', '.join(campaign.prices) or 'none'}: add them."
        )
    if campaign.budget.money is not None and (free := [name for name, one in campaign.prices.items() if one.is_free]):
        raise InvalidCampaign(
            f"budget: money is never spent on tokens that cost nothing, got a price of 0 for prompt and output of "
            f"{', '.join(map(repr, free))}: state what they cost, or a budget of tokens or seconds instead."
        )


def _check_review(campaign: "Campaign") -> None:
    """Limits of pictures and recordings have a role that makes them."""
    kinds = {campaign.parts[role].kind for role in campaign.makers}
    for kind, key in (("image", "pictures"), ("speech", "speech")):
        if getattr(campaign.review, key) is not None and kind not in kinds:
            raise InvalidCampaign(
                f"review: {key} judges what a role makes, and no role of this campaign makes {kind}: take it out, "
                "or add the role."
            )
    if campaign.review.pictures and campaign.review.pictures.caption:
        _check_places(campaign, "review: pictures: caption", campaign.review.pictures.caption)


def _check_clips(campaign: "Campaign") -> None:
    kinds = {campaign.parts[role].kind for role in campaign.makers}
    sizes = {role: how.width * how.height for role in campaign.makers if (how := campaign.parts[role].picture)}
    if campaign.clips is not None and (large := [role for role, size in sizes.items() if size > PIXELS_MAX]):
        raise InvalidCampaign(
            f"clips: a film's picture has at most {PIXELS_MAX:,} pixels, got {sizes[large[0]]:,} of the role "
            f"{large[0]!r}: leave clips out, or paint smaller."
        )
    if campaign.clips is not None and (missing := {"image": "paints", "speech": "speaks"}.keys() - kinds):
        lacks = " and none that ".join(
            word for kind, word in (("image", "paints"), ("speech", "speaks")) if kind in missing
        )
        raise InvalidCampaign(
            f"clips: a film is made of a picture and a recording, and the chain has no role that {lacks}: add it, "
            "or leave clips out."
        )


def _check_apart(campaign: "Campaign") -> None:
    if campaign.apart is not None and not campaign.makers:
        raise InvalidCampaign("apart is for a chain that paints or speaks, and here nobody does: leave it out.")
    kinds = {"text"} | {campaign.parts[role].kind for role in campaign.makers}
    if campaign.apart and (unknown := sorted({*campaign.apart} - kinds)):
        raise InvalidCampaign(
            f"apart says what runs of {unknown[0]} ask for, and no role of this campaign makes any: name some of "
            f"{', '.join(sorted(kinds))}."
        )
