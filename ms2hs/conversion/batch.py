"""Several scenes: where the result of each goes, who takes which, and what came of them."""

import os
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from ms2hs.conversion.convert_scene import convert
from ms2hs.conversion.metadata import ConversionResult
from ms2hs.conversion.planning import ConvertOptions, check_place
from ms2hs.conversion.staging import directory_of
from ms2hs.errors import Ms2hsError, OutputError, PartlyDone, SceneError, UnknownName
from ms2hs.progress import Progress
from ms2hs.remote.object_store import ObjectStore, OutputPath, RemotePath, parse_output
from ms2hs.scenes.formats import open_scene
from ms2hs.scenes.scene import SceneOptions
from ms2hs.spectra.sensors import load_sensor

Outcome = ConversionResult | str
"""What a conversion left, or the message of why it failed."""


@dataclass(frozen=True)
class Job:
    """One scene, as the user named it, and where its result goes."""

    scene: str
    output: OutputPath


@dataclass(frozen=True)
class SceneBatch:
    """Scenes that can be converted, and those that cannot even be opened."""

    jobs: tuple[Job, ...]
    failed: dict[str, str]
    """The message of each scene that cannot be opened."""


@dataclass(frozen=True)
class BatchResult:
    """What came of several scenes, in the order that they were given."""

    made: dict[str, ConversionResult]
    failed: dict[str, str]
    """The message of each scene that could not be converted."""
    there: dict[str, Path] = field(default_factory=dict)
    """Results that were there already, and are kept."""

    @classmethod
    def of(cls, scenes: Sequence[str], outcomes: dict[str, Outcome], there: dict[str, Path]) -> "BatchResult":
        """The outcomes of these scenes, sorted into what succeeded, what failed and what was there."""
        scenes = [scene for scene in scenes if scene not in there]
        made = {scene: one for scene in scenes if isinstance(one := outcomes[scene], ConversionResult)}
        failed = {scene: _naming(scene, one) for scene in scenes if isinstance(one := outcomes[scene], str)}
        return cls(made, failed, there)

    @property
    def notes(self) -> list[str]:
        """What the user should know, each once, with the scene or the number of scenes that it is about."""
        about: defaultdict[str, list[str]] = defaultdict(list)
        for scene, made in self.made.items():
            for note in made.notes:
                about[note].append(scene)
        return [
            f"{scenes[0] if len(scenes) == 1 else f'{len(scenes)} scenes'}: {note}" for note, scenes in about.items()
        ]

    def check(self) -> None:
        """Nothing, if every scene was converted.

        Raises
        ------
        PartlyDone : some were not.
        SceneError : none was.
        """
        count = len(self.made) + len(self.failed) + len(self.there)
        if not self.failed:
            return
        if not self.made and not self.there:
            raise SceneError(
                f"none of {count} scenes could be converted; at least one is needed. What was wrong with each is told."
            )
        raise PartlyDone(
            f"{len(self.failed)} of {count} scenes could not be converted; all were asked for. Mend what is told of "
            "them, and convert them again; the others are there."
        )


def _naming(scene: str, message: str) -> str:
    """The message, with the scene's name in front where it has none."""
    return message if Path(scene).name in message else f"{scene}: {message}"


def share_of(scenes: Sequence[str], share: tuple[int, int]) -> list[str]:
    """Every n-th of the sorted scenes, beginning with the i-th, of a share (i, n); i is 1 to n.

    Shares of one list are disjoint, and together they are the list, whatever the order it came in.
    """
    number, count = share
    if not 1 <= number <= count:
        raise ValueError(f"share {number} of {count}")
    return sorted(scenes)[number - 1 :: count]


def arrange(
    scenes: Sequence[str],
    target: str,
    folder: str | Path | None,
    choices: ConvertOptions,
    progress: Progress | None = None,
) -> SceneBatch:
    """Open every scene, without pixels, and give each result the name that `convert` gives it.

    Raises
    ------
    UnknownName : a target or source that is none.
    OutputError : the folder is none and cannot be made, two results would have one name, or one that of a scene.
    CredentialsError : the folder is in a store that wants others.
    """
    sensor = load_sensor(target)
    place = _make_folder(parse_output(folder or Path()))
    jobs, failed = [], {}
    opening = SceneOptions(choices.source, choices.bands, choices.dn_offset, choices.quality)
    for done, scene in enumerate(scenes):
        if progress:
            progress("open", done, len(scenes))
        try:
            jobs.append(Job(scene, place / f"{open_scene(scene, opening).id}_{sensor.name}.tif"))
        except UnknownName:
            raise
        except Ms2hsError as error:
            failed[scene] = str(error)
    if progress:
        progress("open", len(scenes), len(scenes))
    _check_apart(jobs)
    return SceneBatch(tuple(jobs), failed)


def _make_folder(folder: OutputPath) -> OutputPath:
    if isinstance(folder, RemotePath):
        return ObjectStore(folder).folder
    try:
        folder.mkdir(exist_ok=True)
    except OSError as error:
        raise OutputError(
            f"{folder} cannot be made ({error}); several scenes need a directory, whose parent exists. Make it, or "
            "go elsewhere."
        ) from error
    return folder


def _check_apart(jobs: Sequence[Job]) -> None:
    shared = [output for output, count in Counter(job.output for job in jobs).items() if count > 1]
    if shared:
        first, second = [job.scene for job in jobs if job.output == shared[0]][:2]
        raise OutputError(
            f"{first} and {second} would both give {shared[0]}; every scene needs a result of its own. Leave one out, "
            "or convert it apart with -o elsewhere."
        )
    scenes = {os.path.realpath(job.scene): job.scene for job in jobs}
    for job in jobs:
        replaced = scenes.get(os.path.realpath(job.output))
        if replaced:
            raise OutputError(
                f"{job.scene} would give {job.output}, which is itself to be converted; results go where no scene "
                "lies. Leave it out, or give a directory with -o."
            )


def already_there(jobs: Sequence[Job]) -> dict[str, Path]:
    """Results that are there, and whole, by scene."""
    return {
        job.scene: job.output
        for job in jobs
        if isinstance(job.output, Path) and job.output.exists() and not directory_of(job.output).exists()
    }


def check_places(jobs: Sequence[Job], choices: ConvertOptions) -> tuple[list[Job], dict[str, str]]:
    """Jobs whose results may be written, all to one folder, and the message of each other one."""
    free, failed = [], {}
    folder = jobs[0].output.parent if jobs else None
    depot = ObjectStore(folder) if isinstance(folder, RemotePath) else None
    for job in jobs:
        try:
            check_place(job.output, choices, depot)
        except OutputError as error:
            failed[job.scene] = str(error)
        else:
            free.append(job)
    return free, failed


def convert_here(
    jobs: Sequence[Job], target: str, choices: ConvertOptions, progress: Progress | None = None
) -> dict[str, Outcome]:
    """Convert one scene after the other in this process; what is wrong with one does not keep the others."""
    outcomes: dict[str, Outcome] = {}
    for done, job in enumerate(jobs):
        if progress:
            progress("convert", done, len(jobs))
        try:
            outcomes[job.scene] = convert(job.scene, target, job.output, choices)
        except Ms2hsError as error:
            outcomes[job.scene] = str(error)
    if progress:
        progress("convert", len(jobs), len(jobs))
    return outcomes
