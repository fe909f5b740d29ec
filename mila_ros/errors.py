"""The one error that is meant for the person at the keyboard, and a hint for its text."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class UserError(Exception):
    """Something that the user can mend; its text says what is wrong and what to do."""


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """'; did you mean "..."?' where one of the known words is like this one, else nothing."""
    close = difflib.get_close_matches(word, list(known), n=1)
    return f'; did you mean "{close[0]}"?' if close else ""
