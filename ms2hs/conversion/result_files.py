"""The files of a result: their names, checks before work starts, moves into place, and private folders of workers.

A result is placed as a whole: files that exist are replaced only with `overwrite`, and inputs never. Files that an
earlier attempt of the same conversion placed are known by their second names in its staging or private folder.
"""

import os
import re
import shutil
import tempfile
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from ms2hs.conversion.statistics import Counts
from ms2hs.errors import Ms2hsError, OutputError
from ms2hs.files import NO_FILES, FileIds, check_output, file_ids, place_files
from ms2hs.progress import Progress
from ms2hs.raster.container import file_of
from ms2hs.raster.cube_writer import cube_names, sigma_name
from ms2hs.raster.dataset import REMOTE_PREFIXES, open_dataset
from ms2hs.raster.formats import format_of
from ms2hs.raster.formats.qgis_style import STYLE_SUFFIX
from ms2hs.remote.object_store import ObjectStore, OutputPath, RemotePath
from ms2hs.scenes.scene import Scene

# Web addresses without user, query and fragment, and absolute paths: what `href_base` may be.
HREF_BASE = re.compile(r"(?:https?|s3|gs|az|abfs)://[^\s?#@/][^\s?#@]*|/[^\x00-\x1f]*|[A-Za-z]:[/\\][^\x00-\x1f]*")
COLLECTION = re.compile(r"[\w.-]+")
# Characters of an output's name in the name of a private folder.
MAX_STEM = 100


def staging_folder(output: Path) -> Path:
    """The folder in which an output is staged."""
    return output.with_name(f".{output.name}.part")


def result_names(cube: OutputPath, *, uncertainty: bool) -> list[str]:
    """File names of a result, the cube first."""
    sigma = cube_names(cube.with_name(sigma_name(cube))) if uncertainty else []
    return [*cube_names(cube), *sigma, *(f"{cube.stem}{suffix}" for suffix in (".png", STYLE_SUFFIX, ".json"))]


def is_complete(output: OutputPath) -> bool:
    """Whether a local output exists and no conversion to it was interrupted."""
    return isinstance(output, Path) and output.exists() and not os.path.lexists(staging_folder(output))


def input_files(scene: Scene, given: Iterable[str | Path | None], site: Iterable[Path]) -> FileIds:
    """The local files that a conversion reads: bands, also of a VRT, archives, `given` paths and cubes of the site."""
    rasters = {asset.href for asset in (*scene.assets, *scene.quality)} | set(map(str, site))
    files = [path for path in given if path is not None]
    return file_ids([*files, *rasters, *(file for href in rasters for file in _raster_files(href))])


def _raster_files(href: str) -> list[str]:
    if href.startswith("/vsi"):  # a member of an archive: every part of its path may be the archive
        path = Path(re.sub(r"^(?:/vsi\w+)+/", "", href).replace("{", "").replace("}", ""))
        return [str(part) for part in (path, *path.parents)]
    if href.startswith(REMOTE_PREFIXES):
        return []
    try:
        with open_dataset(href) as dataset:
            return [str(file_of(href)), *dataset.files]
    except Ms2hsError:  # raised again where the file is read
        return [str(file_of(href))]


def check_item_options(href_base: str | None, collection: str | None) -> None:
    """Check the texts that a user gives for the STAC item; OutputError for others than addresses and plain names."""
    if href_base is not None and not HREF_BASE.fullmatch(href_base):
        raise OutputError(
            f"--href-base {href_base[:200]!r}: not the address of a folder; https://, s3:// or another store without "
            "user and query, or an absolute path, are allowed. Leave it out for relative addresses."
        )
    if collection is not None and not COLLECTION.fullmatch(collection):
        raise OutputError(
            f"--collection {collection[:200]!r}: not the id of a collection; letters, digits and . _ - are allowed. "
            "Use for example --collection cubes-2024."
        )


def check_new_output(
    cube: OutputPath,
    *,
    uncertainty: bool,
    overwrite: bool,
    resume: bool,
    inputs: FileIds = NO_FILES,
    store: ObjectStore | None = None,
) -> None:
    """Refuse an output that cannot be written, before any work starts.

    Parameters
    ----------
    cube : its suffix is one of `raster.formats.FORMATS`.
    resume : files that an interrupted conversion moved into place may exist.
    inputs : files of which none is replaced.
    store : the output's folder, if already open.

    Raises
    ------
    OutputError : a suffix that is not written; files exist and may not be replaced, or the folder cannot be written to.
    CredentialsError : the store refuses the credentials.
    """
    names, output = result_names(cube, uncertainty=uncertainty), format_of(cube)
    if resume and not output.is_resumable:
        raise OutputError(
            f"{cube}: {output.name} files are written anew after an interruption; --resume is allowed for a COG. Leave "
            "--resume out, or convert to a .tif and use `ms2hs export`."
        )
    if isinstance(cube, RemotePath):
        if resume:
            raise OutputError(
                f"{cube}: --resume needs an output on a local disk, and this output is in an object store. Use a local "
                "directory, or omit --resume."
            )
        store = store or ObjectStore(cube.parent)
        store.check(names, overwrite=overwrite)
        return
    placed = placed_files(cube, names) if resume else NO_FILES
    for name in names:
        path = cube.with_name(name)
        check_output(path, overwrite=overwrite or bool(file_ids([path]) & placed), inputs=inputs)
    refuse_link(cube)


def refuse_link(cube: Path) -> None:
    """Refuse a link or a file in the place of the staging folder."""
    folder = staging_folder(cube)
    if folder.is_symlink() or (folder.exists() and not folder.is_dir()):
        raise OutputError(
            f"{folder} is a link or a file; results are staged in a directory of that name. Remove it, or give another "
            "output."
        )


def placed_files(cube: Path, names: Iterable[str]) -> FileIds:
    """Files at their final names that an interrupted conversion placed: second names of its staged files."""
    return file_ids(staging_folder(cube) / name for name in names) & file_ids(cube.with_name(name) for name in names)


def publish_files(
    files: Sequence[Path],
    output: Path,
    *,
    overwrite: bool,
    inputs: FileIds = NO_FILES,
    own: FileIds = NO_FILES,
) -> None:
    """Move files of the same disk to their names beside `output`; the file with the name of `output` comes last.

    Parameters
    ----------
    inputs : files that are not replaced, also with `overwrite`.
    own : existing files that an earlier attempt of this conversion placed, and that are replaced.

    Raises
    ------
    OutputError : a file cannot be moved, or exists and must not be replaced.
    """
    ordered = sorted(files, key=lambda file: file.name == output.name)
    try:
        place_files(
            [(file, output.with_name(file.name)) for file in ordered],
            overwrite=overwrite,
            inputs=inputs,
            is_own=lambda path: bool(file_ids([path]) & own),
        )
    except OSError as error:
        raise OutputError(
            f"{output} cannot be moved into place ({error}); its directory must be writable. Change its permissions, "
            "or use another directory."
        ) from error


@contextmanager
def private_folder(output: OutputPath, run_id: str) -> Iterator[Path]:
    """Yield a folder for one attempt of a worker; for a local output, on the same disk.

    After an error it is removed. After success it keeps second names of the placed files, by which a repeated attempt
    knows them (`placed_by_run`), until `remove_private_folders`.
    """
    folder = Path(tempfile.mkdtemp(dir=_private_parent(output), prefix=f".{output.stem[:MAX_STEM]}.{run_id}."))
    is_kept = False
    try:
        yield folder
        is_kept = not isinstance(output, RemotePath)
    finally:
        if not is_kept:
            shutil.rmtree(folder, ignore_errors=True)


def placed_by_run(output: OutputPath, run_id: str) -> FileIds:
    """Files that attempts of a run have moved into place."""
    return file_ids(_private_parent(output).glob(f".*.{run_id}.*/*"))


def remove_private_folders(output: OutputPath, run_id: str, stem: str = "*") -> None:
    """Remove the folders that attempts of a run left, of one output or of all."""
    for folder in _private_parent(output).glob(f".{stem}.{run_id}.*"):
        shutil.rmtree(folder, ignore_errors=True)


def _private_parent(output: OutputPath) -> Path:
    return Path(tempfile.gettempdir()) if isinstance(output, RemotePath) else output.parent


@dataclass(frozen=True)
class ConversionResult:
    """The files of a conversion (paths, or addresses in a store), with counts and seconds."""

    output: OutputPath
    """The cube."""
    quicklook: OutputPath
    style: OutputPath
    """The style with which QGIS opens the cube in natural colour."""
    item: OutputPath
    """The STAC item with the provenance of the result."""
    sigma: OutputPath | None
    counts: Counts
    residual: dict[str, float]
    """RMSE in reflectance between input and result on the source's bands: `all`, and by band name."""
    seconds: dict[str, float]
    """Thread seconds of reading, model, compressing and storing (which overlap), finishing, and `whole`."""
    notes: tuple[str, ...] = ()
    clouds: str = ""
    """Which quality layers remove what, or why clouds are kept."""

    @property
    def paths(self) -> list[OutputPath]:
        """Every file, the cube first."""
        cubes = [cube.with_name(name) for cube in (self.output, self.sigma) if cube for name in cube_names(cube)]
        return [*cubes, self.quicklook, self.style, self.item]

    def beside(self, output: OutputPath) -> "ConversionResult":
        """The same result with its files beside another output."""
        quicklook, style, item = (output.with_name(path.name) for path in (self.quicklook, self.style, self.item))
        sigma = self.sigma and output.with_name(self.sigma.name)
        return replace(self, output=output, quicklook=quicklook, style=style, item=item, sigma=sigma)

    def moved(
        self,
        output: OutputPath,
        progress: Progress | None = None,
        *,
        overwrite: bool,
        inputs: FileIds = NO_FILES,
        own: FileIds = NO_FILES,
    ) -> "ConversionResult":
        """Upload the files to an address, or move them on the same disk; the cube comes last.

        Parameters
        ----------
        overwrite, inputs, own : as in `publish_files`.

        Raises
        ------
        CredentialsError, OutputError : files exist, or the store refuses the files; none of them is left there.
        """
        began = time.perf_counter()
        paths = [Path(path) for path in reversed(self.paths)]
        if isinstance(output, RemotePath):
            store = ObjectStore(output.parent)
            store.check([path.name for path in paths], overwrite=overwrite)
            store.put(paths, progress)
        else:
            publish_files(paths, output, overwrite=overwrite, inputs=inputs, own=own)
        spent = time.perf_counter() - began
        seconds = self.seconds | {"place": spent, "whole": self.seconds["whole"] + spent}
        return replace(self.beside(output), seconds=seconds)
