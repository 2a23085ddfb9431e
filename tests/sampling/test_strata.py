"""Stratified draws: stated probabilities against enumeration and frequencies."""

from __future__ import annotations

import itertools
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.sampling.statistic import chi_square, critical
from tfrs_prerank.sampling.randomness import Stream
from tfrs_prerank.sampling.strata import Strata, rounded

# Documents 0-5 in stratum 0, 6-8 in 1, 9 alone in 2.
STRATUM = np.array([0] * 6 + [1] * 3 + [2])
NONE = np.zeros(0, np.int64)
# By SplitMix64 written out with Python's integers.
GOLDEN = [0.4730452526287081, 0.7934853351481815, 0.8065457535244216]


def enumerated(means: list[Fraction], left: list[int]) -> list[Fraction]:
    """Inclusion probability of a document of each stratum, over all outcomes.

    An outcome is an order of the strata and a u in [0, 1); between the places where a
    cumulative mean plus u becomes whole, nothing changes.
    """
    chance = [Fraction(0)] * len(means)
    orders = list(itertools.permutations(range(len(means))))
    for order in orders:
        sums = list(itertools.accumulate(means[s] for s in order))
        breaks = sorted({Fraction(0), Fraction(1), *(-c % 1 for c in sums)})
        for low, high in itertools.pairwise(breaks):
            u = (low + high) / 2
            ends = [0, *((c + u) // 1 for c in sums)]
            for place, s in enumerate(order):
                number = ends[place + 1] - ends[place]
                chance[s] += (high - low) * number / left[s] / len(orders)
    return chance


def test_stated_probabilities_are_those_of_the_scheme():
    # Weights 6, 3, 3 share 2 draws out as 1, 1/2, 1/2. Document 0 is excluded, so that
    # 5, 3 and 1 are left: 1/5, 1/6 and 1/2.
    strata = Strata(STRATUM, np.array([6.0, 3.0, 3.0]), count=2)
    means = [Fraction(1), Fraction(1, 2), Fraction(1, 2)]
    wanted = enumerated(means, [5, 3, 1])
    assert wanted == [Fraction(1, 5), Fraction(1, 6), Fraction(1, 2)]
    seen = set()
    for number in range(60):
        rows, log_q = strata.draw(Stream(0, str(number)), np.array([0]))
        assert len(set(rows.tolist())) == 2
        expected = [float(wanted[STRATUM[row]]) for row in rows]
        np.testing.assert_allclose(np.exp(log_q), expected, rtol=1e-12)
        seen |= set(rows.tolist())
    assert seen == set(range(1, 10))  # all but the excluded one


def test_a_stratum_that_is_short_passes_its_draws_on():
    # Equal weights and 6 draws: 2 each, but stratum 2 has one document. Of its rest
    # of 1 the others get half each: 2.5 and 2.5.
    strata = Strata(STRATUM, np.ones(3), count=6)
    assert strata.means(np.array([6, 3, 1])).tolist() == [2.5, 2.5, 1.0]
    # With 8 draws stratum 1 is short too: 3.5 and 3.5 of 3, so 4 and 3.
    eight = Strata(STRATUM, np.ones(3), count=8)
    assert eight.means(np.array([6, 3, 1])).tolist() == [4.0, 3.0, 1.0]
    wanted = enumerated([Fraction(5, 2), Fraction(5, 2), Fraction(1)], [6, 3, 1])
    rows, log_q = strata.draw(Stream(1, "a"), NONE)
    expected = [float(wanted[STRATUM[row]]) for row in rows]
    np.testing.assert_allclose(np.exp(log_q), expected, rtol=1e-12)
    # More than there is: all, for certain. A weight of 0 is never drawn.
    rows, log_q = Strata(STRATUM, np.array([1.0, 0, 1]), 99).draw(Stream(1, "a"), NONE)
    assert sorted(rows.tolist()) == [0, 1, 2, 3, 4, 5, 9]
    assert log_q.tolist() == [0.0] * 7
    everything = np.arange(10)
    rows, log_q = strata.draw(Stream(1, "a"), everything)
    assert len(rows) == len(log_q) == 0


@pytest.mark.parametrize("excluded", [NONE, np.array([7, 0, 2])])
def test_frequencies_are_those_that_are_stated(excluded):
    strata = Strata(STRATUM, np.array([2.0, 5.0, 1.0]), count=1)
    draws = 4000
    observed = np.zeros(10)
    stated = np.full(10, np.nan)
    for number in range(draws):
        rows, log_q = strata.draw(Stream(11, f"r{number}"), excluded)
        observed[rows] += 1
        stated[rows] = np.exp(log_q)
    possible = np.setdiff1d(np.arange(10), excluded)
    assert observed[excluded].sum() == 0
    # One draw each, so that the counts are multinomial.
    assert stated[possible].sum() == pytest.approx(1.0)
    limit = critical(len(possible) - 1)
    expected = draws * stated[possible]
    assert expected.min() > 50
    assert chi_square(observed[possible], expected) < limit
    # The statistic would notice another distribution.
    uniform = np.full(len(possible), draws / len(possible))
    assert chi_square(observed[possible], uniform) > 10 * limit


@pytest.mark.parametrize("count", [2, 3])  # by drawing again, and by a permutation
def test_every_set_of_a_stratum_is_as_likely(count):
    strata = Strata(np.zeros(5, int), np.ones(1), count)
    sets = {each: 0 for each in itertools.combinations(range(5), count)}
    draws = 2000
    for number in range(draws):
        rows, _ = strata.draw(Stream(5, f"r{number}"), NONE)
        sets[tuple(sorted(rows.tolist()))] += 1
    assert len(sets) == 10
    assert chi_square(list(sets.values()), np.full(10, draws / 10)) < critical(9)


@settings(deadline=None, max_examples=60)
@given(
    sizes=st.lists(st.integers(0, 8), min_size=1, max_size=6),
    count=st.integers(0, 20),
    data=st.data(),
)
def test_any_draw(sizes, count, data):
    stratum = np.repeat(np.arange(len(sizes)), sizes)
    weights = data.draw(
        st.lists(st.floats(0, 10), min_size=len(sizes), max_size=len(sizes))
    )
    rows = st.sampled_from(range(len(stratum))) if len(stratum) else st.nothing()
    excluded = np.array(sorted(data.draw(st.sets(rows))), np.int64)
    strata = Strata(stratum, np.array(weights), count)
    rows, log_q = strata.draw(Stream(data.draw(st.integers(0, 9)), "r"), excluded)
    possible = [
        row
        for row in range(len(stratum))
        if row not in excluded and weights[stratum[row]] > 0
    ]
    assert len(set(rows.tolist())) == len(rows) == min(count, len(possible))
    assert set(rows.tolist()) <= set(possible)
    assert np.isfinite(log_q).all() and (log_q <= 0).all()


def test_weights_of_very_different_sizes():
    # The first stratum is full with its one document; the second gets what is left, by
    # a weight that the first one's is infinitely many times.
    strata = Strata(np.array([0, 1, 1]), np.array([10.0, 2e-312]), 2)
    assert strata.means(np.array([1, 2])).tolist() == [1.0, 1.0]
    rows, log_q = strata.draw(Stream(0, "r"), NONE)
    assert sorted(np.exp(log_q).round(9).tolist()) == [0.5, 1.0]
    assert 0 in rows


def test_rounding_is_right_in_the_mean():
    means = np.array([0.25, 1.5, 0.0, 2.0, 0.25])
    limits = np.array([1, 2, 1, 2, 1])
    total = np.zeros(5)
    for number in range(2000):
        numbers = rounded(means, limits, Stream(2, str(number)))
        assert numbers.sum() == 4
        assert (np.abs(numbers - means) < 1).all()
        total += numbers
    # Standard error at most .5 / sqrt(2000) = .011.
    np.testing.assert_allclose(total / 2000, means, atol=0.04)
    # A sum that is not whole is rounded too: 0.3 is 1 in three of ten.
    ones = [
        rounded(np.array([0.3]), np.ones(1), Stream(3, str(number)))[0]
        for number in range(900)
    ]
    assert np.mean(ones) == pytest.approx(0.3, abs=0.06)


def test_random_numbers_depend_on_names_alone():
    one = Stream(7, "r1", "order")
    first = np.concatenate([one.uniform(3), one.uniform(2)])
    assert first.tolist() == Stream(7, "r1", "order").uniform(5).tolist()
    # Golden: lists drawn today must be those drawn tomorrow.
    np.testing.assert_allclose(first[:3], GOLDEN, rtol=1e-15)
    for other in (Stream(8, "r1", "order"), Stream(7, "r2", "order"), Stream(7, "r1o")):
        assert not np.isin(other.uniform(5), first).any()
    assert Stream(0, "ab", "c").uniform(1) != Stream(0, "a", "bc").uniform(1)
    numbers = Stream(0, "many").uniform(20_000)
    assert numbers.min() >= 0 and numbers.max() < 1
    counts = np.bincount((numbers * 50).astype(int), minlength=50)
    assert chi_square(counts, np.full(50, 400)) < critical(49)
