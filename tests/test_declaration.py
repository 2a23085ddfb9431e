"""Frozen declarations: checks, one-line errors, reading and writing plain values."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Annotated, Literal

import pytest
from pydantic import Field

from tfrs_prerank.declaration import (
    ConfigurationError,
    declaration,
    from_mapping,
    nearest,
    read_yaml,
    to_mapping,
    write_yaml,
)


@declaration
class Round:
    name: str
    size: float = 1.0
    kind: Literal["round"] = "round"

    def __post_init__(self) -> None:
        if self.size <= 0:
            raise ValueError(f"size must be positive. Received: {self.size}")


@declaration
class Square:
    name: str
    sides: tuple[int, ...] = (1, 1)
    kind: Literal["square"] = "square"


Shape = Annotated[Round | Square, Field(discriminator="kind")]


@declaration
class Drawing:
    shapes: tuple[Shape, ...]
    title: str | None = None


def message(call, *args, **kwargs) -> str:
    with pytest.raises(ConfigurationError) as error:
        call(*args, **kwargs)
    assert "\n" not in str(error.value)
    return str(error.value)


def test_fields_are_converted_and_frozen():
    square = Square("a", sides=[2, 3])
    assert square.sides == (2, 3)
    with pytest.raises(dataclasses.FrozenInstanceError):
        square.name = "b"
    assert square == Square("a", (2, 3)) and hash(square) == hash(Square("a", (2, 3)))


@pytest.mark.parametrize(
    ("call", "expected"),
    [
        (lambda: Round(), "Round.name: is required and was not given"),
        (
            lambda: Round("a", sise=2.0),
            "Round.sise: unknown key 'sise'; did you mean 'size'?",
        ),
        (
            lambda: Round("a", "big"),
            "Round.size: input should be a valid number, unable to parse string as a "
            "number. Received: 'big'",
        ),
        (
            lambda: Round("a", float("nan")),
            "Round.size: input should be a finite number. Received: nan",
        ),
        (
            lambda: Round("a", size=float("inf")),
            "Round.size: input should be a finite number. Received: inf",
        ),
        # A check of the declaration's own says which of many it is.
        (lambda: Round("a", -1), "Round 'a': size must be positive. Received: -1.0"),
        (
            lambda: Round(name="b", size=0),
            "Round 'b': size must be positive. Received: 0.0",
        ),
    ],
)
def test_errors_name_field_value_and_fix(call, expected):
    assert message(call) == expected


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        # The misspelt key comes before the required one that it leaves out.
        (
            {"shape": []},
            "file.yaml.shape: unknown key 'shape'; did you mean 'shapes'?",
        ),
        (
            {"shapes": [{"kind": "square", "name": "a", "side": [1]}]},
            "file.yaml.shapes[0].square.side: unknown key 'side'; did you mean "
            "'sides'?",
        ),
        (
            {"shapes": [{"kind": "square", "name": "a", "colour": 1}]},
            "file.yaml.shapes[0].square.colour: unknown key 'colour'; "
            "known: kind, name, sides",
        ),
        (
            {"shapes": [{"kind": "squar", "name": "a"}]},
            "file.yaml.shapes[0].kind: unknown kind 'squar'; did you mean 'square'?",
        ),
        (
            {"shapes": [{"name": "a"}]},
            "file.yaml.shapes[0]: needs a `kind`. Received: {'name': 'a'}",
        ),
        (
            {"shapes": [{"kind": "round", "name": "a"}, {"kind": "round", "name": 3}]},
            "file.yaml.shapes[1].round.name: input should be a valid string. Received: "
            "3",
        ),
        (
            {"shapes": [{"kind": "round", "name": "a", "size": -2}]},
            "file.yaml.shapes[0].round 'a': size must be positive. Received: -2.0",
        ),
        (
            {"shapes": [{"kind": "square", "name": "a", "sides": [1, "x"]}]},
            "file.yaml.shapes[0].square.sides[1]: input should be a valid integer, "
            "unable to parse string as an integer. Received: 'x'",
        ),
        ({}, "file.yaml.shapes: is required and was not given"),
        (
            [],
            "file.yaml: input should be a dictionary or an instance of Drawing. "
            "Received: []",
        ),
        (
            None,
            "file.yaml: input should be a dictionary or an instance of Drawing. "
            "Received: None",
        ),
    ],
)
def test_errors_in_a_mapping_say_where(value, expected):
    assert message(from_mapping, Drawing, value, "file.yaml") == expected


def test_mapping_leaves_out_defaults_and_reads_back():
    drawing = Drawing([Round("a"), Square("b", (2, 3)), Round("c", 2)], "x")
    mapping = to_mapping(drawing)
    assert mapping == {
        "shapes": [
            {"name": "a", "kind": "round"},
            {"name": "b", "sides": [2, 3], "kind": "square"},
            {"name": "c", "size": 2.0, "kind": "round"},
        ],
        "title": "x",
    }
    assert from_mapping(Drawing, mapping, "x") == drawing
    assert to_mapping(Drawing([])) == {"shapes": []}


def test_yaml_files(tmp_path: Path):
    path = tmp_path / "a.yaml"
    value = {"b": [1, 2.5, None, True], "a": {"名": "红"}}
    write_yaml(path, value)
    assert read_yaml(path) == value
    assert list(read_yaml(path)) == ["b", "a"]  # in the given order
    assert "红" in path.read_text(encoding="utf-8")


def test_yaml_errors_are_one_line(tmp_path: Path):
    path = tmp_path / "a.yaml"
    with pytest.raises(FileNotFoundError, match=f"no configuration file at {path}"):
        read_yaml(path)
    path.write_text("a: [1,\nb: 2\n")
    assert f"{path} is not valid YAML" in message(read_yaml, path)
    assert "line 1, column 4" in message(read_yaml, path)
    path.write_bytes(b"a: \xff\n")
    assert f"{path} is not UTF-8 text" in message(read_yaml, path)


def test_nearest():
    assert nearest("max_value", ["min_count", "max_values"]) == (
        "did you mean 'max_values'?"
    )
    assert nearest("zzz", ["b", "a"]) == "known: a, b"
    assert nearest("zzz", []) == "there is none"
