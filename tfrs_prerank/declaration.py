"""Frozen, validated dataclasses: how every piece of configuration is written.

What belongs here: the decorator `declaration`, reading one from a mapping (YAML) and
writing it back. What does not: any particular declaration.
"""

from __future__ import annotations

import dataclasses
import difflib
import functools
import re
import typing
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar

import typing_extensions
import yaml
from pydantic import ConfigDict, TypeAdapter, ValidationError
from pydantic.dataclasses import dataclass as validated_dataclass
from pydantic_core import ArgsKwargs

T = TypeVar("T")

_UNKNOWN_KEY = ("extra_forbidden", "unexpected_keyword_argument")


class ConfigurationError(ValueError):
    """A declaration or a configuration file is wrong; the message is one line."""


@typing_extensions.dataclass_transform(frozen_default=True)
def declaration(cls: type[T]) -> type[T]:
    """Makes a class a frozen dataclass whose fields are checked on construction.

    Unknown fields, NaN and infinity are refused. Errors are one line that names the
    field, the value received and what is wanted.

    Args:
        cls: a class with annotated fields.

    Returns:
        The dataclass.

    >>> from tfrs_prerank.declaration import declaration
    >>> @declaration
    ... class Window:
    ...     days: int = 30
    >>> Window(days=7)
    Window(days=7)
    >>> Window(days="long")
    Traceback (most recent call last):
    tfrs_prerank.declaration.ConfigurationError: Window.days: input should be a valid \
integer, unable to parse string as an integer. Received: 'long'
    """
    made: Any = validated_dataclass(
        frozen=True,
        # NaN passes every comparison that a check is made of.
        config=ConfigDict(extra="forbid", validate_default=True, allow_inf_nan=False),
    )(cls)
    validated_init = made.__init__

    @functools.wraps(validated_init)
    def init(self: Any, *args: Any, **kwargs: Any) -> None:
        try:
            validated_init(self, *args, **kwargs)
        except ValidationError as error:
            message = _one_line(error, cls.__name__, cls)
            raise ConfigurationError(message) from None

    made.__init__ = init
    return made


def from_mapping(kind: Any, value: Any, where: str) -> Any:
    """Reads a declaration (or a union or tuple of them) from plain YAML values.

    Args:
        kind: the type to read.
        value: mappings, lists and scalars, as `yaml.safe_load` gives them.
        where: what errors call the whole, such as a file name or a section.

    Returns:
        An instance of `kind`.

    Raises:
        ConfigurationError: a key is unknown (the nearest known one is named) or a value
            is not what the field wants.
    """
    try:
        return TypeAdapter(kind).validate_python(value)
    except ValidationError as error:
        raise ConfigurationError(_one_line(error, where, kind)) from None


def to_mapping(value: Any) -> Any:
    """Writes a declaration as plain YAML values, leaving out fields at their default.

    Args:
        value: a declaration, or a list, tuple or dict of them, or a scalar.

    Returns:
        Mappings, lists and scalars. `from_mapping` reads them back to an equal value.
    """
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        mapping = {}
        for field in dataclasses.fields(value):
            item = getattr(value, field.name)
            # The tag that tells members of a union apart is written always.
            if field.name in ("kind", "source") or not _is_default(field, item):
                mapping[field.name] = to_mapping(item)
        return mapping
    if isinstance(value, Mapping):
        return {key: to_mapping(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [to_mapping(item) for item in value]
    return value


def read_yaml(path: str | Path) -> Any:
    """Reads a YAML file.

    Args:
        path: the file.

    Returns:
        What the file holds, as mappings, lists and scalars.

    Raises:
        FileNotFoundError: there is no such file.
        ConfigurationError: the file is not YAML; the line is named.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"no configuration file at {path}")
    try:
        return yaml.safe_load(path.read_text(encoding="utf-8"))
    except yaml.YAMLError as error:
        text = on_one_line(error)
        raise ConfigurationError(f"{path} is not valid YAML: {text}") from None
    except UnicodeDecodeError as error:
        raise ConfigurationError(f"{path} is not UTF-8 text: {error}") from None


def write_yaml(path: str | Path, value: Any) -> None:
    """Writes plain values as a YAML file with keys in the given order.

    Args:
        path: the file to write.
        value: mappings, lists and scalars.
    """
    text = yaml.safe_dump(value, sort_keys=False, allow_unicode=True)
    Path(path).write_text(text, encoding="utf-8")


def check_effect(value: Any, cause: str, *names: str) -> None:
    """Raises ValueError for fields that are set and that another field makes idle.

    Args:
        value: the declaration.
        cause: the field that takes their effect away.
        names: fields that must be at their default beside it.
    """
    for field in dataclasses.fields(value):
        item = getattr(value, field.name)
        if field.name in names and not _is_default(field, item):
            raise ValueError(
                f"{field.name} does nothing with {cause}={getattr(value, cause)!r}; "
                f"leave it out. Received: {field.name}={item!r}"
            )


def on_one_line(error: BaseException) -> str:
    """Returns an error's message with its line ends and runs of spaces made one space.

    Args:
        error: of another library, whose messages may have many lines.
    """
    return " ".join(str(error).split())


def nearest(name: str, known: Any) -> str:
    """Says which known name a wrong one probably means.

    Args:
        name: the wrong name.
        known: the names that exist.

    Returns:
        A clause to end an error message with.
    """
    known = sorted(str(item) for item in known)
    if not known:
        return "there is none"
    close = difflib.get_close_matches(str(name), known, n=1, cutoff=0.6)
    if close:
        return f"did you mean {close[0]!r}?"
    return f"known: {', '.join(known)}"


def _is_default(field: dataclasses.Field[Any], item: Any) -> bool:
    if field.default is not dataclasses.MISSING:
        return item == field.default
    if field.default_factory is not dataclasses.MISSING:
        return item == field.default_factory()
    return False


def _one_line(error: ValidationError, where: str, kind: Any) -> str:
    """Puts the finding of a validation error that helps most on one line."""
    findings = error.errors()
    # A misspelt key is also a missing one; the misspelling is what must be mended.
    unknown = [finding for finding in findings if finding["type"] in _UNKNOWN_KEY]
    first = (unknown or findings)[0]
    path = first["loc"]
    if first["type"] == "dataclass_type" and isinstance(first["input"], str):
        # Where a declaration's kind alone will do, a wrong word is a wrong kind.
        kinds = [f for f in findings if f["type"] == "literal_error"]
        if kinds and kinds[0]["input"] == first["input"]:
            first, path = kinds[0], kinds[0]["loc"][:-1]
    location = where
    for part in _named(path, kind):
        if isinstance(part, str) and part[:1].isupper():
            continue  # the class of a union's member, which no key stands for
        location += f"[{part}]" if isinstance(part, int) else f".{part}"
    problem, received = first["type"], first["input"]
    if problem in _UNKNOWN_KEY:
        key = str(first["loc"][-1])
        known = _fields_near(kind, first["loc"][:-1])
        return f"{location}: unknown key {key!r}; {nearest(key, known)}"
    if problem in ("missing", "missing_argument"):
        return f"{location}: is required and was not given"
    if problem in ("union_tag_invalid", "union_tag_not_found"):
        key = first["ctx"]["discriminator"].strip("'")
        if problem == "union_tag_not_found":
            return f"{location}: needs a `{key}`. Received: {received!r}"
        tags = first["ctx"]["expected_tags"].replace("'", "").split(", ")
        tag = first["ctx"]["tag"]
        return f"{location}.{key}: unknown {key} {tag!r}; {nearest(tag, tags)}"
    if problem == "literal_error":
        choices = re.findall(r"'([^']*)'", first["ctx"]["expected"])
        if choices and isinstance(received, str):
            return f"{location}: unknown {received!r}; {nearest(received, choices)}"
    if problem == "value_error":
        # Checks of our own already name the value they received.
        return f"{location}{_name_in(received, kind)}: {first['ctx']['error']}"
    message = first["msg"][0].lower() + first["msg"][1:]
    return f"{location}: {message}. Received: {received!r}"


def _named(location: tuple[int | str, ...], kind: Any) -> tuple[int | str, ...]:
    """Replaces the place of a positional argument by the field's name."""
    if location and isinstance(location[0], int) and dataclasses.is_dataclass(kind):
        fields = [field.name for field in dataclasses.fields(kind) if field.init]
        if location[0] < len(fields):
            return (fields[location[0]], *location[1:])
    return location


def _name_in(received: Any, kind: Any) -> str:
    """Returns the `name` among a declaration's arguments, quoted, where it has one."""
    arguments = received
    if isinstance(received, ArgsKwargs):  # made by a call, not from a mapping
        fields = [field.name for field in dataclasses.fields(kind) if field.init]
        arguments = dict(zip(fields, received.args, strict=False))
        arguments |= received.kwargs or {}
    name = arguments.get("name") if isinstance(arguments, Mapping) else None
    return f" {name!r}" if isinstance(name, str) else ""


def _fields_near(kind: Any, path: tuple[int | str, ...]) -> list[str]:
    """Lists the field names of the declaration that an error's path leads to."""
    found = _walk(kind, list(path))
    return [
        field.name
        for field in dataclasses.fields(found)
        if field.init and not field.name.startswith("_")
    ]


def _walk(kind: Any, path: list[int | str]) -> Any:
    if hasattr(kind, "__metadata__"):  # Annotated[...]
        return _walk(kind.__origin__, path)
    arguments = typing.get_args(kind)
    if dataclasses.is_dataclass(kind):
        if not path:
            return kind
        hints = typing.get_type_hints(kind, include_extras=True)
        if path[0] in hints:
            return _walk(hints[str(path[0])], path[1:])
        return kind
    if path and isinstance(path[0], int) and arguments:
        return _walk(arguments[0], path[1:])
    declarations = [a for a in arguments if dataclasses.is_dataclass(a)]
    for member in declarations:
        # A tagged union names the member's tag in the path, a plain one its class.
        tag = getattr(member, "kind", None)
        if path and path[0] in (tag, getattr(member, "__name__", None)):
            return _walk(member, path[1:])
    for member in arguments:
        if hasattr(member, "__metadata__"):
            return _walk(member, path)
    return declarations[0] if declarations else kind
