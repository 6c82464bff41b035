"""Output formats of cubes: the table from file suffix to format.

Every format stores the same numbers (`Encoding`: int16, scale 1e-4, nodata -32768) of the same bands on the same grid.
The names of a cube's files are in `raster.cube_writer`.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import PurePath

from ms2hs.errors import OutputError
from ms2hs.raster.cog import block_compressor, block_store
from ms2hs.raster.cog.encoding import BLOCK_SIZES, Compression, Encoding
from ms2hs.raster.cog.writer import CogWriter
from ms2hs.raster.cube_writer import CubeFormat
from ms2hs.raster.formats import strip_writer
from ms2hs.raster.formats.envi import EnviWriter
from ms2hs.raster.formats.netcdf import NetcdfWriter
from ms2hs.raster.formats.zarr_store import ZarrWriter
from ms2hs.remote.object_store import OutputPath

COG_TYPE = "image/tiff; application=geotiff; profile=cloud-optimized"
"""Media type of a COG in STAC assets."""
DEFAULT_BLOCK = 128
"""Height and width of a block in all formats, as measured in docs/outputs.md."""


@dataclass(frozen=True)
class OutputFormat:
    """One format of a cube."""

    name: str
    writer: CubeFormat
    media_type: str
    """Of the asset in a STAC item."""
    compressions: tuple[Compression, ...] = ()
    """Allowed compressions, the default first; none: the numbers are stored as they are, without blocks."""
    strip: int = strip_writer.STRIP
    """Least height of the strips of a writer, in pixels."""
    is_resumable: bool = False
    """Whether an interrupted writer can be continued."""
    disk_bytes: Callable[..., int] = strip_writer.disk_bytes
    """Peak disk usage of a writer: see `cog.block_store.disk_bytes`."""
    memory_bytes: Callable[..., int] = strip_writer.memory_bytes
    """Memory of a writer: see `cog.block_compressor.memory_bytes`."""

    def encoding(self, compression: Compression | None, block: int | None) -> Encoding:
        """The stored numbers with a compression and block size; None: the default.

        Raises
        ------
        OutputError : the format has no such compression or no blocks.
        """
        if not self.compressions:
            if compression or block:
                raise OutputError(
                    f"{self.name} files hold plain numbers; compression and block size do not apply. Leave --compress "
                    "and --blocksize out, or use another format."
                )
            return Encoding(block=DEFAULT_BLOCK)
        if compression and compression not in self.compressions:
            allowed = ", ".join(self.compressions)
            raise OutputError(
                f"--compress {compression}: {self.name} files have another compression; {allowed} is allowed. Leave "
                "--compress out, or use another format."
            )
        if block and block not in BLOCK_SIZES:
            sizes = ", ".join(map(str, BLOCK_SIZES))
            raise OutputError(
                f"--blocksize {block}: not a block size; {sizes} are allowed. Use --blocksize {DEFAULT_BLOCK}."
            )
        return Encoding(compression=compression or self.compressions[0], block=block or DEFAULT_BLOCK)


COG = OutputFormat(
    "COG",
    CogWriter,
    COG_TYPE,
    ("zstd", "deflate"),
    strip=0,
    is_resumable=True,
    disk_bytes=block_store.disk_bytes,
    memory_bytes=block_compressor.memory_bytes,
)
ENVI = OutputFormat("ENVI", EnviWriter, "application/octet-stream")
FORMATS: dict[str, OutputFormat] = {
    ".tif": COG,
    ".tiff": COG,
    ".zarr": OutputFormat("Zarr", ZarrWriter, "application/vnd.zarr; version=3", ("zstd", "deflate")),
    ".dat": ENVI,
    ".hdr": ENVI,
    ".nc": OutputFormat("NetCDF", NetcdfWriter, "application/netcdf", ("deflate",)),
}
"""By suffix in lower case. A new format is a class that implements `CubeWriter`, in this package, and one line here."""


def format_of(path: OutputPath) -> OutputFormat:
    """The format for the suffix of an output path; OutputError for any other suffix."""
    suffix = PurePath(path.name).suffix
    if suffix.lower() not in FORMATS:
        raise OutputError(
            f"{path}: cubes are not written {f'as {suffix}' if suffix else 'without a suffix'}; {', '.join(FORMATS)} "
            f"are allowed. Use for example -o {path.stem or 'cube'}.tif, or an existing directory."
        )
    return FORMATS[suffix.lower()]
