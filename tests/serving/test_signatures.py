"""What the signatures of an export answer."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf
from tensorflow.core.protobuf import saved_model_pb2

from tests.serving.export_models import (
    FULL_IDS,
    LOWEST,
    model_outputs,
    sigmoid,
    small_model,
    small_query,
)
from tfrs_prerank.features.match import Matches
from tfrs_prerank.serving.signatures import Signatures
from tfrs_prerank.serving.table import ServedTable

GOLDEN = json.loads((Path(__file__).parent / "golden_signatures.json").read_text())

# Borders ---------------------------------------------------------------------------


def signature_defs(path):
    """Names, types and shapes as `saved_model.pb` has them; -1 is an open dimension."""
    file = path / "saved_model.pb"
    (graph,) = saved_model_pb2.SavedModel.FromString(file.read_bytes()).meta_graphs

    def border(tensors):
        return {
            name: [
                tf.as_dtype(info.dtype).name,
                *[dim.size for dim in info.tensor_shape.dim],
            ]
            for name, info in tensors.items()
        }

    return {
        name: {"inputs": border(value.inputs), "outputs": border(value.outputs)}
        for name, value in graph.signature_def.items()
        if name != "__saved_model_init_op"
    }


@pytest.mark.parametrize("case", ["small", "full"])
def test_names_types_and_shapes_are_the_golden_ones(case, request):
    assert signature_defs(request.getfixturevalue(case).path) == GOLDEN[case]


def test_golden_borders_are_dense():
    dtypes = {
        border[0]
        for signatures in GOLDEN.values()
        for signature in signatures.values()
        for side in signature.values()
        for border in side.values()
    }
    assert dtypes == {"float32", "int64", "int32", "bool", "string"}


# Scores ----------------------------------------------------------------------------


@pytest.fixture(params=["small", "full"])
def case(request):
    return request.getfixturevalue(request.param)


def test_scores_are_those_of_the_model(case):
    rng = np.random.default_rng(5)
    batch = case.request(rng.integers(0, len(case.documents), (6, 9)), seed=5)
    want, got = model_outputs(case.model, batch), case.call("serving_default", batch)
    assert set(got) == {"scores", "found", *case.model.schema.task_names}
    np.testing.assert_allclose(got["scores"], want["scores"], atol=1e-5, rtol=0)
    for task in case.model.schema.task_names:
        np.testing.assert_allclose(got[task], sigmoid(want[task]), atol=1e-6)
    assert got["found"].all()
    # Neither the documents nor the requests are all alike.
    assert np.ptp(want["scores"], axis=0).min() > 1e-4
    assert np.ptp(want["scores"], axis=1).min() > 1e-4


def test_several_tasks_are_fused(full):
    # fuse is 1 for click and 0.5 for like.
    got = full.call("serving_default", full.request([[0, 1, 2]]))
    np.testing.assert_allclose(
        got["scores"], got["click"] + 0.5 * got["like"], rtol=1e-6
    )


def test_every_match_of_that_model_has_something_to_say(full):
    """Else equal scores would prove nothing of the keys that the export stores."""
    schema = full.model.schema
    batch = full.request([list(range(7))] * 20)
    tensors = {name: tf.constant(value) for name, value in batch.items()}
    flat = {
        name: tf.reshape(tensors[name], [140, *tensors[name].shape[2:]])
        for name in schema.columns("doc")
        if name in tensors
    }
    doc_keys = {
        name: tf.reshape(key, [20, 7, *key.shape[1:]])
        for name, key in Matches(schema).keys_of(flat, "doc").items()
    }
    values = Matches(schema).cross(Matches(schema).keys_of(tensors, "query"), doc_keys)
    ops = {schema[name].op for name in values}
    assert ops == {
        "overlap",
        "equal",
        "contains",
        "difference",
        "log_ratio",
        "distance",
        "dot",
        "bm25",
    }
    for name, value in values.items():
        assert len(np.unique(value)) > 1, name


def test_point_in_time_columns_come_from_the_table(small):
    batch = small.request([[0, 5, 9], [1, 2, 3]])
    log = {**batch, "price": batch["price"] + 40.0}  # at another time
    scores = small.call("serving_default", log)["scores"]
    table, then = (model_outputs(small.model, b)["scores"] for b in (batch, log))
    np.testing.assert_allclose(scores, table, atol=1e-5)
    assert np.abs(scores - then).min() > 1e-4


def test_unknown_ids(case):
    batch = case.request([[0, 1, 2, 3], [4, 3, 2, 1]])
    known = case.call("serving_default", batch)
    strings = batch["doc_ids"].dtype == object
    # An empty string is an id that no document has.
    batch["doc_ids"][0, 1], batch["doc_ids"][1, 3] = ("zz", "") if strings else (4, -1)
    want_found = np.array([[1, 0, 1, 1], [1, 1, 1, 0]], bool)
    got = case.call("serving_default", batch)
    np.testing.assert_array_equal(got["found"], want_found)
    for name in ("scores", *case.model.schema.task_names):
        lowest = LOWEST if name == "scores" else 0.0
        np.testing.assert_array_equal(got[name][~want_found], lowest)
        np.testing.assert_allclose(
            got[name][want_found], known[name][want_found], atol=1e-6
        )


def test_no_candidates(case):
    batch = case.request(np.zeros((3, 0), int))
    batch["num_docs"] = np.int32([0, 0, 0])
    vectors = case.call("encode_query", batch)["query_vector"]
    for name in ("serving_default", "rank", "score_vectors"):
        inputs = {**batch, "query_vector": vectors}
        for value in case.call(name, inputs).values():
            assert value.shape == (3, 0)


def test_no_requests(case):
    batch = case.request(np.zeros((0, 4), int))
    batch["num_docs"] = np.zeros(0, np.int32)
    batch["query_vector"] = case.call("encode_query", batch)["query_vector"]
    for name in ("serving_default", "rank", "retrieve", "score_vectors"):
        for value in case.call(name, batch).values():
            assert len(value) == 0


def take(batch, request, places):
    """One request of a batch, with some of its candidates."""
    cut = {}
    for name, value in batch.items():
        part = value[request : request + 1]
        per_candidate = name in ("doc_ids", "co_clicks", "shown")
        cut[name] = part[:, places] if per_candidate else part
    return cut


def test_a_score_does_not_depend_on_its_neighbours(case):
    rng = np.random.default_rng(2)
    rows = rng.integers(0, len(case.documents), (4, 12))
    batch = case.request(rows, seed=2)
    whole = case.call("serving_default", batch)
    for request in range(4):
        for size in (1, 2, 5, 12):
            places = rng.permutation(12)[:size]
            got = case.call("serving_default", take(batch, request, places))
            for name, value in got.items():
                want = whole[name][request : request + 1, places]
                np.testing.assert_allclose(value, want, atol=2e-6, rtol=0)


def as_the_server_batches(requests):
    """Pads each tensor with its own first element, then concatenates."""
    joined = {}
    for name in requests[0]:
        values = [np.asarray(request[name]) for request in requests]
        longest = np.max([value.shape[1:] for value in values], axis=0, initial=0)
        padded = []
        for value in values:
            widths = [(0, 0)] + [
                (0, int(size) - have)
                for size, have in zip(longest, value.shape[1:], strict=True)
            ]
            pad = value.reshape(-1)[0]
            padded.append(np.pad(value, widths, constant_values=pad))
        joined[name] = np.concatenate(padded)
    return joined


@pytest.mark.parametrize("name", ["serving_default", "rank"])
def test_requests_batched_by_the_server_get_their_own_answers(case, name):
    rng = np.random.default_rng(3)
    takes = case.loaded.signatures[name].structured_input_signature[1]
    requests = []
    for seed, (size, length) in enumerate([(1, 3), (2, 6), (1, 1)]):
        rows = rng.integers(0, len(case.documents), (size, length))
        request = case.request(rows, seed=seed)
        request["num_docs"] = np.full(size, length, np.int32)
        requests.append({key: request[key] for key in takes})
    batch = as_the_server_batches(requests)
    assert batch["doc_ids"].shape == (4, 6)
    together, start = case.call(name, batch), 0
    for request in requests:
        size, length = request["doc_ids"].shape
        for key, want in case.call(name, request).items():
            width = min(length, case.k) if name == "rank" else length
            assert want.shape == (size, width)
            got = together[key][start : start + size, : want.shape[1]]
            if want.dtype == np.float32:
                np.testing.assert_allclose(got, want, atol=2e-6)
            else:
                np.testing.assert_array_equal(got, want)
        start += size


# rank ------------------------------------------------------------------------------


def ranked(scores, found, ids, num_docs, k):
    """A slow ranking of one request: best first, equal scores in their order."""
    places = [p for p in range(min(num_docs, len(ids))) if found[p]]
    places.sort(key=lambda place: (-scores[place], place))
    rest = [-1] * len(ids)
    return (places + rest)[: min(k, len(ids))]


@pytest.mark.parametrize(
    "num_docs",
    [[9, 9, 9], [9, 4, 1], [0, 3, 20], [-1, 0, 8]],
    ids=["all", "some", "none and too many", "negative"],
)
def test_rank_is_the_sorted_request(case, num_docs):
    rng = np.random.default_rng(4)
    rows = rng.integers(0, len(case.documents), (3, 9))
    rows[:, 5] = rows[:, 1]  # the same document twice
    batch = case.request(rows, seed=4)
    strings = batch["doc_ids"].dtype == object
    batch["doc_ids"][1, 0] = "zz" if strings else 4
    if "co_clicks" in batch:  # the same in everything
        batch["co_clicks"][:, 5] = batch["co_clicks"][:, 1]
        batch["shown"][:, 5] = batch["shown"][:, 1]
    batch["num_docs"] = np.int32(num_docs)
    k = case.k
    flat = case.call("serving_default", batch)
    got = case.call("rank", batch)
    assert got["positions"].shape == (3, min(k, 9))
    for request in range(3):
        ids = batch["doc_ids"][request].tolist()
        places = ranked(
            flat["scores"][request], flat["found"][request], ids, num_docs[request], k
        )
        pad = "" if strings else -1
        # Scores of the two calls may differ in the last bit, equal ones may not.
        positions = got["positions"][request].tolist()
        assert positions == places
        want = [ids[place] if place >= 0 else pad for place in places]
        found = got["doc_ids"][request].tolist()
        assert [i.decode() if strings else i for i in found] == want
        assert got["found"][request].tolist() == [place >= 0 for place in places]
        scores = [
            flat["scores"][request, place] if place >= 0 else LOWEST for place in places
        ]
        np.testing.assert_allclose(got["scores"][request], scores, atol=2e-6)


def test_rank_of_fewer_candidates_than_k(case):
    batch = case.request([[2, 1, 0]])
    batch["num_docs"] = np.int32([3])
    assert case.k > 3
    positions = case.call("rank", batch)["positions"]
    assert sorted(positions[0].tolist()) == [0, 1, 2]


# Vectors ---------------------------------------------------------------------------


def test_encoded_documents_are_the_rows_of_the_table(case):
    columns = case.documents.arrays(case.model.schema)
    got = case.call("encode_docs", columns)["doc_vector"]
    table = case.loaded.table.vectors.numpy()
    assert len(table) == len(case.documents)
    np.testing.assert_allclose(got, table, atol=2e-6)
    assert np.ptp(table, axis=0).min() > 1e-3
    if case.task == "like":  # cosine: each task's part has length 1
        lengths = np.linalg.norm(got.reshape(-1, 2, 4), axis=-1)
        np.testing.assert_allclose(lengths, 1.0, atol=1e-6)


def test_query_vectors_score_as_requests_do_without_a_cross_tower(small):
    batch = small.request([[0, 7, 3, 7], [39, 1, 2, 3]])
    vectors = small.call("encode_query", batch)["query_vector"]
    got = small.call("score_vectors", {**batch, "query_vector": vectors})
    want = small.call("serving_default", batch)
    np.testing.assert_allclose(got["scores"], want["scores"], atol=1e-6)
    np.testing.assert_array_equal(got["scores"], got["click"])


def test_score_vectors_leaves_out_the_cross_tower(full):
    batch = full.request([[0, 1, 2, 3, 4, 5, 6]] * 3)
    tensors = {name: tf.constant(value) for name, value in batch.items()}
    network = full.model.network
    queries = network.encode_query(
        {name: tensors[name] for name in full.model.schema.columns("query")}
    ).numpy()
    rows = full.loaded.table.vectors.numpy().reshape(7, 2, 4)
    similarity = np.einsum("btd,mtd->bmt", queries.reshape(3, 2, 4), rows)
    scale = np.exp(network.scorer.log_scale.numpy())
    logits = similarity * scale + network.scorer.bias.numpy()
    inputs = {**batch, "query_vector": queries}
    got = full.call("score_vectors", inputs)
    np.testing.assert_allclose(got["click"], logits[:, :, 0], atol=1e-5)
    np.testing.assert_allclose(got["like"], logits[:, :, 1], atol=1e-5)
    np.testing.assert_array_equal(got["scores"], got["like"])  # the named task
    assert np.abs(got["like"] - model_outputs(full.model, batch)["like"]).max() > 1e-3


def test_score_vectors_of_unknown_ids(case):
    batch = case.request([[0, 1]])
    strings = batch["doc_ids"].dtype == object
    batch["doc_ids"][0, 1] = "zz" if strings else 4
    vectors = case.call("encode_query", batch)["query_vector"]
    got = case.call("score_vectors", {**batch, "query_vector": vectors})
    assert got["found"].tolist() == [[True, False]]
    for name in ("scores", *case.model.schema.task_names):
        assert got[name][0, 1] == LOWEST and np.isfinite(got[name]).all()


# retrieve --------------------------------------------------------------------------


def test_retrieved_scores_are_those_of_score_vectors(case):
    batch = case.request(np.zeros((5, 1), int), seed=9)
    got = case.call("retrieve", batch)
    vectors = case.call("encode_query", batch)["query_vector"]
    every = np.tile(case.documents.ids, (5, 1))
    all_of = case.call("score_vectors", {"query_vector": vectors, "doc_ids": every})
    k = min(case.k, len(case.documents))
    assert got["doc_ids"].shape == got["scores"].shape == (5, k)
    best = np.sort(all_of["scores"], axis=1)[:, ::-1][:, :k]
    np.testing.assert_allclose(got["scores"], best, atol=2e-6)
    again = {"query_vector": vectors, "doc_ids": got["doc_ids"]}
    np.testing.assert_allclose(
        case.call("score_vectors", again)["scores"], got["scores"], atol=2e-6
    )
    for ids in got["doc_ids"].tolist():
        assert len(set(ids)) == k


def exact_signatures(folder, count, k, tasks=("click", "like")):
    """Signatures over documents whose similarities come out exactly, many equal.

    A vector has one number that is not 0, a power of 2, in each task's part.
    """
    model = small_model(tasks=tasks, scorer="cosine")
    model.network.scorer.bias.assign([0.25, -0.5][-len(tasks) :])
    ids = 1000 + np.arange(count)
    file = folder / "ids.txt"
    file.write_text("".join(f"{value}\n" for value in ids))
    table = ServedTable(ids, file, 4 * len(tasks), {}, "weights")
    rng = np.random.default_rng(0)
    vectors = np.zeros([count, len(tasks), 4], np.float32)
    for row in range(count):
        for task in range(len(tasks)):
            vectors[row, task, rng.integers(4)] = rng.choice([-1.0, 0.5, 1.0])
    table.fill(0, tf.constant(vectors.reshape(count, -1)), {})
    return model, Signatures(model.network, table, k, "like"), vectors


@pytest.mark.parametrize("block", [1, 5, 23, 1000])
@pytest.mark.parametrize("k", [1, 7, 23, 40])
def test_retrieve_equals_a_stable_sort_whatever_the_block(
    tmp_path, monkeypatch, block, k
):
    monkeypatch.setattr(sys.modules[Signatures.__module__], "_BLOCK", block)
    model, signatures, vectors = exact_signatures(tmp_path, 23, k)
    query = {name: tf.constant(value) for name, value in small_query(6).items()}
    got = signatures.retrieve(query)
    queries = model.network.encode_query(query).numpy()[:, 4:]  # of "like"
    scores = (queries[:, np.newaxis, :] * vectors[np.newaxis, :, 1]).sum(-1)
    order = np.argsort(-scores, axis=1, kind="stable")[:, : min(k, 23)]
    np.testing.assert_array_equal(got["doc_ids"], 1000 + order)
    scale = np.exp(model.network.scorer.log_scale.numpy()[1])
    want = np.take_along_axis(scores, order, 1) * scale - 0.5
    np.testing.assert_allclose(got["scores"], want, atol=1e-5)
    # There are ties, and some of them are cut by k.
    assert len(np.unique(scores[0])) < 13


def test_different_documents_with_one_score_keep_the_order_of_the_request(tmp_path):
    # One task: a sigmoid, which fuses several, may round differently by place.
    _, signatures, vectors = exact_signatures(tmp_path, 23, 40, ("like",))
    query = {name: tf.constant(value) for name, value in small_query(1).items()}
    same = np.flatnonzero((vectors == vectors[0]).all((1, 2)))
    assert len(same) >= 2
    listed = np.concatenate([same[::-1], same])  # and twice each
    got = signatures.rank(
        {
            **query,
            "doc_ids": tf.constant([1000 + listed], tf.int64),
            "num_docs": tf.constant([len(listed)]),
        }
    )
    assert got["positions"].numpy().tolist() == [list(range(len(listed)))]


def test_full_case_has_documents_of_every_kind(full):
    assert full.loaded.table.ids.numpy().tolist() == [i.encode() for i in FULL_IDS]
