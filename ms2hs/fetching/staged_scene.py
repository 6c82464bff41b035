"""The hidden folder `.<name>.part`, in which a scene is put together, and from which an interrupted fetch continues."""

import json
import logging
import os
import re
import shutil
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from ms2hs.errors import OutputError
from ms2hs.fetching.sidecar import REQUEST_FILE
from ms2hs.files import write_bytes, write_error

LOGGER = logging.getLogger(__name__)
KEPT_FOLDER = "ranges"
"""Folder in a staging folder, with byte ranges of remote files."""
# Names in a staging folder: the request, band files and results, and hidden ones while they are written.
STAGED = re.compile(rf"{re.escape(REQUEST_FILE)}|{KEPT_FOLDER}|\..*|.*\.(tif|json|tif\.aux\.xml)")


def check_staging(folder: Path) -> None:
    """Refuse a staging folder that `prepare_staging` did not create.

    Raises
    ------
    OutputError : a link, a file, or a folder with files but without the request that it belongs to.
    """
    if not os.path.lexists(folder):
        return
    is_folder = folder.is_dir() and not folder.is_symlink()
    if not is_folder or not (
        (folder / REQUEST_FILE).is_file() or all(STAGED.fullmatch(path.name) for path in folder.iterdir())
    ):
        raise OutputError(
            f"{folder} is not a folder of an interrupted fetch; the scene is put together there. Move it, or choose "
            "another directory."
        )


def prepare_staging(folder: Path, parameters: Mapping[str, Any]) -> None:
    """Create a staging folder; files of the same request from an earlier run are kept, all others are deleted.

    Raises
    ------
    OutputError : the folder is not ours, or cannot be written to.
    """
    path, text = folder / REQUEST_FILE, json.dumps(parameters, sort_keys=True)
    check_staging(folder)
    try:
        if path.is_file() and path.read_text(encoding="utf-8", errors="replace") != text:
            LOGGER.info("%s is of another request, or damaged: its scene is fetched from the beginning", folder)
            remove_staging(folder)
        folder.mkdir(exist_ok=True)
        for partial in folder.glob(".*"):  # of a process that was killed while writing
            shutil.rmtree(partial) if partial.is_dir() and not partial.is_symlink() else partial.unlink()
    except OSError as error:
        raise write_error(folder, error) from error
    write_bytes(path, text.encode(), durable=True)


def remove_staging(folder: Path) -> None:
    """Delete a staging folder with the files of a fetch; other files stay, and so does the folder."""
    for path in [path for path in folder.glob("*") if STAGED.fullmatch(path.name)]:
        shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink()
    with suppress(OSError):
        folder.rmdir()
