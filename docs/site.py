"""The documentation as a site: pages as they stand, a page a command from its help, and the reference from docstrings.

``python docs/site.py OUT`` (``make docs``) copies the pages to ``OUT/pages``, adds what is generated, and has zensical
build ``OUT/site``. Pages are plain Markdown that reads on its own; mkdocs builds them just as well.
"""

from __future__ import annotations

import contextlib
import inspect
import io
import json
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import engram.api
from engram.cli.main import COMMANDS, HELP, main
from engram.core.options import closest

ROOT = Path(__file__).parents[1]
START = {"Start: your photos": "docs/memory.md", "Start: your research": "docs/your-research.md"}
NAV: dict[str, Any] = {
    "Home": "README.md",
    **START,
    "Choose a method": "docs/choose.md",
    "Concepts": "docs/concepts.md",
    "Questions": "docs/questions.md",
    "Methods": "docs/methods/*.md",
    "Commands": "docs/commands/*.md",
    "Results": {
        "Results, tables and figures": "docs/results.md",
        "Sweeps": "docs/sweeps.md",
        "Trade-offs": "docs/tradeoffs.md",
        "Analyses of the SI paper": "docs/analyses.md",
        "Measures of generative methods": "docs/generative.md",
        "What accuracy costs": "docs/accuracy-and-bytes.md",
        "What growing networks keep": "docs/growth.md",
        "Experiment trackers": "docs/trackers.md",
    },
    "Your own": {
        "Network and data": "docs/your-own.md",
        "Method": "docs/your-method.md",
        "Fixed features": "docs/features.md",
        "A learner": "docs/learner.md",
        "A memory on disk": "docs/memory.md",
        "Taking a memory elsewhere": "docs/export.md",
    },
    "Reproductions": {
        "Tables and figures of the papers": "docs/reproduce.md",
        "Files": "reproductions/README.md",
    },
    "Design": "docs/design.md",
    "Benchmarks": "docs/benchmarks.md",
    "Leaderboard": "docs/leaderboard.md",
    "Glossary": "docs/glossary.md",
    "Reference": "docs/reference/*.md",
    "Contributing": "CONTRIBUTING.md",
    "Changes": "CHANGELOG.md",
}
#: Pages open as files too, fonts are the reader's own, dark where the reader's screen is, Markdown is the standard one,
#: and shapes such as [N, D] are no links.
LOOK = """\
use_directory_urls = false
extra_css = ["look.css"]

[project.theme]
font = false
features = ["content.code.copy", "navigation.top", "search.highlight"]

[[project.theme.palette]]
media = "(prefers-color-scheme: light)"
scheme = "default"
toggle = {icon = "lucide/sun", name = "Dark"}

[[project.theme.palette]]
media = "(prefers-color-scheme: dark)"
scheme = "slate"
toggle = {icon = "lucide/moon", name = "Light"}

[project.validation]
unresolved_references = false

[project.markdown_extensions]
attr_list = {}
tables = {}
toc = {permalink = true}

[project.markdown_extensions.pymdownx]
highlight = {}
superfences = {}
"""
#: Wide enough for help and commands; figures are drawn on white.
CSS = """\
.md-grid { max-width: 76rem }
.md-typeset img { background: white; border-radius: .2rem }
"""
#: The reference, a page a theme; names without a module are those of `engram` itself.
REFERENCE = {
    "studies": (
        "Runs and studies",
        ["engram.api", "run", "compare", "sweep", "tradeoff", "method", "write_report"],
    ),
    "data": (
        "Data and streams",
        ["load", "from_arrays", "class_incremental", "permuted", "rotated", "sequence"],
    ),
    "learner": ("Learners and memories", ["Learner", "Memory", "MemoryClassifier", "fixed_features"]),
    "settings": ("Settings", ["DataSettings", "NetworkSettings", "FeatureSettings"]),
    "results": (
        "Results and figures",
        [
            "engram.studies.study.Outcome",
            "engram.studies.results.read",
            "engram.studies.tidy.tidy",
            "engram.studies.tidy.paired",
            "engram.report.exports.export",
            "engram.report.figures.accuracy_curves",
            "engram.report.figures.forgetting_curves",
            "engram.report.figures.storage_bars",
            "engram.report.figures.accuracy_matrix",
            "engram.report.figures.confusion_matrix",
            "engram.report.figures.loss_curves",
            "engram.report.figures_sweep.strength_curves",
            "engram.report.figures_tradeoff.tradeoff_figure",
            "engram.report.style.restyled",
        ],
    ),
    "own": (
        "Methods of your own",
        [
            "engram.core.contract.Method",
            "engram.core.contract.Context",
            "engram.core.contract.Phase",
            "engram.core.contract.Update",
            "engram.core.contract.Player",
            "engram.checks.check_method",
            "engram.studies.trackers.Tracker",
        ],
    ),
    "errors": ("Errors", [name for name in engram.__all__ if name.endswith("Error")]),
}


def found(name: str) -> Any:
    """The object of a name."""
    module, _, last = name.rpartition(".")
    if not module:
        return getattr(engram, last)
    __import__(module)
    return getattr(sys.modules[module], last)


def told(docstring: str) -> str:
    """A docstring as Markdown: its sections as headings in bold, their entries as lists."""
    lines, section = [], False
    text = re.sub(r"(?m)^(    (?:\w+, )*\w+,)\n +(\w+: )", r"\1 \2", inspect.cleandoc(docstring))
    for line in text.splitlines():
        if re.fullmatch(r"(Args|Further|Returns|Raises|Yields):", line):
            section = True
            lines += ["", f"**{line[:-1]}**", ""]
        elif section and (entry := re.match(r"    (\*{0,2}\w+(?:, \*{0,2}\w+)*): (.*)", line)):
            lines.append(f"- `{entry[1]}`: {entry[2]}")
        elif section and line.startswith("    "):
            lines.append(f"  {line.strip()}" if line.startswith("        ") else line.strip())
        else:
            section = section and not line
            lines.append(line)
    text = re.sub(r":\w+:`~?\.?([^`]*)`", r"`\1`", "\n".join(lines))
    return re.sub(r"``([^`]*)``", r"`\1`", text).replace("<", "&lt;")


def described(name: str) -> str:
    """An object of the reference: its signature, what its docstring says, and of a class its public functions."""
    thing = found(name)
    full = name if "." in name else f"engram.{name}"
    text = [f"## `{full}`", "", *call(full.rpartition(".")[2], thing), told(thing.__doc__ or "")]
    if inspect.isclass(thing) and not issubclass(thing, Exception):
        for own, function in vars(thing).items():
            target = getattr(function, "__func__", function)
            if not own.startswith("_") and inspect.isfunction(target) and target.__doc__:
                text += ["", f"### `{own}`", "", *call(own, target), told(target.__doc__)]
    return "\n".join(text) + "\n"


def call(name: str, thing: Any) -> list[str]:
    """How something is called: a parameter a line where one line is too short for all; nothing where it is unknown."""
    try:
        signature = inspect.signature(thing)
    except (TypeError, ValueError):  # a module; an error
        return []
    plain = [re.sub(r": '([^']*)'", r": \1", str(p)) for p in signature.parameters.values()]
    kinds = [p.kind for p in signature.parameters.values()]
    if inspect.Parameter.KEYWORD_ONLY in kinds and inspect.Parameter.VAR_POSITIONAL not in kinds:
        plain.insert(kinds.index(inspect.Parameter.KEYWORD_ONLY), "*")
    inside = ", ".join(plain) if len(", ".join(plain)) < 80 else "\n    " + ",\n    ".join(plain) + "\n"
    gives = re.search(r"->.*", str(signature))
    return [
        "```python",
        f"{name}({inside}) {gives[0] if gives else ''}".replace("-> '", "-> ").strip().rstrip("'"),
        "```",
        "",
    ]


def help_of(command: str) -> str:
    """What a command prints as help, all of it."""
    words = ["si"] if command in ("run", "compare", "sweep", "tradeoff") else []
    flag = "--help-all" if words else "--help"
    with contextlib.redirect_stdout(io.StringIO()) as said:
        if main([command, *words, flag]):
            raise SystemExit(f"engram {command} {flag} must print help.")
    return said.getvalue()


def generated() -> dict[str, str]:
    """Pages made from help and docstrings, by path."""
    pages = {}
    for command in COMMANDS:
        lines = (
            line.split("  ", 2)[-1].strip() for line in HELP.splitlines() if line.startswith(f"  {command} ")
        )
        about = next(lines, "")
        intro = f"---\nhide: toc\n---\n\n# `engram {command}`\n\n" + (
            f"{about[:1].upper()}{about[1:]}.\n\n" if about else ""
        )
        pages[f"docs/commands/{command}.md"] = f"{intro}```text\n{help_of(command)}```\n"
    for page, (title, names) in REFERENCE.items():
        pages[f"docs/reference/{page}.md"] = f"# {title}\n\n" + "\n".join(map(described, names))
    return pages


def copied(text: str, page: Path, pages: set[str]) -> str:
    """A page's text, with links to what is no page of the site as plain words."""

    def link(match: re.Match[str]) -> str:
        target = match[2].partition("#")[0]
        if not target or re.match(r"\w+:", target):
            return match[0]
        path = (page.parent / target).resolve().relative_to(ROOT).as_posix()
        return match[0] if path in pages or match[0].startswith("!") else f"{match[1]} (`{path}`)"

    return re.sub(r"!?\[([^\]]*)\]\(([^)\s]+)\)", link, text)


def nav(pages: set[str], entries: dict[str, Any]) -> list[Any]:
    """The navigation as zensical reads it; a pattern is a list of pages."""
    out: list[Any] = []
    for title, entry in entries.items():
        if isinstance(entry, dict):
            out.append({title: nav(pages, entry)})
        elif "*" in entry:
            folder = entry.rpartition("/")[0]
            out.append({title: sorted(p for p in pages if p.startswith(f"{folder}/"))})
        elif entry not in pages:
            raise SystemExit(f"{entry} must be a page, it is not there{closest(entry, pages)}.")
        else:
            out.append({title: entry})
    return out


def toml(value: Any) -> str:
    """A value of the navigation in TOML."""
    if isinstance(value, dict):
        return (
            "{"
            + ", ".join(f"{json.dumps(k, ensure_ascii=False)} = {toml(v)}" for k, v in value.items())
            + "}"
        )
    if isinstance(value, list):
        return "[" + ", ".join(map(toml, value)) + "]"
    return json.dumps(value, ensure_ascii=False)


def stage(out: Path) -> Path:
    """Write pages and configuration of the site; the configuration's path."""
    shutil.rmtree(out, ignore_errors=True)
    made = generated()
    folders = ("docs", "reproductions")
    found_pages = [*ROOT.glob("*.md"), *(p for f in folders for p in (ROOT / f).rglob("*.md"))]
    pages = {p.relative_to(ROOT).as_posix() for p in found_pages} | set(made)
    if "docs/your-photos.md" in pages:
        NAV["Start: your photos"] = "docs/your-photos.md"
    for path in found_pages:
        target = out / "pages" / path.relative_to(ROOT)
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(copied(path.read_text(encoding="utf-8"), path, pages), encoding="utf-8")
    for name, text in made.items():
        target = out / "pages" / name
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(text, encoding="utf-8")
    shutil.copytree(ROOT / "docs" / "figures", out / "pages" / "docs" / "figures", dirs_exist_ok=True)
    (out / "pages" / "look.css").write_text(CSS, encoding="utf-8")
    config = out / "zensical.toml"
    config.write_text(
        '[project]\nsite_name = "engram"\n'
        'site_description = "Continual learning that remembers without keeping the old data."\n'
        'docs_dir = "pages"\nsite_dir = "site"\n'
        f"nav = {toml(nav(pages, NAV))}\n{LOOK}",
        encoding="utf-8",
    )
    return config


if __name__ == "__main__":
    if len(sys.argv) != 2:
        raise SystemExit("usage: python docs/site.py OUT")
    config = stage(Path(sys.argv[1]).resolve())
    built = subprocess.run([Path(sys.executable).with_name("zensical"), "build", "-f", config], check=False)
    if built.returncode:
        raise SystemExit(built.returncode)
    site = config.parent / "site"
    print(f"Site: {site / 'index.html'} (its search needs a server: python3 -m http.server -d {site})")
