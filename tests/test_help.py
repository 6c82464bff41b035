"""--help is quick and complete."""

import re
import subprocess
import sys

import pytest
from conftest import ONE_THREAD
from typer.testing import CliRunner

from ms2hs.cli import app

COMMANDS = ["convert", "info", "example", "pretrain", "evaluate", "prepare", "pairs", "finetune", "fetch"]
PLAIN = {"NO_COLOR": "1", "COLUMNS": "200", "TERM": "dumb"}


def help_text(*words):
    result = CliRunner().invoke(app, [*words, "--help"], env=PLAIN)
    assert result.exit_code == 0, result.output
    return result.stdout


def test_every_command_is_listed_with_a_line_about_it():
    text = help_text()
    for command in COMMANDS:
        assert re.search(rf"{command}\s+\w+", text), command


def test_help_in_a_new_process_is_the_help_in_this_process():
    run = subprocess.run(
        [sys.executable, "-m", "ms2hs.cli", "convert", "--help"],
        capture_output=True, text=True, check=True, env=PLAIN | ONE_THREAD,
    )  # fmt: skip
    usage, *rest = run.stdout.strip().splitlines()
    assert "Usage: python -m ms2hs.cli convert [OPTIONS]" in usage
    assert rest == help_text("convert").strip().splitlines()[1:]


@pytest.mark.parametrize("command", COMMANDS)
def test_every_option_has_help(command):
    text = help_text(command)
    for line in text.splitlines():
        option = re.match(r"│ \*?\s*(-\w,? *)?--[\w-]+", line)
        if option:
            assert re.search(r"[A-Z][a-z` ]", line), line
