"""MLflow's part of a rollout, in memory: one mutable row for each alias, which survives a controller's crash."""

from dataclasses import dataclass, field


@dataclass
class Aliases:
    """`found`: model → alias → version. `headrace.rollout.aliases` states what each method promises."""

    found: dict[str, dict[str, str]] = field(default_factory=dict)

    def aliases(self, model_name: str) -> dict[str, str]:
        return dict(self.found.get(model_name, {}))

    def set_alias(self, model_name: str, alias: str, version: str | None) -> None:
        aliases = self.found.setdefault(model_name, {})
        if version is None:
            aliases.pop(alias, None)
        else:
            aliases[alias] = version
