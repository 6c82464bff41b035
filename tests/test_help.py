"""--help is quick and complete."""

import re
import subprocess
import sys

import pytest

COMMANDS = ["convert", "info", "example", "pretrain", "evaluate", "prepare", "pairs", "finetune", "fetch"]


def help_text(*words):
    run = subprocess.run(
        [sys.executable, "-m", "ms2hs.cli", *words, "--help"],
        capture_output=True, text=True, check=True, env={"NO_COLOR": "1", "COLUMNS": "200", "TERM": "dumb"},
    )  # fmt: skip
    return run.stdout


def test_every_command_is_listed_with_a_line_about_it():
    text = help_text()
    for command in COMMANDS:
        assert re.search(rf"{command}\s+\w+", text), command


@pytest.mark.parametrize("command", COMMANDS)
def test_every_option_has_help(command):
    text = help_text(command)
    for line in text.splitlines():
        option = re.match(r"│ \*?\s*(-\w,? *)?--[\w-]+", line)
        if option:
            assert re.search(r"[A-Z][a-z` ]", line), line
