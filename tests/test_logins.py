"""logins: the CAS login of DLR's geoservice, its cookies, and where they are sent."""

import time
from http.cookiejar import Cookie, MozillaCookieJar

import pytest
from conftest import allow_sockets
from eoc_world import FILES, LOGIN, OTHER_PAGE, PAGE, EocServer

from ms2hs.errors import CredentialsError, RemoteError
from ms2hs.remote import logins
from ms2hs.remote.byte_range import read_range
from ms2hs.remote.client import HttpRequest, RetryPolicy, WebClient, new_session, read_document
from ms2hs.remote.logins import CasLogin
from ms2hs.remote.url_policy import Access, check_address

ADDRESS = f"https://{FILES}/ENMAP/files/L2A/a.tif"
CONTENT = b"II*\0" + bytes(range(200))
SECRET = "PLANTED-pass"  # noqa: S105 - of nothing


@pytest.fixture
def eoc(monkeypatch, tmp_path):
    """The geoservice with one file, for all sessions; no login in the environment."""
    for name in ("EOC_USERNAME", "EOC_PASSWORD", "EOC_COOKIE", "EOC_COOKIE_FILE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("NETRC", str(tmp_path / "none"))
    allow_sockets(monkeypatch, "127.")
    with EocServer(("me", SECRET)) as eoc:
        eoc.files["/ENMAP/files/L2A/a.tif"] = CONTENT

        def local_session(_connections=1):
            session = new_session()
            session.mount("https://", eoc.adapter())
            return session

        monkeypatch.setattr(logins, "new_session", local_session)
        monkeypatch.setattr("ms2hs.remote.client.new_session", local_session)
        yield eoc


@pytest.fixture
def login(eoc):  # noqa: ARG001 - the world in which it logs in
    """A login that was never used."""
    return CasLogin("dlr", "EOC", LOGIN, FILES, "https://register.example.org")


def with_password(monkeypatch, password=SECRET):
    monkeypatch.setenv("EOC_USERNAME", "me")
    monkeypatch.setenv("EOC_PASSWORD", password)


def access_by(login):
    return Access(lambda address: check_address(address, None), login.sign, login.headers, login.is_page)


def read(login, begin=0, size=8):
    with WebClient(RetryPolicy(first_s=0.001)) as client:
        return read_range(client, ADDRESS, access_by(login), begin, size).content


def cookie_file(path, value="s", expires=None, domain=FILES):
    jar = MozillaCookieJar(path)
    facts = {"version": 0, "port": None, "port_specified": False, "domain_specified": True, "path_specified": True}
    facts |= {"secure": True, "discard": expires is None, "comment": None, "comment_url": None, "rest": {}}
    jar.set_cookie(
        Cookie(name="session", value=value, domain=domain, domain_initial_dot=False, path="/", expires=expires, **facts)
    )
    jar.save(ignore_discard=True, ignore_expires=True)
    return str(path)


def test_password_login_reads_a_file_and_is_used_again(eoc, login, monkeypatch):
    with_password(monkeypatch)
    assert read(login) == CONTENT[:8]
    assert read(login, 100, 4) == CONTENT[100:104]
    (form,) = eoc.posted()
    assert form["username"] == ["me"]
    assert form["password"] == [SECRET]
    assert form["_eventId"] == ["submit"]
    assert form["execution"][0]
    assert "client_name" not in form  # of the form that delegates the login
    assert "rememberMe" not in form


def test_login_takes_user_and_password_from_netrc(login, monkeypatch, tmp_path):
    (tmp_path / "netrc").write_text(f"machine {LOGIN} login me password {SECRET}\n")
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    login.check()
    assert read(login) == CONTENT[:8]


def test_an_expired_session_is_renewed_once(eoc, login, monkeypatch):
    with_password(monkeypatch)
    read(login)
    eoc.sessions.clear()
    monkeypatch.setattr(logins, "RENEWAL_S", 0.0)
    assert read(login) == CONTENT[:8]
    assert len(eoc.posted()) == 2


@pytest.mark.parametrize("source", ["EOC_COOKIE", "EOC_COOKIE_FILE"])
def test_a_given_cookie_needs_no_login(eoc, login, monkeypatch, tmp_path, source):
    eoc.sessions.add("abc")
    monkeypatch.setenv(source, "session=abc|1|x" if source == "EOC_COOKIE" else cookie_file(tmp_path / "c", "abc|1|x"))
    login.check()
    assert read(login) == CONTENT[:8]
    assert not eoc.posted()


@pytest.mark.parametrize("expires", ["0", "", "4102444800"])
@pytest.mark.parametrize("prefix", ["", "#HttpOnly_"])
def test_a_cookie_file_of_a_browser_or_curl_is_read(eoc, login, monkeypatch, tmp_path, expires, prefix):
    eoc.sessions.add("abc")
    line = "\t".join([f"{prefix}{FILES}", "FALSE", "/", "TRUE", expires, "session", "abc|1|x"])
    (tmp_path / "cookies.txt").write_text(f"# Netscape HTTP Cookie File\n\n{line}\n")
    monkeypatch.setenv("EOC_COOKIE_FILE", str(tmp_path / "cookies.txt"))
    login.check()
    assert login.headers(ADDRESS) == {"Cookie": "session=abc|1|x"}


@pytest.mark.parametrize("source", ["EOC_COOKIE", "EOC_COOKIE_FILE"])
def test_an_expired_cookie_is_reported_and_not_repeated(eoc, login, monkeypatch, tmp_path, source):
    value = f"{SECRET}|1|x"
    monkeypatch.setenv(source, f"session={value}" if source == "EOC_COOKIE" else cookie_file(tmp_path / "c", value))
    with pytest.raises(CredentialsError, match=r"refuses the session cookie.*Open the address in a browser") as error:
        read(login)
    assert SECRET not in str(error.value)
    assert len(eoc.requests) == 1
    with pytest.raises(CredentialsError, match="EOC_COOKIE_FILE"), WebClient(RetryPolicy(first_s=0.001)) as client:
        read_document(HttpRequest(ADDRESS, access_by(login)), client)


@pytest.mark.parametrize(
    ("make", "expected"),
    [
        (lambda path: cookie_file(path, expires=int(time.time()) - 10), "no cookie for download"),
        (lambda path: cookie_file(path, domain="example.org"), "no cookie for download"),
        (lambda path: path.write_text("session=abc\n") and str(path), "Netscape format"),
        (lambda path: path.write_bytes(b"\xff\xfe\0") and str(path), "Netscape format"),
        (str, "FileNotFoundError"),
    ],
)
def test_check_refuses_unusable_cookie_files(login, monkeypatch, tmp_path, make, expected):
    monkeypatch.setenv("EOC_COOKIE_FILE", make(tmp_path / "cookies.txt"))
    with pytest.raises(CredentialsError, match=expected):
        login.check()


@pytest.mark.parametrize("cookie", [SECRET, f"session={SECRET}\nX: y", f"se ssion={SECRET}", "=x"])
def test_check_refuses_a_text_that_is_no_cookie(login, monkeypatch, cookie):
    monkeypatch.setenv("EOC_COOKIE", cookie)
    with pytest.raises(CredentialsError, match="name=value") as error:
        login.check()
    assert SECRET not in str(error.value)


def test_missing_login_is_reported_before_any_request(eoc, login, monkeypatch):
    for action in (login.check, lambda: login.sign(ADDRESS), lambda: read(login)):
        with pytest.raises(CredentialsError, match=r"EOC_USERNAME.*EOC_COOKIE.*https://register"):
            action()
    monkeypatch.setenv("EOC_USERNAME", "me")
    with pytest.raises(CredentialsError, match="EOC_PASSWORD"):
        login.check()
    assert not eoc.requests


def test_a_wrong_password_is_tried_once(eoc, login, monkeypatch):
    with_password(monkeypatch, "PLANTED-wrong")
    for _ in range(2):
        with pytest.raises(CredentialsError, match=r"rejects the login \(status 401\)") as error:
            read(login)
        assert "PLANTED" not in str(error.value)
    assert len(eoc.posted()) == 1
    with_password(monkeypatch)
    assert read(login) == CONTENT[:8]


def test_an_account_without_access_to_the_collection_is_refused(eoc, login, monkeypatch):
    with_password(monkeypatch)
    eoc.is_entitled = False
    with pytest.raises(CredentialsError, match="access to this collection"):
        read(login)
    assert len(eoc.posted()) == 1


@pytest.mark.parametrize(
    ("page", "after", "expected"),
    [
        ("<html><script>app()</script></html>", None, "no form for user and password"),
        ("<form><input name='mail'><input type='password' name='secret'></form>", None, "no form for user"),
        ("\0<<form<input name=>", None, "no form for user"),
        (PAGE, OTHER_PAGE, "asks for more than user and password"),
    ],
)
def test_another_login_page_is_reported_with_the_way_by_hand(eoc, login, monkeypatch, page, after, expected):
    with_password(monkeypatch)
    eoc.page, eoc.after_login = page, after
    with pytest.raises(CredentialsError, match=rf"{expected}.*EOC_COOKIE_FILE.*download the files in the browser"):
        read(login)


@pytest.mark.parametrize("target", ["https://evil.example.org/x", f"http://{LOGIN}/eoc/auth/login", "ftp://a/b"])
def test_a_form_that_posts_elsewhere_gets_no_password(eoc, login, monkeypatch, target):
    with_password(monkeypatch)
    eoc.page = PAGE.replace('action="login"', f'action="{target}"')
    with pytest.raises(CredentialsError, match="only https addresses of") as error:
        read(login)
    assert SECRET not in str(error.value)
    assert not eoc.posted()


def test_a_login_page_that_does_not_answer_is_a_remote_error(eoc, login, monkeypatch):
    with_password(monkeypatch)
    eoc.__exit__()
    with pytest.raises(RemoteError, match=r"the login failed \(ConnectionError\)"):
        login.sign(ADDRESS)
    eoc.__enter__()


def test_cookies_are_sent_to_the_host_of_the_files_only(eoc, login, monkeypatch):
    with_password(monkeypatch)
    login.sign(ADDRESS)
    assert "session=" in login.headers(ADDRESS)["Cookie"]
    for other in (
        f"https://{LOGIN}/eoc", f"http://{FILES}/a", f"https://{FILES}.evil.org/a", "https://geoservice.dlr.de/eoc",
        f"https://evil.org/{FILES}", f"https://x.{FILES}/a",
    ):  # fmt: skip
        assert login.sign(other) == other
        assert login.headers(other) == {}
    assert all(SECRET not in f"{path}{query}{cookie}" for _, _, path, query, cookie, _ in eoc.requests)
    assert all(SECRET not in body for _, host, *_, body in eoc.requests if host == FILES)
