"""Text and JSON become values of an option's type, or one line says what the option takes."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Annotated, Any, Literal

import pytest

from engram.core.options import BelowOne, Count, Option, Positive, Range, Share
from engram.core.values import Checked, typed, typed_all
from engram.errors import ConfigError

Order = Literal["random"] | tuple[int, ...] | None


@pytest.mark.parametrize(
    ("hint", "given", "value"),
    [
        (int, "3", 3),
        (int, 3, 3),
        (float, "1e-3", 0.001),
        (float, 1, 1.0),
        (bool, "True", True),
        (bool, False, False),
        (str, "none", "none"),
        (int | None, "none", None),
        (int | None, "null", None),
        (int | None, None, None),
        (str | None, "null", None),
        (str | None, "none", "none"),
        (Literal["adam", "sgd"], "sgd", "sgd"),
        (Literal["none", "max"], "none", "none"),
        (tuple[int, ...], "[1, 2]", (1, 2)),
        (tuple[int, ...], [1, 2], (1, 2)),
        (tuple[int, ...], "[]", ()),
        (tuple[float, float], "(-0.5, 1)", (-0.5, 1.0)),
        (Order, "random", "random"),
        (Order, "[1, 0]", (1, 0)),
        (Order, None, None),
        (Any, "as it is", "as it is"),
        (Count, "1", 1),
        (Share | None, "1", 1.0),
        (Share | None, None, None),
        (Annotated[float, Range(1)], 1.0, 1.0),
        (tuple[Count, ...], "[8, 16]", (8, 16)),
    ],
)
def test_values(hint: Any, given: Any, value: Any):
    read = typed(Option("o", hint, None), given)
    assert read == value
    assert type(read) is type(value)


@pytest.mark.parametrize(
    ("hint", "given", "words"),
    [
        (int, "1.5", "o must be an integer, got '1.5'"),
        (int, True, "o must be an integer, got True"),
        (int, 1.0, "o must be an integer, got 1.0"),
        (int, None, "o must be an integer, got None"),
        (int, "9" * 400, "o must be an integer, got"),
        (int, 2**63, "o must be an integer, got"),
        (float, 10**400, "o must be a number, got"),
        (float, "nan", "o must be a number, got 'nan'"),
        (float, math.inf, "o must be a number"),
        (Positive, 1e308, "o must lie within -1e+30 and 1e+30, got 1e+308"),
        (tuple[float, ...] | None, "[1, -1e31]", "o must lie within -1e+30 and 1e+30, got '[1, -1e31]'"),
        (float | None, "x", "o must be a number or none, got 'x'"),
        (bool, 1, "o must be true | false"),
        (str, 3, "o must be text"),
        (Literal["adam", "sgd"], "adm", r"adam | sgd, got 'adm' (did you mean adam?)"),
        (tuple[int, ...], "1, 2", "o must be a list of integers"),
        (tuple[int, ...], "[1, b]", "o must be a list of integers"),
        (tuple[float, float], [1.0], "o must be a list of numbers"),
        (Order, "last", "o must be random or a list of integers or none"),
        (Count, 0, "o must be an integer >= 1, got 0"),
        (Positive, "0", "o must be a number > 0, got '0'"),
        (Share | None, "1.5", "o must be a number in [0, 1] or none, got '1.5'"),
        (BelowOne, 1.0, "o must be a number in [0, 1), got 1.0"),
        (Annotated[float, Range(1)], 0.5, "o must be a number >= 1, got 0.5"),
        (tuple[Count, ...], "[8, 0]", "o must be a list of integers >= 1, got '[8, 0]'"),
    ],
)
def test_what_is_refused(hint: Any, given: Any, words: str):
    with pytest.raises(ConfigError) as caught:
        typed(Option("o", hint, None), given)
    assert words in str(caught.value)


def test_an_unknown_option_is_named_with_its_owner():
    with pytest.raises(ConfigError, match=r"options of si must be among c, got 'd'"):
        typed_all("si", [Option("c", float, 1.0)], {"d": 3})
    with pytest.raises(ConfigError, match=r"si.c must be a number, got 'x'"):
        typed_all("si", [Option("c", float, 1.0)], {"c": "x"})


@dataclass(frozen=True)
class Sizes(Checked):
    """Options of this test."""

    n: Count | None = 3
    widths: tuple[float, ...] = (1, 2.0)


def test_a_configuration_is_checked_when_it_is_made():
    assert Sizes().n == 3
    assert Sizes(None).n is None
    assert Sizes(widths=[1.0]).widths == (1.0,)  # type: ignore[arg-type]
    for bad in (
        {"n": "3"},
        {"n": True},
        {"n": 0},
        {"widths": (math.nan,)},
        {"widths": 1.0},
        {"widths": ["1.0"]},
    ):
        with pytest.raises(ConfigError, match=r"(n|widths) must be"):
            Sizes(**bad)  # type: ignore[arg-type]
