"""Hyperspectral products that `fetch --product` knows, with their provider and STAC collection.

To add a product, add one line to `PRODUCTS`; a new file format also needs a line in `remote_cube.READERS`. The help
texts of the command line are made from this table.
"""

from dataclasses import dataclass

from ms2hs.errors import UnknownName


@dataclass(frozen=True)
class Product:
    """A hyperspectral product and its archive."""

    name: str
    title: str
    """One line for users."""
    provider: str
    """Name in `remote.providers.PROVIDERS`; empty: the user gives the server."""
    collection: str
    """STAC collection; empty: the user gives it."""


PRODUCTS = {
    product.name: product
    for product in (
        Product("emit", "EMIT L2A reflectance, 60 m, NASA LP DAAC, Earthdata login", "lpdaac", "EMITL2ARFL_001"),
        Product("enmap", "EnMAP L2A reflectance, 30 m, DLR, EOC login", "dlr", "ENMAP_HSI_L2A"),
        Product(
            "tanager",
            "Tanager-1 surface reflectance, 30 m, Planet's open data, no login",
            "planet",
            "tanager-core-imagery",
        ),
        Product("other", "COGs with wavelengths, without cloud flags; needs --stac and --collection", "", ""),
    )
}
"""By name."""


def product_named(name: str) -> Product:
    """The product of this name; UnknownName lists the known products."""
    if name not in PRODUCTS:
        raise UnknownName.of("product", name, list(PRODUCTS), "Use one of these.")
    return PRODUCTS[name]
