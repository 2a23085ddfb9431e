"""Mixtures as declarations: what YAML says, and what is refused."""

from __future__ import annotations

import subprocess
import sys

import pytest

from tfrs_prerank import Categorical, Numeric, Schema, Task
from tfrs_prerank.datasets.log_config import LogsConfig
from tfrs_prerank.declaration import ConfigurationError, from_mapping, to_mapping
from tfrs_prerank.sampling import Catalog, Hard, Mixture, Positives, Sampler


def test_yaml_and_python_say_the_same():
    value = {
        "exposed": 20,
        "preranked_out": None,
        "catalog": {"count": 8, "by": ["exposures", "city"], "weights": [1, 2, 2, 0]},
        "hard": {"easy_per_hard": 50},
        "positives": {"min_exposures": 3, "min_rate": 0.01},
        "seed": 4,
    }
    mixture = from_mapping(Mixture, value, "c.yaml")
    assert mixture == Mixture(
        exposed=20,
        ranked=10,
        preranked_out=None,
        catalog=Catalog(8, by=("exposures", "city"), weights=(1.0, 2.0, 2.0, 0.0)),
        hard=Hard(first=101, last=500, easy_per_hard=50.0),
        positives=Positives(min_exposures=3, min_rate=0.01),
        seed=4,
    )
    assert from_mapping(Mixture, to_mapping(mixture), "again") == mixture
    assert to_mapping(Mixture()) == {}


def test_a_number_is_a_catalog_of_defaults():
    mixture = from_mapping(Mixture, {"catalog": 12}, "c.yaml")
    assert mixture.strata == Catalog(12)
    assert mixture.drawn_from_catalog == 12
    assert Mixture().drawn_from_catalog == 0


def test_quota():
    mixture = Mixture()
    assert mixture.quota("exposed") == float("inf")
    assert (mixture.quota("ranked"), mixture.quota("preranked_out")) == (10, 40)


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ({"rankd": 3}, "c.yaml.rankd: unknown key 'rankd'; did you mean 'ranked'?"),
        ({"ranked": -1}, "c.yaml: ranked must not be negative. Received: -1"),
        ({"catalog": -1}, "c.yaml: catalog must not be negative. Received: -1"),
        ({"catalog": {"count": -2}}, "count must not be negative. Received: -2"),
        (
            {"catalog": {"count": 2, "bands": [5, 5]}},
            "bands must ascend, from 1 on. Received: (5, 5)",
        ),
        (
            {"catalog": {"count": 2, "bands": [0, 5]}},
            "bands must ascend, from 1 on. Received: (0, 5)",
        ),
        (
            {"catalog": {"count": 2, "weights": [1, 2]}},
            "weights needs 4 numbers from 0 on, one for each band, one of them "
            "positive. Received: (1.0, 2.0)",
        ),
        (
            {"catalog": {"count": 2, "weights": [0, 0, 0, 0]}},
            "one of them positive. Received: (0.0, 0.0, 0.0, 0.0)",
        ),
        ({"catalog": {"count": 2, "alpha": 1.5}}, "alpha must be in [0, 1]"),
        (
            {"catalog": {"count": 2, "by": ["city"], "bands": [7]}},
            "bands does nothing with by=('city',)",
        ),
        ({"catalog": {"count": 2, "by": [], "alpha": 1}}, "alpha does nothing with by"),
        ({"catalog": {"count": 2, "by": ["a", "a"]}}, "by names something twice"),
        ({"hard": {"first": 0}}, "begins at rank 1 or later"),
        ({"hard": {"first": 9, "last": 8}}, "Received: first=9, last=8"),
        ({"hard": {"easy_per_hard": 0}}, "easy_per_hard must be positive"),
        ({"positives": {"min_exposures": 0}}, "min_exposures must be at least 1"),
        ({"positives": {"min_rate": 1.1}}, "min_rate must be in [0, 1]. Received: 1.1"),
    ],
)
def test_what_is_refused(value, message):
    with pytest.raises(ConfigurationError) as raised:
        from_mapping(Mixture, value, "c.yaml")
    text = str(raised.value)
    assert message in text
    assert "\n" not in text and text.startswith("c.yaml")


def test_hard_negatives_need_the_production_order():
    files = {"requests": "r.csv", "documents": "d.csv"}
    with pytest.raises(ConfigurationError, match=r"name its column in columns\.rank"):
        from_mapping(LogsConfig, {**files, "mixture": {"hard": {}}}, "c.yaml")
    value = {**files, "mixture": {"hard": {}}, "columns": {"rank": "place"}}
    config = from_mapping(LogsConfig, value, "c.yaml")
    assert config.mixture.hard == Hard()
    assert from_mapping(LogsConfig, to_mapping(config), "again") == config


def schema(*features):
    own = [
        Categorical("user_id", "query", buckets=9),
        Categorical("city", "doc", buckets=9),
        Categorical("tags", "doc", buckets=9, max_values=3),
        Numeric("price", "doc"),
        Numeric("clicks", "doc", point_in_time=True),
    ]
    return Schema([*own, *features], [Task("click")])


@pytest.mark.parametrize(
    "feature",
    [
        Numeric("bm25", "cross"),
        Numeric("bm25", "doc", training_only=True),
        Numeric("bm25", "cross", dtype="int64"),
    ],
)
def test_a_number_that_draws_cannot_have_is_refused(feature):
    message = r"the log has no 'bm25'; declare Numeric\('bm25', \.\.\., missing=VALUE\)"
    with pytest.raises(ConfigurationError, match=message) as raised:
        Sampler(Mixture(catalog=1), schema(feature))
    assert "\n" not in str(raised.value)
    Sampler(Mixture(), schema(feature))  # nothing is drawn


def test_strata_are_made_of_single_static_ids():
    for name in ("tags", "price", "clicks", "user_id", "ctiy"):
        mixture = Mixture(catalog=Catalog(1, by=(name,)))
        with pytest.raises(ConfigurationError, match=f"single ids '{name}'"):
            Sampler(mixture, schema())
    with pytest.raises(ConfigurationError, match="did you mean 'city'"):
        Sampler(Mixture(catalog=Catalog(1, by=("ctiy",))), schema())


@pytest.mark.parametrize(
    ("mixture", "what"),
    [(Mixture(catalog=1), "catalog"), (Mixture(positives=Positives()), "positives")],
)
def test_what_needs_the_training_log_says_so(mixture, what):
    message = rf"mixture\.{what} needs the training log\. Received: log=None"
    with pytest.raises(ConfigurationError, match=message):
        Sampler(mixture, schema())


def test_a_mixture_is_checked_without_tensorflow():
    program = (
        "import sys; from tfrs_prerank.sampling import Mixture, Sampler\n"
        "Mixture(catalog=3); assert 'tensorflow' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", program], check=True)
