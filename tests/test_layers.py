"""The structure of the package: imports go down only, in few floors, and stand at the top of their file."""

from __future__ import annotations

import ast
import tokenize
from pathlib import Path

import grimp
import pytest
from importlinter.cli import EXIT_STATUS_SUCCESS, lint_imports

import engram

ROOT = Path(engram.__file__).parent
MOST_FLOORS = 14


@pytest.fixture(scope="module")
def imports() -> dict[str, set[str]]:
    graph = grimp.build_graph("engram", exclude_type_checking_imports=True, cache_dir=None)
    return {module: set(graph.find_modules_directly_imported_by(module)) for module in graph.modules}


def longest_chain(imports: dict[str, set[str]]) -> list[str]:
    """The longest chain of files of which each imports the next; an error names a circle."""

    done: dict[str, list[str]] = {}

    def chain(module: str, above: tuple[str, ...] = ()) -> list[str]:
        assert module not in above, f"a circle: {' > '.join([*above[above.index(module) :], module])}"
        if module not in done:
            chains = [chain(other, (*above, module)) for other in sorted(imports[module])]
            done[module] = [module, *max(chains, key=len, default=[])]
        return done[module]

    return max((chain(module) for module in sorted(imports)), key=len)


def test_files_import_each_other_in_few_floors_and_no_circle(imports: dict[str, set[str]]) -> None:
    longest = longest_chain(imports)
    assert len(longest) <= MOST_FLOORS, " > ".join(longest)


def test_a_circle_and_a_long_chain_are_found() -> None:
    with pytest.raises(AssertionError, match="a > b > a"):
        longest_chain({"a": {"b"}, "b": {"a"}})
    assert longest_chain({"a": {"b", "d"}, "b": {"c"}, "c": set(), "d": set()}) == ["a", "b", "c"]


def test_layers_are_those_of_the_contract() -> None:
    pyproject = ROOT.parent.parent / "pyproject.toml"
    assert lint_imports(config_filename=str(pyproject), no_cache=True) == EXIT_STATUS_SUCCESS


def imports_inside(path: Path) -> list[tuple[int, bool]]:
    """Lines of the imports inside functions of a file, and whether a comment at or above the block says why."""
    text = path.read_text(encoding="utf-8")
    with path.open("rb") as file:
        comments = {t.start[0] for t in tokenize.tokenize(file.readline) if t.type == tokenize.COMMENT}
    found = []
    for function in ast.walk(ast.parse(text)):
        if not isinstance(function, (ast.FunctionDef, ast.AsyncFunctionDef)):
            continue
        for block in (n.body for n in ast.walk(function) if isinstance(getattr(n, "body", None), list)):
            said = False
            for before, node in zip([None, *block], block, strict=False):
                if not isinstance(node, (ast.Import, ast.ImportFrom)):
                    continue
                follows = isinstance(before, (ast.Import, ast.ImportFrom)) and said
                said = follows or bool(comments & {node.lineno - 1, *range(node.lineno, node.end_lineno + 1)})
                found.append((node.lineno, said))
    return found


def test_an_import_inside_a_function_says_why() -> None:
    silent = [
        f"{path.relative_to(ROOT)}:{line}"
        for path in sorted(ROOT.rglob("*.py"))
        for line, said in dict(imports_inside(path)).items()
        if not said
    ]
    assert not silent, "a comment must say which heavy library is kept out of start-up: " + ", ".join(silent)
