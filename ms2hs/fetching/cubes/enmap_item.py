"""EnMAP L2A items: a spectral image with METADATA.XML and quality layers, read by the blocks of their GeoTIFFs.

`datasets.cubes.enmap` gives the bands, their scales, and the choice where the detectors overlap. Pixels that a quality
layer flags are invalid.
"""

import re
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

import numpy as np

from ms2hs.arrays import Float32Array
from ms2hs.datasets.cubes.enmap import CLOUD_LAYERS, ENMAP_IMAGE, ENMAP_METADATA, parse_bands
from ms2hs.datasets.cubes.plausibility import check_window, reflectance_of
from ms2hs.errors import SceneError
from ms2hs.fetching.cubes.item_files import addresses_of, file_name_of, kept_path
from ms2hs.fetching.download import RemoteRaster, open_remote
from ms2hs.remote.client import DOCUMENT_ATTEMPTS, HttpRequest, WebClient, read_document
from ms2hs.remote.range_file import GDAL_LOCK, RangeRequest
from ms2hs.remote.url_policy import Access, host_of, shown
from ms2hs.scenes.stac_metadata import Item

# Layers in which any value but 0 makes a pixel invalid. Haze does not hide the ground, but changes its reflectance.
FLAG_LAYERS = (*CLOUD_LAYERS, "QL_QUALITY_HAZE")
# In older items of this host, the addresses lack the folder of the product.
DLR_FILES = "download.geoservice.dlr.de"
METADATA, IMAGE = "METADATA", ENMAP_IMAGE.removeprefix("-")


class EnmapItem:
    """An open product. Implements `RemoteCube`."""

    def __init__(self, client: WebClient, item: Item, access: Access, folder: Path | None = None) -> None:
        """Read METADATA.XML and the headers of the files.

        Parameters
        ----------
        folder : keeps the bytes that are read; None: in memory.

        Raises
        ------
        SceneError, DataError : a file is missing or damaged, or the files do not belong together.
        RemoteError, AddressError, CredentialsError : the server failed.
        """
        files = _product_files(item)
        self.name, metadata = files.name, files.addresses[METADATA]
        text = read_document(HttpRequest(metadata, access, attempts=DOCUMENT_ATTEMPTS), client)
        self.spectral, self._encoding, _ = parse_bands(text, shown(metadata)).choose("swir", shown(metadata))
        with ExitStack() as stack:

            def opened(part: str) -> RemoteRaster:
                address = files.addresses[part]
                access.check(address)
                return stack.enter_context(open_remote(client, address, access, kept_path(folder, address)))

            self._image = opened(IMAGE)
            self._flags = [opened(layer) for layer in FLAG_LAYERS if layer in files.addresses]
            self.grid = self._image.grid
            self._check()
            self._files = stack.pop_all()
        with GDAL_LOCK:
            self.block_shape: tuple[int, int] = self._image.dataset.block_shapes[0]

    def requests(self, row: int, col: int, height: int, width: int) -> list[RangeRequest]:
        """As in `RemoteCube`."""
        rows, cols = np.s_[row : row + height, col : col + width]
        flags = [request for layer in self._flags for request in layer.requests([1], rows, cols)]
        return [*flags, *self._image.requests(self._encoding.bands, rows, cols)]

    def read(self, row: int, col: int, height: int, width: int) -> Float32Array:
        """(band, row, col) reflectance, NaN where invalid or flagged; errors as in `RemoteCube`."""
        check_window((self.grid.height, self.grid.width), row, col, height, width)
        rows, cols = np.s_[row : row + height, col : col + width]
        flagged = np.any([layer.read(1, rows, cols) != 0 for layer in self._flags], axis=0)
        if flagged.all():
            return np.full((len(self.spectral), height, width), np.nan, np.float32)
        encoding = self._encoding
        dn = self._image.read_cube(encoding.bands, rows, cols)
        values = reflectance_of(dn, encoding.scale, encoding.offset, encoding.nodata)
        values[:, flagged] = np.nan
        return values

    def close(self) -> None:
        """Close the files."""
        self._files.close()

    def _check(self) -> None:
        image, count = self._image, self._encoding.count
        if image.dataset.count != count or self.grid.crs is None:
            raise SceneError(
                f"{image.name}: {image.dataset.count} bands with the CRS {self.grid.crs}; {count} bands, as in "
                "METADATA.XML, and a CRS are needed. The item is damaged: use another one."
            )
        for layer in self._flags:
            if layer.grid != self.grid:
                raise SceneError(
                    f"{layer.name}: has other pixels than {image.name}; the same grid is needed. The item is damaged: "
                    "use another one."
                )


@dataclass(frozen=True)
class _ProductFiles:
    """The files of a product."""

    name: str
    addresses: dict[str, str]
    """By part of the product, as in its file name: `METADATA`, `SPECTRAL_IMAGE`, `QL_QUALITY_CLOUD`, …"""


def _product_files(item: Item) -> _ProductFiles:
    """SceneError if the item lacks a needed file, or has several products."""
    metadata = _by_name(addresses_of(item, ENMAP_METADATA))
    names = {match[1] for name in metadata if (match := ENMAP_METADATA.fullmatch(name))}
    addresses = dict(zip([METADATA], metadata.values(), strict=False))
    for name in names:
        rasters = _by_name(addresses_of(item, re.compile(rf"{re.escape(name)}-\w+\.tiff?", re.IGNORECASE)))
        for file, address in rasters.items():
            addresses[re.sub(r"(_COG)?\.tiff?$", "", file[len(name) + 1 :], flags=re.IGNORECASE).upper()] = address
    missing = [part for part in (METADATA, IMAGE, *CLOUD_LAYERS) if part not in addresses]
    if len(names) != 1 or missing:
        raise SceneError(
            f"{item['id']}: {len(names)} EnMAP L2A products, missing files: {', '.join(missing) or 'none'}; one "
            f"product with its {METADATA}.XML, {IMAGE} and cloud layers is needed. Use another item."
        )
    return _ProductFiles(names.pop(), {part: _with_folder(at, str(item["id"])) for part, at in addresses.items()})


def _by_name(addresses: Sequence[str]) -> dict[str, str]:
    """The first address of each file, in the order of names: a COG (`…_COG.TIF`) follows a plain file of its part."""
    return dict(sorted({file_name_of({"href": address}): address for address in reversed(addresses)}.items()))


def _with_folder(address: str, product: str) -> str:
    """The address with the folder of the product, which all files of DLR's server have."""
    path = urlsplit(address).path
    if host_of(address) != DLR_FILES or f"/{product}/" in path:
        return address
    folder, _, name = path.rpartition("/")
    return urlsplit(address)._replace(path=f"{folder}/{product}/{name}").geturl()
