"""The one exception that a user is meant to read: what was found, where, and what to do about it."""


class UserError(Exception):
    """A fault in the input. The commands print its one line and leave with `exit_code`, without a traceback.

    Args:
        message: one line that names the file, the value and the mend.
        exit_code: 1 the work failed, 2 the command was used wrongly.
    """

    def __init__(self, message: str, *, exit_code: int = 1) -> None:
        super().__init__(message)
        self.exit_code = exit_code


def nearest(value: str, known: list[str]) -> str:
    """A half-sentence that lists the known names and suggests the one that `value` probably meant."""
    from difflib import get_close_matches

    close = get_close_matches(value, known, n=1, cutoff=0.5)
    hint = f"; did you mean {close[0]!r}?" if close else ""
    return f"known: {', '.join(known)}{hint}"
