"""The public names, compared with the list in ``api_symbols.txt``.

A change of the public API must be a visible change of that file. Write it anew with

    python tests/test_public_api.py
"""

import importlib
import pkgutil
import sys
from pathlib import Path

GOLDEN = Path(__file__).with_name("api_symbols.txt")


def public_names() -> list[str]:
    """Returns every name in ``__all__`` of the package and its public subpackages."""
    import tfrs_prerank

    packages = ["tfrs_prerank"]
    for info in pkgutil.iter_modules(tfrs_prerank.__path__):
        if info.ispkg and not info.name.startswith("_"):
            packages.append(f"tfrs_prerank.{info.name}")
    names = []
    for package in packages:
        module = importlib.import_module(package)
        assert hasattr(module, "__all__"), f"{package} has no __all__"
        assert sorted(set(module.__all__)) == sorted(module.__all__), package
        for name in module.__all__:
            getattr(module, name)  # A name that is promised must be there.
            names.append(f"{package}.{name}")
    return sorted(names)


def test_public_names_are_those_of_the_list():
    assert public_names() == GOLDEN.read_text(encoding="utf-8").split()


def test_every_lazy_name_is_public():
    import tfrs_prerank

    lazy = {*tfrs_prerank._MODULE_OF, "__version__"}
    assert lazy == set(tfrs_prerank.__all__)
    assert lazy | set(tfrs_prerank._SUBPACKAGES) <= set(dir(tfrs_prerank))


def test_an_unknown_name_is_an_attribute_error():
    import tfrs_prerank

    try:
        tfrs_prerank.Scheme  # noqa: B018
    except AttributeError as error:
        assert str(error) == "module 'tfrs_prerank' has no attribute 'Scheme'"
    else:
        raise AssertionError("no AttributeError")


if __name__ == "__main__":
    sys.path.insert(0, str(GOLDEN.parent.parent))
    GOLDEN.write_text("\n".join(public_names()) + "\n", encoding="utf-8")
