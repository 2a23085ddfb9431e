import dataclasses
import shutil

import numpy as np
import pytest

from tests.small_movielens import write_config, write_folder
from tfrs_prerank import evaluation as evaluation_package
from tfrs_prerank import pipeline
from tfrs_prerank.config import Config
from tfrs_prerank.datasets import funnel
from tfrs_prerank.declaration import ConfigurationError
from tfrs_prerank.models import RankerConfig
from tfrs_prerank.objectives import Objective, Term
from tfrs_prerank.towers import Tower


@pytest.fixture(scope="module")
def config(tmp_path_factory):
    folder = tmp_path_factory.mktemp("pipeline")
    path = write_config(folder / "c.yaml", write_folder(folder / "ml"))
    return Config.from_yaml(path)


@pytest.fixture(scope="module")
def data(config, tmp_path_factory):
    directory = tmp_path_factory.mktemp("prepared") / "data"
    pipeline.prepare(config, directory)
    return directory


def changed(config, name, **keys):
    """The configuration with other keys of one feature."""
    features = [
        dataclasses.replace(f, **keys) if f.name == name else f
        for f in config.schema.features
    ]
    schema = dataclasses.replace(config.schema, features=tuple(features))
    return dataclasses.replace(config, schema=schema)


def test_sizes_and_dropout_may_change_after_preparing(config, data):
    schema = changed(config, "user_id", dimension=3, id_dropout=0.5).schema
    fitted = pipeline.fitted_schema(schema, data)
    assert (fitted["user_id"].dimension, fitted["user_id"].id_dropout) == (3, 0.5)
    assert fitted["user_id"].vocabulary == str(data / "vocabularies" / "user_id.txt")
    assert fitted["popularity"].statistics == str(data / "statistics.json")


def test_a_vocabulary_may_give_way_to_buckets(config, data):
    schema = changed(config, "user_id", buckets=7).schema
    fitted = pipeline.fitted_schema(schema, data)
    assert (fitted["user_id"].buckets, fitted["user_id"].vocabulary) == (7, None)


def test_what_the_data_depends_on_may_not(config, data):
    schema = changed(config, "user_id", min_count=5).schema
    with pytest.raises(
        ConfigurationError, match=r"user_id\.min_count: .* with 1; .* 5"
    ):
        pipeline.fitted_schema(schema, data)
    extra = dataclasses.replace(config.schema["co_likes"], name="like_rate")
    schema = dataclasses.replace(
        config.schema, features=(*config.schema.features, extra)
    )
    with pytest.raises(ConfigurationError, match="prepared without 'like_rate'"):
        pipeline.fitted_schema(schema, data)


def test_training_refuses_a_foreign_folder_before_it_begins(config, data, tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "precious.txt").write_text("mine")
    with pytest.raises(FileExistsError, match="is no run directory"):
        pipeline.train(config, data, tmp_path / "out")
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


@pytest.mark.slow  # takes long
def test_an_interrupted_training_goes_on_only_as_it_was(
    config, data, tmp_path, monkeypatch
):
    def interrupted(self, *args, **kwargs):
        raise KeyboardInterrupt

    training = dataclasses.replace(config.training, epochs=2)
    config = dataclasses.replace(config, training=training)
    with monkeypatch.context() as patch:
        patch.setattr(pipeline.PreRanker, "save", interrupted)
        with pytest.raises(KeyboardInterrupt):
            pipeline.train(config, data, tmp_path / "run")
    other = dataclasses.replace(
        config, training=dataclasses.replace(training, learning_rate=0.5)
    )
    with pytest.raises(ValueError, match=r"\.run-backup keeps an interrupted training"):
        pipeline.train(other, data, tmp_path / "run")
    # Both epochs are in the backup: there is nothing left to train but to save it.
    model = pipeline.train(config, data, tmp_path / "run")
    assert int(model.epochs_trained) == 2
    batches = -(-pipeline.open_requests(data, "train", 16).num_requests // 16)
    assert int(model.optimizer.iterations) == 2 * batches
    assert [path.name for path in tmp_path.iterdir()] == ["run"]


def test_the_ranker_is_a_row_where_the_data_has_its_scores(config, data, tmp_path):
    from tfrs_prerank.datasets import read_documents, write

    def requests():
        for batch in pipeline.open_requests(data, "test", batch_size=1):
            row = {name: column[0].numpy() for name, column in batch.items()}
            del row["mask"]
            names = pipeline.prepared_schema(data).columns("doc")
            static = [name for name, column in names.items() if column.static]
            row = {name: value for name, value in row.items() if name not in static}
            yield {**row, "teacher/like": row["popularity"]}

    copy = tmp_path / "data"
    shutil.copytree(data, copy)
    for file in copy.glob("test-*"):
        file.unlink()
    documents = read_documents(data / "documents.parquet")
    schema = pipeline.prepared_schema(data)
    write(copy, "test", schema, requests(), documents=documents)
    model = pipeline.PreRanker(schema, **config.model.arguments())
    evaluation = dataclasses.replace(
        config.evaluation, metrics=("kendall_tau", "catalog_coverage@5")
    )
    # No task but `like` has a ranker.
    changed_config = dataclasses.replace(config, evaluation=evaluation)
    with pytest.raises(KeyError, match="'teacher/click'"):
        pipeline.evaluate(model, changed_config, copy)
    evaluation = dataclasses.replace(evaluation, metrics=("catalog_coverage@5",))
    changed_config = dataclasses.replace(config, evaluation=evaluation)
    made = pipeline.evaluate(model, changed_config, copy)
    rows = [record.row for record in made.records]
    assert rows == ["model", "popularity", "ranker", "random"]
    coverage = {record.row: record.value for record in made.records}
    assert coverage["ranker"] == coverage["popularity"]


def test_slices_and_popularity_of_the_configuration_give_way_to_arguments(
    config, data, tmp_path, monkeypatch
):
    def with_evaluation(**keys):
        evaluation = dataclasses.replace(config.evaluation, **keys)
        return dataclasses.replace(config, evaluation=evaluation)

    asked = []
    monkeypatch.setattr(
        evaluation_package, "report", lambda **options: asked.append(options)
    )

    def popularity(config, **options):
        pipeline.report(tmp_path, config, data, "report.html", **options)
        return asked[-1]["popularity"]

    assert popularity(config) == "popularity"  # the baseline
    assert popularity(with_evaluation(popularity="co_likes")) == "co_likes"
    both = with_evaluation(popularity="co_likes", slices=("query",))
    assert popularity(both, popularity="popularity") == "popularity"
    assert popularity(with_evaluation(baselines={})) is None
    pipeline.report(tmp_path, both, data, "report.html", slices=["group_id", "query"])
    slices = [list(options["slices"]) for options in asked]
    assert slices == [[], [], ["query"], [], ["group_id", "query"]]

    model = pipeline.PreRanker(
        pipeline.prepared_schema(data), **config.model.arguments()
    )
    made = pipeline.evaluate(model, with_evaluation(slices=("query",), samples=2), data)
    assert list(made.slices) == ["query"] and made.slices["query"]


def test_a_failure_before_the_first_backup_keeps_nothing(
    config, data, tmp_path, monkeypatch
):
    def failing(self, *args, **kwargs):
        raise RuntimeError("out of memory")

    for method in ("__init__", "train_step"):
        with monkeypatch.context() as patch:
            patch.setattr(pipeline.PreRanker, method, failing)
            with pytest.raises(RuntimeError, match="out of memory"):
                pipeline.train(config, data, tmp_path / "run")
        assert list(tmp_path.iterdir()) == []


def test_no_validation_requests(config, data, tmp_path):
    copy = tmp_path / "data"
    shutil.copytree(data, copy)
    for file in copy.glob("validation-*"):
        file.write_bytes(b"")
    training = dataclasses.replace(config.training, early_stopping=1)
    with pytest.raises(ConfigurationError, match="has no validation requests"):
        pipeline.train(
            dataclasses.replace(config, training=training), copy, tmp_path / "run"
        )
    pipeline.train(config, copy, tmp_path / "run")
    assert (tmp_path / "run" / "config.yaml").is_file()


def test_demo_leaves_a_foreign_folder_alone(config, tmp_path):
    precious = tmp_path / "data" / "precious.txt"
    precious.parent.mkdir()
    precious.write_text("mine")
    with pytest.raises(FileExistsError, match="is no prepared directory"):
        pipeline.demo(config, tmp_path, tmp_path / "models", say=lambda line: None)
    assert precious.read_text() == "mine"
    assert [path.name for path in tmp_path.iterdir()] == ["data"]


def test_a_simulated_cascade_is_prepared_and_its_log_thrown_away(tmp_path, monkeypatch):
    tiny = dataclasses.replace(
        funnel.small(), documents=200, requests=60, candidates=40, ranked=20, block=20
    )
    monkeypatch.setattr(
        funnel, "small", lambda seed: dataclasses.replace(tiny, seed=seed)
    )
    config = Config.example("funnel")
    data = dataclasses.replace(config.data, teacher="true_utility", shards=2, seed=3)
    config = dataclasses.replace(config, data=data)
    schema = pipeline.prepare(config, tmp_path / "new" / "data")
    assert schema["query"].vocabulary is not None
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["data"]
    assert len(list((tmp_path / "new/data").glob("train-*.tfrecord"))) == 2
    (request,) = pipeline.open_requests(tmp_path / "new/data", "test", 6)(0)
    # 6 of 60 requests, whole, with the truth of every candidate as teacher.
    made = funnel.simulate(dataclasses.replace(tiny, seed=3))
    assert request["doc_ids"].shape == (6, 40)
    order = np.argsort(request["request_id"].numpy())
    utility = np.sort(request["teacher/click"].numpy()[order], axis=1)
    np.testing.assert_allclose(utility, np.sort(made.truth.utility[-6:], axis=1), 1e-6)


def test_a_cascade_is_refused_before_it_is_simulated(tmp_path, monkeypatch):
    monkeypatch.setattr(funnel, "simulate", None)
    config = Config.example("funnel")
    with pytest.raises(FileExistsError):
        pipeline.prepare(config, tmp_path)
    tasks = (dataclasses.replace(config.schema.tasks[0], name="like"),)
    schema = dataclasses.replace(config.schema, tasks=tasks)
    config = dataclasses.replace(config, schema=schema)
    with pytest.raises(
        ConfigurationError, match="of the task 'click'; set teacher: nu"
    ):
        pipeline.prepare(config, tmp_path / "new")


def with_ranker(config, objective):
    """The configuration with privileged co-likes, a small ranker and one epoch."""
    tower = Tower((4,), dimension=4)
    features = [
        dataclasses.replace(f, privileged=f.owner == "cross")
        for f in config.schema.features
    ]
    schema = dataclasses.replace(config.schema, features=tuple(features))
    return dataclasses.replace(
        config,
        schema=schema,
        model=dataclasses.replace(config.model, cross_tower=None),
        ranker=RankerConfig(tower, "zero_attention"),
        objective=objective,
    )


def test_a_preranker_is_trained_by_the_ranker_of_a_run_directory(
    config, data, tmp_path
):
    hard = Term("like", "softmax_cross_entropy")
    objective = Objective((hard, Term("like", "distillation")))
    config = with_ranker(config, objective)
    ranker = pipeline.train_ranker(config, data, tmp_path / "ranker")
    # It learns from labels, and from those alone.
    assert ranker.objective == Objective((hard,))
    assert "co_likes" in ranker.network.tower.fields.field_names
    model = pipeline.train(config, data, tmp_path / "run", tmp_path / "ranker")
    assert "co_likes" not in model.network.schema.columns()
    opened = pipeline.open_model(tmp_path / "ranker")
    assert isinstance(opened, pipeline.Ranker)
    evaluation = dataclasses.replace(config.evaluation, metrics=("overlap@5", "gauc"))
    config = dataclasses.replace(config, evaluation=evaluation)
    made = pipeline.evaluate(model, config, data, teacher=tmp_path / "ranker")
    overlap = {r.row: r.value for r in made.records if r.metric == "overlap@5"}
    assert overlap["ranker (like)"] == 1.0 > overlap["model"]


def test_a_query_sends_no_privileged_column(config, data, tmp_path, monkeypatch):
    sent = []

    class Client:
        def __init__(self, *args, **kwargs):
            pass

        def __enter__(self):
            return self

        def __exit__(self, *args):
            pass

        def predict(self, inputs, signature):
            sent.append(set(inputs))
            return {"doc_ids": np.empty([1, 0]), "found": np.empty([1, 0])}

    monkeypatch.setattr("tfrs_prerank.serving.client.Client", Client)
    copy = tmp_path / "data"
    shutil.copytree(data, copy)
    schema = pipeline.prepared_schema(copy)
    features = [
        dataclasses.replace(f, privileged=f.owner == "cross") for f in schema.features
    ]
    dataclasses.replace(schema, features=tuple(features)).save(copy)
    pipeline.query("localhost:1", "model", data)
    pipeline.query("localhost:1", "model", copy)
    assert sent[0] - sent[1] == {"co_likes"}


def test_a_teacher_must_teach_what_is_learned(config, data, tmp_path):
    both = Objective((Term("like"), Term("like", "distillation")))
    config = with_ranker(config, both)
    schema = dataclasses.replace(config.schema, tasks=config.schema.tasks[:1])
    fitted = pipeline.fitted_schema(schema, data)
    pipeline.Ranker(fitted, **config.ranker.arguments()).save(tmp_path / "ranker")
    with pytest.raises(ConfigurationError, match="has no task 'like', which the term"):
        pipeline.train(config, data, tmp_path / "run", tmp_path / "ranker")
    assert [path.name for path in tmp_path.iterdir()] == ["ranker"]


def test_a_teacher_must_have_a_pupil(config, data, tmp_path):
    alone = with_ranker(config, "softmax_cross_entropy")
    with pytest.raises(ConfigurationError, match="no term of the objective learns"):
        pipeline.train(alone, data, tmp_path / "run", tmp_path / "ranker")
    soft = Objective((Term("like", "distillation"),))
    with pytest.raises(ConfigurationError, match="a ranker learns from labels"):
        pipeline.train_ranker(with_ranker(config, soft), data, tmp_path / "run")
    both = Objective((Term("like"), Term("like", "distillation")))
    joint = with_ranker(config, both)
    model = dataclasses.replace(joint.model, ranker=joint.ranker)
    joint = dataclasses.replace(joint, model=model)
    with pytest.raises(ConfigurationError, match=r"model\.ranker is trained jointly"):
        pipeline.train(joint, data, tmp_path / "run", tmp_path / "ranker")
    assert not list(tmp_path.iterdir())
