"""What can go wrong, and the exit code each kind ends with.

    0  every run finished          2  the input is wrong, nothing was started
    1  a run failed                3  interrupted; run the same command again to resume

All of them pickle (they cross process borders), and their text is meant for a person.
"""


class MonosemError(Exception):
    """Something failed that a person should read about in one line."""

    exit_code = 1


class InputError(MonosemError):
    """The user's input is wrong: nothing was started, nothing was changed."""

    exit_code = 2


class Interrupted(MonosemError):
    """Stopped on request (a signal); everything committed so far is kept."""

    exit_code = 3


class StoreError(MonosemError):
    """The store refused, lost or changed something."""


class IntegrityError(MonosemError):
    """Bytes read back are not the bytes that were written."""


class Diverged(MonosemError):
    """A run produced NaN or infinite numbers; only this run ends."""
