"""Logins of archives: user and password from the environment or netrc, and session cookies of a CAS login form.

Files behind a Central Authentication Service (CAS) need a session cookie. Without a valid cookie, their host redirects
to the login page, whose form has hidden fields with values for one use. The page answers the form, filled in with user
and password, by a redirect to the file with a ticket, in exchange for which the file's host sets the cookie. Passwords
go to the login page and cookies to the file's host only, over https.
"""

import logging
import netrc
import os
import re
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from html.parser import HTMLParser
from http.cookiejar import CookieJar, LoadError, MozillaCookieJar
from pathlib import Path
from urllib.parse import urljoin, urlsplit

import requests
from requests.cookies import get_cookie_header

from ms2hs.errors import CredentialsError, RemoteError
from ms2hs.remote.client import MAX_REDIRECTS, REDIRECT_STATUS, REFUSED_STATUS, new_session
from ms2hs.remote.url_policy import host_of, shown

LOGGER = logging.getLogger(__name__)
# A cookie as in a header: `session=…`, or several separated by semicolons.
COOKIE = re.compile(r"[!-:<>-~]+=[!-~ ]+")
MAX_PAGE_BYTES = 1_000_000
CONNECT_S, READ_S = 20.0, 60.0
# A cookie that is refused this soon after its login would be refused again.
RENEWAL_S = 60.0


def stored_login(prefix: str, host: str) -> tuple[str, str] | None:
    """User and password from PREFIX_USERNAME and PREFIX_PASSWORD, else of a host in netrc; None if neither has them."""
    user, password = os.environ.get(f"{prefix}_USERNAME"), os.environ.get(f"{prefix}_PASSWORD")
    if user and password:
        return user, password
    file = os.environ.get("NETRC")
    for path in [Path(file)] if file else [Path.home() / name for name in (".netrc", "_netrc")]:
        try:
            entry = netrc.netrc(path).hosts.get(host)
        except (OSError, netrc.NetrcParseError):
            continue
        if entry:
            return entry[0], entry[2] or ""
    return None


class CasLogin:
    """The login to a host of files by a session cookie, or by user and password in a CAS form. Thread-safe.

    The variables PREFIX_COOKIE, PREFIX_COOKIE_FILE (Netscape format), PREFIX_USERNAME and PREFIX_PASSWORD, and the
    login page's line in netrc, are tried in this order.
    """

    def __init__(self, provider: str, prefix: str, page_host: str, file_host: str, register: str) -> None:
        self._provider, self._prefix, self._register = provider, prefix, register
        self._page_host, self._file_host = page_host, file_host
        self._lock = threading.Lock()
        self._cookies: CookieJar | None = None
        self._logged_in_at = 0.0
        # Rejected logins, with the message: a password is not tried twice, which would lock the account.
        self._rejected: dict[tuple[str, str], str] = {}

    def check(self) -> None:
        """CredentialsError unless a cookie or a password is given. Sends no request."""
        prefix = self._prefix
        if self._given_cookie(f"https://{self._file_host}/") or stored_login(prefix, self._page_host):
            return
        raise CredentialsError(
            f"{self._provider}: no login for {self._file_host} found; {prefix}_USERNAME and {prefix}_PASSWORD, "
            f"{prefix}_COOKIE or {prefix}_COOKIE_FILE in the environment, or a line `machine {self._page_host} login … "
            f"password …` in ~/.netrc is needed. Register at {self._register} (free)."
        )

    def is_page(self, address: str) -> bool:
        """Whether an address is on the host of the login page."""
        return host_of(address) == self._page_host

    def headers(self, address: str) -> Mapping[str, str]:
        """The cookie, for the host of the files only."""
        if not self._is_file(address):
            return {}
        cookie = self._given_cookie(address) or _cookie_header(self._cookies, address)
        return {"Cookie": cookie} if cookie else {}

    def sign(self, address: str, *, fresh: bool = False) -> str:
        """The address itself, after a login if its host needs one; `fresh` after a refusal.

        Raises
        ------
        CredentialsError : no login is given, or it is refused. RemoteError : the login page does not answer.
        """
        if not self._is_file(address):
            return address
        self.check()
        if self._given_cookie(address):
            if fresh:
                raise CredentialsError(
                    f"{shown(address)}: the server refuses the session cookie, which expires after some hours; a valid "
                    f"cookie of an account with access to this collection is needed. {self._by_hand}"
                )
            return address
        with self._lock:
            if self._cookies is None or (fresh and time.monotonic() - self._logged_in_at > RENEWAL_S):
                self._cookies = self._log_in(shown(address))
                self._logged_in_at = time.monotonic()
        return address

    @property
    def _by_hand(self) -> str:
        return (
            f"Open the address in a browser, log in, save the cookies of {self._file_host} in Netscape format, and set "
            f"{self._prefix}_COOKIE_FILE to that file; or download the files in the browser."
        )

    def _is_file(self, address: str) -> bool:
        return urlsplit(address).scheme == "https" and host_of(address) == self._file_host

    def _given_cookie(self, address: str) -> str:
        """The cookie of the environment or of the cookie file; empty if neither is given."""
        prefix = self._prefix
        if cookie := os.environ.get(f"{prefix}_COOKIE", "").strip():
            if not COOKIE.fullmatch(cookie):
                raise CredentialsError(
                    f"{self._provider}: {prefix}_COOKIE is not a cookie; name=value is needed. Copy the Cookie header "
                    f"that your browser sends to {self._file_host}."
                )
            return cookie
        path = os.environ.get(f"{prefix}_COOKIE_FILE")
        if not path:
            return ""
        jar = MozillaCookieJar(path)
        try:
            jar.load(ignore_discard=True, ignore_expires=True)
        except (OSError, LoadError, ValueError) as error:
            raise CredentialsError(
                f"{path}: cannot be read as a cookie file ({type(error).__name__}); Netscape format is needed. Export "
                f"the cookies of {self._file_host} again, or correct {prefix}_COOKIE_FILE."
            ) from None
        for each in jar:
            each.expires = each.expires or None  # browsers and curl write 0 for a session cookie
        cookie = _cookie_header(jar, address)
        if not cookie:
            raise CredentialsError(
                f"{path}: has no cookie for {self._file_host} that is still valid; the session cookie after a login is "
                f"needed. {self._by_hand}"
            )
        return cookie

    def _log_in(self, address: str) -> CookieJar:
        """The cookies after a login for the file at this address."""
        LOGGER.debug("login at %s for %s", self._page_host, address)
        login = stored_login(self._prefix, self._page_host)
        assert login is not None  # noqa: S101 - `check` was called
        if message := self._rejected.get(login):
            raise CredentialsError(message)
        with new_session() as session:
            page = self._follow(session, "GET", address)
            if self.is_page(page.address):
                form = _password_form(page)
                if form is None:
                    raise CredentialsError(
                        f"{shown(page.address)}: the login page has no form for user and password as expected; it may "
                        f"have changed. {self._by_hand}"
                    )
                user, password = login
                fields = {"_eventId": "submit"} | form.fields | {"username": user, "password": password}
                page = self._follow(session, "POST", form.target, fields)
            if self.is_page(page.address) or page.status in REFUSED_STATUS:
                self._rejected[login] = message = self._rejection(page)
                raise CredentialsError(message)
            return session.cookies

    def _rejection(self, page: "_Page") -> str:
        if self.is_page(page.address) and page.status not in REFUSED_STATUS and _password_form(page) is None:
            return (
                f"{shown(page.address)}: the login page asks for more than user and password, such as consent to terms "
                f"of use; a completed login is needed. Log in once in a browser. {self._by_hand}"
            )
        return (
            f"{shown(page.address)}: the server rejects the login (status {page.status}); user and password of an "
            f"account with access to this collection are needed. Correct them, or request access at {self._register}; "
            f"for an account of another identity provider: {self._by_hand}"
        )

    def _follow(
        self, session: requests.Session, method: str, address: str, fields: Mapping[str, str] | None = None
    ) -> "_Page":
        """The last answer after all redirects between the two hosts."""
        for _ in range(MAX_REDIRECTS):
            if not (self._is_file(address) or (self.is_page(address) and urlsplit(address).scheme == "https")):
                raise CredentialsError(
                    f"{shown(address)}: the login leads to this address; only https addresses of {self._page_host} and "
                    f"{self._file_host} are followed. {self._by_hand}"
                )
            try:
                with session.request(
                    method,
                    address,
                    data=fields,
                    headers={"Range": "bytes=0-0"} if self._is_file(address) else {},
                    stream=True,
                    allow_redirects=False,
                    timeout=(CONNECT_S, READ_S),
                ) as response:
                    LOGGER.debug("%s %s: status %d", method, shown(address), response.status_code)
                    if response.status_code not in REDIRECT_STATUS:
                        return _Page(address, response.status_code, response.raw.read(MAX_PAGE_BYTES, True))
                    target = response.headers.get("Location", "")
            except (requests.RequestException, OSError, ValueError) as error:  # their messages may hold a ticket
                raise RemoteError(
                    f"{shown(address)}: the login failed ({type(error).__name__}); a server that answers is needed. "
                    "Try again later."
                ) from None
            method, fields, address = "GET", None, urljoin(address, target)
        raise RemoteError(
            f"{shown(address)}: the login has more than {MAX_REDIRECTS} redirects; fewer are allowed. Try again later."
        )


def _cookie_header(jar: CookieJar | None, address: str) -> str:
    """The Cookie header for an address; empty without a cookie that is valid for it."""
    if jar is None:
        return ""
    return get_cookie_header(jar, requests.Request("GET", address).prepare()) or ""


@dataclass(frozen=True)
class _Page:
    address: str
    status: int
    body: bytes


@dataclass
class _Form:
    target: str
    fields: dict[str, str] = field(default_factory=dict)


class _FormParser(HTMLParser):
    """Collects the forms of a page, with the values of their fields."""

    def __init__(self, address: str) -> None:
        super().__init__()
        self.address = address
        self.forms: list[_Form] = []
        self._is_open = False

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Begin a form, or add a field to the open form."""
        values = {key: value or "" for key, value in attrs}
        if tag == "form":
            target = urljoin(self.address, values.get("action", ""))
            # A form that posts to its own page keeps the query, which names the service to log in to.
            is_own = target == self.address.partition("?")[0]
            self.forms.append(_Form(self.address if is_own else target))
            self._is_open = True
        elif tag == "input" and self._is_open and "name" in values and values.get("type", "").lower() != "checkbox":
            self.forms[-1].fields[values["name"]] = values.get("value", "")

    def handle_endtag(self, tag: str) -> None:
        """End a form."""
        self._is_open &= tag != "form"


def _password_form(page: _Page) -> _Form | None:
    """The form with user and password; other forms of the page delegate the login."""
    parser = _FormParser(page.address)
    parser.feed(page.body.decode(errors="replace"))
    return next((form for form in parser.forms if {"username", "password"} <= form.fields.keys()), None)
