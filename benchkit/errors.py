"""The errors: every failure a user can cause or meet is a `BenchKitError` with an exit code.

A message says what went wrong, with which object, and what to do next. Each class also inherits the
builtin it resembles, so that `except FileNotFoundError` works as a reader expects::

    BenchKitError                 1
    ├── UsageError                2   (ValueError)         a wrong argument or combination
    ├── ProjectError              3   (ValueError)         no project here, or a broken file of settings
    ├── DatasetError              4   (ValueError)         the user's dataset cannot be packed or read
    │   ├── SampleError           4                        one sample, named
    │   └── LabelTypeError        4   (TypeError)          a label of a type that cannot be stored
    ├── StoreError                5   (OSError)            the object store failed
    │   └── ObjectNotFoundError   5   (FileNotFoundError)  no object of that name
    ├── NotFoundError             6   (LookupError)        no such dataset, version or profile
    ├── FormatError               7   (ValueError)         a newer format, or not this project's
    ├── CorruptError              7   (ValueError)         bytes that are not what was written
    ├── CacheError                8   (OSError)            the cache cannot work so, or the disk is full
    ├── StateError                9   (ValueError)         a loader's state that does not fit its dataset
    └── StallError               10   (TimeoutError)       nothing arrived in time, or a worker died
"""

from __future__ import annotations


class BenchKitError(Exception):
    """The root of the tree: one message for the user, and the exit code of a command that meets it."""

    exit_code = 1


class UsageError(BenchKitError, ValueError):
    """An argument, or a combination of arguments, that cannot be meant."""

    exit_code = 2


class ProjectError(BenchKitError, ValueError):
    """No project where one is needed, or a file of settings or of profiles that cannot be used."""

    exit_code = 3


class DatasetError(BenchKitError, ValueError):
    """The user's dataset cannot be packed or read as it stands."""

    exit_code = 4


class SampleError(DatasetError):
    """One sample cannot be packed or decoded; the message names it."""


class LabelTypeError(DatasetError, TypeError):
    """A label holds a value whose type cannot be stored."""


class StoreError(BenchKitError, OSError):
    """The object store refused or failed."""

    exit_code = 5


class ObjectNotFoundError(StoreError, FileNotFoundError):
    """The store has no object of that name."""


class NotFoundError(BenchKitError, LookupError):
    """No dataset, version or profile of that name."""

    exit_code = 6


class FormatError(BenchKitError, ValueError):
    """Data of a newer format, or of something else altogether."""

    exit_code = 7


class CorruptError(BenchKitError, ValueError):
    """Bytes that are not the bytes that were written."""

    exit_code = 7


class CacheError(BenchKitError, OSError):
    """The cache cannot work within its limit, or the disk is full."""

    exit_code = 8


class StateError(BenchKitError, ValueError):
    """A loader's state that does not belong to this dataset, seed or order."""

    exit_code = 9


class StallError(BenchKitError, TimeoutError):
    """Nothing arrived within the time allowed, or a worker process died."""

    exit_code = 10
