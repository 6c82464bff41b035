"""Options from files: a recipe (`--recipe FILE`), and `ms2hs.toml` in the working directory.

The command line wins over the recipe, and the recipe over `ms2hs.toml`. The user names a recipe; it holds options of
one command, and may hold its arguments. `ms2hs.toml` has a table for each command, such as [convert] or
[evaluate.corpus]. It may be part of a downloaded folder. A note therefore lists what it gives, its paths must stay in
its folder, and it has no addresses and none of the options in NOT_IN_CONFIG.

A recipe of `pretrain` may have tables [[stage]]: trainings that follow one another, each with options of its own.
"""

import tomllib
from pathlib import Path
from typing import Any

import typer

from ms2hs.cli.messages import note
from ms2hs.errors import DataError

CONFIG = "ms2hs.toml"
MAX_BYTES = 100_000
# Options that replace files, skip a check, start processes or compilers, contact servers, or may use a login.
NOT_IN_CONFIG = frozenset(
    {
        *("overwrite", "force", "workers", "scheduler", "compile", "serve", "open"),
        *("stac", "items", "provider", "product", "collection", "site", "recipe"),
    }
)
# Options that a [[stage]] may have, by command.
STAGE_OPTIONS = {
    "pretrain": (
        *("data", "source", "split", "leave-out", "simulated", "set"),
        *("window", "steps", "batch", "lr", "seed", "workers", "checkpoint-every", "picture-every"),
    )
}
_CONFIG_NAMES, _FILES, _STAGES = "ms2hs.config_names", "ms2hs.option_files", "ms2hs.stages"


def take_files(context: typer.Context, recipe: Path | None) -> None:
    """Use the values of `ms2hs.toml` and of a recipe for parameters that the command line does not give.

    Raises
    ------
    DataError : a file that cannot be read, or has an unknown or forbidden name or value.
    """
    if context.resilient_parsing:  # for shell completion
        return
    config = _config_values(context, Path(CONFIG)) if Path(CONFIG).is_file() else {}
    given = _recipe_values(context, recipe) if recipe else {}
    context.default_map = config | given
    context.meta[_CONFIG_NAMES] = set(config) - set(given)
    context.meta[_FILES] = [Path(CONFIG), *([recipe] if recipe else [])]


def is_from_config(context: typer.Context, parameter: str) -> bool:
    """Whether a default of `ms2hs.toml` replaces the default of a parameter."""
    return parameter in context.meta.get(_CONFIG_NAMES, ())


def option_files(context: typer.Context) -> list[Path]:
    """The files that may give options, which no output replaces."""
    files: list[Path] = context.meta.get(_FILES, [])
    return files


def _recipe_values(context: typer.Context, path: Path) -> dict[str, Any]:
    known = {name.lstrip("-"): one for one in context.command.params for name in one.opts if len(name) > 2}
    del known["recipe"]
    table = _read(path)
    if allowed := STAGE_OPTIONS.get(str(context.info_name)):
        stages = table.pop("stage", [])
        if not (isinstance(stages, list) and all(isinstance(stage, dict) for stage in stages)):
            raise DataError(
                f"{path}: stage is {stages!r}; options below lines [[stage]], one for each training, are needed. "
                "Correct the file."
            )
        of_stages = {name: known[name] for name in allowed}
        context.meta[_STAGES] = [_by_parameter("a stage", path, stage, of_stages) for stage in stages]
    return _by_parameter(str(context.info_name), path, table, known)


def stages_of(context: typer.Context) -> list[dict[str, Any]]:
    """The values of each [[stage]] of a recipe, by parameter, without the values that the command line gives."""
    own = {
        one.name: one
        for one in context.command.params
        if getattr(context.get_parameter_source(one.name or ""), "name", "") != "COMMANDLINE"
    }
    return [
        {name: own[name].process_value(context, value) for name, value in stage.items() if name in own}
        for stage in context.meta.get(_STAGES, [])
    ]


def _config_values(context: typer.Context, path: Path) -> dict[str, Any]:
    """The values of the table of this command, after a note that lists them."""
    names: list[str] = []
    at: Any = context
    while at.parent is not None:
        names.insert(0, str(at.info_name))
        at = at.parent
    table = _read(path)
    commands = at.command.commands
    if unknown := sorted(name for name, value in table.items() if name not in commands or not isinstance(value, dict)):
        raise DataError(
            f"{path}: {unknown[0]!r} is not a table of a command; {', '.join(commands)} are commands. Write options "
            f"below a line such as [convert], or remove the file."
        )
    for name in names:
        table = table.get(name, {})
    if not table:
        return {}
    options = {name: one for one in context.command.params for name in one.opts if name.startswith("--")}
    known = {name.lstrip("-"): one for name, one in options.items()}
    values = _by_parameter(str(context.info_name), path, table, known)
    for name, value in table.items():
        for text in map(str, value if isinstance(value, list) else [value]):
            if name in NOT_IN_CONFIG or "://" in text or not _is_inside(text):
                wrong = f"{name} = {text!r}" if name not in NOT_IN_CONFIG else repr(name)
                raise DataError(
                    f"{path}: {wrong} is not allowed there: the file may come from others; options that run, replace "
                    "or contact nothing, with paths in this folder, are allowed. Use the command line or --recipe."
                )
    note(f"{path} gives {', '.join(f'{name} = {value!r}' for name, value in table.items())}; the command line wins")
    return values


def _read(path: Path) -> dict[str, Any]:
    try:
        with path.open("rb") as file:
            content = file.read(MAX_BYTES + 1)
        table = tomllib.loads(content.decode("utf-8"))
    except (OSError, ValueError, RecursionError) as error:  # ValueError: not UTF-8, or not TOML
        raise DataError(
            f"{path}: cannot be read ({error}); a TOML file of options is needed. Check the path."
        ) from error
    if len(content) > MAX_BYTES:
        raise DataError(f"{path}: too long; at most {MAX_BYTES // 1000} kB of options are allowed. Shorten the file.")
    return table


def _by_parameter(owner: str, path: Path, table: dict[str, Any], known: dict[str, Any]) -> dict[str, Any]:
    """The values by parameter, as the command line would give them; `owner` is the command, or `a stage`."""
    if unknown := sorted(set(table) - set(known)):
        raise DataError(f"{path}: no option {unknown[0]!r}; {owner} has {', '.join(sorted(known))}. Correct the file.")
    if wrong := [name for name, value in table.items() if isinstance(value, dict)]:
        raise DataError(
            f"{path}: {wrong[0]!r} is a table; a number, a text, true, false or a list is needed. Correct the file."
        )
    return {known[name].name: _as_given(known[name], value) for name, value in table.items()}


def _as_given(parameter: Any, value: Any) -> Any:  # noqa: ANN401 - Typer's classes are not public
    """A value of TOML as words of a command line: `[1, 2]` is `1,2` for an option that is not repeatable."""
    words = [word if isinstance(word, bool) else str(word) for word in (value if isinstance(value, list) else [value])]
    if parameter.nargs == -1 or getattr(parameter, "multiple", False):
        return words
    return ",".join(map(str, words)) if isinstance(value, list) else words[0]


def _is_inside(text: str) -> bool:
    """Whether a path, if the text is a path, stays in the working directory, also through links."""
    try:
        return Path(text).resolve().is_relative_to(Path.cwd().resolve())
    except (OSError, ValueError):  # no possible path
        return False
