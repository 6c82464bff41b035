"""Several scenes: jobs, checks of their outputs, conversion one after the other, results.

A failing scene does not stop the others; failures are listed at the end. `dask_backend` converts in parallel.
"""

import os
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TypeVar

from ms2hs.conversion.convert_scene import convert
from ms2hs.conversion.planning import ConvertOptions, FoundSite, cube_name, output_grid, with_found_site
from ms2hs.conversion.result_files import ConversionResult, check_new_output, input_files, result_names
from ms2hs.errors import Ms2hsError, OutputError, PartlyDone, SceneError, UnknownName, failure
from ms2hs.files import FileIds, check_name, file_ids
from ms2hs.progress import Progress
from ms2hs.raster.pixel_grid import PixelGrid
from ms2hs.remote.object_store import CUBE_SUFFIXES, ObjectStore, OutputPath, RemotePath, parse_output
from ms2hs.scenes.formats import open_scene
from ms2hs.spectra.sensors import load_sensor

Outcome = ConversionResult | str
"""The result of a conversion, or its error message."""
Element = TypeVar("Element")
SiteSearch = Callable[[PixelGrid, str | None], FoundSite]
"""Called with the output pixels of a scene and the time of its acquisition, ISO 8601."""


@dataclass(frozen=True)
class Job:
    """One scene and its output."""

    scene: str
    """Path or address as the user gave it."""
    output: OutputPath
    options: ConvertOptions = field(compare=False)


@dataclass(frozen=True)
class BatchResult:
    """Results of several scenes, in the given order. `--json` prints the fields under their names."""

    made: dict[str, ConversionResult]
    """Results by scene."""
    failed: dict[str, str]
    """Error message by scene."""
    there: dict[str, OutputPath] = field(default_factory=dict)
    """Existing outputs that were kept, by scene."""

    @classmethod
    def of(cls, scenes: Sequence[str], outcomes: dict[str, Outcome], existing: dict[str, OutputPath]) -> "BatchResult":
        """The outcomes of these scenes, sorted into results and failures."""
        converted = {scene: outcomes[scene] for scene in scenes if scene not in existing}
        results = {scene: outcome for scene, outcome in converted.items() if isinstance(outcome, ConversionResult)}
        errors = {scene: outcome for scene, outcome in converted.items() if isinstance(outcome, str)}
        failed = {scene: text if Path(scene).name in text else f"{scene}: {text}" for scene, text in errors.items()}
        return cls(results, failed, existing)

    @property
    def notes(self) -> list[str]:
        """Every note once, each after its scene or after the number of its scenes."""
        scenes_of: defaultdict[str, list[str]] = defaultdict(list)
        for scene, result in self.made.items():
            for note in (*result.notes, *filter(None, [result.clouds])):
                scenes_of[note].append(scene)
        return [f"{of[0] if len(of) == 1 else f'{len(of)} scenes'}: {note}" for note, of in scenes_of.items()]

    def check(self) -> None:
        """Raise if a scene failed.

        Raises
        ------
        PartlyDone : some scenes failed.
        SceneError : all scenes failed.
        """
        if not self.failed:
            return
        count = len(self.made) + len(self.failed) + len(self.there)
        if len(self.failed) == count:
            raise SceneError(
                f"none of {count} scenes could be converted; at least 1 is needed. See the message of each scene."
            )
        raise PartlyDone(
            f"{len(self.failed)} of {count} scenes could not be converted; the others were. Correct the causes "
            "in their messages, and convert them again."
        )


def select_shard(scenes: Sequence[str], shard: tuple[int, int]) -> list[str]:
    """Shard (i, n): every n-th of the sorted scenes, beginning with the i-th; i is 1 to n.

    Shards of one list are disjoint and together are the list, whatever its order.
    """
    number, count = shard
    if not 1 <= number <= count:
        raise ValueError(f"shard {number} of {count}: it must be from 1 to {count}")
    return sorted(scenes)[number - 1 :: count]


def open_batch(
    scenes: Sequence[str], target: str, folder: str | Path | None, options: ConvertOptions, progress: Progress | None
) -> tuple[list[Job], dict[str, str], FileIds]:
    """Jobs of the scenes that can be opened, with outputs named as by `convert`; the error message of each other.

    The third value holds the input files of all scenes, which no output of the batch replaces.

    Raises
    ------
    UnknownName : an unknown target or source.
    OutputError : the folder cannot be created, two outputs have one name, or an output would replace a scene.
    CredentialsError : the store refuses the credentials.
    """
    sensor = load_sensor(target)
    parent = _create_folder(parse_output(folder or Path()))
    jobs, failed, inputs = [], {}, file_ids([target, options.model])
    for scene in _reported("open", scenes, progress):
        try:
            opened = open_scene(scene, options.scene)
            jobs.append(Job(scene, parent / cube_name(opened.id, sensor.name), options))
            inputs |= input_files(opened, [scene, options.reference], options.site_cubes)
        except UnknownName:
            raise
        except Exception as error:  # noqa: BLE001  one scene must not stop the others
            failed[scene] = failure(scene, error)
    _check_outputs_differ(jobs)
    return jobs, failed, inputs


def _create_folder(folder: OutputPath) -> OutputPath:
    if isinstance(folder, RemotePath):
        return ObjectStore(folder).folder
    if not folder.exists():
        check_name(folder)
        if folder.name.lower().endswith(CUBE_SUFFIXES):
            raise OutputError(
                f"{folder} is the name of a cube; several scenes need a directory. Use -o with a name such as "
                f"{folder.stem or 'cubes'}/."
            )
    try:
        folder.mkdir(exist_ok=True)
    except OSError as error:
        raise OutputError(
            f"{folder} cannot be created ({error}); several scenes need a directory whose parent exists. Use -o with "
            "another directory."
        ) from error
    return folder


def _check_outputs_differ(jobs: Sequence[Job]) -> None:
    scene_of: dict[OutputPath, str] = {}
    for job in jobs:
        for path in (job.output.with_name(name) for name in result_names(job.output, uncertainty=True)):
            if path in scene_of:
                raise OutputError(
                    f"{scene_of[path]} and {job.scene} have the same output {path}; every scene needs its own. Omit "
                    "one, or convert it separately with -o."
                )
            scene_of[path] = job.scene
    scenes = {os.path.realpath(job.scene): job.scene for job in jobs}
    for job in jobs:
        if os.path.realpath(job.output) in scenes:
            raise OutputError(
                f"the output of {job.scene} is {job.output}, which is an input scene; an output must not replace an "
                "input. Omit that scene, or use -o with another directory."
            )


def writable_jobs(jobs: Sequence[Job], options: ConvertOptions, inputs: FileIds) -> tuple[list[Job], dict[str, str]]:
    """Jobs whose outputs, all in one folder, can be written, and the error message of each other scene.

    Parameters
    ----------
    inputs : files that no output replaces.
    """
    writable, failed = [], {}
    folder = jobs[0].output.parent if jobs else None
    store = ObjectStore(folder) if isinstance(folder, RemotePath) else None
    flags = {name: getattr(options, name) for name in ("uncertainty", "overwrite", "resume")}
    for job in jobs:
        try:
            check_new_output(job.output, **flags, inputs=inputs, store=store)
        except OutputError as error:
            failed[job.scene] = str(error)
        else:
            writable.append(job)
    return writable, failed


def with_sites(jobs: Sequence[Job], find_site: SiteSearch, progress: Progress | None) -> list[Job]:
    """The jobs with the sites of their scenes instead of `auto`."""
    found = []
    for job in _reported("site", jobs, progress):
        options = replace(job.options, site=())
        with suppress(Ms2hsError):  # raised again where the scene is converted
            scene = open_scene(job.scene, options.scene)
            options = with_found_site(options, find_site(output_grid(scene, options), scene.datetime))
        found.append(replace(job, options=options))
    return found


def convert_serially(jobs: Sequence[Job], target: str, progress: Progress | None) -> dict[str, Outcome]:
    """Convert one scene after the other in this process; a failing scene does not stop the others."""
    outcomes: dict[str, Outcome] = {}
    for job in _reported("convert", jobs, progress):
        try:
            outcomes[job.scene] = convert(job.scene, target, job.output, job.options)
        except Exception as error:  # noqa: BLE001  one scene must not stop the others
            outcomes[job.scene] = failure(job.scene, error)
    return outcomes


def _reported(stage: str, elements: Sequence[Element], progress: Progress | None) -> Iterator[Element]:
    """The elements; progress is reported before each and at the end."""
    for done, element in enumerate(elements):
        if progress:
            progress(stage, done, len(elements))
        yield element
    if progress:
        progress(stage, len(elements), len(elements))
