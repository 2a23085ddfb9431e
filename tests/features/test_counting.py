"""Counts with most of the values on disk equal `collections.Counter`'s."""

from __future__ import annotations

import collections
import random
import tempfile
import tracemalloc
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tfrs_prerank.features import counting
from tfrs_prerank.features.counting import ValueCounts, most_frequent

TEXTS = st.text(st.characters(codec=None), max_size=3)  # surrogates and newlines too


@settings(deadline=None, max_examples=150)
@given(
    st.one_of(
        st.lists(st.lists(TEXTS, max_size=6), max_size=12),
        st.lists(st.lists(st.integers(-20, 20), max_size=6), max_size=12),
    ),
    st.integers(1, 4),
    st.integers(1, 3),
    st.none() | st.integers(1, 5),
)
def test_equals_a_counter(parts, capacity, min_count, most):
    with tempfile.TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as patch:
        patch.setattr(counting, "_AT_ONCE", 2)
        patch.setattr(counting, "_FAN_IN", 3)
        counts = ValueCounts(folder, capacity)
        for part in parts:
            counts.update(part)
        expected = collections.Counter(value for part in parts for value in part)
        assert list(counts.items()) == sorted(expected.items())
        found = most_frequent(counts.items(), min_count, most)
        kept = [value for value, count in expected.items() if count >= min_count]
        kept.sort(key=lambda value: (-expected[value], value))
        assert found == kept[:most]
        # Two files of each level at the most, and none left of what was merged.
        left = [path for level in counts._levels for path in level]
        assert sorted(left) == sorted(Path(folder).iterdir())
        assert all(len(level) < 3 for level in counts._levels)


def test_times_and_values_that_are_one_when_cleaned(tmp_path):
    def clean(value):
        return value.decode() if isinstance(value, bytes) else value

    counts = ValueCounts(tmp_path, 2, clean)
    counts.update(["a", b"a"])  # one run
    counts.update([b"b", "c"], times=5)  # another
    counts.update(["a"], times=3)
    assert list(counts.items()) == [("a", 5), ("b", 5), ("c", 5)]
    assert list(counts.items()) == [("a", 5), ("b", 5), ("c", 5)]
    assert len(list(tmp_path.iterdir())) == 2


def test_runs_are_merged_into_larger_ones(tmp_path, monkeypatch):
    monkeypatch.setattr(counting, "_FAN_IN", 4)
    counts = ValueCounts(tmp_path, 1)
    for number in range(4**3 + 4 + 1):
        counts.update([number % 7])
    # 69 = 1 * 64 + 0 * 16 + 1 * 4 + 1 runs of one value.
    assert [len(level) for level in counts._levels] == [1, 1, 0, 1]
    # 69 = 9 * 7 + 6: the values 0 to 5 ten times, 6 nine times.
    assert list(counts.items()) == [(value, 10 - (value == 6)) for value in range(7)]


@pytest.mark.slow
def test_a_million_distinct_values_take_little_memory(tmp_path):
    rng = random.Random(0)
    seen = [f"user-{rng.randrange(10**12)}" for _ in range(50)]

    def ids():
        # A million that are seen once, and fifty that are seen a hundred times.
        for number in range(1_000_000):
            yield f"visitor-{number * 7919 % 1_000_003}"
            if number % 200 == 0:
                yield seen[number // 200 % 50]

    def vocabulary(capacity):
        counts = ValueCounts(tmp_path, capacity)
        tracemalloc.start()
        counts.update(ids())
        found = most_frequent(counts.items(), min_count=2)
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return found, peak / 1e6

    found, peak = vocabulary(20_000)
    whole, peak_of_whole = vocabulary(10**9)
    assert found == whole == sorted(seen)
    # Megabytes: 20,000 values, and a thousand of each run; against a million.
    assert peak < 25
    assert peak_of_whole > 100
