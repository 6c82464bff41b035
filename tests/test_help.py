"""--help is complete, fits the screen, shows defaults and examples, and is quick to load."""

import re
import subprocess
import sys

import pytest
from typer.main import get_command
from typer.testing import CliRunner

from ms2hs.cli.app import app

COMMANDS = [
    *("convert", "fetch", "info", "example", "demo", "prepare", "pairs", "pretrain", "finetune"),
    *("index", "map", "probe", "spectrum"),
    *("evaluate pairs", "evaluate corpus", "evaluate cube", "evaluate completion"),
]
WITH_EXAMPLES = [command for command in COMMANDS if command not in {"info", "example", "demo"}]
WIDTH = "100"
SCREEN_LINES = 50


def help_text(command="", width=WIDTH):
    run = CliRunner().invoke(app, [*command.split(), "--help"], env={"COLUMNS": width, "NO_COLOR": "1", "TERM": "dumb"})
    assert run.exit_code == 0, run.output
    return run.output


def parameters(command):
    found = get_command(app)
    for word in command.split():
        found = found.commands[word]
    return found.params


def test_every_command_is_listed_with_a_summary():
    text = help_text() + help_text("evaluate")
    for command in COMMANDS:
        assert re.search(rf"\b{command.split()[-1]}\s+[A-Z]\w+", text), command


@pytest.mark.parametrize("command", COMMANDS)
def test_every_option_has_help(command):
    for parameter in parameters(command):
        assert re.match(r"[A-Z`]", parameter.help or ""), parameter.name


@pytest.mark.parametrize("command", COMMANDS)
def test_every_default_is_shown(command):
    text = re.sub(r"[│\s]+", " ", help_text(command, "200"))
    for parameter in parameters(command):
        shown = parameter.show_default
        if isinstance(shown, str):
            assert f"[default: ({shown})]" in text, parameter.name
        elif shown and parameter.default not in (None, False, ()) and not callable(parameter.default):
            value = parameter.default
            value = getattr(value, "value", value)
            value = parameter.opts[0].lstrip("-") if value is True else value
            assert f"[default: {value}]" in text, parameter.name


@pytest.mark.parametrize("command", WITH_EXAMPLES)
def test_help_ends_with_three_examples(command):
    examples = re.findall(r"^ *((?:torchrun .* -m ms2hs\.cli|ms2hs) .+?) *$", help_text(command, "200"), re.MULTILINE)
    examples = [line for line in examples if "[OPTIONS]" not in line and line.split()[0] != "│"]
    assert len(examples) == 3, examples
    for line in examples:
        given = re.findall(r"(?<= )--?[a-z][a-z-]*", line.split("ms2hs", 1)[1].removeprefix(".cli"))
        known = {option for parameter in parameters(command) for option in (*parameter.opts, *parameter.secondary_opts)}
        known |= {"--pairs", "--corpus", "--cube"} if command.startswith("evaluate") else set()
        assert set(given) <= known, line


def test_convert_help_fits_two_screens():
    assert len(help_text("convert").rstrip().splitlines()) <= 2 * SCREEN_LINES


def test_convert_options_stand_in_panels():
    text = help_text("convert")
    for panel in ("Input", "Region and bands", "Model", "Site knowledge", "Output", "Batch"):
        assert f"─ {panel} ─" in text, panel
    options = text[text.index("─ Options ─") :]
    assert re.findall(r"--[a-z-]+", options[: options.index("╰")]) == ["--help"]


def test_short_help_option_works():
    assert "Usage" in CliRunner().invoke(app, ["convert", "-h"]).output


def test_version_option_prints_the_version():
    from ms2hs import __version__

    assert CliRunner().invoke(app, ["--version"]).output == f"ms2hs {__version__}\n"


def test_help_loads_no_heavy_library():
    heavy = "{'torch', 'rasterio', 'xarray', 'pystac_client', 'numpy', 'dask', 'matplotlib'}"
    code = (
        "import sys; sys.argv = ['ms2hs', 'convert', '--help']\n"
        "from ms2hs.cli import main\n"
        f"try: main()\nexcept SystemExit: print('loaded', sorted({heavy} & set(sys.modules)))"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.splitlines()[-1] == "loaded []"


@pytest.mark.parametrize(
    ("option", "command", "expected"),
    [
        ("target", "convert", "enmap"),
        ("source", "convert", "sentinel2a"),
        ("model", "convert", "linear"),
        ("provider", "fetch", "earth-search"),
        ("preset", "pretrain", "dlr-ibm-spectral"),
    ],
)
def test_values_are_completed_by_the_shell(option, command, expected):
    (parameter,) = [one for one in parameters(command) if one.name == option]
    from typer._click import Context

    context = Context(get_command(app).commands[command])
    assert expected in {item.value for item in parameter.shell_complete(context, expected[:3])}


def test_choices_are_enumerated_in_help():
    assert "<cloud|date|coverage>" in help_text("fetch", "200")
    assert "<auto|float32|bfloat16>" in help_text("pretrain", "200")
    assert "<all|decoder|head|none>" in help_text("finetune", "200")
