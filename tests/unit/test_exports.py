from __future__ import annotations

import importlib
import importlib.metadata
import importlib.resources
import inspect
import pkgutil
import subprocess
import types
from typing import Any

import pytest

import pysandbox

CLASSES = [name for name in pysandbox.__all__ if isinstance(getattr(pysandbox, name), type)]
FUNCTIONS = [name for name in pysandbox.__all__ if inspect.isfunction(getattr(pysandbox, name))]
MODULES = sorted(
    module.name
    for module in pkgutil.walk_packages(pysandbox.__path__, "pysandbox.")
    if not module.name.rpartition(".")[2].startswith("_")
)


def _own_members(kind: type[Any]) -> list[str]:
    """The public methods and properties that a class of ours defines itself."""
    found = []
    for name, value in vars(kind).items():
        if isinstance(value, (staticmethod, classmethod)):
            value = value.__func__
        if not name.startswith("_") and isinstance(value, (types.FunctionType, property)):
            found.append(name)
    return found


MEMBERS = [(name, member) for name in CLASSES for member in _own_members(getattr(pysandbox, name))]


def test_all_is_what_dir_shows_publicly() -> None:
    shown = {name for name in dir(pysandbox) if not name.startswith("_")}
    shown = {name for name in shown if not isinstance(getattr(pysandbox, name), types.ModuleType)}
    assert shown == {name for name in pysandbox.__all__ if not name.startswith("_")}


def test_all_is_sorted_constants_then_classes_then_the_rest() -> None:
    def kind(name: str) -> int:
        return 0 if name.isupper() else 1 if name[0].isupper() else 2

    assert list(pysandbox.__all__) == sorted(pysandbox.__all__, key=lambda name: (kind(name), name))


def test_all_names_nothing_twice() -> None:
    assert len(set(pysandbox.__all__)) == len(pysandbox.__all__)


@pytest.mark.parametrize("name", pysandbox.__all__)
def test_every_name_in_all_is_there(name: str) -> None:
    assert getattr(pysandbox, name) is not None


def test_star_import_gives_exactly_all() -> None:
    names: dict[str, Any] = {}
    exec("from pysandbox import *", names)
    names.pop("__builtins__")
    assert set(names) == set(pysandbox.__all__)


@pytest.mark.parametrize(
    "name",
    [
        "Sandbox",
        "Namespaces",
        "ChrootJail",
        "CgroupLimits",
        "Capabilities",
        "Rlimits",
        "Environment",
        "Verdict",
        "Result",
        "Usage",
        "Popen",
        "PIPE",
        "STDOUT",
        "DEVNULL",
        "run",
        "popen",
    ],
)
def test_the_names_of_the_contract_are_public(name: str) -> None:
    assert name in pysandbox.__all__


@pytest.mark.parametrize("name", [*CLASSES, *FUNCTIONS])
def test_every_public_class_and_function_has_a_docstring_of_its_own(name: str) -> None:
    text = vars(getattr(pysandbox, name)).get("__doc__") if name in CLASSES else getattr(pysandbox, name).__doc__
    assert text
    assert text.strip()
    assert not text.startswith(f"{name}("), "the one that dataclass makes"


@pytest.mark.parametrize(("name", "member"), MEMBERS, ids=[f"{name}.{member}" for name, member in MEMBERS])
def test_every_public_method_has_a_docstring(name: str, member: str) -> None:
    assert inspect.getdoc(getattr(getattr(pysandbox, name), member))


@pytest.mark.parametrize("name", ["pysandbox", *(name for name in MODULES if not name.endswith(".build_native"))])
def test_every_module_can_be_imported_and_has_a_docstring(name: str) -> None:
    assert importlib.import_module(name).__doc__


@pytest.mark.parametrize("name", ["PIPE", "STDOUT", "DEVNULL"])
def test_the_constants_are_those_of_subprocess(name: str) -> None:
    assert getattr(pysandbox, name) == getattr(subprocess, name)


def test_the_version_is_that_of_the_installed_distribution() -> None:
    assert pysandbox.__version__ == importlib.metadata.version("pysandbox")


def test_type_checkers_are_told_that_it_is_typed() -> None:
    assert importlib.resources.files(pysandbox).joinpath("py.typed").is_file()
