"""How one gets at the files of items: which addresses are followed, who signs them, what is sent along."""

from collections.abc import Collection, Mapping
from urllib.parse import urlsplit

from ms2hs.raster.addresses import check_address
from ms2hs.raster.providers import PROVIDERS, Provider, owner_of
from ms2hs.raster.signing import Keys, Store, presigned, public
from ms2hs.raster.web import Access


def access_to(base: str | None, archives: Collection[Provider] | None = None) -> Access:
    """To the files of an item.

    Parameters
    ----------
    base : where the item came from, as `check_address` takes it.
    archives : of which the files may be; None: of any. Each signs and sends only where its own files are.
    """
    known = PROVIDERS.values() if archives is None else archives

    def sign(address: str, *, fresh: bool = False) -> str:
        if address.startswith("s3://"):
            return _in_store(address)
        for provider in known:
            address = provider.sign(address, fresh=fresh)
        return address

    def headers(address: str) -> Mapping[str, str]:
        return {key: value for provider in known for key, value in provider.headers(address).items()}

    return Access(lambda address: check_address(address, base), sign, headers)


def _in_store(address: str) -> str:
    """The address on the web of an object; a bucket that is no provider's is taken as Amazon's, open to all."""
    owner = owner_of(urlsplit(address).netloc)
    if owner is not None:
        owner.check_credentials()
    store = Store.of_environment(owner.store if owner else None)
    return presigned(address, store, Keys.of_environment()) if store else public(address)
