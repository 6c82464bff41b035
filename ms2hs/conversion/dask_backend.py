"""Several scenes in several processes, on dask.distributed: one task a scene, no pixel through the scheduler."""

import asyncio
import logging
import secrets
import shutil
import signal
import tempfile
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from ms2hs._version import __version__
from ms2hs.conversion.batch import (
    BatchResult,
    Job,
    Outcome,
    already_there,
    arrange,
    check_places,
    convert_here,
    share_of,
)
from ms2hs.conversion.convert_scene import convert
from ms2hs.conversion.metadata import ConversionResult
from ms2hs.conversion.planning import ConvertOptions
from ms2hs.errors import ClusterError, Ms2hsError
from ms2hs.models.weights import load_weights
from ms2hs.progress import Progress
from ms2hs.remote.object_store import ObjectStore, OutputPath, RemotePath

if TYPE_CHECKING:
    from distributed import Client, Future, LocalCluster

CONNECT_S = 8
"""Seconds that a scheduler has to answer."""
# Of errors that are none of ours, such as a disk that was away. A worker that dies costs none of these: dask gives its
# tasks to others, and gives a task up once more than `distributed.scheduler.allowed-failures` workers (3) died of it.
RETRIES = 2


@dataclass(frozen=True)
class Executor:
    """Who converts: new processes of this machine, or the workers of a scheduler that is there. Give one of both."""

    workers: int | None = None
    """Processes of this machine, with one thread each."""
    scheduler: str | None = None
    """Address of a dask scheduler, such as tcp://10.0.0.5:8786. Who runs it can run code here: take your own."""

    def __post_init__(self) -> None:
        if (self.workers is None) == (self.scheduler is None) or (self.workers is not None and self.workers < 1):
            raise ValueError(f"workers {self.workers}, scheduler {self.scheduler}: one of both")


@dataclass(frozen=True)
class _Task:
    """What a worker needs to know: a few hundred bytes."""

    job: Job
    target: str
    choices: ConvertOptions
    run: str
    """A word that no other run has, in the names of all that is unfinished."""
    version: str


def convert_all(
    scenes: Sequence[str | Path],
    target: str = "enmap",
    folder: str | Path | None = None,
    choices: ConvertOptions | None = None,
    *,
    crew: Executor | None = None,
    share: tuple[int, int] | None = None,
    progress: Progress | None = None,
) -> BatchResult:
    """Convert several scenes to hyperspectral COGs, each named as `convert` names it.

    What is wrong with one scene does not keep the others. With a crew, the calling module must be importable without
    doing anything (`if __name__ == "__main__":`), since new processes import it.

    Parameters
    ----------
    scenes : each what `convert` takes, but as a path or an address.
    folder : where results go, the working directory if None; made if it is not there. Also an address that fsspec can
        write, s3://bucket/folder.
    crew : who converts; None: this process, one scene after the other.
    share : (i, n): only every n-th of the sorted scenes, beginning with the i-th (1 to n); for n processes that know
        nothing of each other.
    progress : called with the scenes that are opened and converted.

    Raises
    ------
    UnknownName, WeightsError : a target, source or weights that serve no scene.
    OutputError : no folder to write to, or two scenes would give one result: nothing is done then.
    CredentialsError : the folder is in a store that wants others.
    ClusterError : dask, the scheduler or its workers cannot be used.
    """
    choices = choices or ConvertOptions()
    given = [str(scene) for scene in scenes]
    if crew:
        _check_executor(crew)
    load_weights(choices.model)
    series = arrange(given, target, folder, choices, progress)
    mine = share_of(given, share) if share else given
    jobs = [job for job in series.jobs if job.scene in set(mine)]
    there = already_there(jobs) if choices.resume and not choices.overwrite else {}
    jobs, failed = check_places([job for job in jobs if job.scene not in there], choices)
    outcomes: dict[str, Outcome] = {**series.failed, **failed}
    if crew and jobs:
        outcomes |= _convert_there(jobs, target, choices, crew, progress)
    else:
        outcomes |= convert_here(jobs, target, choices, progress)
    return BatchResult.of(mine, outcomes, there)


def _convert_there(
    jobs: Sequence[Job], target: str, choices: ConvertOptions, crew: Executor, progress: Progress | None
) -> dict[str, Outcome]:
    run, there = secrets.token_hex(4), _absolute(choices)
    tasks = [_Task(_anywhere(job), target, there, run, __version__) for job in jobs]
    try:
        with _client(crew) as client:
            _check_workers(client, _needed(there, tasks[0].job.output.parent))
            return _outcomes(client, dict(zip(jobs, tasks, strict=True)), progress)
    finally:
        for left in _scratch(tasks[0].job.output).glob(f".*.{run}.*"):
            shutil.rmtree(left, ignore_errors=True)


def _anywhere(job: Job) -> Job:
    """The same job from any working directory; scenes may be addresses too."""
    scene = str(Path(job.scene).absolute()) if Path(job.scene).exists() else job.scene
    return Job(scene, job.output.absolute())


def _scratch(output: OutputPath) -> Path:
    """Where a worker makes a result: beside its place, so that it can be renamed, or among temporary files."""
    return Path(tempfile.gettempdir()) if isinstance(output, RemotePath) else output.parent


def _absolute(choices: ConvertOptions) -> ConvertOptions:
    """The same choices from any working directory; and what is there may be replaced, as it was checked before.

    A task that is run again, after its worker died, would otherwise be refused for what it made itself.
    """
    model = str(Path(choices.model).absolute()) if Path(choices.model).is_file() else choices.model
    paths = {name: path.absolute() for name in ("reference", "site") if (path := getattr(choices, name))}
    return replace(choices, model=model, overwrite=True, **paths)


def _needed(choices: ConvertOptions, folder: OutputPath) -> list[str]:
    """What every worker must see on a disk."""
    model = Path(choices.model)
    files = (model if model.is_absolute() else None, choices.reference, choices.site)
    return [str(path) for path in (folder, *files) if path and not isinstance(path, RemotePath)]


def _check_executor(crew: Executor) -> None:
    """Refuse a crew that cannot be had, soon and before anything is done."""
    try:
        import distributed  # noqa: F401, PLC0415  an extra, and only needed here
    except ImportError as error:
        raise ClusterError(
            f"dask.distributed is not there ({error}); several processes need it. Install it with "
            "pip install 'ms2hs[dask]', or leave out --workers and --scheduler."
        ) from error
    if crew.scheduler is None:
        return
    try:
        with ThreadPoolExecutor(1) as apart:  # this thread may be a notebook's, where a loop runs already
            apart.submit(asyncio.run, asyncio.wait_for(_identity(crew.scheduler), CONNECT_S)).result()
    except (OSError, ValueError) as error:
        why = str(error) or f"waited {CONNECT_S} s"
        raise ClusterError(
            f"no dask scheduler answers at {crew.scheduler} ({why}); the address of one that runs is needed, such as "
            "tcp://10.0.0.5:8786. Start one with `dask scheduler`, or use --workers."
        ) from error


async def _identity(scheduler: str) -> object:
    """What a scheduler says of itself. A client alone would wait for one that listens and says nothing."""
    from distributed import rpc  # noqa: PLC0415  an extra, and only needed here
    from distributed.security import Security  # noqa: PLC0415

    async with rpc(scheduler, connection_args=Security().get_connection_args("client")) as asked:
        return await asked.identity()


@contextmanager
def _client(crew: Executor) -> "Iterator[Client]":
    from distributed import Client  # noqa: PLC0415  an extra, and only needed here

    if crew.workers is None:
        with Client(crew.scheduler, timeout=CONNECT_S) as client:
            yield client
    else:
        with _local(crew.workers) as local, Client(local) as client:
            _leave_interrupts(client)
            yield client


def _local(workers: int) -> "LocalCluster":
    """Processes that end with this one, and that only this machine can talk to."""
    from distributed import LocalCluster  # noqa: PLC0415  an extra, and only needed here

    try:
        return LocalCluster(
            n_workers=workers,
            threads_per_worker=1,
            memory_limit=0,  # a scene needs what it needs; to be ended and tried again would not help it
            dashboard_address="127.0.0.1:0",
            silence_logs=logging.CRITICAL,
        )
    except (OSError, RuntimeError) as error:
        raise ClusterError(
            f"{workers} processes could not be started ({error}); each needs memory of its own, and a script that "
            'starts them an `if __name__ == "__main__":`. Take fewer --workers.'
        ) from error


def _leave_interrupts(client: "Client") -> None:
    """A terminal's Ctrl-C reaches every process; this one ends the others, which would only print where they were."""
    from distributed import WorkerPlugin  # noqa: PLC0415  an extra, and only needed here

    class Deaf(WorkerPlugin):  # type: ignore[misc]  # untyped
        def setup(self, worker: object) -> None:  # noqa: ARG002  as dask calls it
            """In the main thread of a worker, also of one that is started again."""
            signal.signal(signal.SIGINT, signal.SIG_IGN)

    client.register_plugin(Deaf(), name="ms2hs-interrupts")


def _check_workers(client: "Client", needed: list[str]) -> None:
    """Refuse workers that would not give what this process gives, before anything is done."""
    for worker, (version, missing) in client.run(_looker(needed), on_error="ignore").items():
        if version != __version__:
            raise ClusterError(_of_another_version(worker, version))
        if missing:
            raise ClusterError(
                f"the worker at {worker} does not see {missing[0]}; scenes, weights and the output directory must be "
                "on a disk that all workers share, under the same path. Move it there."
            )


def _looker(needed: list[str]) -> Callable[[], tuple[str | None, list[str]]]:
    """A function within a function goes to a worker whole, so that one without ms2hs can run it too."""

    def look() -> tuple[str | None, list[str]]:
        import importlib  # noqa: PLC0415  nothing of this module is there
        import pathlib  # noqa: PLC0415

        missing = [path for path in needed if not pathlib.Path(path).exists()]
        try:
            return importlib.import_module("ms2hs").__version__, missing
        except ImportError:
            return None, missing

    return look


def _of_another_version(worker: str, version: str | None) -> str:
    has = f"runs ms2hs {version}" if version else "has no ms2hs"
    return f"the worker at {worker} {has}; {__version__}, as here, is needed. Install the same version there."


def _outcomes(client: "Client", tasks: dict[Job, _Task], progress: Progress | None) -> dict[str, Outcome]:
    from distributed import as_completed  # noqa: PLC0415  an extra, and only needed here

    tell = progress or (lambda _stage, _done, _total: None)
    tell("convert", 0, len(tasks))
    jobs = {f"ms2hs-{task.run}-{number}": job for number, (job, task) in enumerate(tasks.items())}
    waiting = as_completed(
        [client.submit(_convert_apart, tasks[job], key=key, retries=RETRIES) for key, job in jobs.items()]
    )
    outcomes: dict[str, Outcome] = {}
    for future in waiting:
        job = jobs[future.key]
        outcomes[job.scene] = _outcome(future, job)
        # what is held lives in the worker's memory, and would be made again if that worker died later
        future.release()
        tell("convert", len(outcomes), len(tasks))
    return outcomes


def _outcome(future: "Future", job: Job) -> Outcome:
    from distributed import KilledWorker  # noqa: PLC0415  an extra, and only needed here

    if future.status == "finished":
        found = future.result()
        return found.beside(job.output) if isinstance(found, ConversionResult) else str(found)
    if future.status != "error":
        return f"{job.scene}: lost ({future.status}); a scheduler that stays is needed. Convert it again."
    error = future.exception()
    if isinstance(error, KilledWorker):
        return (
            f"{job.scene}: every process that tried to convert it was killed; it is given up then. See whether their "
            "memory sufficed, take fewer workers, or convert it alone."
        )
    return (
        f"{job.scene}: {type(error).__name__}: {error}; nothing that ms2hs expects. Try it alone, without workers, and "
        "tell us if that fails too."
    )


def _convert_apart(task: _Task) -> Outcome:
    """What a worker does: convert a scene in a directory of its own, and put the files in place once all are whole.

    So a worker that dies leaves nothing under a final name, and one that was only thought dead disturbs nobody.
    """
    if task.version != __version__:
        return _of_another_version("which it went to", __version__)
    output = task.job.output
    place = Path(tempfile.mkdtemp(dir=_scratch(output), prefix=f".{output.stem}.{task.run}."))
    try:
        if isinstance(output, RemotePath):
            ObjectStore(output.parent)  # one that this worker cannot reach is told before the work
        made = convert(task.job.scene, task.target, place / output.name, task.choices)
        return made.moved(output)
    except Ms2hsError as error:
        return str(error).replace(str(place), str(_scratch(output)))
    finally:
        shutil.rmtree(place, ignore_errors=True)
