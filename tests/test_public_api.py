from __future__ import annotations

import ast
import inspect
import subprocess
import sys
from pathlib import Path

import pytest

import vis_callbacks


@pytest.mark.parametrize("name", vis_callbacks.__all__)
def test_a_public_name_can_be_imported_and_says_what_it_is(name):
    value = getattr(vis_callbacks, name)
    assert inspect.getdoc(value), name
    assert name in dir(vis_callbacks)


def test_type_checkers_see_the_names_that_are_loaded_lazily():
    tree = ast.parse(Path(vis_callbacks.__file__).read_text())
    (block,) = [n for n in tree.body if isinstance(n, ast.If) and "TYPE_CHECKING" in ast.unparse(n)]
    seen = {
        alias.asname: f"{node.module}.{alias.name}"
        for node in block.body
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
    }
    loaded = {name: f"vis_callbacks.{home}.{name}" for name, home in vis_callbacks._HOME.items()}
    assert seen == loaded


def test_an_unknown_name_is_no_attribute():
    with pytest.raises(AttributeError, match="no attribute 'ActivatonMonitor'"):
        vis_callbacks.ActivatonMonitor  # noqa: B018


def test_all_names_come_with_a_star():
    namespace: dict[str, object] = {}
    exec("from vis_callbacks import *", namespace)
    assert set(vis_callbacks.__all__) < set(namespace)


def test_importing_the_package_imports_neither_torch_nor_lightning():
    heavy = "{'torch', 'numpy', 'matplotlib', 'lightning', 'pytorch_lightning', 'tensorboard'}"
    code = f"import sys, vis_callbacks; print(sorted({heavy} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_the_version_is_that_of_the_project():
    from importlib.metadata import version

    assert vis_callbacks.__version__ == version("vis-callbacks")
