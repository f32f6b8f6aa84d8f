"""The one error that a user's input may raise, and the nearest valid name to offer with it."""

import difflib
from collections.abc import Iterable


class UserError(Exception):
    """Wrong input from a file, flag or request: one clear sentence, exit code 2, no traceback.

    The sentence names the file, row, column or field, what was found, what was expected, and the
    nearest valid choice. Wrong calls from Python raise ValueError or TypeError instead.
    """


class Interrupted(BaseException):
    """The search was asked to stop (Ctrl-C, SIGTERM) and has written its checkpoint."""

    def __init__(self, signum: int, step: int, command: str = "", *, after: str = "") -> None:
        super().__init__(f"stopped by signal {signum} after step {step}")
        self.signum, self.step = signum, step
        self.command = command
        """What to type to go on; empty for a run in memory."""
        self.after = after or f"step {step:,}; a checkpoint was written"
        """What was done, and what of it is kept."""


def nearest(name: str, choices: Iterable[str]) -> str:
    """A suggestion to end an error with: "; did you mean X?", or the few valid names, or nothing."""
    names = sorted(set(choices))
    close = difflib.get_close_matches(name, names, n=1, cutoff=0.6)
    if not close:
        lowered = {n.lower(): n for n in names}
        close = [
            lowered[n] for n in difflib.get_close_matches(name.lower(), lowered, n=1, cutoff=0.6)
        ]
    if close:
        return f"; did you mean {close[0]}?"
    if 0 < len(names) <= 12:
        return f"; choose from {', '.join(names)}"
    return ""
