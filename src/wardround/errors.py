"""The one kind of exception that a user is meant to see."""

from __future__ import annotations


class WardroundError(Exception):
    """A mistake that the user can mend.

    The message is one line: what is wrong, where (file, row, column), what to do. The command
    line prints it and exits with status 1; anything else that escapes is a defect of ours.
    """
