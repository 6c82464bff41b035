"""The errors that a user can correct. The command line prints their message and exits with their `exit_code`.

A message says what is wrong with its value, what is allowed, and what to do.
Programming mistakes raise ValueError or TypeError. Where a file enters, `input_errors` turns whatever a parser raises
into one message: there, the cause is the file. Text of others, such as ids, may be part of a message: `visible` makes
it harmless for a terminal.
"""

from collections.abc import Iterator
from contextlib import contextmanager

MAX_REASON = 200


def visible(text: str) -> str:
    """A text on one line without control characters: each is replaced by its escape."""
    if text.isprintable():
        return text
    return "".join(char if char.isprintable() else char.encode("unicode_escape").decode() for char in text)


class Ms2hsError(Exception):
    """A problem that the user can correct."""

    exit_code = 1


class UnknownName(Ms2hsError):
    """A name that is not in a table."""

    exit_code = 2

    @classmethod
    def of(cls, kind: str, name: str, known: list[str], hint: str) -> "UnknownName":
        """The error for a `name` that is not in the table `known`, with `hint` as the last sentence of its message."""
        return cls(f"unknown {kind} {name!r}; known: {', '.join(known)}. {hint}")


class SceneError(Ms2hsError):
    """The input scene cannot be read as surface reflectance."""


class GridError(Ms2hsError):
    """Wavelengths or bands do not match."""


class WeightsError(Ms2hsError):
    """A weights file cannot be used."""


class DataError(Ms2hsError):
    """Spectra or cubes cannot be used for training, evaluation or adaptation."""


class OutputError(Ms2hsError):
    """The result cannot be written."""


class NothingFound(Ms2hsError):
    """All inputs were read, and none fits the request."""

    exit_code = 3


class QueryError(Ms2hsError):
    """An area, a date or a search option is invalid; no server was contacted."""

    exit_code = 2


class AddressError(Ms2hsError):
    """An address in an item must not be requested: another scheme, a local file, or a private host."""


class CredentialsError(Ms2hsError):
    """A login or key of a provider is missing or refused. The message never contains its value."""

    exit_code = 4


class RemoteError(Ms2hsError):
    """A server does not answer as expected, after all attempts."""


class ClusterError(Ms2hsError):
    """A dask scheduler or its workers are missing, or would compute other results than this process."""


class PartlyDone(Ms2hsError):
    """Some inputs were processed, and others failed."""

    exit_code = 5


class Interrupted(Ms2hsError):
    """The user stopped the run, and its progress was saved. Unlike KeyboardInterrupt, this error has a message."""

    exit_code = 130


@contextmanager
def input_errors(name: str, kind: type[Ms2hsError]) -> Iterator[None]:
    """Turn an unexpected error while a file is opened into one message with the name of the file."""
    try:
        yield
    except (Ms2hsError, ImportError):
        raise
    except Exception as error:
        raise kind(
            f"{name}: cannot be read ({reason(error)}); a complete file of a known format is needed. Check that it was "
            "copied completely, or write it again."
        ) from error


def reason(error: BaseException) -> str:
    """The type and the text of an error, in one line."""
    return f"{type(error).__name__}: {' '.join(str(error).split())}"[:MAX_REASON]


def failure(name: str, error: Exception) -> str:
    """The message of one input of several that failed, which does not stop the others."""
    if isinstance(error, Ms2hsError):
        return str(error)
    return f"{name}: {reason(error)}; an unexpected error. Check the input, and report the error if it is valid."
