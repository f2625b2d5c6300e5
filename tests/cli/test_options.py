"""The set of options is frozen: a change shows up here, and in ``options.txt``.

``python tests/cli/test_options.py`` writes the list anew.
"""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from engram import networks
from engram.cli.command_line import KINDS, options_by_title
from engram.cli.main import HELP, main
from engram.core.options import type_words
from engram.core.values import split_variant
from engram.methods.registry import METHODS, about

STORED = Path(__file__).with_name("options.txt")


def listed() -> list[str]:
    """Every option of every command and method with its type, sorted."""
    groups = [
        group for kind in KINDS.values() for group in options_by_title(kind(), sorted(METHODS), None).values()
    ]
    return sorted({f"{flag}: {option.kind}" for group in groups for flag, option in group.items()})


def test_no_option_comes_or_goes_unseen():
    assert listed() == STORED.read_text(encoding="utf-8").splitlines()


def test_every_option_is_explained():
    for name in METHODS:
        for option in about(name).options:
            assert option.help, f"{name}.{option.name} is not in the docstring"


def test_help_is_no_wider_than_the_screen(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("COLUMNS", "72")
    for words in ("", "run", "run si", "reproduce", "learn", "report", "cache", "tradeoff", "forget"):
        assert main([*words.split(), "--help"]) == 0
        lines = capsys.readouterr().out.splitlines()
        assert max(map(len, lines)) <= 72, words
    monkeypatch.setenv("COLUMNS", "200")
    assert main(["--help"]) == 0
    wide = capsys.readouterr().out
    assert wide.splitlines() == HELP.splitlines()


def test_help_is_short_and_leads_to_the_rest(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.delenv("COLUMNS", raising=False)
    assert main(["run", "dgmw", "--help"]) == 0
    usual = capsys.readouterr().out
    assert len(usual.splitlines()) <= 60
    assert max(map(len, usual.splitlines())) <= 116
    for shown in (
        "what most people set:",
        "dgmw, as in its paper:",
        "network dcgan8:",
        "--dgmw.lambda_ru",
        "--dcgan8.n_z",
    ):
        assert shown in usual
    for hidden in ("--dgmw.zero_unused", "--label-column", "--mlp.hidden"):
        assert hidden not in usual
    assert main(["run", "dgmw", "--help-all"]) == 0
    whole = capsys.readouterr().out
    assert "--dgmw.zero_unused" in whole
    assert "--label-column" in whole
    assert "--mlp.hidden" not in whole
    more = whole.count("\n  --") - usual.count("\n  --")
    assert f"{more} more options" in usual


def test_help_parts_every_option_from_its_words(capsys: pytest.CaptureFixture[str]):
    known = {line.partition(":")[0] for line in STORED.read_text(encoding="utf-8").splitlines()}
    asked = [(name, "mlp", "scattering") for name in METHODS]
    asked += [("finetune", network, "fourier") for network in networks.NETWORKS]
    for name, network, seen in asked:
        assert main(["run", name, "--network", network, "--features", seen, "--help-all"]) == 0
        lines = re.findall(r"(?m)^  (--.*)", capsys.readouterr().out)
        assert {line.split()[0] for line in lines} <= known, name


def test_a_line_of_help_is_understood_alone():
    """It says what an option is, and does not lean on its name or on the line above."""
    groups = [
        group for kind in KINDS.values() for group in options_by_title(kind(), sorted(METHODS), None).values()
    ]
    for flag, option in ((f, o) for group in groups for f, o in group.items()):
        first = option.help.split()[0].rstrip(",;:")
        assert first not in (
            "of",
            "or",
            "whose",
            "its",
            "such",
            "as",
            "None",
            "above",
            "by",
            "to",
        ), flag
        assert len(option.help.split()) > 2, flag


def test_a_method_is_told_on_a_page(capsys: pytest.CaptureFixture[str]):
    assert main(["list", "ewc"]) == 0
    page = " ".join(capsys.readouterr().out.split())
    for told in (
        "Kirkpatrick",
        "Departures",
        "Cost:",
        "Scenarios: class, domain, task",
        "As in its paper",
        "Further",
    ):
        assert told in page


def test_types_in_words():
    assert type_words(int | None) == "integer or none"
    assert type_words(tuple[int, ...]) == "list of integers"
    assert type_words(bool) == "true | false"


def test_variants():
    assert split_variant("dgmw") == ("dgmw", {})
    assert split_variant("m:a=1,b=[2,3],c=x") == ("m", {"a": "1", "b": "[2,3]", "c": "x"})


if __name__ == "__main__":
    STORED.write_text("\n".join(listed()) + "\n", encoding="utf-8")
