"""Every example in a docstring runs, and every public name has a docstring."""

import dataclasses
import doctest
import importlib
import inspect
import pkgutil
import re
from collections.abc import Iterable, Iterator
from types import FunctionType, ModuleType

import pytest

import tfrs_prerank


def module_names(path: Iterable[str], prefix: str) -> Iterator[str]:
    """Yields the names of all modules below a path, without importing them."""
    for info in pkgutil.iter_modules(path):
        name = f"{prefix}.{info.name}"
        yield name
        if info.ispkg:
            folder = f"{next(iter(path))}/{info.name}"
            yield from module_names([folder], name)


MODULES = ["tfrs_prerank", *module_names(tfrs_prerank.__path__, "tfrs_prerank")]


def lacks_first_sentence(thing: object) -> bool:
    """Says whether a class, function or module has no docstring of its own."""
    # A class without a docstring would show that of its base, a dataclass a made-up
    # one, which is a signature and ends no sentence.
    own = vars(thing).get("__doc__") if isinstance(thing, type) else thing.__doc__
    paragraph = " ".join(inspect.cleandoc(own or "").split("\n\n")[0].split())
    return re.search(r"\w\W*\.(\s|$)", paragraph) is None


@pytest.mark.parametrize("name", MODULES)
def test_examples_run(name):
    module = importlib.import_module(name)
    finder = doctest.DocTestFinder(exclude_empty=True)
    runner = doctest.DocTestRunner(
        optionflags=doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE
    )
    report: list[str] = []
    failed = 0
    # An example sees what its module defines; all else, TensorFlow too, it imports.
    own = {
        key: value
        for key, value in vars(module).items()
        if getattr(value, "__module__", None) == name
    }
    for test in finder.find(module, name, globs=own):
        assert "+SKIP" not in (test.docstring or ""), f"{test.name} skips an example"
        failed += runner.run(test, out=report.append).failed
    assert failed == 0, "".join(report)


@pytest.mark.parametrize("name", MODULES)
def test_public_names_are_explained(name):
    module = importlib.import_module(name)
    things = {name: module}
    for public in getattr(module, "__all__", ()):
        thing = getattr(module, public)
        if isinstance(thing, (type, FunctionType, ModuleType)):
            things[f"{name}.{public}"] = thing
    unexplained = [key for key, thing in things.items() if lacks_first_sentence(thing)]
    assert unexplained == []


def test_an_inherited_or_unfinished_docstring_does_not_count():
    class Explained:
        """Says what it is."""

    class Silent(Explained):
        pass

    class Cut(Explained):
        """Says nothing"""

    @dataclasses.dataclass
    class Generated:
        size: float = 1.0

    assert not lacks_first_sentence(Explained)
    assert lacks_first_sentence(Silent)
    assert lacks_first_sentence(Cut)
    assert Generated.__doc__
    assert lacks_first_sentence(Generated)
