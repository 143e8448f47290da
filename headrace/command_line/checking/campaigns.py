"""What a campaign that can be read will do: its prompts, the partitions of its rollout's steps, and its gate."""

import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from datetime import date
from pathlib import Path

from headrace.command_line.checking.engines import engine_findings
from headrace.command_line.checking.inboxes import inbox_findings
from headrace.command_line.checking.named_files import delimiter_findings, reference_findings, weights_findings
from headrace.command_line.checking.report import FileFinding, GateOutlook, Level, finding
from headrace.command_line.output import counted
from headrace.errors import HeadraceError, InvalidInput
from headrace.generation.budget import spent_text
from headrace.generation.campaign import Campaign
from headrace.generation.preview import check_registered
from headrace.generation.prompt_source import PromptSource
from headrace.generation.requests import prompts_of_day
from headrace.registry.registered import registered_models
from headrace.rollout.assignment import canary_count
from headrace.rollout.evidence import review_counts
from headrace.rollout.journal import Journal
from headrace.rollout.outlook import NIGHTS_MAX, WANTED_PROMOTED, Nights, Outlook, horizon_for, outlook
from headrace.rollout.plan import Plan
from headrace.rollout.sequential.samples import Sample
from headrace.rollout.states import fold
from headrace.rollout.status import percent
from headrace.store.objects import ObjectStore
from headrace.text_templates import placeholders
from headrace.training.recipe import Recipe
from headrace.user_files.directory import Described
from headrace.user_files.finding import found_files, nearest_existing
from headrace.user_files.layout import FileLayout

# With fewer reviewed rows the seen share is off by more than 10 points too often.
_SEEN_ROWS_MIN = 100
_ASSUMED_PASS_RATE = 0.8


@dataclass(frozen=True, kw_only=True)
class ExaminedCampaign:
    findings: tuple[FileFinding, ...]
    example: str | None = None
    gate: GateOutlook | None = None


def examine_campaign(
    campaign: Campaign,
    home: Path,
    today: date,
    objects: ObjectStore | None,
    recipes: Described[Recipe],
    *,
    offline: bool,
) -> ExaminedCampaign:
    """Args:
    home: where relative prompt files start.
    objects: the project's store; None: there is none yet.
    recipes: the project's.
    """
    if campaign.takes_events:
        return _examined_inbox(campaign, home, objects, recipes, offline=offline)
    found = _Prompts(campaign, home, today.isoformat())
    findings = [*found.findings]
    gate = None
    # Before the files are there, a campaign that draws still says how many rows a night has.
    if num_rows := found.num_rows or campaign.num_shards * (campaign.prompts.per_shard or 0):
        findings += _budget_findings(campaign, num_rows)
    if campaign.num_shards == 1:
        findings.append(_one_partition(campaign))
    else:
        findings += _step_findings(campaign)
        if num_rows:
            nights = Nights(num_partitions=campaign.num_shards, num_rows=num_rows)
            gate, said = _gate(campaign, nights, objects)
            findings.append(said)
    findings += _of_parts(campaign, home, objects, recipes, offline=offline)
    return ExaminedCampaign(findings=tuple(findings), example=found.example, gate=gate)


def _examined_inbox(
    campaign: Campaign, home: Path, objects: ObjectStore | None, recipes: Described[Recipe], *, offline: bool
) -> ExaminedCampaign:
    findings, text = inbox_findings(campaign, objects)
    shares = ", then ".join(percent(step.weight) for step in campaign.plan.steps)
    said = f"the candidate gets {shares} of the windows that are sealed, then all. No window waits for a verdict."
    findings += [finding("rollout", "ok", said), *_of_parts(campaign, home, objects, recipes, offline=offline)]
    example = _rendered(campaign, text) if text is not None else None
    return ExaminedCampaign(findings=tuple(findings), example=example)


def _of_parts(
    campaign: Campaign, home: Path, objects: ObjectStore | None, recipes: Described[Recipe], *, offline: bool
) -> Iterator[FileFinding]:
    """What the roles name: models, files and servers."""
    yield from _registry_findings(campaign, objects, recipes)
    yield from reference_findings(campaign.review.pictures, home, objects)
    yield from weights_findings(campaign.parts, home, in_roles=bool(campaign.roles))
    yield from engine_findings(campaign.parts, campaign.replicas, in_roles=bool(campaign.roles), offline=offline)


class _Prompts:
    """The day's prompts; `num_rows` is 0 if they cannot be read."""

    def __init__(self, campaign: Campaign, home: Path, today: str) -> None:
        self.num_rows, self.example = 0, None
        self.findings: list[FileFinding] = []
        source = campaign.prompts
        try:
            day = today if found_files(source.files.replace("{day}", today), home) else _newest_day(source.files, home)
            if day is None:
                sought = source.files.replace("{day}", today)
                self._say("fail", "files", f"matches no file: {home / sought}. {nearest_existing(sought, home)}")
                return
            prompts = prompts_of_day(campaign, day, home)
        except InvalidInput as error:
            self._say("fail", _key_of(str(error), source), f": {error}")
            return
        # As many as will really be made, whatever a prompt is asked for.
        self.num_rows = prompts.num_rows
        if not self.num_rows:
            self._say("fail", "files", f"holds no prompt for {day}.")
            return
        num, num_filled = campaign.num_shards, min(campaign.num_shards, len(prompts.prompts))
        self.example = _rendered(campaign, prompts.prompts[0][1].text)
        rows = f"{counted(self.num_rows, 'row')} in {counted(num, 'partition')} a night."
        if day == today:
            self.findings.append(finding("prompts", "ok", rows))
        else:
            self._say("warn", "files", f"has no list for {today} yet; that of {day} has {rows}")
        if num_filled < num:
            sentence = f"num_shards leaves {num - num_filled:,} of {num:,} partitions without a prompt: lower it to "
            self.findings.append(finding("prompts", "warn", f"{sentence}{num_filled:,} or less.", key="num_shards"))
        files = found_files(source.files.replace("{day}", day), home)
        layout = FileLayout(columns=(), format=source.format, delimiter=source.delimiter)
        self.findings += delimiter_findings(layout, files, key="prompts.delimiter")

    def _say(self, level: Level, key: str, rest: str) -> None:
        said = f"prompts.{key}{rest if rest.startswith(':') else f' {rest}'}"
        self.findings.append(finding("prompts", level, said, key=f"prompts.{key}"))


def _key_of(refusal: str, source: PromptSource) -> str:
    """The key of `prompts` that a refusal of its files is about: the one that names a column that is not there."""
    names = {
        "template": placeholders("template", source.template or ""),
        "column": {source.column},
        "term_column": {source.term_column},
        "carry": set(source.carry),
    }
    if keys := [key for key, named in names.items() if any(f"column {name!r}" in refusal for name in named)]:
        return keys[0]
    return next((key for key in ("per_shard", "encoding", "carry") if key in refusal), "files")


def _newest_day(pattern: str, home: Path) -> str | None:
    """The newest day that has prompt files, if each day has its own."""
    if "{day}" not in pattern:
        return None
    some = found_files(pattern.replace("{day}", "[0-9][0-9][0-9][0-9]-[0-9][0-9]-[0-9][0-9]"), home)
    days = {day for path in some for day in re.findall(r"\d{4}-\d{2}-\d{2}", str(path))}
    return next((day for day in sorted(days, reverse=True) if found_files(pattern.replace("{day}", day), home)), None)


def _rendered(campaign: Campaign, text: str) -> str:
    """The turns that the first role is asked."""
    template = campaign.parts[campaign.order[0]].prompt_template
    turns = {"system": template.system, "user": template.user.format_map({"text": text})}
    return "\n".join(f"{role}: {content}" for role, content in turns.items() if content is not None)


def _one_partition(campaign: Campaign) -> FileFinding:
    """A night of one partition has no share to try a candidate on. Who wrote no plan need not do anything about it."""
    sentence = (
        "num_shards is 1, so that a new version of the model would get whole nights, with no row of the present one to "
        "compare its own with: before you change the model, set num_shards to 10."
    )
    level: Level = "ok" if campaign.rollout == Plan() else "warn"
    return finding("rollout", level, sentence, key="num_shards")


def _step_findings(campaign: Campaign) -> Iterator[FileFinding]:
    num, plan = campaign.num_shards, campaign.plan
    counts = [canary_count(step.weight, num) for step in plan.steps]
    listed = ", then ".join(f"{count} of {counted(num, 'partition')} ({percent(count / num)})" for count in counts)
    yield finding("rollout", "ok", f"the candidate gets {listed} of each night, then all.")
    for number, (step, count) in enumerate(zip(plan.steps, counts, strict=True), 1):
        share = count / num
        if step.weight < 1 and (count == num or share > 1.5 * step.weight):
            wanted = max(2, round(1 / step.weight))
            sentence = (
                f"step {number} says {percent(step.weight)} and gives the candidate {count} of "
                f"{counted(num, 'partition')}, {percent(share)}"
                + (", and the stable set none to compare with" if count == num else "")
                + f". Set num_shards to {wanted} or more."
            )
            yield finding("rollout", "warn", sentence, key="num_shards")


def _registry_findings(
    campaign: Campaign, objects: ObjectStore | None, recipes: Described[Recipe]
) -> Iterator[FileFinding]:
    """Whether the models are registered that the file does not register itself: asked as preview and a rollout ask."""
    from headrace.handoff.versions import HandoffStore

    models = registered_models(HandoffStore(objects), damaged=lambda _: None) if objects is not None else []
    try:
        check_registered(campaign, models)
    except InvalidInput as error:
        asked = {role.model for role in campaign.parts.values() if role.registered and not role.weights}
        missing = asked - {one.model_name for one in models}
        if missing and missing <= {one.model for one in recipes}:
            named = ", ".join(sorted(missing))
            yield finding("model", "ok", f"no version of {named} is registered yet: a recipe of the project trains it.")
            return
        # A recipe that cannot be read may train it; and without a store nobody can say what weights it will have.
        opens = any(role.engine.kind.needs_weights for role in campaign.parts.values())
        level: Level = "warn" if recipes.broken or (objects is None and opens) else "fail"
        yield finding("model", level, str(error), key=None if campaign.roles else "model")


def _budget_findings(campaign: Campaign, num_rows: int) -> Iterator[FileFinding]:
    """Whether the answers alone, which their limit bounds, may spend a day's budget; of a day of `num_rows`."""
    if campaign.budget is None or not campaign.writers:
        return
    writer = campaign.parts[campaign.writers[-1]]
    longest = writer.decoding.max_new_tokens
    price = campaign.prices.get(writer.model)
    at_most = {"tokens": float(num_rows * longest), "money": price.of(0, num_rows * longest) if price else None}
    for what, limit in campaign.budget.stated():
        if (most := at_most.get(what)) is None:
            continue
        said = f"the answers of {counted(num_rows, 'row')} a day, at most {longest:,} tokens each, may spend "
        said += f"{spent_text(what, most, limit)}, and their prompts come on top"
        if most > limit:
            said += ": runs would then stop, and go on when it is raised. Raise it, lower max_new_tokens, or ask less"
        yield finding("budget", "warn" if most > limit else "ok", f"{said}.")


def _gate(campaign: Campaign, nights: Nights, objects: ObjectStore | None) -> tuple[GateOutlook | None, FileFinding]:
    plan = campaign.plan
    if plan.gate.pass_rate_margin is None:
        sentence = "pass_rate_margin is null: reviewed rows send no candidate back, unless another margin does."
        return None, finding("gate", "warn", sentence)
    last, num = plan.steps[-1].weight, nights.num_partitions
    if last < 1 and canary_count(last, num) == num:
        sentence = "no partition is left for the stable set: the gate compares nothing, and every candidate goes back."
        return None, finding("gate", "warn", sentence)
    seen = _seen(campaign, objects) if objects is not None else Sample()
    is_seen = seen.num >= _SEEN_ROWS_MIN
    rate = seen.mean if is_seen else _ASSUMED_PASS_RATE
    found = outlook(plan, nights, rate)
    wanted = horizon_for(plan, nights, rate) if found.equal_promoted < WANTED_PROMOTED else None
    gate = GateOutlook(
        pass_rate=round(rate, 4),
        is_seen=is_seen,
        margin=found.margin,
        rows_a_night=nights.num_rows,
        equal_promoted=round(found.equal_promoted, 3),
        equal_undecided=round(found.equal_undecided, 3),
        equal_harmful=round(found.equal_harmful, 3),
        worse_sent_back=round(found.worse_sent_back, 3),
        nights=found.nights,
        num_runs=found.num_runs,
        horizon_rows_wanted=wanted.rows if wanted else None,
        horizon_nights_wanted=wanted.nights if wanted else None,
    )
    basis = f"{percent(rate)} kept" + (f", as of {seen.num:,} reviewed rows" if is_seen else " (assumed: too few seen)")
    said = (
        f"at {nights.num_rows:,} rows a night and {basis}, a candidate that is as good is promoted "
        f"{_in_100(found.equal_promoted)} times in 100, one that is worse by the margin of {found.margin:g} is sent "
        f"back {_in_100(found.worse_sent_back)} times."
    )
    if wanted is None:
        return gate, finding("gate", "ok", said)
    return gate, finding("gate", "warn", f"{said} {_advice(plan, nights, found, rate)}")


def _advice(plan: Plan, nights: Nights, found: Outlook, rate: float) -> str:
    """What to set, and what it would give, if the gate is undecided or misled too often."""
    wanted = horizon_for(plan, nights, rate)
    changes = {"horizon_rows": f"{wanted.rows}", "horizon_seconds": f"{wanted.seconds:.0f}"}
    if wanted.nights > plan.evidence_days:
        changes["evidence_days"] = f"{wanted.nights}"
    longer = replace(
        plan,
        gate=replace(plan.gate, horizon_rows=wanted.rows, horizon_seconds=wanted.seconds),
        evidence_days=max(plan.evidence_days, wanted.nights),
    )
    undecided = f"{_in_100(found.equal_undecided)} times the equal one goes back undecided"
    listed = ", ".join(f"{key}: {value}" for key, value in changes.items())
    if wanted.nights > NIGHTS_MAX:
        return f"{undecided}, and {wanted.nights} nights would be needed: take a larger margin, or more rows a night."
    then = outlook(longer, nights, rate)
    if then.equal_promoted <= found.equal_promoted:
        return f"{undecided}: a larger margin, or more rows a night, would do."
    return (
        f"{undecided}. With {listed} it is promoted {_in_100(then.equal_promoted)} times, within {wanted.nights} "
        "nights; with a larger margin or more rows a night sooner."
    )


def _seen(campaign: Campaign, objects: ObjectStore) -> Sample:
    """The stable set's reviewed rows, or all of them before there is a stable set."""
    from headrace.clock import SystemClock
    from headrace.handoff.versions import HandoffStore

    try:
        counts = review_counts(
            HandoffStore(objects), campaign.name, num_days=campaign.plan.evidence_days, damaged=lambda _: None
        )
        state = fold(Journal(objects, campaign.name, SystemClock()).entries())
    except HeadraceError:
        # Other commands tell what is wrong with a store; an outlook can do without.
        return Sample()
    if state is not None and state.stable in counts:
        return counts[state.stable]
    return sum(counts.values(), Sample())


def _in_100(share: float) -> str:
    return f"{100 * share:.0f}"
