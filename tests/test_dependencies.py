"""What is imported is declared, and what is declared is imported."""

from __future__ import annotations

import ast
import re
import sys
import tomllib
from collections.abc import Iterable, Iterator
from importlib.metadata import packages_distributions
from pathlib import Path

ROOT = Path(__file__).parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
# Parts of this repository, and what comes with scikit-learn and with TensorBoard.
NOT_DECLARED = {"tests", "benchmarks", "threadpoolctl", "google", "werkzeug"}


def imported(folders: Iterable[str]) -> set[str]:
    """Returns the distributions of other people that the code below the folders imports."""
    paths = [path for folder in folders for path in (ROOT / folder).rglob("*.py")]
    assert paths
    own = {"vis_callbacks", *(path.stem for path in paths)} | NOT_DECLARED
    modules = {name for path in paths for name in _modules(path)}
    homes = packages_distributions()
    return {
        _normalised(homes.get(module, [module])[0])
        for module in modules - own - sys.stdlib_module_names
    }


def _modules(path: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name.partition(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and not node.level:
            yield str(node.module).partition(".")[0]


def declared(requirements: Iterable[str]) -> set[str]:
    """Returns the names of the distributions that a list of requirements asks for."""
    return {_normalised(re.split(r"[\[<>=!~; ]", line)[0]) for line in requirements}


def _normalised(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def test_the_package_declares_what_it_imports_and_nothing_else():
    assert declared(PROJECT["dependencies"]) == imported(["src"])


def test_what_developers_install_holds_all_that_tests_examples_and_benchmarks_import():
    extras = PROJECT["optional-dependencies"]
    installed = declared([*PROJECT["dependencies"], *extras["dev"], *extras["examples"]])
    assert imported(["tests", "examples", "benchmarks"]) <= installed
