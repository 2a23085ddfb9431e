import itertools

import numpy as np
import pytest

from tfrs_prerank.evaluation import bootstrap
from tfrs_prerank.evaluation.bootstrap import (
    group_sums,
    interval,
    number_groups,
    resample_counts,
    resampled_sums,
)


def counts_of(groups, samples, seed=0):
    return np.concatenate(list(resample_counts(groups, samples, seed)))


def test_groups_are_numbered_by_key_then_by_request():
    keys = np.array([b"", b"bob", b"ann", b"", b"bob"], object)
    requests = np.array([b"z", b"q", b"r", b"a", b"s"], object)
    # ann 0, bob 1, then the lone requests: a 2, z 3.
    assert number_groups(keys, requests).tolist() == [3, 1, 0, 2, 1]


def test_minus_one_is_the_pad_of_integer_keys():
    requests = np.full(4, b"", object)
    assert number_groups(np.array([7, -1, 7, -1]), requests).tolist() == [0, 1, 0, 2]


def test_numbers_do_not_depend_on_the_order_of_lists():
    generator = np.random.default_rng(1)
    keys = generator.choice(np.array([b"", b"a", b"b", b"c"], object), 30)
    requests = np.array([b"%03d" % i for i in range(30)], object)
    numbers = number_groups(keys, requests)
    order = generator.permutation(30)
    assert (number_groups(keys[order], requests[order]) == numbers[order]).all()


def test_group_sums_equal_a_loop():
    generator = np.random.default_rng(2)
    groups = np.array([2, 0, 1, 2, 2, 0])
    columns = generator.normal(size=(6, 3))
    want = [
        sum(row for row, group in zip(columns, groups, strict=True) if group == g)
        for g in range(3)
    ]
    np.testing.assert_allclose(group_sums(groups, columns), want, rtol=1e-14)


def test_a_resample_draws_as_many_groups_as_there_are():
    counts = counts_of(50, 4000)
    assert counts.shape == (4000, 50)
    assert (counts.sum(axis=1) == 50).all()
    # Multinomial: each group 1 time on average, variance 1 - 1/50; the standard
    # errors of the two over 200,000 counts are about .0002 and .004.
    np.testing.assert_allclose(counts.mean(axis=0), 1.0, atol=0.08)
    assert counts.var() == pytest.approx(0.98, abs=0.02)


def test_the_seed_decides_the_resamples():
    assert (counts_of(9, 20, seed=3) == counts_of(9, 20, seed=3)).all()
    assert (counts_of(9, 20, seed=3) != counts_of(9, 20, seed=4)).any()


def test_parts_hold_the_same_draws(monkeypatch):
    whole = counts_of(7, 11)
    monkeypatch.setattr(bootstrap, "_DRAWS_AT_ONCE", 25)
    parts = list(resample_counts(7, 11, 0))
    assert [len(part) for part in parts] == [3, 3, 3, 2]
    assert (np.concatenate(parts) == whole).all()


def test_resampled_sums_equal_a_loop_over_the_same_draws():
    sums = np.random.default_rng(5).normal(size=(6, 4))
    got = resampled_sums(sums, 30, seed=8)
    for sample, counts in enumerate(counts_of(6, 30, seed=8)):
        for column in range(4):
            want = sum(
                count * value
                for count, value in zip(counts, sums[:, column], strict=True)
            )
            assert got[sample, column] == pytest.approx(want, rel=1e-12, abs=1e-12)


def test_equal_columns_stay_equal_to_the_last_bit():
    sums = np.repeat(np.random.default_rng(6).normal(size=(301, 1)), 7, axis=1)
    got = resampled_sums(sums, 50, seed=0)
    assert (got == got[:, :1]).all()


def test_interval_holds_the_middle_95_percent():
    values = np.random.default_rng(0).permutation(np.arange(1001.0))
    assert interval(values) == (25.0, 975.0)
    assert interval(np.append(values, [np.nan] * 50)) == (25.0, 975.0)
    assert interval(np.array([np.nan, np.nan])) is None


def test_intervals_over_users_cover_the_truth_where_those_over_lists_do_not():
    generator = np.random.default_rng(11)
    covered = {"users": 0, "lists": 0}
    experiments = 200
    for experiment in range(experiments):
        # 60 users with 1 to 9 lists; a list's value is its user's own level (normal
        # around 2) plus a little noise.
        sizes = generator.integers(1, 10, 60)
        users = np.repeat(np.arange(60), sizes)
        values = 2 + generator.normal(size=60)[users]
        values += 0.3 * generator.normal(size=len(users))
        columns = np.stack([values, np.ones(len(users))], axis=1)
        for name, groups in (("users", users), ("lists", np.arange(len(users)))):
            drawn = resampled_sums(group_sums(groups, columns), 300, seed=experiment)
            low, high = interval(drawn[:, 0] / drawn[:, 1])
            covered[name] += low <= 2 <= high
    # 95% +- 1.5%, a little less as 60 users are few; lists are not independent.
    assert 0.90 <= covered["users"] / experiments <= 0.98
    assert covered["lists"] / experiments < 0.75


def test_interval_has_the_width_of_the_normal_approximation():
    values = np.random.default_rng(4).normal(size=400)
    sums = np.stack([values, np.ones(400)], axis=1)
    drawn = resampled_sums(sums, 4000, seed=0)
    low, high = interval(drawn[:, 0] / drawn[:, 1])
    error = values.std() / np.sqrt(400)
    for bound, sign in itertools.zip_longest((low, high), (-1, 1)):
        want = values.mean() + sign * 1.96 * error
        assert bound == pytest.approx(want, abs=0.1 * error)
