"""The two ways this program stops on purpose."""

from __future__ import annotations

from collections.abc import Sequence


class InputError(ValueError):
    """Something the user gave cannot be used; the message says what, where, and what helps."""

    @classmethod
    def from_problems(cls, heading: str, problems: Sequence[str]) -> InputError:
        """One error for all problems of one input, a line each."""
        return cls("\n".join([heading, *(f"  - {problem}" for problem in problems)]))


class Stopped(RuntimeError):
    """The program cannot go on; what was good is kept, and the message says what helps."""
