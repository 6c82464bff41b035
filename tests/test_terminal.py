"""The terminal: shell completion, log lines, recipes and ms2hs.toml, progress bars, names that Windows cannot hold."""

import io
import logging
import re
import sys
import threading

import pytest
from conftest import LEAVES, S2_BANDS, allow_sockets, dn_of, write_raster
from hypothesis import given, settings
from hypothesis import strategies as st
from test_help import COMMANDS, parameters
from typer._click import Context
from typer.main import get_command

from ms2hs.cli.app import app
from ms2hs.cli.messages import note, print_log
from ms2hs.cli.recipes import NOT_IN_CONFIG
from ms2hs.errors import OutputError
from ms2hs.files import check_output, file_name
from ms2hs.progress import progress_bar
from ms2hs.remote.client import HttpRequest, WebClient, read_document
from ms2hs.remote.url_policy import Access


def options(command):
    return {name: one for one in parameters(command) for name in one.opts if name.startswith("--")}


# ---- shell completion ----------------------------------------------------------------------------------------------

FREE_TEXTS = {
    *("bands", "granule", "shard", "scheduler", "bbox", "window", "wavelengths", "site_date"),  # of one scene or run
    *("date", "near", "stac", "scene", "leave_out", "hold_out", "output"),
    *("at", "row_col", "constants", "href_base", "convert collection", "ratio"),
    *(f"{command} split" for command in ("evaluate pairs", "evaluate corpus", "evaluate completion")),
    *("prepare split", "pretrain split"),
    *("variable", "label_key", "group_key", "drop", "share", "map model"),  # of labels
}


@pytest.mark.parametrize("command", COMMANDS)
def test_every_option_of_known_values_is_completed(command):
    context = Context(get_command(app), info_name="ms2hs")
    for name, parameter in options(command).items():
        kind = str(parameter.type_descriptor.annotation)
        if getattr(parameter, "is_flag", False) or re.search(r"Path|'(int|float)'", kind):
            continue  # the shell completes paths
        values = parameter.shell_complete(context, "")
        assert bool(values) != bool({parameter.name, f"{command} {parameter.name}"} & FREE_TEXTS), name


@pytest.mark.parametrize(
    ("command", "option", "beginning", "expected"),
    [
        ("convert", "--gsd", "n", ["native"]),
        ("convert", "--input-error", "s", ["sentinel2"]),
        ("convert", "--device", "cu", ["cuda", "cuda:1"]),
        ("convert", "--site", "", ["auto"]),
        ("fetch", "--collection", "hls2-s", ["hls2-s30"]),
        ("fetch", "--product", "e", ["emit", "enmap"]),
        ("fetch", "--sort", "c", ["cloud", "coverage"]),
        ("pretrain", "--set", "dep", ["depth="]),
        ("finetune", "--train", "d", ["decoder"]),
        ("evaluate corpus", "--prior", "lin", ["linear"]),
    ],
)
def test_option_offers_its_values(command, option, beginning, expected):
    context = Context(get_command(app), info_name="ms2hs")
    found = options(command)[option].shell_complete(context, beginning)
    assert [item.value for item in found] == expected


# ---- log lines -----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def small_scene(tmp_path_factory):
    return write_raster(tmp_path_factory.mktemp("s") / "s.tif", dn_of([LEAVES], (8, 8)), descriptions=S2_BANDS)


def test_verbose_convert_logs_files_strips_and_decisions(ms2hs, small_scene, tmp_path):
    code, out, err = ms2hs("convert", small_scene, "--model", "linear", "-v", "-o", tmp_path / "x.tif")
    assert code == 0
    assert out.startswith(f"{tmp_path}/x.tif\n")
    assert all(line.startswith(("log: ", "note: ")) for line in err.splitlines())
    for expected in (
        r"ms2hs\.models\.weights: weights: .*linear\.safetensors, linear",
        r"ms2hs\.raster\.dataset: opened: .*s\.tif, GTiff, 8 x 8 x 12 uint16",
        r"ms2hs\.conversion\.convert_scene: plan: 8 x 8 pixels, 202 bands, strips of \d+ rows",
        r"ms2hs\.conversion\.pipeline: read rows 0-7: 64 of 64 pixels valid, \d",
        r"ms2hs\.conversion\.convert_scene: rows 0-7 of 8 converted and stored",
        rf"ms2hs\.files: written: {tmp_path}/x\.tif, [\d,]+ bytes",
    ):
        assert re.search(expected, err), expected


def test_verbose_lists_requests_without_secrets(monkeypatch, capsys):
    from http.server import BaseHTTPRequestHandler, HTTPServer

    class Answer(BaseHTTPRequestHandler):
        def do_GET(self):
            moved = self.path.startswith("/old")
            self.send_response(302 if moved else 206)
            self.send_header("Location", "/new?sig=second%0asecret")
            self.send_header("Content-Length", "0" if moved else "7")
            self.end_headers()
            self.wfile.write(b"" if moved else b"content")

        def log_message(self, *_arguments):
            pass

    allow_sockets(monkeypatch, "127.")
    server = HTTPServer(("127.0.0.1", 0), Answer)
    threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
    print_log(logging.DEBUG)
    address = f"http://user:password@127.0.0.1:{server.server_port}/old?sig=first-secret"
    headers = {"Range": "bytes=0-6", "Authorization": "Bearer third-secret"}
    with WebClient() as client:
        assert read_document(HttpRequest(address, Access(lambda _address: None), headers), client) == b"content"
    server.shutdown()
    server.server_close()
    err = capsys.readouterr().err
    assert re.search(r"GET http://127\.0\.0\.1:\d+/old bytes=0-6: status 302, 0 bytes, \d\.\d\d s", err), err
    assert re.search(r"GET http://127\.0\.0\.1:\d+/new bytes=0-6: status 206, 7 bytes, \d\.\d\d s", err), err
    assert not re.search("secret|password", err)


def test_log_lines_are_presentable(capsys):
    print_log(logging.DEBUG)
    logging.getLogger("ms2hs.remote").debug("a\x1b[2J\nhttps://h.org/x?sig=hidden %s", "z" * 5000)
    err = capsys.readouterr().err
    assert not re.search(r"\x1b|hidden", err)
    assert len(err) < 1500


@pytest.mark.parametrize(("variable", "value"), [("NO_COLOR", "1"), ("TERM", "dumb")])
def test_messages_are_plain_on_request(variable, value, monkeypatch):
    monkeypatch.delenv("NO_COLOR", raising=False)
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setattr(sys, "stderr", Terminal())
    note("warning: a")
    assert "\x1b[" in sys.stderr.getvalue()
    monkeypatch.setenv(variable, value)
    monkeypatch.setattr(sys, "stderr", Terminal())
    note("warning: a")
    assert sys.stderr.getvalue() == "warning: a\n"


# ---- progress bars -------------------------------------------------------------------------------------------------


class Terminal(io.StringIO):
    def isatty(self):
        return True


@pytest.mark.parametrize(
    ("stage", "unit", "expected"),
    [
        ("convert", "rows", "1,200/3,660 rows"),
        ("convert", "scenes", "1,200/3,660 scenes"),
        ("site", "passes", "1,200/3,660 passes"),
        ("fetch", "rows", "0.0/0.0 MB"),
        ("upload tif", "scenes", "0.0/0.0 MB"),
    ],
)
def test_bar_shows_units_and_lines_stand_above_it(stage, unit, expected, monkeypatch):
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "100")
    monkeypatch.setattr(sys, "stderr", Terminal())
    with progress_bar(shown=True, unit=unit) as progress:
        progress(stage, 1200, 3660)
        note("between")
    shown = sys.stderr.getvalue()
    assert expected in shown
    assert re.search(r"(^|[\n\rK])note: between", shown)
    assert shown.rindex(stage) > shown.index("note: between")


def test_dumb_terminal_has_no_bar(monkeypatch):
    monkeypatch.setenv("TERM", "dumb")
    monkeypatch.setattr(sys, "stderr", Terminal())
    with progress_bar(shown=True) as progress:
        assert progress is None


# ---- recipes and ms2hs.toml ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_the_shared_options(command):
    assert {"--recipe", "--verbose"} <= set(options(command))


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def planned(ms2hs, scene, *words):
    """Facts of a planned conversion by name, and stderr."""
    code, out, err = ms2hs("convert", scene, "--dry-run", *words)
    assert code == 0, err
    return dict(line.split(": ", 1) for line in out.splitlines() if ": " in line), err


def test_command_line_wins_over_recipe_and_recipe_over_config(ms2hs, small_scene, folder):
    (folder / "ms2hs.toml").write_text('[convert]\ntarget = "emit"\nmodel = "linear"\nwavelengths = ["400-900"]\n')
    (folder / "mine.toml").write_text('target = "desis"\nwindow = [0, 0, 4, 5]\nuncertainty = true\n')
    facts, err = planned(ms2hs, small_scene)
    assert (facts["target"], facts["model"]) == ("emit", "linear")
    assert err.startswith("note: ms2hs.toml gives target = 'emit', model = 'linear', wavelengths = ['400-900'];")
    facts, _ = planned(ms2hs, small_scene, "--recipe", "mine.toml")
    assert facts["target"] == "desis"
    assert facts["pixels"] == "20"
    facts, _ = planned(ms2hs, small_scene, "--recipe", "mine.toml", "--target", "prisma")
    assert facts["target"] == "prisma"


def test_recipe_may_hold_the_arguments(ms2hs, small_scene, folder):
    (folder / "mine.toml").write_text(f'scenes = ["{small_scene}"]\nmodel = "linear"\ndry-run = true\njson = true\n')
    code, out, err = ms2hs("convert", "--recipe", "mine.toml")
    assert code == 0, err
    assert '"bands": 202' in out
    (folder / "info.toml").write_text('name = "enmap"\n')
    assert "EnMAP" in ms2hs("info", "--recipe", "info.toml")[1]


def test_config_of_a_nested_command_and_of_others(ms2hs, folder):
    (folder / "ms2hs.toml").write_text("[evaluate.pairs]\nwindows = 0\n[convert]\nno-such = 1\n")
    code, _, err = ms2hs("evaluate", "pairs", "p")
    assert code == 2, err
    assert "--windows" in err
    assert ms2hs("info", "linear")[0::2] == (0, "")


def test_config_that_does_not_apply_is_no_error(ms2hs, folder):
    (folder / "ms2hs.toml").write_text("[fetch]\ngsd = 10\n")
    code, _, err = ms2hs("fetch", "--list", "--items", "missing.json")
    assert "missing.json" in err.splitlines()[-1]
    assert "does not apply" not in err
    code, _, err = ms2hs("fetch", "--list", "--items", "missing.json", "--gsd", 10)
    assert (code, "gsd" in err) == (2, True)


def test_help_needs_no_config(ms2hs, folder):
    (folder / "ms2hs.toml").write_text("[convert")
    assert ms2hs("convert", "--help")[0] == 0


CONFIGS = {
    "unknown command": ("[convrt]\ntarget = 'emit'", "'convrt' is not a table of a command; convert, "),
    "no table": ("target = 'emit'", "'target' is not a table"),
    "unknown option": ("[convert]\ntraget = 'emit'", "no option 'traget'; convert has "),
    "argument": ("[convert]\nscenes = ['a.tif']", "no option 'scenes'"),
    "table of an option": ("[convert.target]\na = 1", "'target' is a table"),
    "absolute path": ("[convert]\noutput = '/tmp/x.tif'", "output = '/tmp/x.tif' is not allowed"),
    "path above": ("[convert]\nreference = 'a/../../x.csv'", "is not allowed"),
    "path behind a link": ("[convert]\noutput = 'link/x.tif'", "is not allowed"),
    "address": ("[convert]\noutput = 's3://bucket/x/'", "is not allowed"),
    "list of paths": ("[convert]\nwavelengths = ['/a']", "is not allowed"),
    "damaged": ("[convert", "cannot be read"),
    "not UTF-8": (b"[convert]\nmodel = '\xff'", "cannot be read"),
    "long": ("#" * 200_000, "too long"),
    **{name: (f"[convert]\n{name} = true", "is not allowed") for name in ("overwrite", "force", "workers", "site")},
}


@pytest.mark.parametrize("label", CONFIGS)
def test_bad_config_is_one_message(label, ms2hs, small_scene, folder):
    content, said = CONFIGS[label]
    (folder / "link").symlink_to(folder.parent)
    (folder / "ms2hs.toml").write_bytes(content.encode() if isinstance(content, str) else content)
    code, out, err = ms2hs("convert", small_scene, "--model", "linear")
    assert (code, out, len(err.splitlines())) == (1, "", 1), err
    assert err.startswith("ms2hs: ms2hs.toml: ")
    assert said in err
    assert sorted(path.name for path in folder.iterdir()) == ["link", "ms2hs.toml"]


def test_config_holds_no_option_that_runs_replaces_or_logs_in():
    risky = re.compile(
        r"URL|tcp://|\bprocesses\b|server|provider|Replace|although|login|fetches|torch|Fetch cubes|the browser"
    )
    for command in COMMANDS:
        for name, parameter in options(command).items():
            if risky.search(f"{parameter.help} {parameter.metavar}"):
                assert name.lstrip("-") in {*NOT_IN_CONFIG, "collection", "batch", "verbose", "href-base"}, name


# ---- names that Windows cannot hold --------------------------------------------------------------------------------

NAMES = ["CON", "nul.tif", "Com1.x.json", "lpt\u00b9", "a:b.tif", "a<b", "what?.tif", "x*", 'say"so', "a|b", "x.", "x "]


@pytest.mark.parametrize("name", [*NAMES, "back\\slash", "tab\tx"])
def test_name_that_windows_cannot_hold_is_refused(name, tmp_path):
    with pytest.raises(OutputError, match="Windows cannot hold the name") as caught:
        check_output(tmp_path / name)
    allowed = re.search(r"Use for example (.*)\.$", str(caught.value))[1]
    check_output(allowed)


@pytest.mark.parametrize("name", ["console.tif", "a b.tif", ".hidden", "nulls", "com10", "日本.tif", "x..tif"])
def test_other_names_are_allowed(name, tmp_path):
    check_output(tmp_path / name)


@settings(max_examples=40)
@given(st.text(min_size=1) | st.sampled_from(NAMES))
def test_name_of_an_id_is_portable(tmp_path_factory, text):
    check_output(tmp_path_factory.getbasetemp() / f"{file_name(text)}_enmap.tif")
    check_output(tmp_path_factory.getbasetemp() / file_name(text))


@pytest.mark.parametrize("words", [("convert", "-o", "a:b.tif"), ("convert", "--workers", 1, "-o", "NUL")])
def test_command_refuses_the_name_before_it_works(words, ms2hs, small_scene, folder):
    code, out, err = ms2hs(*words, small_scene, "--model", "linear")
    assert (code, out, list(folder.iterdir())) == (1, "", []), err
    assert "Windows cannot hold" in err
