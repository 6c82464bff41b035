"""Formulas of spectral indices: parsed text, evaluated with exact derivatives.

A formula is an expression of Python with numbers, names, + - * / ** and the functions of `FUNCTIONS`; anything else is
refused, and no text is executed. It is evaluated from the leaves to the root of its tree. Each node returns its value
and its derivatives by the requested names (forward-mode differentiation).
"""

import ast
import math
from collections.abc import Callable, Collection, Mapping
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np

from ms2hs.arrays import FloatArray

Number = float | FloatArray

# Value of each function, and its derivative from argument and value.
FUNCTIONS: dict[str, tuple[Callable[[Any], Any], Callable[[Any, Any], Any]]] = {
    "log": (np.log, lambda x, _: 1 / x),
    "exp": (np.exp, lambda _, y: y),
    "sqrt": (np.sqrt, lambda _, y: 0.5 / y),
}
MAX_LETTERS, MAX_DEPTH = 2000, 100


class Dual(NamedTuple):
    """A value and its derivatives by name; names without a derivative do not occur in it."""

    value: Number
    slopes: dict[str, Number]


# Value of each operator, and its derivatives by the left and the right side from both sides and the value.
OPERATORS: dict[type[ast.operator], tuple[Callable[..., Any], Callable[..., Any], Callable[..., Any]]] = {
    ast.Add: (lambda a, b: a + b, lambda a, b, c: 1.0, lambda a, b, c: 1.0),  # noqa: ARG005 - one signature for all
    ast.Sub: (lambda a, b: a - b, lambda a, b, c: 1.0, lambda a, b, c: -1.0),  # noqa: ARG005
    ast.Mult: (lambda a, b: a * b, lambda a, b, c: b, lambda a, b, c: a),  # noqa: ARG005
    ast.Div: (lambda a, b: a / b, lambda a, b, c: 1 / b, lambda a, b, c: -c / b),  # noqa: ARG005
    ast.Pow: (lambda a, b: a**b, lambda a, b, c: b * a ** (b - 1), lambda a, b, c: c * np.log(a)),  # noqa: ARG005
}


class Formula:
    """A formula and its names.

    Raises
    ------
    ValueError : not an expression of numbers, names, operators and known functions.
    """

    def __init__(self, text: str) -> None:
        self.text = text
        if len(text) > MAX_LETTERS:
            raise ValueError(f"a formula of {len(text)} letters; at most {MAX_LETTERS} are allowed")
        try:
            self._tree = ast.parse(text, mode="eval").body
        except (SyntaxError, RecursionError, MemoryError) as error:
            raise ValueError(f"{text[:100]!r} is not a formula ({error})") from error
        _check(self._tree, 0)

    @cached_property
    def names(self) -> tuple[str, ...]:
        """The names of bands and constants, in the order of the text."""
        nodes = (node for node in ast.walk(self._tree) if isinstance(node, ast.Name) and node.id not in FUNCTIONS)
        ordered = sorted(nodes, key=lambda node: node.col_offset)
        return tuple(dict.fromkeys(node.id for node in ordered))

    def evaluate(self, values: Mapping[str, Number], by: Collection[str] = ()) -> Dual:
        """The value, and its derivatives by the names `by`.

        Parameters
        ----------
        values : numbers or arrays of one shape for every name. Divisions by 0 and logarithms of negative numbers give
            infinity or NaN, without a warning.
        """
        numbers = {
            name: np.asarray(value, float)[()] for name, value in values.items()
        }  # numbers of Python would raise
        with np.errstate(all="ignore"):
            return _evaluate(self._tree, numbers, by)


def _check(node: ast.AST, depth: int) -> None:
    """ValueError unless a node and all nodes below it are allowed."""
    if isinstance(node, ast.BinOp) and type(node.op) in OPERATORS:
        below: list[ast.expr] = [node.left, node.right]
    elif isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub | ast.UAdd):
        below = [node.operand]
    elif isinstance(node, ast.Call):
        is_known = isinstance(node.func, ast.Name) and node.func.id in FUNCTIONS
        below = node.args if is_known and len(node.args) == 1 and not node.keywords else []
    else:
        is_name = isinstance(node, ast.Name) and node.id not in FUNCTIONS
        if is_name or (isinstance(node, ast.Constant) and _is_number(node.value)):
            return
        below = []
    if not below or depth > MAX_DEPTH:
        raise ValueError(f"{type(node).__name__} at letter {getattr(node, 'col_offset', 0)} is not allowed")
    for part in below:
        _check(part, depth + 1)


def _is_number(value: object) -> bool:
    return type(value) in {int, float} and math.isfinite(value)  # type: ignore[arg-type]


def _evaluate(node: Any, values: Mapping[str, Number], by: Collection[str]) -> Dual:  # noqa: ANN401 - as `_check` allows
    if isinstance(node, ast.Name):
        return Dual(values[node.id], {node.id: 1.0} if node.id in by else {})
    if isinstance(node, ast.Constant):
        number: Any = node.value
        return Dual(np.float64(number), {})
    if isinstance(node, ast.UnaryOp):
        operand = _evaluate(node.operand, values, by)
        sign = -1.0 if isinstance(node.op, ast.USub) else 1.0
        return Dual(sign * operand.value, {name: sign * slope for name, slope in operand.slopes.items()})
    if isinstance(node, ast.Call):
        called: Any = node.func
        function, derivative = FUNCTIONS[called.id]
        argument = _evaluate(node.args[0], values, by)
        value = function(argument.value)
        outer = derivative(argument.value, value)
        return Dual(value, {name: outer * slope for name, slope in argument.slopes.items()})
    function, by_left, by_right = OPERATORS[type(node.op)]
    left, right = _evaluate(node.left, values, by), _evaluate(node.right, values, by)
    a, b = left.value, right.value
    value, slopes = function(a, b), dict[str, Number]()
    for side, derivative_of in ((left, by_left), (right, by_right)):
        if side.slopes:
            outer = derivative_of(a, b, value)
            for name, slope in side.slopes.items():
                slopes[name] = slopes.get(name, 0.0) + outer * slope
    return Dual(value, slopes)
