"""Training lists against counts and probabilities by hand."""

from __future__ import annotations

import itertools
import math
import pickle
from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.sampling.statistic import chi_square, critical
from tfrs_prerank import Categorical, Dense, Numeric, Schema, Task, Text
from tfrs_prerank.datasets._records import RecordFormat
from tfrs_prerank.features import DocumentTable
from tfrs_prerank.sampling import (
    Catalog,
    DocumentLog,
    Hard,
    Mixture,
    Positives,
    Sampler,
)

SCHEMA = Schema(
    features=[
        Categorical("user_id", "query", buckets=9),
        Categorical("city", "doc", buckets=9),
        Numeric("clicks", "doc", point_in_time=True),
        Categorical("tags", "doc", buckets=9, max_values=3, point_in_time=True),
        Numeric("bm25", "cross", missing=-1),
        Dense("seen", "cross", size=2),
        Text("words", "cross", buckets=9, max_values=2),
        Numeric("position", "doc", training_only=True),
    ],
    tasks=[Task("click"), Task("buy")],
)
MANY = 60
IDS = [f"d{i:02}" for i in range(MANY)]
DOCUMENTS = DocumentTable(
    np.array(IDS, object), {"city": ["x", "y", "z"] * (MANY // 3)}
)


def request(name="r", exposed=3, ranked=4, out=6, positive=1, time=100, start=0):
    """Documents from IDS[start] on, by stage; the first ones are clicked."""
    count = exposed + ranked + out
    ids = [IDS[(start + i) % MANY] for i in range(count)]
    click = np.zeros(count, np.float32)
    click[:positive] = 1
    click[exposed:] = np.nan  # nobody could click
    return {
        "request_id": name,
        "time": time,
        "user_id": f"u{name}",
        "doc_ids": np.array(ids, object),
        "stage": [0] * exposed + [1] * ranked + [2] * out,
        "position": list(range(exposed)) + [-1] * (ranked + out),
        "clicks": np.arange(count, dtype=np.float32),
        "tags": [["t", i] for i in ids],
        "bm25": [float(i) for i in range(count)],
        "seen": np.ones((count, 2), np.float32),
        "words": [[i] for i in ids],
        "label/click": click,
        "label/buy": [0] * count,
        "teacher/click": np.full(count, 2.0),
        "weight/buy": [1.0] * count,
        "label/out_of_scene": [0.0] * count,
    }


def by_document(made):
    """Returns {document: {column: value}} of the columns of documents."""
    names = [n for n in made if n not in ("request_id", "time", "user_id")]
    return {
        name: {column: made[column][place] for column in names}
        for place, name in enumerate(made["doc_ids"])
    }


def log_of(requests, **options):
    return DocumentLog(requests, DOCUMENTS, SCHEMA, **options)


def assert_valid(made):
    RecordFormat(SCHEMA, DOCUMENTS).flatten(made, 0)


# What a list is made of.


def test_a_list_is_by_hand():
    own = request(exposed=3, ranked=4, out=6)
    sampler = Sampler(Mixture(ranked=2, preranked_out=3), SCHEMA)
    sample = sampler.sample(own)
    assert sample.taken == {"exposed": 3, "ranked": 2, "preranked_out": 3}
    assert sample.left_out == {"ranked_not_drawn": 2, "preranked_out_not_drawn": 3}
    made = sample.request
    assert_valid(made)
    before, after = by_document({**own, "log_q": [0.0] * 13}), by_document(made)
    assert len(after) == 8
    # All exposed; 2 of 4 ranked; 3 of 6: one half each.
    log_q = {0: 0.0, 1: math.log(1 / 2), 2: math.log(1 / 2)}
    for name, values in after.items():
        stage = before[name]["stage"]
        assert values["log_q"] == pytest.approx(log_q[stage])
        # Nobody could click what was not exposed: 0, not absent.
        assert not np.isnan(values["label/click"])
        for column in values.keys() - {"log_q", "label/click"}:
            np.testing.assert_array_equal(values[column], before[name][column])
        if stage == 0:
            assert values["label/click"] == before[name]["label/click"]
    assert made["user_id"] == "ur" and made["time"] == 100


def test_positives_are_never_dropped_and_count():
    sampler = Sampler(Mixture(exposed=4, ranked=0, preranked_out=0), SCHEMA)
    for positive, negatives in ((0, 4), (3, 1), (4, 0), (6, 0)):
        own = request(exposed=8, positive=positive)
        made = sampler.sample(own).request
        values = by_document(made).values()
        assert sum(v["label/click"] == 1 for v in values) == positive
        assert len(values) == positive + negatives
        for v in values:
            # All positives for certain; of the 8 - p others 4 - p.
            chance = 1 if v["label/click"] else negatives / (8 - positive)
            assert v["log_q"] == pytest.approx(math.log(chance))


def test_a_positive_that_was_not_exposed_is_taken_too():
    own = request(ranked=4, out=6)
    own["label/buy"] = [0] * 7 + [2] + [0] * 5  # the first that was left out
    made = Sampler(Mixture(ranked=0, preranked_out=1), SCHEMA).sample(own).request
    (found,) = [v for v in by_document(made).values() if v["stage"] == 2]
    assert found["doc_ids"] == IDS[7]
    assert (found["label/buy"], found["log_q"]) == (2, 0)


def test_short_stages_give_all_and_nothing_fills_up():
    sampler = Sampler(Mixture(), SCHEMA)  # wants 10 and 40
    sample = sampler.sample(request(exposed=2, ranked=3, out=50))
    assert sample.taken == {"exposed": 2, "ranked": 3, "preranked_out": 40}
    for values in by_document(sample.request).values():
        # 40 of the 50; all of the others.
        chance = {0: 1, 1: 1, 2: 0.8}[values["stage"]]
        assert values["log_q"] == pytest.approx(math.log(chance))
    everything = Mixture(ranked=None, preranked_out=None)
    sample = Sampler(everything, SCHEMA).sample(request(out=50))
    assert not sample.left_out
    assert not sample.request["log_q"].any()


def test_every_negative_of_a_stage_is_as_likely():
    sampler = Sampler(Mixture(ranked=0, preranked_out=1), SCHEMA)
    counts: Counter[str] = Counter()
    for number in range(600):
        made = sampler.sample(request(f"r{number}", exposed=1, out=6)).request
        counts.update(made["doc_ids"])
    assert counts.pop(IDS[0]) == 600  # exposed
    assert len(counts) == 6
    assert chi_square(list(counts.values()), [100] * 6) < critical(5)


def test_a_log_q_of_the_log_is_added():
    own = request(exposed=1, ranked=2, out=0) | {"log_q": [-1.0, -2.0, -3.0]}
    own["stage"] = [0, 1, 3]  # drawn from the catalogue before it was logged
    own["label/click"] = np.array([1.0, np.nan, np.nan])
    made = Sampler(Mixture(), SCHEMA).sample(own).request
    found = by_document(made)
    assert [found[i]["log_q"] for i in IDS[:3]] == [-1.0, -2.0, -3.0]
    assert found[IDS[2]]["label/click"] == 0
    # A request without stages is exposed throughout.
    del own["stage"]
    made = Sampler(Mixture(exposed=2), SCHEMA).sample(own).request
    assert made["stage"].tolist() == [0, 0]
    # One of two negatives, and what the log says.
    (negative,) = [v for v in by_document(made).values() if v["label/click"] != 1]
    logged = -2.0 if negative["doc_ids"] == IDS[1] else -3.0
    assert negative["log_q"] == pytest.approx(math.log(1 / 2) + logged)


def test_untrusted_positives_are_left_out():
    # d00 is exposed in four requests and clicked in two, d01 in one and clicked there,
    # d02 in four and never clicked.
    requests = [request(f"r{i}", exposed=3, positive=0) for i in range(4)]
    for number, own in enumerate(requests):
        own["label/click"][0] = number < 2
    requests[0]["label/click"][1] = 1
    for own in requests[1:]:
        own["stage"][1] = 1
    log = log_of(requests, with_values=False)
    assert log.exposures[:3].tolist() == [4, 1, 4]
    assert log.engagements[:3].tolist() == [2, 1, 0]

    def exposed(**positives):
        mixture = Mixture(ranked=0, preranked_out=0, positives=Positives(**positives))
        sample = Sampler(mixture, SCHEMA, log).sample(requests[0])
        assert sample.left_out["untrusted_positive"] == 3 - sample.taken["exposed"]
        return sorted(sample.request["doc_ids"])

    assert exposed() == IDS[:3]
    assert exposed(min_exposures=2) == [IDS[0], IDS[2]]
    assert exposed(min_rate=0.5) == IDS[:3]
    assert exposed(min_rate=0.51) == [IDS[1], IDS[2]]
    # A negative needs no trust.
    assert exposed(min_rate=1.0, min_exposures=2) == [IDS[2]]


def test_of_some_requests_nothing_is_left():
    own = request(exposed=1, ranked=0, out=2, positive=1)
    mixture = Mixture(preranked_out=0, catalog=3, positives=Positives(min_exposures=9))
    sample = Sampler(mixture, SCHEMA, log_of([own])).sample(own)
    assert sample.request is None
    assert not sample.taken
    assert sample.left_out == {"untrusted_positive": 1, "preranked_out_not_drawn": 2}


# The catalogue.


def test_draws_from_the_catalogue_have_all_columns():
    earlier = request("e", start=30, time=50)  # d30-d42
    own = request("r", time=100)  # d00-d12
    later = request("l", start=20, time=101)  # d20-d32
    log = log_of([own, earlier, later])
    sampler = Sampler(Mixture(catalog=MANY), SCHEMA, log)
    sample = sampler.sample(own)
    assert sample.taken["catalog"] == MANY - 13
    made = sample.request
    assert_valid(made)
    found = by_document(made)
    assert sorted(found) == IDS
    for number, name in enumerate(IDS):
        values = found[name]
        if number < 13:
            assert values["stage"] < 3
            continue
        assert values["stage"] == 3
        assert values["position"] == -1
        assert values["log_q"] == 0  # all are drawn, for certain
        assert (values["label/click"], values["label/buy"]) == (0, 0)
        for column in ("teacher/click", "weight/buy", "label/out_of_scene"):
            assert np.isnan(values[column])
        # Cross features of the pair are not known.
        assert values["bm25"] == -1
        assert values["seen"].tolist() == [0, 0]
        assert values["words"] == []
        # As they were logged at 50, never at 101.
        known = 30 <= number < 43
        assert values["clicks"] == (number - 30 if known else 0)
        assert values["tags"] == (["t", name] if known else [])


@pytest.mark.parametrize("as_bytes", [False, True])
def test_ids_and_columns_in_any_form(as_bytes):
    own = request("r")
    log = log_of([own])
    whole = Sampler(Mixture(catalog=3, seed=5), SCHEMA, log)
    wanted = by_document(whole.sample(own).request)
    other = dict(own)
    for name, values in own.items():
        if isinstance(values, np.ndarray):
            other[name] = values.tolist()
        elif isinstance(values, list) and not isinstance(values[0], list):
            other[name] = np.array(values)
    if as_bytes:
        other["doc_ids"] = [i.encode() for i in own["doc_ids"]]
        other["request_id"] = b"r"
    made = whole.sample(other).request
    assert_valid(made)
    found = by_document(made)
    plain = {k.decode() if isinstance(k, bytes) else k: v for k, v in found.items()}
    assert plain.keys() == wanted.keys()
    for name, values in wanted.items():
        for column in values.keys() - {"doc_ids"}:
            np.testing.assert_array_equal(plain[name][column], values[column])


def test_integer_ids():
    schema = Schema(
        features=[
            Categorical("user_id", "query", buckets=9),
            Categorical("city", "doc", buckets=9, dtype="int64"),
        ],
        tasks=[Task("click")],
        doc_id="int64",
    )
    documents = DocumentTable(np.arange(10, 20), {"city": np.arange(10) % 2})
    own = {"request_id": "r", "user_id": "u", "doc_ids": np.array([11, 12]),
           "label/click": [1, 0]}  # fmt: skip
    log = DocumentLog([own], documents, schema)
    mixture = Mixture(catalog=Catalog(4, by=["city"]))
    made = Sampler(mixture, schema, log).sample(own).request
    RecordFormat(schema, documents).flatten(made, 0)
    assert made["doc_ids"].dtype == np.int64
    # Two of each city, of 4 that are left in each.
    drawn = made["doc_ids"][made["stage"] == 3]
    assert sorted(drawn % 2) == [0, 0, 1, 1]
    np.testing.assert_allclose(made["log_q"][made["stage"] == 3], math.log(2 / 4))


def test_strata_are_bands_times_cities():
    # Exposures: d00-d05 twelve, d06-d11 one, the others none; the city of di is i % 3.
    requests = [request(f"r{i}", exposed=6, ranked=0, out=0) for i in range(12)]
    requests.append(request("last", exposed=6, ranked=0, out=0, start=6))
    log = log_of(requests)
    own = request("own", exposed=1, ranked=0, out=0, start=59)  # d59, never exposed
    catalog = Catalog(9, by=["exposures", "city"], bands=[1, 10], alpha=0)
    mixture = Mixture(catalog=catalog)
    sample = Sampler(mixture, SCHEMA, log).sample(own)
    # Nine strata, one draw each: of 2 documents in both bands with exposures; of 16,
    # and of 15 in the city of d59, in the other.
    found = [v for v in by_document(sample.request).values() if v["stage"] == 3]
    assert len(found) == 9
    strata = set()
    for values in found:
        number = int(values["doc_ids"][1:])
        band = 0 if number >= 12 else 1 if number >= 6 else 2
        strata.add((band, number % 3))
        size = 2 if band else 15 if number % 3 == 59 % 3 else 16
        assert values["log_q"] == pytest.approx(math.log(1 / size))
    assert len(strata) == 9
    # By size, as without strata: 9 of the 59 that are left, by stratum of 16 and 2:
    # 9 * 16/60 = 2.4 and 9 * 2/60 = .3; the city of d59 gets its 2.4 of 15.
    uniform = Catalog(9, by=["exposures", "city"], bands=[1, 10], alpha=1)
    made = Sampler(Mixture(catalog=uniform), SCHEMA, log).sample(own).request
    chances = np.exp(made["log_q"][made["stage"] == 3])
    assert {round(float(chance), 5) for chance in chances} <= {0.15, 0.16}
    # Weights by band: the never exposed ones are not drawn.
    heavy = Catalog(9, bands=[1, 10], weights=[0, 1, 3], alpha=1)
    made = Sampler(Mixture(catalog=heavy), SCHEMA, log).sample(own).request
    names = made["doc_ids"]
    names = [n for n, s in zip(names, made["stage"], strict=True) if s == 3]
    # 1 * 6 and 3 * 6 share nine out as 2.25 and 6.75, but there are 6: so 3 and 6.
    assert sorted(names)[:6] == IDS[:6] and len(names) == 9
    assert max(names) <= IDS[11]


def test_catalogue_frequencies_are_those_that_are_stated():
    requests = [request(f"r{i}", exposed=4, ranked=0, out=0) for i in range(3)]
    log = log_of(requests)
    catalog = Catalog(1, by=["exposures", "city"], bands=[1, 3])
    sampler = Sampler(Mixture(catalog=catalog), SCHEMA, log)
    draws = 1500
    observed: Counter[str] = Counter()
    stated = {}
    for number in range(draws):
        own = request(f"q{number}", exposed=1, ranked=0, out=0, start=2)
        made = sampler.sample(own).request
        (place,) = np.flatnonzero(made["stage"] == 3)
        observed[made["doc_ids"][place]] += 1
        stated[made["doc_ids"][place]] = float(np.exp(made["log_q"][place]))
    assert IDS[2] not in observed
    assert sum(stated.values()) == pytest.approx(1.0, rel=1e-6)
    assert len(stated) == MANY - 1
    expected = [draws * stated[name] for name in stated]
    assert chi_square([observed[name] for name in stated], expected) < critical(58)


# Hard negatives.


def hard_mixture(**changes):
    window = Hard(first=3, last=4, easy_per_hard=changes.pop("easy_per_hard", 2))
    return Mixture(**{"ranked": 0, "preranked_out": 1, "hard": window, **changes})


def test_chances_of_hard_negatives_are_by_hand():
    # One exposed and N = 4 left out, of which n = 2 have ranks 3 and 4. One easy
    # negative is wanted and there are 2 for a hard one: half a hard one in the mean.
    #   none (1/2): r = 1/4 for all four.
    #   one  (1/2): k/n = 1/2 inside; of the 3 others 1, r = 1/3.
    # outside: 1/2 * 1/4 + 1/2 * 1/3               = 7/24
    # inside:  1/2 * 1/4 + 1/2 * (1/2 + 1/2 * 1/3) = 11/24; in all 36/24 = 1 + 1/2.
    own = request(exposed=1, ranked=0, out=4)
    ranks = [1, 3, 4, 2, 5]
    chance = {1: 11 / 24, 2: 11 / 24, 3: 7 / 24, 4: 7 / 24}
    sampler = Sampler(hard_mixture(), SCHEMA)
    counts = np.zeros(5)
    hard = 0
    draws = 1200
    for number in range(draws):
        sample = sampler.sample({**own, "request_id": f"r{number}"}, ranks)
        hard += sample.taken["hard"]
        assert sample.taken["preranked_out"] == 1
        for name, values in by_document(sample.request).items():
            place = int(name[1:])
            counts[place] += 1
            assert values["stage"] == (2 if place else 0)
            assert values["log_q"] == pytest.approx(math.log(chance.get(place, 1)))
    assert hard == pytest.approx(draws / 2, abs=4 * math.sqrt(draws / 4))
    assert counts[0] == draws
    for place, share in chance.items():
        deviation = math.sqrt(draws * share * (1 - share))
        assert abs(counts[place] - draws * share) < 4 * deviation


def test_the_window_spans_stages_and_leaves_exposed_and_positives_alone():
    own = request(exposed=2, ranked=3, out=5)
    own["label/buy"] = [0] * 9 + [1]
    ranks = [3, 5, 3, 4, 9, 3, 4, 8, -1, 4]
    # Inside are 2 of the ranked and 2 of the left out; not the exposed one of rank 3,
    # nor the last, which is positive. 4 easy ones at 1 for each: all four of them.
    mixture = hard_mixture(easy_per_hard=1, preranked_out=5, ranked=1)
    sample = Sampler(mixture, SCHEMA).sample(own, ranks)
    assert sample.taken == {"exposed": 2, "hard": 4, "ranked": 1, "preranked_out": 3}
    assert not sample.request["log_q"].any()  # everything is there
    # Catalogue draws are easy too: (1 + 5) / 2 = 3 hard ones.
    both = hard_mixture(catalog=5, preranked_out=2)
    sample = Sampler(both, SCHEMA, log_of([own])).sample(own, ranks)
    # preranked_out wants two, one of which is the positive: 1 easy one.
    assert sample.taken["hard"] == 3
    assert sample.taken["preranked_out"] == 2
    assert sample.taken["catalog"] == 5


def test_ratio_of_easy_to_hard():
    mixture = Mixture(ranked=2, preranked_out=4, hard=Hard(5, 40, easy_per_hard=6))
    sampler = Sampler(mixture, SCHEMA)
    total: Counter[str] = Counter()
    for number in range(300):
        own = request(f"r{number}", exposed=2, ranked=3, out=45)
        total += sampler.sample(own, np.arange(1, 51)).taken
    assert total["preranked_out"] == 4 * 300
    # 4/6 of a hard one for each request: 200, within four deviations of 8.2.
    assert total["hard"] == pytest.approx(200, abs=33)


def test_hard_negatives_need_ranks():
    sampler = Sampler(hard_mixture(), SCHEMA)
    own = request(out=0)
    for ranks, received in ((None, "none"), ([1, 2], "2 ranks")):
        message = f"request 'r': hard negatives need .* Received: {received} for 7"
        with pytest.raises(ValueError, match=message) as raised:
            sampler.sample(own, ranks)
        assert "\n" not in str(raised.value)
    # Nothing in the window: no hard ones.
    assert "hard" not in sampler.sample(request(), np.zeros(13, int)).taken


# Seeds, order and workers.


@pytest.mark.parametrize(
    "mixture",
    [
        Mixture(exposed=2, ranked=2, preranked_out=3),
        Mixture(ranked=1, preranked_out=2, catalog=Catalog(4, by=["city"])),
        Mixture(catalog=6, hard=Hard(2, 9, easy_per_hard=3), preranked_out=1),
    ],
)
def test_lists_do_not_depend_on_order_or_worker(mixture):
    requests = [request(f"r{i}", start=3 * i, time=10 * i) for i in range(20)]
    ranks = np.arange(1, 14)
    sampler = Sampler(mixture, SCHEMA, log_of(requests))
    first = [sampler.sample(r, ranks).request for r in requests]
    # Another order of the log, and workers that get every fourth request.
    again = Sampler(mixture, SCHEMA, log_of(requests[::-1]))
    for worker in range(4):
        copy = pickle.loads(pickle.dumps(again))
        for number in reversed(range(worker, 20, 4)):
            made = copy.sample(requests[number], ranks).request
            np.testing.assert_equal(made, first[number])
    # Another order of a request's documents.
    rng = np.random.default_rng(0)
    for own, wanted in zip(requests, first, strict=True):
        order = rng.permutation(13)
        mixed = {
            name: values
            if name in ("request_id", "time", "user_id")
            else [values[place] for place in order]
            for name, values in own.items()
        }
        made = sampler.sample(mixed, ranks[order]).request
        assert list(made["doc_ids"]) == list(wanted["doc_ids"])
        np.testing.assert_array_equal(made["log_q"], wanted["log_q"])
        np.testing.assert_array_equal(made["clicks"], wanted["clicks"])


def test_the_seed_and_the_request_make_the_draws():
    own = request(out=40)
    lists = [
        tuple(Sampler(Mixture(seed=seed), SCHEMA).sample(r).request["doc_ids"])
        for seed, r in itertools.product(
            (0, 1), (own, request("s", out=40), request("r", out=40))
        )
    ]
    assert lists[0] == lists[2] and lists[3] == lists[5]
    assert len(set(lists)) == 4

    # The draws of one stage do not move those of another.
    def drawn(stage, **changes):
        made = Sampler(Mixture(**changes), SCHEMA).sample(own).request
        return {n for n, v in by_document(made).items() if v["stage"] == stage}

    assert drawn(2, ranked=1) == drawn(2, ranked=3)
    # A smaller number is a part of a larger.
    assert drawn(2, preranked_out=5) < drawn(2, preranked_out=6)


def test_the_order_of_a_list_says_nothing():
    sampler = Sampler(Mixture(catalog=3), SCHEMA, log_of([request()]))
    first = Counter(
        sampler.sample(request(f"r{i}", 3, 3, 3)).request["stage"][0]
        for i in range(400)
    )
    # 3 of each stage, so that each is first in a quarter.
    assert chi_square([first[s] for s in range(4)], [100] * 4) < critical(3)


# Any request.


@settings(deadline=None, max_examples=80)
@given(
    sizes=st.tuples(*[st.integers(0, 12)] * 3).filter(any),
    wanted=st.tuples(*[st.one_of(st.none(), st.integers(0, 9))] * 3),
    draws=st.integers(0, 50),
    start=st.integers(0, MANY),
    positive=st.integers(0, 12),
    min_exposures=st.integers(1, 3),
    name=st.text(min_size=1, max_size=5),
)
def test_any_request(sizes, wanted, draws, start, positive, min_exposures, name):
    own = request(name, *sizes, min(positive, sizes[0]), start=start)
    logged = [own, *(request(f"r{i}", start=7 * i) for i in range(4))]
    mixture = Mixture(
        *wanted,
        catalog=Catalog(draws, by=["exposures", "city"], bands=[1, 2]),
        positives=Positives(min_exposures=min_exposures),
    )
    log = log_of(logged)
    sample = Sampler(mixture, SCHEMA, log).sample(own)
    before = by_document(own)
    trusted = {
        n: log.exposures[IDS.index(n)] >= min_exposures
        for n, v in before.items()
        if v["label/click"] == 1
    }
    taken = sample.taken
    left = sum(sample.left_out.values())
    assert sum(taken.values()) - taken["catalog"] + left == len(before)
    assert sample.left_out["untrusted_positive"] == sum(
        not trust for trust in trusted.values()
    )
    if sample.request is None:
        assert sum(taken.values()) == 0
        return
    assert_valid(sample.request)
    after = by_document(sample.request)
    assert len(after) == sum(taken.values())
    own_part = {n: v for n, v in after.items() if v["stage"] < 3}
    drawn = {n: v for n, v in after.items() if v["stage"] == 3}
    # Accidental hits have probability 0.
    assert not drawn.keys() & before.keys()
    assert len(drawn) == taken["catalog"] == min(draws, MANY - len(before))
    assert own_part.keys() <= before.keys()
    assert {n for n in trusted if n in after} == {n for n in trusted if trusted[n]}
    chance = np.exp([v["log_q"] for v in after.values()])
    assert (chance > 0).all() and (chance <= 1 + 1e-6).all()
    for stage, quota in enumerate(wanted):
        there = [n for n, v in before.items() if v["stage"] == stage]
        good = [n for n in there if trusted.get(n)]
        negatives = [n for n in there if n not in trusted]
        number = len(negatives)
        if quota is not None:
            number = min(number, max(0, quota - len(good)))
        found = [n for n, v in own_part.items() if v["stage"] == stage]
        assert len(found) == len(good) + number
        for n in found:
            share = 1.0 if n in trusted else number / len(negatives)
            assert own_part[n]["log_q"] == pytest.approx(math.log(share), abs=1e-6)


# What is refused.


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"request_id": ""}, "a request has no request_id"),
        ({"doc_ids": []}, "request 'r': column 'doc_ids' is empty"),
        ({"doc_ids": ["d01", "d01"]}, "request 'r': column 'doc_ids' holds 'd01' 2"),
        ({"doc_ids": ["d01", "d99"]}, "request 'r': document 'd99' is not in the doc"),
        ({"time": None}, "request 'r'.* has no time"),
        ({"bm52": [1, 2]}, "'bm52' is not in the schema; did you mean 'bm25'"),
    ],
)
def test_requests_that_cannot_be_drawn_from(changes, message):
    sampler = Sampler(Mixture(catalog=2), SCHEMA, log_of([request()]))
    with pytest.raises(ValueError, match=message) as raised:
        sampler.sample({**request(exposed=2, ranked=0, out=0), **changes})
    assert "\n" not in str(raised.value)
