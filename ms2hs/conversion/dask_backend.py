"""Conversion of several scenes, in this process or in parallel on dask.distributed.

One task converts one scene: a task is a few hundred bytes, and no pixel passes through the scheduler. A worker writes
into a private folder and moves the complete files into place. A worker that dies therefore leaves no partial result,
and a worker that is wrongly presumed dead does not disturb the worker that repeats its task.
"""

import asyncio
import glob
import logging
import re
import secrets
import signal
import sys
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, replace
from multiprocessing import resource_tracker
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

from ms2hs._version import __version__
from ms2hs.conversion.batch import (
    BatchResult,
    Job,
    Outcome,
    SiteSearch,
    convert_serially,
    open_batch,
    select_shard,
    with_sites,
    writable_jobs,
)
from ms2hs.conversion.convert_scene import run
from ms2hs.conversion.planning import AUTO, ConvertOptions, plan, with_site_cubes
from ms2hs.conversion.result_files import (
    MAX_STEM,
    ConversionResult,
    is_complete,
    placed_by_run,
    private_folder,
    remove_private_folders,
)
from ms2hs.errors import ClusterError, Ms2hsError
from ms2hs.models.weights import load_weights
from ms2hs.progress import Progress
from ms2hs.remote.object_store import ObjectStore, OutputPath, RemotePath

if TYPE_CHECKING:
    from distributed import Client, Future, LocalCluster

# Seconds to wait for an answer of the scheduler.
CONNECT_S = 8
# Retries of a task after an unexpected exception. The death of a worker does not count: dask repeats its tasks, and
# gives a task up after more than `distributed.scheduler.allowed-failures` (3) deaths.
RETRIES = 2


@dataclass(frozen=True)
class Executor:
    """Processes that convert: new processes on this machine, or the workers of a scheduler. Give exactly one field."""

    workers: int | None = None
    """Number of new processes on this machine, with one thread each."""
    scheduler: str | None = None
    """Address of a trusted dask scheduler, such as tcp://10.0.0.5:8786: its operator can run code here."""

    def __post_init__(self) -> None:
        if (self.workers is None) == (self.scheduler is None) or (self.workers is not None and self.workers < 1):
            raise ValueError(
                f"workers {self.workers}, scheduler {self.scheduler}: exactly one is needed, workers 1 or more"
            )


@dataclass(frozen=True)
class _Task:
    """The message to a worker."""

    job: Job
    target: str
    run_id: str
    """Unique in the names of this run's private folders."""
    version: str


def convert_all(
    scenes: Sequence[str | Path],
    target: str = "enmap",
    folder: str | Path | None = None,
    options: ConvertOptions | None = None,
    *,
    executor: Executor | None = None,
    shard: tuple[int, int] | None = None,
    progress: Progress | None = None,
    find_site: SiteSearch | None = None,
) -> BatchResult:
    """Convert several scenes to hyperspectral COGs, named as `convert` names them.

    A failing scene does not stop the others. With an executor the calling module must be importable without side
    effects (`if __name__ == "__main__":`), because new processes import it.

    Parameters
    ----------
    scenes : paths or addresses that `convert` accepts.
    folder : output directory, created if missing, or an fsspec address; None: the working directory.
    executor : processes that convert; None: this process, one scene after the other.
    shard : (i, n): only every n-th of the sorted scenes, beginning with the i-th (1 to n), for n independent processes.
    progress : called with the number of opened and converted scenes.
    find_site : resolves the `site` `auto`, in this process; needed for it.

    Raises
    ------
    UnknownName, WeightsError : an unknown target or source, or unusable weights.
    OutputError : a folder that cannot be written to, or two scenes with one output; nothing is converted then.
    CredentialsError : the store refuses the credentials.
    ClusterError : dask, the scheduler or its workers cannot be used.
    """
    options = with_site_cubes(options or ConvertOptions())
    if options.site == AUTO and find_site is None:
        raise ValueError("find_site is needed for `site` auto; call ms2hs.convert_all")
    names = [str(scene) for scene in scenes]
    if executor:
        _check_executor(executor)
    load_weights(options.model)
    opened, unreadable, inputs = open_batch(names, target, folder, options, progress)
    selected = select_shard(names, shard) if shard else names
    jobs = [job for job in opened if job.scene in set(selected)]
    keep = options.resume and not options.overwrite
    existing = {job.scene: job.output for job in jobs if keep and is_complete(job.output)}
    jobs, failed = writable_jobs([job for job in jobs if job.scene not in existing], options, inputs)
    if find_site and options.site == AUTO:
        jobs = with_sites(jobs, find_site, progress)
    outcomes: dict[str, Outcome] = {**unreadable, **failed}
    if executor and jobs:
        if executor.workers:
            executor = Executor(workers=min(executor.workers, len(jobs)))
        outcomes |= _convert_on(executor, jobs, target, progress)
    else:
        outcomes |= convert_serially(jobs, target, progress)
    return BatchResult.of(selected, outcomes, existing)


def _convert_on(executor: Executor, jobs: Sequence[Job], target: str, progress: Progress | None) -> dict[str, Outcome]:
    run_id = secrets.token_hex(4)
    absolute_jobs = [
        Job(_absolute_path(job.scene), job.output.absolute(), _absolute_options(job.options)) for job in jobs
    ]
    tasks = [_Task(job, target, run_id, __version__) for job in absolute_jobs]
    try:
        with _connect(executor) as client:
            shared = (path for job in absolute_jobs for path in _shared_paths(job.options, job.output.parent))
            _check_workers(client, list(dict.fromkeys(shared)))
            return _collect(client, dict(zip(jobs, tasks, strict=True)), progress)
    finally:
        remove_private_folders(tasks[0].job.output, run_id)


def _absolute_path(name: str) -> str:
    """The absolute path of an existing file; any other name unchanged."""
    return str(Path(name).absolute()) if Path(name).exists() else name


def _absolute_options(options: ConvertOptions) -> ConvertOptions:
    """The options with absolute paths."""
    model = _absolute_path(options.model) if Path(options.model).is_file() else options.model
    reference = options.reference and options.reference.absolute()
    return replace(options, model=model, reference=reference, site=tuple(map(Path.absolute, options.site_cubes)))


def _shared_paths(options: ConvertOptions, folder: OutputPath) -> list[str]:
    """Local paths that every worker must see."""
    model = options.model if Path(options.model).is_absolute() else None
    files = (model, options.reference, *options.site_cubes)
    return [str(path) for path in (folder, *files) if path and not isinstance(path, RemotePath)]


def _check_executor(executor: Executor) -> None:
    """Refuse an unusable executor before any work starts."""
    try:
        import distributed  # noqa: F401, PLC0415  an optional dependency

        if executor.workers:
            import cryptography  # noqa: F401, PLC0415  makes the key of local processes
    except ImportError as error:
        raise ClusterError(
            f"dask.distributed is not installed completely ({error}); several processes need it. Install it with "
            "pip install 'ms2hs[dask]', or omit --workers and --scheduler."
        ) from error
    if executor.scheduler is None:
        return
    try:
        with ThreadPoolExecutor(1) as thread:  # a notebook's thread already runs an event loop
            thread.submit(asyncio.run, asyncio.wait_for(_identity(executor.scheduler), CONNECT_S)).result()
    except (OSError, ValueError) as error:
        reason = str(error) or f"no answer within {CONNECT_S} s"
        raise ClusterError(
            f"no dask scheduler answers at {executor.scheduler} ({reason}); the address of a running scheduler is "
            "needed, such as tcp://10.0.0.5:8786. Start one with `dask scheduler`, or use --workers."
        ) from error


async def _identity(scheduler: str) -> object:
    """Ask a scheduler for its identity. A client alone would wait for a server that listens and never answers."""
    from distributed import rpc  # noqa: PLC0415  an optional dependency
    from distributed.security import Security  # noqa: PLC0415

    async with rpc(scheduler, connection_args=Security().get_connection_args("client")) as remote:
        return await remote.identity()


@contextmanager
def _connect(executor: Executor) -> "Iterator[Client]":
    import dask  # noqa: PLC0415  an optional dependency
    from distributed import Client  # noqa: PLC0415  likewise

    if executor.workers is None:
        with Client(executor.scheduler, timeout=CONNECT_S) as client:
            yield client
    else:
        with (
            TemporaryDirectory(prefix="ms2hs.", ignore_cleanup_errors=True) as folder,
            dask.config.set({"temporary-directory": folder}),
            _start_workers(executor.workers) as local,
            Client(local) as client,
        ):
            _ignore_interrupts(client)
            yield client


def _start_workers(workers: int) -> "LocalCluster":
    """Processes that end with this one; only holders of a temporary key can connect, no other user of this machine."""
    from distributed import LocalCluster, Security  # noqa: PLC0415  an optional dependency

    logging.getLogger("asyncio").setLevel(logging.CRITICAL)  # of a start that fails; the error below is enough
    try:
        with _signals_delayed():
            return LocalCluster(
                n_workers=workers,
                threads_per_worker=1,
                memory_limit=0,  # restarting a worker would not reduce the memory that a scene needs
                dashboard_address="127.0.0.1:0",
                security=Security.temporary(),
                silence_logs=logging.CRITICAL,
            )
    except (OSError, RuntimeError) as error:
        raise ClusterError(
            f"{workers} processes could not be started ({error}); each needs memory of its own, and a script needs "
            '`if __name__ == "__main__":`. Use fewer --workers.'
        ) from error


@contextmanager
def _signals_delayed() -> Iterator[None]:
    """Deliver signals after the block: half-started processes cannot be closed in order.

    Processes that are started in the block do not receive Ctrl-C.
    """
    if threading.current_thread() is not threading.main_thread() or sys.platform == "win32":
        yield
        return
    # It would unblock SIGINT if it started later. Its warning about processes that were stopped early is no news.
    sys.warnoptions.append("ignore:resource_tracker:UserWarning")
    resource_tracker.ensure_running()
    received: list[int] = []
    numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    before = {number: signal.signal(number, lambda number, _frame: received.append(number)) for number in numbers}
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})  # which new threads and processes inherit
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})
        for number, handler in before.items():
            signal.signal(number, handler)
        if received:
            signal.raise_signal(received[0])


def _ignore_interrupts(client: "Client") -> None:
    """Ignore Ctrl-C in the workers: a terminal sends it to every process, and this process ends the workers."""
    from distributed import WorkerPlugin  # noqa: PLC0415  an optional dependency

    class IgnoreInterrupts(WorkerPlugin):  # type: ignore[misc]  # untyped
        def setup(self, worker: object) -> None:  # noqa: ARG002  as dask calls it
            """Called in the main thread of every worker, also after a restart."""
            signal.signal(signal.SIGINT, signal.SIG_IGN)

    client.register_plugin(IgnoreInterrupts(), name="ms2hs-interrupts")


def _check_workers(client: "Client", shared_paths: list[str]) -> None:
    """Refuse workers whose results would differ from the results of this process."""

    def inspect() -> tuple[str | None, list[str]]:
        """The version of ms2hs and the missing paths. A nested function runs in a worker without ms2hs too."""
        import importlib  # noqa: PLC0415  the globals of this module are not pickled
        import pathlib  # noqa: PLC0415

        missing = [path for path in shared_paths if not pathlib.Path(path).exists()]
        try:
            return importlib.import_module("ms2hs").__version__, missing
        except ImportError:
            return None, missing

    for worker, (version, missing) in client.run(inspect, on_error="ignore").items():
        if version != __version__:
            raise ClusterError(_version_message(worker, version))
        if missing:
            raise ClusterError(
                f"the worker at {worker} does not see {missing[0]}; scenes, weights and the output directory must be "
                "on a disk that all workers share, under the same path. Move it there."
            )


def _version_message(worker: str, version: str | None) -> str:
    installed = f"runs ms2hs {version}" if version else "does not have ms2hs installed"
    return f"the worker at {worker} {installed}; {__version__}, as here, is needed. Install that version there."


def _collect(client: "Client", tasks: dict[Job, _Task], progress: Progress | None) -> dict[str, Outcome]:
    """Submit the tasks and return their outcomes by scene."""
    from distributed import as_completed  # noqa: PLC0415  an optional dependency

    report = progress or (lambda _stage, _done, _total: None)
    report("convert", 0, len(tasks))
    jobs = {f"ms2hs-{task.run_id}-{number}": job for number, (job, task) in enumerate(tasks.items())}
    futures = [client.submit(_convert_task, tasks[job], key=key, retries=RETRIES) for key, job in jobs.items()]
    outcomes: dict[str, Outcome] = {}
    for future in as_completed(futures):
        job = jobs[future.key]
        outcomes[job.scene] = _outcome(future, job)
        # A result stays in the worker's memory until it is released. If that worker died, dask would repeat the task.
        future.release()
        remove_private_folders(tasks[job].job.output, tasks[job].run_id, glob.escape(job.output.stem[:MAX_STEM]))
        report("convert", len(outcomes), len(tasks))
    return outcomes


def _outcome(future: "Future", job: Job) -> Outcome:
    from distributed import KilledWorker  # noqa: PLC0415  an optional dependency

    if future.status == "finished":
        result = future.result()
        return result.beside(job.output) if isinstance(result, ConversionResult) else str(result)
    if future.status != "error":
        return f"{job.scene}: lost ({future.status}); the scheduler must stay connected. Convert it again."
    error = future.exception()
    if isinstance(error, KilledWorker):
        return (
            f"{job.scene}: every process that tried to convert it was killed. Check whether their memory sufficed, use "
            "fewer --workers, or convert it separately."
        )
    return (
        f"{job.scene}: {type(error).__name__}: {error}; an unexpected error. Convert it without workers, and report "
        "the error if it occurs again."
    )


def _convert_task(task: _Task) -> Outcome:
    """Convert a scene in a private folder of the worker, then move or upload the complete files."""
    if task.version != __version__:
        return _version_message("of this task", __version__)
    output = task.job.output
    try:
        with private_folder(output, task.run_id) as folder:
            if isinstance(output, RemotePath):
                ObjectStore(output.parent)  # fails before the work if this worker cannot reach the store
            planned = plan(task.job.scene, task.target, folder / output.name, task.job.options)
            result = run(replace(planned, is_temporary=True))
            # A store has no second names: files that an earlier attempt uploaded are replaced.
            overwrite = task.job.options.overwrite or isinstance(output, RemotePath)
            own = placed_by_run(output, task.run_id)
            return result.moved(output, overwrite=overwrite, inputs=planned.inputs, own=own)
    except Ms2hsError as error:
        return re.sub(rf"/\.[^/]*\.{task.run_id}\.[^/]*/", "/", str(error))  # without the private folder
