"""DLR's EOC geoservice for tests: a CAS login page, and files that need its session cookie, on one local server.

with EocServer() as eoc:
    eoc.files["/ENMAP/a.tif"] = content       # at https://download.geoservice.dlr.de/ENMAP/a.tif
    session.mount("https://", eoc.adapter())  # both hosts are reached through this adapter
"""

import re
import secrets
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, quote, urlsplit

from requests.adapters import HTTPAdapter

LOGIN, FILES = "sso.eoc.dlr.de", "download.geoservice.dlr.de"
PAGE = """<html><body><h2>EnMAP Access Service</h2>
<form method="post" id="fm1" action="login"><input id="username" name="username" value="">
<input type="password" name="password"><input type="hidden" name="execution" value="{token}"/>
<input type="hidden" name="_eventId" value="submit"/><input type="hidden" name="geolocation"/>
<input type="checkbox" name="rememberMe" value="true"><input name="submitBtn" type="submit" value="LOGIN"></form>
<form method="post" action="/eoc/auth/login"><input type="hidden" name="_csrf" value="c">
<input type="hidden" name="client_name" value="eolab2_enmap-dl">
<input type="hidden" name="_eventId" value="delegatedAuthenticationRedirect"></form></body></html>"""
OTHER_PAGE = (
    '<html><h2>Acceptable usage policy</h2><form method="post"><input name="execution" value="x"></form></html>'
)


class EocServer:
    """The two hosts; a context manager."""

    def __init__(self, login=("me", "my-password")):
        self.login = login
        self.files = {}
        self.page = PAGE
        """The login page; `{token}` becomes a value for one use."""
        self.after_login = None
        """A page that follows the form, instead of the redirect to the file."""
        self.is_entitled = True
        self.sessions, self.tickets, self.tokens = set(), set(), set()
        self.requests = []
        """(method, host, path, query, cookie, body) of every request."""

    def __enter__(self):
        self.server = ThreadingHTTPServer(("127.0.0.1", 0), type("Bound", (_Handler,), {"eoc": self}))
        self.thread = threading.Thread(target=self.server.serve_forever, args=(0.02,), daemon=True)
        self.thread.start()
        return self

    def __exit__(self, *_):
        self.server.shutdown()
        self.server.server_close()
        self.thread.join()

    def adapter(self):
        """Sends requests to either host to this server, with host names and https as they are outside."""
        root = f"http://127.0.0.1:{self.server.server_address[1]}"

        class Local(HTTPAdapter):
            def send(self, request, **options):
                local = request.copy()
                parts = urlsplit(request.url)
                assert parts.scheme == "https"
                assert parts.hostname in {LOGIN, FILES}
                local.url = f"{root}/{parts.hostname}{parts.path}" + (f"?{parts.query}" if parts.query else "")
                return super().send(local, **options)

        return Local()

    def posted(self):
        """The forms that were posted."""
        return [parse_qs(body, keep_blank_values=True) for method, *_, body in self.requests if method == "POST"]


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    eoc: EocServer

    def log_message(self, *_):
        pass

    def do_GET(self):
        self._answer("")

    def do_POST(self):
        self._answer(self.rfile.read(int(self.headers["Content-Length"])).decode())

    def _answer(self, body):
        host, _, path = urlsplit(self.path).path.removeprefix("/").partition("/")
        query = parse_qs(urlsplit(self.path).query)
        self.eoc.requests.append((self.command, host, f"/{path}", query, self.headers.get("Cookie", ""), body))
        if host == LOGIN:
            self._login(query.get("service", [""])[0], parse_qs(body))
        else:
            self._file(f"/{path}", query.get("ticket", [""])[0])

    def _login(self, service, fields):
        eoc = self.eoc
        if self.command == "GET":
            token = secrets.token_hex(4)
            eoc.tokens.add(token)
            self._send(200, eoc.page.replace("{token}", token).encode(), {"Content-Type": "text/html"})
            return
        execution = fields.get("execution", [""])[0]
        given = fields.get("username", [""])[0], fields.get("password", [""])[0]
        is_right = execution in eoc.tokens and fields.get("_eventId") == ["submit"] and "client_name" not in fields
        eoc.tokens.discard(execution)
        if eoc.after_login is not None:
            self._send(200, eoc.after_login.encode(), {"Content-Type": "text/html"})
        elif is_right and given == eoc.login and service.startswith(f"https://{FILES}/"):
            ticket = f"ST-{secrets.token_hex(8)}"
            eoc.tickets.add(ticket)
            self._send(302, b"", {"Location": f"{service}?ticket={ticket}"})
        else:
            self._send(401, eoc.page.encode(), {"Content-Type": "text/html"})

    def _file(self, path, ticket):
        eoc, address = self.eoc, f"https://{FILES}{path}"
        if ticket in eoc.tickets:
            eoc.tickets.discard(ticket)
            session = secrets.token_urlsafe(12)
            eoc.sessions.add(session)
            cookie = f"session={session}|1714398269|x; Path=/; Secure; HttpOnly"
            self._send(302, b"", {"Location": address, "Set-Cookie": cookie})
            return
        session = re.search(r"session=([^|;]*)", self.headers.get("Cookie", ""))
        if session is None or session[1] not in eoc.sessions:
            self._send(302, b"", {"Location": f"https://{LOGIN}/eoc/auth/login?service={quote(address, safe='')}"})
        elif not eoc.is_entitled:
            self._send(403, b"insufficient privileges to download this dataset", {"Content-Type": "text/html"})
        elif path not in eoc.files:
            self._send(404, b"no such file")
        else:
            self._range(eoc.files[path])

    def _range(self, content):
        requested = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", ""))
        if requested is None:
            self._send(200, content)
            return
        begin, last = int(requested[1]), min(int(requested[2] or len(content)), len(content) - 1)
        self._send(206, content[begin : last + 1], {"Content-Range": f"bytes {begin}-{last}/{len(content)}"})

    def _send(self, status, body, headers=None):
        self.send_response(status)
        for key, value in ({"Content-Type": "application/octet-stream"} | (headers or {})).items():
            self.send_header(key, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)
