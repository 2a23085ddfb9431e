"""The simulated cascade: its truth, its bias, its clock, and its way to disk."""

import dataclasses
import math
import subprocess
import sys

import numpy as np
import pytest

from tfrs_prerank.datasets import _funnel_world, funnel
from tfrs_prerank.datasets._funnel_cascade import _push
from tfrs_prerank.datasets._funnel_words import TOPICS
from tfrs_prerank.declaration import ConfigurationError, from_mapping, to_mapping

TINY = funnel.Settings(
    documents=200, authors=20, users=30, queries=40, requests=130, candidates=40,
    ranked=15, exposed=5, block=20, met_elsewhere=40, history=6, searches=4,
)  # fmt: skip


@pytest.fixture(scope="module")
def made():
    return funnel.simulate(funnel.small())


@pytest.fixture(scope="module")
def tiny():
    return funnel.simulate(TINY)


def arrays(thing, name=""):
    """Returns every array below a dataclass, a mapping or a table by its path."""
    if isinstance(thing, np.ndarray):
        return {name: thing}
    if dataclasses.is_dataclass(thing):
        thing = {f.name: getattr(thing, f.name) for f in dataclasses.fields(thing)}
    if not isinstance(thing, dict):
        return {}
    found = {}
    for key, value in thing.items():
        found.update(arrays(value, f"{name}.{key}"))
    return found


def differing(one, other):
    """Returns the paths at which two simulations differ."""
    one, other = arrays(one), arrays(other)
    assert one.keys() == other.keys() and len(one) > 50
    return {
        name
        for name in one
        if one[name].shape != other[name].shape
        or not (
            np.array_equal(one[name], other[name], equal_nan=True)
            if one[name].dtype.kind == "f"
            else np.array_equal(one[name], other[name])
        )
    }


# Seeds.


def test_the_same_settings_give_identical_arrays(tiny):
    assert differing(tiny, funnel.simulate(TINY)) == set()


def test_another_seed_gives_another_world_and_log(tiny):
    differ = differing(tiny, funnel.simulate(dataclasses.replace(TINY, seed=8)))
    for name in (
        ".truth.world.documents.topics",
        ".truth.world.users.style",
        ".truth.world.queries.words",
        ".requests.time",
        ".requests.candidates",
        ".requests.labels.click",
    ):
        assert name in differ


def test_a_change_to_one_part_moves_no_other(tiny):
    # More documents met elsewhere, and nothing in search is another.
    other = funnel.simulate(dataclasses.replace(TINY, met_elsewhere=60))
    assert differing(tiny, other) == {
        ".requests.out_of_scene",
        ".requests.elsewhere",
    }
    # Another examination changes clicks and what follows from them, not the first
    # block's candidates and scores.
    other = funnel.simulate(dataclasses.replace(TINY, position_bias=0.0))
    differ = differing(tiny, other)
    assert ".requests.labels.click" in differ
    assert not [name for name in differ if name.startswith(".truth.world")]
    assert not differ & {".requests.time", ".requests.user", ".requests.query"}
    for name in ("candidates", "preranker_score", "stage"):
        one, two = getattr(tiny.requests, name), getattr(other.requests, name)
        np.testing.assert_array_equal(one[: TINY.block], two[: TINY.block])


# What the small preset looks like.


def test_summary_statistics_of_the_small_preset(made):
    # Golden values of seed 7. The tolerances leave room for the last bits of other
    # processors, which may change a page and all that follows from it: about three
    # standard errors of 2,000 requests.
    summary = made.summary()
    assert summary.requests == 2_000
    assert summary.candidates == 240_000
    np.testing.assert_allclose(
        summary.click_rate_by_position,
        [0.316, 0.180, 0.135, 0.114, 0.081, 0.066, 0.059, 0.063, 0.050, 0.048],
        atol=0.03,
    )
    assert summary.exposure_gini == pytest.approx(0.695, abs=0.02)
    assert summary.never_exposed == pytest.approx(0.137, abs=0.03)
    assert summary.behaviour_rates["click"] == pytest.approx(0.111, abs=0.01)
    assert summary.behaviour_rates["like"] == pytest.approx(0.028, abs=0.005)
    assert summary.behaviour_rates["purchase"] == pytest.approx(0.0027, abs=0.0015)
    assert summary.stages == {
        "exposed": pytest.approx(10 / 120),
        "ranked": pytest.approx(30 / 120),
        "preranked_out": pytest.approx(80 / 120),
    }
    assert summary.hit_rates["random"] == pytest.approx(40 / 120)
    assert summary.hit_rates["pre-ranker"] == pytest.approx(0.863, abs=0.02)
    assert summary.hit_rates["ranker"] == pytest.approx(0.898, abs=0.02)
    assert summary.liked_elsewhere == pytest.approx(1.303, abs=0.1)
    assert summary.retrieved == pytest.approx(0.397, abs=0.04)
    assert sum(summary.channels.values()) == pytest.approx(1)
    assert min(summary.channels.values()) > 0.02
    text = str(summary)
    assert "requests                           2,000\n" in text
    assert "click rate by position: 9" in text


def test_gini_by_hand():
    # Ascending 0, 0, 4: ((2 - 4) * 0 + (4 - 4) * 0 + (6 - 4) * 4) / (3 * 4) = 8 / 12.
    assert funnel._gini(np.array([4, 0, 0])) == pytest.approx(2 / 3)
    assert funnel._gini(np.array([5, 5, 5])) == 0


def test_hit_rate_by_hand():
    truth = np.array([[4.0, 3.0, 2.0, 1.0], [1.0, 2.0, 3.0, 4.0]])
    scores = np.array([[9.0, 1.0, 2.0, 0.0], [0.0, 0.0, 1.0, 2.0]])
    # The first list keeps documents 0 and 2 of the best 0 and 1, the second 3 and 2 of
    # the best 3 and 2.
    assert funnel._hit_rate(scores, truth, 2, 2) == (0.5 + 1.0) / 2


def test_clicks_make_the_rich_richer(made):
    even = funnel.simulate(dataclasses.replace(funnel.small(), popularity=0.0))
    assert made.summary().exposure_gini > even.summary().exposure_gini + 0.02
    shown = even.documents.columns["impressions"]
    assert 0 < (shown == 0).mean() < 0.5


# The cascade.


def test_every_stage_is_a_cut_of_the_one_before(made):
    requests = made.requests
    assert (np.diff(np.sort(requests.candidates, axis=1)) > 0).all()  # each once
    for stage, count in ((0, 10), (1, 30), (2, 80)):
        assert ((requests.stage == stage).sum(axis=1) == count).all()
    ranked = requests.stage <= 1
    np.testing.assert_array_equal(ranked, ~np.isnan(requests.ranker_score))
    np.testing.assert_array_equal(
        requests.ranker_score[ranked], made.truth.ranker_score[ranked]
    )
    # The worst that passes is no worse than the best that does not.
    passes = np.where(ranked, requests.preranker_score, np.inf).min(axis=1)
    stays = np.where(ranked, -np.inf, requests.preranker_score).max(axis=1)
    assert (passes >= stays).all()
    exposed = requests.stage == 0
    passes = np.where(exposed, requests.ranker_score, np.inf).min(axis=1)
    stays = np.where(requests.stage == 1, requests.ranker_score, -np.inf).max(axis=1)
    assert (passes >= stays).all()


def test_positions_run_from_0_in_the_rankers_order(made):
    requests = made.requests
    np.testing.assert_array_equal(requests.position >= 0, requests.stage == 0)
    assert (requests.position[requests.stage != 0] == -1).all()
    order = np.argsort(np.where(requests.stage == 0, requests.position, 99), axis=1)
    shown = order[:, :10]
    positions = np.take_along_axis(requests.position, shown, 1)
    np.testing.assert_array_equal(positions, np.tile(np.arange(10), (2_000, 1)))
    scores = np.take_along_axis(requests.ranker_score, shown, 1)
    assert (np.diff(scores, axis=1) <= 0).all()


def test_the_order_of_a_list_tells_nothing(made):
    # Were lists in the order of any score, the exposed would gather at one end.
    place = np.nonzero(made.requests.stage == 0)[1]
    # 20,000 places, evenly from 0 to 119: mean 59.5, standard error
    # sqrt((120^2 - 1) / 12 / 20,000) = 0.245.
    assert place.mean() == pytest.approx(59.5, abs=4 * 0.245)


def test_only_what_is_published_is_retrieved_and_its_age_is_that_of_the_moment(made):
    requests = made.requests
    created = made.truth.world.documents.created
    assert (np.diff(created) >= 0).all()
    assert (created > requests.time[0]).mean() == pytest.approx(0.3, abs=0.01)
    block_starts = requests.time[np.arange(2_000) // 100 * 100]
    assert (created[requests.candidates] <= block_starts[:, None]).all()
    for row, place in ((0, 0), (777, 5), (1_999, 119)):
        document = requests.candidates[row, place]
        age = (int(requests.time[row]) - int(created[document])) / 86_400
        assert requests.age_days[row, place] == pytest.approx(age, rel=1e-6)
    assert (np.diff(requests.time) >= 0).all()
    # Documents of the log's second half are found too.
    late = created[requests.candidates[1_800:]] > requests.time[1_000]
    assert late.any()


def test_channels_name_the_best_reason(made):
    world, requests = made.truth.world, made.requests
    by_text = requests.channel == funnel.CHANNELS.index("text")
    row, place = (index[:50] for index in np.nonzero(by_text))
    for query, document in zip(
        requests.query[row], requests.candidates[row, place], strict=True
    ):
        asked = set(world.queries.words[query].tolist()) - {-1}
        assert asked & set(world.documents.words[document].tolist())
    fresh = requests.channel == funnel.CHANNELS.index("fresh")
    assert requests.age_days[fresh].mean() < requests.age_days.mean() / 10


# Behaviours and truth.


def test_people_act_only_on_what_they_saw_and_clicked(made):
    requests = made.requests
    click = requests.labels["click"]
    assert tuple(requests.labels) == funnel.BEHAVIOURS
    assert click[requests.stage != 0].sum() == 0
    for name in funnel.BEHAVIOURS[1:]:
        label = requests.labels[name]
        assert set(np.unique(label)) == {0, 1}
        assert (label <= click).all()
    price = made.documents.columns["price"][requests.candidates]
    assert price[requests.labels["purchase"] == 1].min() > 0


def sigmoid(x):
    return 1 / (1 + math.exp(-x))


def slow_utility(world, user, query, time, document):
    """The formula of the module's docstring, one document at a time."""
    docs, users, queries = world.documents, world.users, world.queries
    relevance = taste = urgency = 0.0
    for topic, kind in enumerate(TOPICS):
        intent = float(queries.intents[query, topic])
        answered = 12 * intent * float(docs.topics[document, topic])
        relevance += answered
        liking = float(users.interests[user, topic])
        taste += (1 - math.exp(-answered)) * liking
        urgency += intent * kind.urgency
    relevance = 1 - math.exp(-relevance)
    apart = sum(
        (float(a) - float(b)) ** 2
        for a, b in zip(users.style[user], docs.style[document], strict=True)
    )
    age = (int(time) - int(docs.created[document])) / 86_400
    newness = math.exp(-age / float(docs.life[document]))
    worth = 1 - math.exp(-(urgency * newness + float(docs.quality[document])))
    return (
        3.5 * relevance
        + 2 * math.tanh(taste)
        + 2.5 * relevance * math.exp(-apart / 3)
        + 1.5 * worth
    )


def test_the_utility_is_the_formula_of_the_docstring(made):
    requests = made.requests
    rng = np.random.default_rng(0)
    for row, place in zip(rng.integers(2_000, size=40), range(0, 120, 3), strict=True):
        slow = slow_utility(
            made.truth.world,
            requests.user[row],
            requests.query[row],
            requests.time[row],
            requests.candidates[row, place],
        )
        assert made.truth.utility[row, place] == pytest.approx(slow, abs=1e-4)


def test_clicks_follow_examination_and_utility(made):
    requests, truth = made.requests, made.truth
    # (1 + k) ** -0.7 for k = 0, 1, 9: 1, 0.6156, 0.1995.
    np.testing.assert_allclose(truth.examination[[0, 1, 9]], [1, 0.6156, 0.1995], 1e-3)
    for place in range(10):
        at = requests.position == place
        chance = truth.examination[place] / (1 + np.exp(6.8 - truth.utility[at]))
        clicks = requests.labels["click"][at]
        error = math.sqrt((chance * (1 - chance)).sum()) / len(chance)
        assert clicks.mean() == pytest.approx(chance.mean(), abs=4 * error)
    # And not only on average: in the upper half of the utilities as well.
    at = (requests.position == 0) & (truth.utility > 6)
    chance = 1 / (1 + np.exp(6.8 - truth.utility[at]))
    error = math.sqrt((chance * (1 - chance)).sum()) / len(chance)
    assert requests.labels["click"][at].mean() == pytest.approx(
        chance.mean(), abs=4 * error
    )


def test_behaviours_follow_their_probabilities(made):
    requests, truth = made.requests, made.truth
    row, place = np.nonzero(requests.labels["click"])
    chance = truth.world.behaviour_probabilities(
        truth.utility[row, place][:, None],
        requests.user[row],
        requests.candidates[row, place][:, None],
    )[:, 0]
    for number, name in enumerate(funnel.BEHAVIOURS[1:]):
        did = requests.labels[name][row, place]
        each = chance[:, number]
        error = math.sqrt((each * (1 - each)).sum()) / len(each)
        assert did.mean() == pytest.approx(each.mean(), abs=4 * error), name


def test_behaviour_probabilities_by_hand(made):
    world = made.truth.world
    documents = np.flatnonzero(world.documents.price > 0)[:1]
    appeal = world.documents.appeal[documents[0]]
    both = world.behaviour_probabilities(np.array([[7.8]]), np.array([3]), documents)
    # Like: log-odds -1.2 at a utility of 6.8, 0.6 more for each unit.
    assert both[0, 0, 0] == pytest.approx(sigmoid(-1.2 + 0.6 + appeal[0]), abs=1e-5)
    distance = abs(
        math.log1p(world.documents.price[documents[0]]) - world.users.budget[3]
    )
    assert both[0, 0, 6] == pytest.approx(
        sigmoid(-1.0 + 0.6 + appeal[6] - distance), abs=1e-5
    )


def test_no_dot_product_of_a_usual_length_equals_the_utility(made):
    # A two-tower model's scores of all pairs are a matrix of rank d, plus what depends
    # on one side alone. The best such matrix comes from the singular values.
    world = made.truth.world
    rng = np.random.default_rng(0)
    utility = world.utility(
        rng.integers(200, size=300),
        rng.integers(150, size=300),
        np.full(300, _funnel_world.START + 30 * _funnel_world.DAY),
        np.tile(rng.permutation(1_000)[:600], (300, 1)),
    ).astype(np.float64)
    one_sided = utility.mean(axis=0) + utility.mean(axis=1, keepdims=True)
    one_sided -= utility.mean()
    left, sizes, right = np.linalg.svd(utility - one_sided, full_matrices=False)
    best = np.argsort(-utility, axis=1)[:, :10]
    for dimensions, most in ((32, 0.75), (64, 0.9)):
        scores = (left[:, :dimensions] * sizes[:dimensions]) @ right[:dimensions]
        scores += one_sided
        assert np.abs(scores - utility).max() > 1
        found = np.argsort(-scores, axis=1)[:, :10]
        hits = (best[:, :, None] == found[:, None, :]).any(axis=2).mean()
        assert 0.5 < hits < most
    assert (sizes > 1e-3 * sizes[0]).sum() > 250  # of at most 299


# Outside search.


def test_likes_outside_search_reach_what_search_never_showed(made):
    requests = made.requests
    row, document = requests.elsewhere.T
    liked = np.zeros((2_000, 1_000), bool)
    liked[row, document] = True
    assert liked.sum() == len(requests.elsewhere)  # none twice
    np.testing.assert_array_equal(
        requests.out_of_scene, np.take_along_axis(liked, requests.candidates, 1)
    )
    for stage in (0, 1, 2):
        assert requests.out_of_scene[requests.stage == stage].sum() > 50
    assert requests.out_of_scene.sum() < 0.6 * len(requests.elsewhere)  # not retrieved


def test_a_user_likes_a_document_outside_search_once_and_it_answers_the_query(made):
    requests, world = made.requests, made.truth.world
    row, document = requests.elsewhere.T
    pairs = set(zip(requests.user[row].tolist(), document.tolist(), strict=True))
    assert len(pairs) == len(row)
    topics, intents = world.documents.topics, world.queries.intents
    match = (topics[document] * intents[requests.query[row]]).sum(axis=1)
    assert match.min() >= 0.1
    assert (world.documents.created[document] <= requests.time[row]).all()


# The clock.


def slow_counters(made, row, place):
    """Counts the events of earlier blocks, one by one."""
    requests, settings = made.requests, made.settings
    author = made.truth.world.documents.author
    wanted = requests.candidates[row, place]
    counts = dict.fromkeys(funnel.COUNTERS, 0)
    for earlier in range(row // settings.block * settings.block):
        same_user = requests.user[earlier] == requests.user[row]
        same_query = requests.query[earlier] == requests.query[row]
        for spot in np.flatnonzero(requests.stage[earlier] == 0):
            document = requests.candidates[earlier, spot]
            click = int(requests.labels["click"][earlier, spot])
            if author[document] == author[wanted]:
                counts["user_author_clicks"] += click * same_user
            if document != wanted:
                continue
            counts["impressions"] += 1
            counts["clicks"] += click
            counts["engagements"] += sum(
                int(requests.labels[name][earlier, spot])
                for name in funnel.BEHAVIOURS[1:]
            )
            counts["query_doc_impressions"] += same_query
            counts["query_doc_clicks"] += click * same_query
            counts["user_doc_impressions"] += same_user
            counts["user_doc_clicks"] += click * same_user
    return counts


def test_counters_see_earlier_blocks_and_nothing_else(tiny):
    requests = tiny.requests
    seen = dict.fromkeys(funnel.COUNTERS, 0)
    for row in (0, 19, 20, 39, 40, 77, 100, 129):
        for place in range(0, 40, 3):
            slow = slow_counters(tiny, row, place)
            fast = {name: int(requests.counters[name][row, place]) for name in slow}
            assert fast == slow
            seen = {name: seen[name] + slow[name] for name in seen}
    assert all(seen.values()), seen  # every counter was above 0 somewhere
    for values in requests.counters.values():
        assert values[: TINY.block].max() == 0  # nothing came before the first block


def test_the_table_holds_the_counters_after_the_last_request(tiny):
    requests = tiny.requests
    exposed = requests.stage == 0
    shown = np.bincount(requests.candidates[exposed], minlength=200)
    columns = tiny.documents.columns
    np.testing.assert_array_equal(columns["impressions"], shown)
    clicks = requests.labels["click"][exposed]
    counted = np.bincount(requests.candidates[exposed], clicks, minlength=200)
    np.testing.assert_array_equal(columns["clicks"], counted)
    assert columns["engagements"].sum() == sum(
        requests.labels[name].sum() for name in funnel.BEHAVIOURS[1:]
    )
    created = tiny.truth.world.documents.created
    age = np.maximum(requests.time[-1] - created, 0) / 86_400
    np.testing.assert_allclose(columns["age_days"], age, rtol=1e-5)


def test_histories_hold_the_clicks_and_queries_of_earlier_blocks(tiny):
    requests = tiny.requests
    filled = 0
    for row in (0, 25, 60, 99, 129):
        clicked, asked = [], []
        for earlier in range(row // TINY.block * TINY.block):
            if requests.user[earlier] != requests.user[row]:
                continue
            asked.insert(0, int(requests.query[earlier]))
            order = np.argsort(requests.position[earlier])
            for spot in order[requests.position[earlier][order] >= 0]:
                if requests.labels["click"][earlier, spot]:
                    clicked.insert(0, int(requests.candidates[earlier, spot]))
        filled += len(clicked[:6]) + len(asked[:4])
        assert requests.history[row].tolist() == (clicked + [-1] * 6)[:6]
        assert requests.searches[row].tolist() == (asked + [-1] * 4)[:4]
    assert filled > 10


def test_pushing_keeps_the_most_recent():
    lists = np.array([[1, -1, -1], [2, 3, 4], [-1, -1, -1]])
    _push(lists, np.array([1, 0, 1]), np.array([7, 8, 9]))
    assert lists.tolist() == [[8, 1, -1], [9, 7, 2], [-1, -1, -1]]
    _push(lists, np.full(5, 2), np.arange(5))
    assert lists[2].tolist() == [4, 3, 2]
    _push(lists, np.zeros(0, int), np.zeros(0, int))
    assert lists.tolist() == [[8, 1, -1], [9, 7, 2], [4, 3, 2]]


# The bias.


def features(made, row, place):
    """One-hot (query, category) and numbers that any model can read."""
    requests, world = made.requests, made.truth.world
    document = requests.candidates[row, place]
    category = world.documents.category[document]
    declared = world.users.declared[requests.user[row]]
    cell = requests.query[row] * len(TOPICS) + category
    numbers = [
        np.log1p(requests.counters["clicks"][row, place]),
        world.documents.seen_quality[document],
        np.exp(-requests.age_days[row, place] / 7),
        (category[:, None] == declared).any(axis=1),
        np.ones(len(row)),
    ]
    return cell, np.stack([np.asarray(n, np.float64) for n in numbers], axis=1)


def trained(made, row, place, labels):
    """Logistic regression by gradient steps; returns a function that scores."""
    cell, numbers = features(made, row, place)
    table = np.zeros(made.settings.queries * len(TOPICS))
    weights = np.zeros(numbers.shape[1])
    often = np.bincount(cell, minlength=len(table)) + 5.0
    for _ in range(200):
        logits = table[cell] + numbers @ weights
        error = 1 / (1 + np.exp(-logits)) - labels
        table -= 4 * (np.bincount(cell, error, len(table)) + 0.2 * table) / often
        weights -= 0.3 * numbers.T @ error / len(row)

    def score(row, place):
        cell, numbers = features(made, row, place)
        return table[cell] + numbers @ weights

    return score


def test_who_learns_from_exposed_documents_alone_is_wrong_about_the_rest(made):
    requests = made.requests
    early, late = 1_600, np.arange(1_600, 2_000)
    exposed = np.nonzero(requests.stage[:early] == 0)
    clicks = requests.labels["click"][exposed].astype(np.float64)
    # All that was not shown counts as negative.
    everything = tuple(index.ravel() for index in np.indices((early, 120)))
    labels = requests.labels["click"][everything].astype(np.float64)
    row, place = np.repeat(late, 120), np.tile(np.arange(120), len(late))
    truth = made.truth.utility[late]
    rates = {
        name: funnel._hit_rate(
            trained(made, *rows, some)(row, place).reshape(truth.shape), truth, 40, 10
        )
        for name, (rows, some) in {
            "exposed": (exposed, clicks),
            "all": (everything, labels),
        }.items()
    }
    assert rates["all"] > rates["exposed"] + 0.1


def test_the_ranker_is_right_where_it_saw_and_wrong_where_it_did_not(made):
    truth, late = made.truth, slice(1_000, None)  # it has learned from 10 blocks
    stage, utility = made.requests.stage[late], truth.utility[late]
    said = 1 / (1 + np.exp(-truth.ranker_score[late].astype(np.float64)))
    is_so = 1 / (1 + np.exp(6.8 - utility))

    exposed = stage == 0
    looked = truth.examination[made.requests.position[late][exposed]]
    clicks = (looked * is_so[exposed]).sum()
    assert said[exposed].sum() / clicks == pytest.approx(1, abs=0.3)
    # It ranks without knowing that people look less at what stands below. So it says
    # half of the truth; but far more than the truth of what never reaches it.
    irrelevant = (stage == 2) & (utility < 2)
    assert irrelevant.mean() > 0.3
    assert said[exposed].mean() < 0.7 * is_so[exposed].mean()
    assert said[irrelevant].mean() > 3 * is_so[irrelevant].mean()


# Settings.


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"documents": 0}, r"documents must be at least 1\. Received: 0"),
        ({"block": -1}, r"block must be at least 1\. Received: -1"),
        ({"position_bias": -0.5}, r"position_bias must not be negative\. .*-0\.5"),
        ({"position_bias": math.nan}, r"position_bias"),
        ({"queries": 5_001}, r"queries must be at most 5,000.* Received: 5001"),
        ({"exposed": 101}, r"at most what it receives.*exposed=101, ranked=100"),
        ({"ranked": 401}, r"at most what it receives.*ranked=401, candidates=400"),
        ({"documents": 500}, r"70% of documents.*candidates=400, documents=500"),
        ({"seed": "x"}, r"seed.*Received: 'x'"),
    ],
)
def test_settings_that_make_no_cascade_are_refused(options, message):
    with pytest.raises(ConfigurationError, match=message):
        funnel.Settings(**options)


def test_presets():
    full = funnel.full()
    assert full == funnel.Settings()
    assert (full.documents, full.users, full.requests, full.candidates) == (
        10_000, 2_000, 20_000, 400,
    )  # fmt: skip
    assert funnel.small(seed=3).seed == funnel.full(seed=3).seed == 3
    settings = funnel.small(seed=3)
    assert from_mapping(funnel.Settings, to_mapping(settings), "funnel") == settings


def test_stages_may_pass_on_everything():
    settings = dataclasses.replace(
        TINY, documents=60, candidates=42, ranked=42, exposed=42, requests=21
    )
    made = funnel.simulate(settings)
    assert (made.requests.stage == 0).all()
    summary = made.summary()
    assert summary.hit_rates["pre-ranker"] == 1
    assert summary.not_shown == 0
    assert math.isnan(summary.utility["ranked"])


def test_as_many_queries_as_may_be_asked_for_differ():
    settings = dataclasses.replace(TINY, queries=5_000)
    queries = funnel.simulate(settings).queries
    assert len(set(queries["query"].tolist())) == 5_000


def test_queries_and_documents_are_about_what_their_words_say(made):
    world = made.truth.world
    np.testing.assert_allclose(world.queries.intents.sum(axis=1), 1, rtol=1e-5)
    np.testing.assert_allclose(world.documents.topics.sum(axis=1), 1, rtol=1e-5)
    main = world.queries.ordered[:, 0]
    np.testing.assert_array_equal(main, world.queries.intents.argmax(axis=1))
    for text, intents in zip(
        made.queries["query"], made.queries["intents"], strict=True
    ):
        words = {topic.name: topic.words for topic in TOPICS}
        known = {word for intent in intents for word in words[intent]}
        assert set(text.split()) <= known
        assert set(text.split()) & set(words[intents[0]])
    # Each third of the requests has its own band of queries.
    asked = made.queries["frequency"][made.requests.query]
    for band in ("head", "middle", "tail"):
        assert (asked == band).mean() == pytest.approx(1 / 3, abs=0.1)


def test_importing_the_simulator_needs_no_tensorflow():
    code = (
        "import sys; from tfrs_prerank.datasets import funnel; "
        "funnel.schema(); print('tensorflow' in sys.modules)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    assert done.stdout == "False\n"


# To disk and back.


def test_what_is_written_is_read_back_by_logs(tiny, tmp_path):
    from tfrs_prerank.datasets import logs
    from tfrs_prerank.datasets.documents_file import read_documents
    from tfrs_prerank.datasets.requests import read
    from tfrs_prerank.features import Schema

    tiny.write(tmp_path / "made")
    assert sorted(path.name for path in (tmp_path / "made").iterdir()) == [
        "documents.parquet",
        "log.parquet",
    ]
    schema = funnel.schema(("click", "like"))
    config = funnel.log_config(tmp_path / "made")
    report = logs.convert(config, schema, tmp_path / "prepared")
    assert report.rows_read == report.rows_written == 130 * 40
    assert report.documents == 200
    assert report.requests_written == {"train": 104, "validation": 13, "test": 13}

    reader = read(
        tmp_path / "prepared",
        "test",
        schema=Schema.from_yaml(tmp_path / "prepared" / "schema.yaml"),
        documents=read_documents(tmp_path / "prepared" / "documents.parquet"),
        batch_size=16,
        shuffle=False,
    )
    (batch,) = [{name: v.numpy() for name, v in batch.items()} for batch in reader]
    requests, ids = tiny.requests, tiny.documents.ids
    row_of = {f"r{row:03}": row for row in range(130)}
    assert len(batch["request_id"]) == 13
    for place, name in enumerate(batch["request_id"]):
        row = row_of[name.decode()]
        user, query = requests.user[row], requests.query[row]
        assert batch["time"][place] == requests.time[row]
        assert batch["group_id"][place].decode() == tiny.users["user_id"][user]
        assert batch["city"][place].decode() == tiny.users["city"][user]
        assert [b.decode() for b in batch["interests"][place]] == (
            tiny.users["interests"][user].tolist()
        )
        assert batch["query"][place].decode() == tiny.queries["query"][query]
        history = [ids[d] for d in requests.history[row] if d >= 0]
        assert [b.decode() for b in batch["history"][place] if b] == history
        searches = [tiny.queries["query"][q] for q in requests.searches[row] if q >= 0]
        assert [b.decode() for b in batch["searches"][place] if b] == searches
        # The lists come in another order.
        order = np.argsort(requests.candidates[row])
        back = np.argsort(batch["doc_ids"][place])
        found = [b.decode() for b in batch["doc_ids"][place][back]]
        assert found == ids[requests.candidates[row]][order].tolist()
        for column, values in {
            "stage": requests.stage,
            "position": requests.position,
            "teacher/click": requests.ranker_score,
            "label/click": requests.labels["click"],
            "label/like": requests.labels["like"],
            "label/out_of_scene": requests.out_of_scene,
            "age_days": requests.age_days,
            **{name: requests.counters[name] for name in funnel.COUNTERS},
        }.items():
            np.testing.assert_array_equal(
                batch[column][place][back], values[row][order], err_msg=column
            )
        titles = tiny.documents.columns["title"][requests.candidates[row]][order]
        assert [b.decode() for b in batch["title"][place][back]] == titles.tolist()
    assert "true_utility" not in batch


def test_the_truth_can_stand_in_the_rankers_place(tiny, tmp_path):
    import pyarrow.parquet as pq

    tiny.write(tmp_path / "plain")
    assert "true_utility" not in pq.read_schema(tmp_path / "plain/log.parquet").names
    tiny.write(tmp_path / "made", truth=True)
    config = funnel.log_config(tmp_path / "made", teacher="true_utility")
    assert config.columns.teachers == {"click": "true_utility"}
    log = pq.read_table(config.requests)
    np.testing.assert_array_equal(log["true_utility"], tiny.truth.utility.ravel())
    np.testing.assert_array_equal(log["intent"][0].as_py(), (
        tiny.queries["intents"][tiny.requests.query[0], 0]
    ))  # fmt: skip
    assert set(log["channel"].to_pylist()) <= set(funnel.CHANNELS)
    assert funnel.log_config("made", teacher=None).columns.teachers == {}


def test_nothing_is_overwritten_and_nothing_is_left_half_written(
    tiny, tmp_path, monkeypatch
):
    from tfrs_prerank.datasets import _funnel_files

    (tmp_path / "made").mkdir()
    with pytest.raises(FileExistsError, match="made exists; remove it or choose"):
        tiny.write(tmp_path / "made")

    def fails(made, truth):
        raise OSError("disk full")

    monkeypatch.setattr(_funnel_files, "log_tables", fails)
    with pytest.raises(OSError, match="disk full"):
        tiny.write(tmp_path / "other")
    assert [path.name for path in tmp_path.iterdir()] == ["made"]


def test_an_unknown_task_is_named():
    with pytest.raises(ValueError, match=r"click, like.*Received: 'buy'"):
        funnel.schema(("click", "buy"))
