"""Items of a static STAC catalogue: JSON documents that link to each other, on a server without a search.

The walk begins at the root and follows the links to children and items, one level after the other and several
documents at once. Each document is read once, by an address that is checked like that of an item's file.
"""

import json
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urldefrag, urljoin, urlsplit

from ms2hs.errors import Ms2hsError, QueryError, RemoteError
from ms2hs.remote.client import DEFAULT_CLIENT, DOCUMENT_ATTEMPTS, HttpRequest, WebClient, read_document
from ms2hs.remote.url_policy import Access, resolved, shown

# Planet's open catalogue has about 300 documents.
MAX_DOCUMENTS = 3000
JOBS = 4
Document = dict[str, Any]


@dataclass(frozen=True)
class _Link:
    address: str
    is_inside: bool
    """Whether a document above belongs to the collection."""


def walk_items(
    root: str,
    collection: str,
    is_wanted: Callable[[Document], bool] = lambda _document: True,
    left_out: list[str] | None = None,
    client: WebClient | None = None,
) -> list[Document]:
    """The items of a collection, with absolute addresses of their assets; not checked beyond being JSON objects.

    Parameters
    ----------
    root : address of the catalogue's first document.
    collection : id or folder of a catalogue or collection, whose items and children belong to it.
    is_wanted : called with each catalogue and collection; False skips the document with all that it links to.
    left_out : receives a message for each document below the root that cannot be read.

    Raises
    ------
    RemoteError, AddressError, CredentialsError : the root cannot be read.
    QueryError : the catalogue has more than MAX_DOCUMENTS documents.
    """
    walk = _Walk(root, collection, is_wanted, client or DEFAULT_CLIENT, [] if left_out is None else left_out)
    links = [_Link(root, is_inside=False)]
    known = set(links)
    with ThreadPoolExecutor(JOBS, "catalogue") as pool:
        while links:
            if len(known) > MAX_DOCUMENTS:
                raise QueryError(
                    f"{shown(root)}: the catalogue has more than {MAX_DOCUMENTS} documents; at most {MAX_DOCUMENTS} "
                    "are read. Give the address of a smaller catalogue in it with --stac."
                )
            level = zip(links, pool.map(walk.read, links), strict=True)
            following = [link for parent, document in level for link in walk.take(parent, document)]
            links = [link for link in dict.fromkeys(following) if link not in known]
            known |= set(links)
    return walk.items


@dataclass
class _Walk:
    """The state of a walk."""

    root: str
    collection: str
    is_wanted: Callable[[Document], bool]
    client: WebClient
    left_out: list[str]
    items: list[Document] = field(default_factory=list)

    def read(self, link: _Link) -> Document | Ms2hsError:
        """The document at a link, or the error."""
        try:
            return _read(link.address, Access.to_host_of(self.root), self.client)
        except Ms2hsError as error:
            return error

    def take(self, link: _Link, document: Document | Ms2hsError) -> Iterable[_Link]:
        """Keep an item or an error; the links of a catalogue that is wanted."""
        if isinstance(document, Ms2hsError):
            if link.address == self.root:
                raise document
            self.left_out.append(str(document))
        elif document.get("type") == "Feature":
            if link.is_inside or document.get("collection") == self.collection:
                self.items.append(_with_absolute_assets(document, link.address))
        elif self.is_wanted(document):
            return _links_of(document, link, self.collection)
        return ()


def _read(address: str, access: Access, client: WebClient) -> Document:
    body = read_document(HttpRequest(address, access, attempts=DOCUMENT_ATTEMPTS), client)
    try:
        document = json.loads(body)
    except (ValueError, RecursionError) as error:
        raise RemoteError(
            f"{shown(address)}: the answer is no JSON ({type(error).__name__}); a STAC document is needed. Check the "
            "address."
        ) from None
    if not isinstance(document, dict):
        raise RemoteError(
            f"{shown(address)}: the answer is {type(document).__name__}; a STAC document is an object. Check the "
            "address."
        )
    return document


def _links_of(document: Document, own: _Link, collection: str) -> Iterator[_Link]:
    """Links to the children of a catalogue, and to its items where these can belong to the collection."""
    folder = urlsplit(own.address).path.split("/")[-2:-1]
    is_inside = own.is_inside or collection in (document.get("id"), *folder)
    rels = {"child", "item"} if is_inside or document.get("type") != "Collection" else {"child"}
    links = document.get("links")
    for link in links if isinstance(links, list) else ():
        if isinstance(link, dict) and link.get("rel") in rels and isinstance(link.get("href"), str):
            yield _Link(urldefrag(urljoin(own.address, link["href"]))[0], is_inside)


def _with_absolute_assets(item: Document, address: str) -> Document:
    assets = item.get("assets")
    if not isinstance(assets, dict):
        return item
    absolute = {
        key: asset | {"href": resolved(asset["href"], address)}
        if isinstance(asset, dict) and isinstance(asset.get("href"), str)
        else asset
        for key, asset in assets.items()
    }
    return item | {"assets": absolute}
