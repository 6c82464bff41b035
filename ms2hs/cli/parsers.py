"""Option values with a form of their own: boxes, windows, wavelength ranges, pixel sizes, shards."""

import math
from collections.abc import Sequence
from typing import Any, Literal, NamedTuple

import typer

# Smallest and largest pixel size, from a drone's to a climate model's.
GSDS_M = (0.001, 100_000.0)


class BBox(NamedTuple):
    """An area in degrees."""

    west: float
    south: float
    east: float
    north: float


class PixelWindow(NamedTuple):
    """A rectangle of pixels."""

    row: int
    col: int
    height: int
    width: int


class Ranges(tuple[tuple[float, float], ...]):
    """Wavelength ranges (low, high) in nm."""

    __slots__ = ()


class Shard(NamedTuple):
    """One of `shards` equal shares of a list, counted from 1."""

    number: int
    shards: int


class ErrorLevels(NamedTuple):
    """Standard deviations of a product's errors: relative gain, offset and noise of a pixel in reflectance."""

    gain: float
    offset: float
    pixel: float


def is_number(text: str) -> bool:
    """Whether the text is a finite number."""
    try:
        return math.isfinite(float(text))
    except ValueError:
        return False


def parse_bbox(text: str) -> BBox:
    """Parse W,S,E,N."""
    return BBox(*_numbers(text, "W,S,E,N", "7.1,46.2,7.3,46.4"))


def parse_pixel_window(text: str) -> PixelWindow:
    """Parse ROW,COL,HEIGHT,WIDTH."""
    numbers = _numbers(text, "ROW,COL,HEIGHT,WIDTH", "0,0,512,512")
    if fractions := [number for number in numbers if not number.is_integer()]:
        raise typer.BadParameter(
            f"{text!r} has {fractions[0]:g}; whole numbers of pixels are needed. Write for example 0,0,512,512."
        )
    return PixelWindow(*map(int, numbers))


def parse_lonlat(text: str) -> tuple[float, float]:
    """Parse LON,LAT in degrees."""
    lon, lat = _numbers(text, "LON,LAT", "13.31,52.38")
    if abs(lon) > 360 or abs(lat) > 90:
        raise typer.BadParameter(
            f"{text!r}: longitudes from -360 to 360 and latitudes from -90 to 90 degrees are allowed. Write for "
            "example 13.31,52.38."
        )
    return lon, lat


def parse_row_col(text: str) -> tuple[int, int]:
    """Parse ROW,COL."""
    row, col = _numbers(text, "ROW,COL", "40,60")
    if not (row.is_integer() and col.is_integer()):
        raise typer.BadParameter(f"{text!r}: whole numbers of pixels are needed. Write for example 40,60.")
    return int(row), int(col)


def parse_input_error(text: str) -> ErrorLevels | str:
    """Parse `none`, the name of measured errors, or GAIN,OFFSET,PIXEL; each is 0 or more, and below 1."""
    from ms2hs.spectra.product_error import error_table_names

    if text in {"none", *error_table_names()}:
        return text
    if text.isidentifier():
        raise typer.BadParameter(
            f"{text!r} is unknown; none, {', '.join(error_table_names())}, or GAIN,OFFSET,PIXEL is allowed. Write for "
            "example 0.02,0.005,0.003."
        )
    levels = _numbers(text, "GAIN,OFFSET,PIXEL", "0.02,0.005,0.003")
    if min(levels) < 0 or max(levels) >= 1:
        raise typer.BadParameter(
            f"{text!r}: standard deviations from 0 to below 1 are allowed, as shares and reflectance, not in percent. "
            "Write for example 0.02,0.005,0.003."
        )
    return ErrorLevels(*levels)


def parse_ranges(text: str) -> Ranges:
    """Parse LOW-HIGH,LOW-HIGH in nm."""
    ranges = []
    for part in text.split(","):
        low, _, high = part.partition("-")
        if not (is_number(low) and is_number(high) and float(low) <= float(high)):
            raise typer.BadParameter(f"{part!r} is not LOW-HIGH in nm. Write for example 400-900,2100-2300.")
        ranges.append((float(low), float(high)))
    return Ranges(ranges)


def parse_gsd(text: str) -> float | Literal["native"]:
    """Parse a pixel size in metres, or `native`."""
    if text == "native":
        return "native"
    if not is_number(text) or not GSDS_M[0] <= float(text) <= GSDS_M[1]:
        raise typer.BadParameter(
            f"{text!r} is not a pixel size; {GSDS_M[0]:g} to {GSDS_M[1]:g} metres, or `native`, is allowed. Write for "
            "example 30."
        )
    return float(text)


def parse_shard(text: str) -> Shard:
    """Parse I/N."""
    number, _, count = text.partition("/")
    if not (number.isdecimal() and count.isdecimal() and 1 <= int(number) <= int(count)):
        raise typer.BadParameter(f"{text!r} is not I/N with I from 1 to N. Write for example 1/8.")
    return Shard(int(number), int(count))


def parse_fields(pairs: Sequence[str]) -> dict[str, str]:
    """Parse FIELD=VALUE, several times."""
    for pair in pairs:
        if "=" not in pair:
            raise typer.BadParameter(f"{pair!r} is not FIELD=VALUE. Write for example --set depth=2.")
    return dict(pair.split("=", 1) for pair in pairs)


def parse_shares(text: str) -> list[float]:
    """Different shares above 0 and below 1, separated by commas, in ascending order."""
    try:
        shares = [float(part) for part in text.split(",")]
    except ValueError:
        shares = [math.nan]
    if not all(0 < share < 1 for share in shares):
        raise typer.BadParameter(
            f"{text!r} are not shares; numbers above 0 and below 1 are needed. Write for example 0.5,0.75,0.9,0.95."
        )
    return sorted(set(shares))


def _numbers(text: str, names: str, example: str) -> Any:  # noqa: ANN401 - unpacked into a tuple of known length
    parts, count = text.split(","), names.count(",") + 1
    if len(parts) != count or not all(map(is_number, parts)):
        raise typer.BadParameter(f"{text!r} is not {names}: {count} numbers are needed. Write for example {example}.")
    return tuple(map(float, parts))


# Options whose value is four numbers, which people write with commas or with blanks.
FOUR_NUMBERS = ("--bbox", "--window")


def join_numbers(arguments: Sequence[str]) -> list[str]:
    """`--bbox W S E N` as `--bbox=W,S,E,N`: both are usual, and a leading minus looks like an option."""
    joined = list(arguments)
    for option in FOUR_NUMBERS:
        if option in joined:
            at = joined.index(option)
            numbers = []
            for word in joined[at + 1 : at + 5]:
                if not all(map(is_number, word.split(","))):
                    break
                numbers.append(word)
                if "," in word:
                    break
            if numbers:
                joined[at : at + 1 + len(numbers)] = [f"{option}={','.join(numbers)}"]
    return joined


# What `ms2hs evaluate` scores, by the option that gave the data before there were sub-commands.
EVALUATIONS = {"--cube": "cube", "--pairs": "pairs", "--corpus": "corpus"}


def name_evaluation(arguments: Sequence[str]) -> list[str]:
    """`evaluate --pairs DIR` as `evaluate pairs DIR`: both are allowed.

    `--corpus DIR` with `--hidden` or `--ratio` is a completion.
    """
    words = list(arguments)
    if words[:1] != ["evaluate"] or not words[1:] or not words[1].startswith("-"):
        return words
    for option, kind in EVALUATIONS.items():
        for at, word in enumerate(words):
            name, equals, value = word.partition("=")
            if name != option or not (equals or words[at + 1 :]):
                continue
            value, rest = (value, words[at + 1 :]) if equals else (words[at + 1], words[at + 2 :])
            rest = words[1:at] + rest
            is_completion = any(one.partition("=")[0] in {"--hidden", "--ratio"} for one in rest)
            return ["evaluate", "completion" if kind == "corpus" and is_completion else kind, value, *rest]
    return words
