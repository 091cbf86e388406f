"""The error a user can mend: one or several sentences about the configuration, shown without a trace."""

from collections.abc import Sequence


class ConfigError(ValueError):
    """All that is wrong with a configuration, each problem in one sentence: key, value, what is allowed, what to do."""

    def __init__(self, problems: str | Sequence[str]) -> None:
        self.problems = [problems] if isinstance(problems, str) else list(problems)
        super().__init__("\n".join(self.problems))
