"""Formulas of indices: values and derivatives equal the results of autograd, and nothing but arithmetic is accepted."""

import re

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ms2hs.spectra.formulas import FUNCTIONS, Formula
from ms2hs.spectra.index_catalogue import indices_by_name

LEAVES = st.sampled_from(["a", "b", "c", "2", "0.5"])
EXPRESSIONS = st.recursive(
    LEAVES,
    lambda inner: st.one_of(
        st.builds("({}{}{})".format, inner, st.sampled_from(["+", "-", "*", "/"]), inner),
        st.builds("({})**{}".format, inner, st.sampled_from(["2", "0.5", "1.3", "-1"])),
        st.builds("{}({})".format, st.sampled_from(sorted(FUNCTIONS)), inner),
        st.builds("(-{})".format, inner),
    ),
    max_leaves=8,
)


def by_autograd(text, values):
    """Value and derivatives of a trusted formula, by torch."""
    tensors = {name: torch.tensor(value, dtype=torch.float64, requires_grad=True) for name, value in values.items()}
    functions = {
        name: lambda x, name=name: getattr(torch, name)(torch.as_tensor(x, dtype=torch.float64)) for name in FUNCTIONS
    }
    text = re.sub(r"(?<![\w.])(\d+\.?\d*)", r"number(\1)", text)  # else 1 / 0 and (-2)**0.5 would be Python's
    functions["number"] = lambda x: torch.tensor(x, dtype=torch.float64)
    value = eval(text, {"__builtins__": {}}, tensors | functions)  # noqa: S307 - written by the test
    if value.requires_grad:
        value.sum().backward()
    return value.detach().numpy(), {name: tensor.grad for name, tensor in tensors.items()}


def check_equal(text, values):
    found = Formula(text).evaluate(values, list(values))
    with np.errstate(all="ignore"):
        value, slopes = by_autograd(text, values)
    finite = np.isfinite(value) & (np.abs(value) < 1e100)
    np.testing.assert_allclose(np.broadcast_to(found.value, value.shape)[finite], value[finite], rtol=1e-9)
    for name, slope in slopes.items():
        expected = np.zeros(value.shape) if slope is None else slope.numpy().sum() if value.ndim == 0 else slope.numpy()
        known = finite & np.isfinite(expected) & (np.abs(expected) < 1e100)
        actual = np.broadcast_to(found.slopes.get(name, 0.0), value.shape)
        np.testing.assert_allclose(actual[known], np.broadcast_to(expected, value.shape)[known], rtol=1e-7, atol=1e-12)


@settings(deadline=None, max_examples=60)
@given(text=EXPRESSIONS, numbers=st.lists(st.floats(0.1, 2), min_size=3, max_size=3))
def test_values_and_derivatives_equal_autograd(text, numbers):
    check_equal(text, dict(zip("abc", numbers, strict=True)))


@settings(deadline=None, max_examples=30)
@given(base=st.floats(0.1, 2), exponent=st.floats(-2, 2))
def test_derivative_by_an_exponent_equals_autograd(base, exponent):
    check_equal("a**b", {"a": base, "b": exponent})


def test_derivatives_of_the_catalogue_equal_autograd():
    rng = np.random.default_rng(0)
    for index in indices_by_name().values():
        check_equal(index.formula.text, {name: rng.uniform(0.05, 0.6, 3) for name in index.formula.names})


@pytest.mark.parametrize(
    "text",
    [
        "__import__('os')", "open('x')", "a.b", "a[0]", "lambda: 1",
        "a if b else c", "[a]", "'a'", "a and b", "a < b",
        "log(a, b)", "log(x=a)", "print(a)", "a // b", "a @ b", "1j", "a := 1", "1e999",
        "", "a +", "+".join("a" * 3000),
        "-" * 1500 + "a", "True", "f'{a}'", "log",
    ],
)  # fmt: skip
def test_other_text_is_refused(text):
    with pytest.raises(ValueError, match=r"not (allowed|a formula)|are allowed"):
        Formula(text)
