"""The declarations of gates and interactions."""

from __future__ import annotations

import pytest

from tfrs_prerank.declaration import ConfigurationError, from_mapping, to_mapping
from tfrs_prerank.towers import Gate, Interaction, Tower


def test_a_kind_alone_is_its_declaration() -> None:
    short = Tower(gate="senet", interaction="cin")
    assert short == Tower(gate=Gate("senet"), interaction=Interaction("cin"))


def test_a_tower_survives_yaml() -> None:
    tower = Tower(
        gate=Gate("senet", squeeze="max", activations=("relu", "relu")),
        interaction=Interaction("bilinear", kernel=4, product="inner"),
    )
    written = to_mapping(tower)
    assert written == {
        "gate": {"kind": "senet", "squeeze": "max", "activations": ["relu", "relu"]},
        "interaction": {"kind": "bilinear", "product": "inner", "kernel": 4},
    }
    assert from_mapping(Tower, written, "tower") == tower


@pytest.mark.parametrize(
    ("kind", "options", "message"),
    [
        ("cin", {"rank": 0}, "rank must be at least 1. Received: 0"),
        ("cin", {"units": ()}, r"units must be at least 1. Received: \(\)"),
        ("cin", {"units": (3, 2), "split_half": True}, r"even units.*\(3, 2\)"),
        ("dcn_v1", {"rank": 2}, "rank does nothing with kind='dcn_v1'"),
        ("dcn_v2", {"experts": 2}, "experts=2 needs a rank"),
        ("bilinear", {"seed": 1}, "seed does nothing with kernel='full'"),
        (
            "bilinear",
            {"kernel": "identity", "pairs": "each"},
            "pairs does nothing with kernel='identity'",
        ),
        ("bilinear", {"kernel": "sparse", "density": 0.0}, r"in \(0, 1\].*: 0.0"),
        ("fibinet", {"product": "inner"}, "product does nothing with kind='fibinet'"),
    ],
)
def test_an_interaction_checks_itself(kind, options, message) -> None:
    with pytest.raises(ConfigurationError, match=message):
        Interaction(kind, **options)


@pytest.mark.parametrize(
    ("kind", "options", "message"),
    [
        ("senet", {"reduction": 0}, "reduction must be at least 1. Received: 0"),
        ("senet", {"activations": ("relu", "rely")}, "Received: 'rely'"),
        ("attention", {"squeeze": "max"}, "squeeze does nothing with kind='attention'"),
    ],
)
def test_a_gate_checks_itself(kind, options, message) -> None:
    with pytest.raises(ConfigurationError, match=message):
        Gate(kind, **options)
