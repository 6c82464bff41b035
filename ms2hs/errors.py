"""What can go wrong for a user, each as one clear message.

    Ms2hsError
    ├── UnknownName     a sensor, target, model or weights that is not there
    ├── SceneError      the input scene
    ├── GridError       wavelengths or bands that do not fit together
    ├── WeightsError    a weights file
    ├── DataError       spectra or cubes to learn from, or to adapt to
    ├── OutputError     where the result goes
    ├── NothingFound    nothing among what was given that could be used together
    ├── QueryError      a place, a date or another wish that no server can be asked for
    ├── AddressError    an address that a catalogue gives and that is not followed
    ├── CredentialsError  a login or key that a provider wants and that is not there
    ├── RemoteError     a server that does not give what was asked for
    ├── ClusterError    processes that should share the work
    ├── PartlyDone      some is there, and some is not
    └── Interrupted     stopped by the user, after saving

A message has three parts: what was wrong with its value, what is allowed, what to do next.
Mistakes of the programmer stay ValueError or TypeError.
"""


class Ms2hsError(Exception):
    """A problem that the user can mend; the command line prints it and exits with `exit_code`."""

    exit_code = 1


class UnknownName(Ms2hsError):
    """A name that nothing is known by."""

    exit_code = 2

    @classmethod
    def of(cls, kind: str, name: str, known: list[str], hint: str) -> "UnknownName":
        """The message for `name`, a `kind` that is not among `known`, ending in `hint`."""
        return cls(f"unknown {kind} {name!r}; known: {', '.join(known)}. {hint}")


class SceneError(Ms2hsError):
    """The input scene cannot be read as surface reflectance."""


class GridError(Ms2hsError):
    """Wavelengths or bands that do not fit together."""


class WeightsError(Ms2hsError):
    """A weights file that cannot be used."""


class DataError(Ms2hsError):
    """Spectra or cubes that cannot be learnt from or adapted to."""


class OutputError(Ms2hsError):
    """The result cannot be written."""


class NothingFound(Ms2hsError):
    """Nothing fits what was asked for, though all was looked at."""

    exit_code = 3


class QueryError(Ms2hsError):
    """A place, a date or another wish that no server can be asked for."""

    exit_code = 2


class AddressError(Ms2hsError):
    """An address in a catalogue that is not followed: another scheme, a local file, a private host."""


class CredentialsError(Ms2hsError):
    """A login or a key that a provider wants is missing or refused. Its value is never in the message."""

    exit_code = 4


class RemoteError(Ms2hsError):
    """A server that does not give what was asked for, after as many attempts as make sense."""


class ClusterError(Ms2hsError):
    """A scheduler or workers that are not there, or would not give what this process gives."""


class PartlyDone(Ms2hsError):
    """Some of what was asked for is there, and some is not."""

    exit_code = 5


class Interrupted(Ms2hsError):
    """The user stopped it, and what was done is saved. Not KeyboardInterrupt, which ends without a word."""

    exit_code = 130
