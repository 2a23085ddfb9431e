"""Printed losses and metrics are means over all examples; weights of the terms."""

from __future__ import annotations

import functools

import numpy as np
import pytest
import tensorflow as tf

import tfrs_prerank as tp
from tests.losses import reference as losses
from tests.metrics import reference as metrics
from tests.models.small import (
    Arrays,
    assert_same_state,
    dataset,
    padded,
    random_requests,
    small_model,
    small_schema,
    state_of,
    take,
)
from tfrs_prerank.metrics import GAUC, NDCG

TASKS = ("click", "like")


def slow_means(model: tp.PreRanker, arrays: Arrays) -> dict[str, float]:
    """Losses and metrics in NumPy, over all the requests at once."""
    outputs = model(take(arrays, 0, len(arrays["mask"])))
    click, like = outputs["click"].numpy(), outputs["like"].numpy()
    mask = arrays["mask"]
    shown = mask & np.isin(arrays["stage"], [0, 1])  # exposed, ranked
    of_click = (arrays["label/click"], click)
    of_like = (arrays["label/like"], like)
    by_scores = (arrays["label/like"], outputs["scores"].numpy(), mask)
    values, weights = metrics.batch(metrics.ndcg, *by_scores, 3)
    aucs, sizes = metrics.batch(metrics.auc, *of_click, mask)
    of_documents = losses.sigmoid_cross_entropy(
        *of_click, shown, arrays["weight/click"]
    )
    of_lists = losses.softmax_cross_entropy(*of_like, mask, arrays["weight/like"])
    expected = {
        "click/sigmoid_cross_entropy/exposed+ranked": losses.mean_and_sum(
            True, of_documents
        )[0],
        "like/softmax_cross_entropy": losses.mean_and_sum(False, of_lists)[0],
        "like/ndcg@3": (values * weights).sum() / weights.sum(),
        "click/gauc": (aucs * sizes).sum() / sizes.sum(),
    }
    expected["loss"] = (
        expected["click/sigmoid_cross_entropy/exposed+ranked"]
        + 2 * expected["like/softmax_cross_entropy"]
    )
    return expected


def test_evaluate_equals_a_mean_over_all_examples() -> None:
    objective = tp.Objective(
        (
            tp.Term("click", stages=("exposed", "ranked")),
            tp.Term("like", "softmax_cross_entropy", weight=2.0),
        )
    )
    model = small_model(small_schema(TASKS), objective=objective)
    model.compile(metrics={"click": [GAUC()], "like": [NDCG(3)]})
    arrays = random_requests(12, 5, TASKS, weights=True)
    expected = slow_means(model, arrays)
    assert len({round(value, 3) for value in expected.values()}) == 5
    # Batches of 7 and 5, of 5, 5 and 2; and of other lengths, one longer than needed.
    cut = {n: v[:7] for n, v in padded(arrays, 2).items()}
    rest = {n: v[7:] for n, v in arrays.items()}
    uneven = dataset(cut, 7).concatenate(dataset(rest, 5))
    for batches in (uneven, dataset(arrays, 5)):
        result = model.evaluate(batches, return_dict=True, verbose=0)
        assert result.keys() == expected.keys()
        for name, value in expected.items():
            np.testing.assert_allclose(result[name], value, rtol=1e-5, err_msg=name)
    # A list of values has the order of the names, the loss first.
    values = model.evaluate(dataset(arrays, 5), verbose=0)
    assert model.metrics_names == list(result)
    assert model.metrics_names[0] == "loss"
    np.testing.assert_allclose(values, list(result.values()), rtol=1e-6)


def test_doubling_the_batch_changes_neither_losses_nor_gradients() -> None:
    arrays = random_requests(5, 4, TASKS)
    double = {name: np.concatenate([a, a]) for name, a in arrays.items()}
    objective = tp.Objective(
        (tp.Term("click"), tp.Term("like", "softmax_cross_entropy", weight=0.3))
    )
    schema = small_schema(TASKS, l2=1e-2)
    models, logs = [], []
    for batch in (arrays, double):
        model = small_model(schema, objective=objective)
        model.compile(tf.keras.optimizers.SGD(1e-3), run_eagerly=True)
        batch = take(batch, 0, len(batch["mask"]))
        logs.append(model.train_on_batch(batch, return_dict=True))
        models.append(model)
    assert_same_state(state_of(models[0]), state_of(models[1]), 1e-6)
    for name, value in logs[0].items():
        assert value == pytest.approx(logs[1][name], rel=1e-6), name


def test_terms_are_added_with_their_weights() -> None:
    arrays = take(random_requests(5, 4, TASKS), 0, 5)
    click, like = tp.Term("click"), tp.Term("like", "softmax_cross_entropy")

    def step(*terms: tp.Term) -> tuple[np.ndarray, dict[str, float]]:
        model = small_model(small_schema(TASKS), objective=tp.Objective(terms))
        before = np.concatenate([w.ravel() for w in model.network.get_weights()])
        model.compile(tf.keras.optimizers.SGD(1e-3), run_eagerly=True)
        logs = model.train_on_batch(arrays, return_dict=True)
        after = np.concatenate([w.ravel() for w in model.network.get_weights()])
        return after - before, logs

    of_click, click_logs = step(click)
    of_like, like_logs = step(like)
    of_both, logs = step(
        tp.Term("click", weight=0.5), tp.Term("like", like.loss, weight=3.0)
    )
    assert np.abs(of_click).max() > 1e-3
    assert np.abs(of_like).max() > 1e-3
    # Equation 19: L = 0.5 L_click + 3 L_like, and so its gradient.
    np.testing.assert_allclose(of_both, 0.5 * of_click + 3.0 * of_like, atol=1e-6)
    expected = 0.5 * click_logs["loss"] + 3.0 * like_logs["loss"]
    assert logs["loss"] == pytest.approx(expected, rel=1e-6)


def test_scores_fuse_the_tasks() -> None:
    model = small_model(small_schema(TASKS, fuse=(0.25, 2.0)))
    batch = take(random_requests(3, 4, TASKS), 0, 3)
    outputs = {name: value.numpy() for name, value in model(batch).items()}
    assert list(outputs) == ["click", "like", "scores"]
    mask = batch["mask"].numpy()

    def sigmoid(x: np.ndarray) -> np.ndarray:
        return 1 / (1 + np.exp(-x))

    fused = 0.25 * sigmoid(outputs["click"]) + 2.0 * sigmoid(outputs["like"])
    np.testing.assert_allclose(outputs["scores"][mask], fused[mask], rtol=1e-5)
    np.testing.assert_array_equal(outputs["scores"][~mask], 0.0)
    model.network.fusion.weight.assign([1.0, 0.0])
    only_click = model(batch)["scores"].numpy()
    np.testing.assert_allclose(
        only_click[mask], sigmoid(outputs["click"])[mask], rtol=1e-5
    )


def test_one_task_scores_by_its_logit() -> None:
    outputs = small_model()(take(random_requests(3, 4), 0, 3))
    np.testing.assert_array_equal(outputs["scores"], outputs["click"])


def test_ranking_metrics_read_scores_and_gauc_the_logit() -> None:
    model = small_model(small_schema(TASKS))
    model.compile(metrics=[NDCG(3), GAUC()])
    arrays = random_requests(12, 5, TASKS)
    outputs = model(take(arrays, 0, 12))
    result = model.evaluate(dataset(arrays, 12), return_dict=True, verbose=0)
    assert list(result)[3:] == [
        "click/ndcg@3", "click/gauc", "like/ndcg@3", "like/gauc"
    ]  # fmt: skip
    mean = functools.partial(metrics.batch, where=arrays["mask"])
    for task in TASKS:
        labels = arrays[f"label/{task}"]
        values, weights = metrics.batch(
            metrics.ndcg, labels, outputs["scores"].numpy(), arrays["mask"], 3
        )
        expected = np.average(values, weights=weights)
        assert result[f"{task}/ndcg@3"] == pytest.approx(expected, rel=1e-6)
        aucs, sizes = mean(metrics.auc, labels, outputs[task].numpy())
        expected = np.average(aucs, weights=sizes)
        assert result[f"{task}/gauc"] == pytest.approx(expected, rel=1e-6)
        other, _ = mean(metrics.auc, labels, outputs["scores"].numpy())
        assert np.average(other, weights=sizes) != pytest.approx(expected, rel=1e-3)


def test_a_metric_without_a_usable_list_is_left_out() -> None:
    arrays = random_requests(4, 3, TASKS)
    arrays["label/like"][:] = np.where(arrays["mask"], 0.0, np.nan)
    model = small_model(small_schema(TASKS))
    model.compile(metrics=[NDCG(3)])
    batches = dataset(arrays, 4)
    with pytest.warns(UserWarning, match="like/ndcg@3 is left out"):
        result = model.evaluate(batches, return_dict=True, verbose=0)
    assert "click/ndcg@3" in result
    assert "like/ndcg@3" not in result
    with pytest.warns(UserWarning, match="like/ndcg@3 is left out"):
        history = model.fit(batches, validation_data=batches, verbose=0).history
    assert {"click/ndcg@3", "val_click/ndcg@3"} < history.keys()
    assert not {"like/ndcg@3", "val_like/ndcg@3"} & history.keys()
    assert np.isfinite(list(history.values())).all()


def test_a_term_without_a_label_is_left_out_and_not_0() -> None:
    arrays = random_requests(4, 3, TASKS)
    arrays["label/like"][:] = np.nan
    objective = tp.Objective(
        (
            tp.Term("click"),
            tp.Term("click", "in_batch_softmax", stages=("catalog",)),
            tp.Term("like", weight=2.0),
        )
    )
    model = small_model(small_schema(TASKS), objective=objective)
    model.compile()
    batches = dataset(arrays, 2)
    seen = ["loss", "click/sigmoid_cross_entropy"]
    with pytest.warns(UserWarning, match="like/sigmoid_cross_entropy is left out"):
        result = model.evaluate(batches, return_dict=True, verbose=0)
    assert list(result) == seen
    assert result["loss"] == pytest.approx(result[seen[1]], rel=1e-6) != 0
    with pytest.warns(UserWarning, match="click/in_batch_softmax/catalog is left out"):
        history = model.fit(batches, validation_data=batches, verbose=0).history
    assert list(history) == [*seen, *(f"val_{name}" for name in seen)]


def test_no_label_at_all_is_no_loss_of_0() -> None:
    arrays = random_requests(4, 3)
    arrays["label/click"][:] = np.nan
    model = small_model()
    model.compile()
    with pytest.warns(UserWarning, match="loss is left out"):
        result = model.evaluate(dataset(arrays, 4), return_dict=True, verbose=0)
    assert result == {}


def test_training_and_validation_leave_out_what_each_did_not_see() -> None:
    # Validation resets the metrics before an epoch's logs are complete.
    with_likes = random_requests(4, 3, TASKS)
    without = {**with_likes, "label/like": np.full([4, 3], np.nan, np.float32)}
    likes = {"like/sigmoid_cross_entropy", "like/ndcg@3"}
    for arrays, of_validation in ((with_likes, without), (without, with_likes)):
        model = small_model(small_schema(TASKS))
        model.compile(metrics=[NDCG(3)])
        with pytest.warns(UserWarning, match="like/ndcg@3 is left out"):
            history = model.fit(
                dataset(arrays, 4),
                validation_data=dataset(of_validation, 4),
                validation_freq=2,
                epochs=3,
                verbose=0,
            ).history
        seen = arrays is with_likes
        for name in likes:
            assert len(history.get(name, [])) == (3 if seen else 0), name
            assert len(history.get(f"val_{name}", [])) == (0 if seen else 1), name
        assert len(history["loss"]) == 3
