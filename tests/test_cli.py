import json
import shutil

import pytest
from click.testing import CliRunner

from tests.small_movielens import write_config, write_folder
from tfrs_prerank.cli import main


def run(*arguments):
    return CliRunner().invoke(main, [str(argument) for argument in arguments])


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A folder in which prepare, train and export have been run, in this order."""
    folder = tmp_path_factory.mktemp("cli")
    config = write_config(folder / "c.yaml", write_folder(folder / "ml"))
    for arguments in (
        ("prepare", config, "--output", folder / "data"),
        ("train", config, "--data", folder / "data", "--output", folder / "run"),
        (
            *("export", folder / "run", config, "--data", folder / "data"),
            *("--output", folder / "models" / "small"),
        ),
    ):
        result = run(*arguments)
        assert result.exit_code == 0, result.output
    return folder


def test_prepare_leaves_what_training_needs(place):
    report = json.loads((place / "data" / "report.json").read_text())
    assert report["requests_written"]["train"] == report["splits"]["train"] > 100
    assert (place / "data" / "vocabularies" / "movie_id.txt").is_file()


def test_evaluate_prints_the_model_beside_its_baselines(place):
    arguments = (place / "run", place / "c.yaml", "--data", place / "data")
    table = run("evaluate", *arguments)
    assert table.exit_code == 0, table.output
    for row in ("model", "popularity", "random"):
        assert row in table.output
    as_json = run("evaluate", *arguments, "--json", "--split", "validation")
    records = json.loads(as_json.output)["records"]
    values = {(r["task"], r["metric"], r["row"]): r["value"] for r in records}
    assert values["like", "gauc", "random"] == 0.5


def test_evaluate_takes_an_export_and_slices(place):
    data = ("--data", place / "data")
    arguments = (place / "c.yaml", *data, "--json", "--slice", "query")
    model = json.loads(run("evaluate", place / "run", *arguments).output)
    export = json.loads(run("evaluate", place / "models" / "small", *arguments).output)
    assert export["requests"] == model["requests"]
    assert set(export["slices"]["query"]) == set(model["slices"]["query"])
    rows = {record["row"] for record in export["records"]}
    assert rows == {"model", "popularity", "random"}
    wrong = run("evaluate", place / "run", *arguments[:-1], "quer")
    assert wrong.exit_code == 1
    last = wrong.output.splitlines()[-1]
    assert last.startswith("tfrs-prerank: slices['quer']: the batch has no column")
    assert "did you mean 'query'?" in last


def test_report_writes_a_page(place, tmp_path):
    arguments = (place / "c.yaml", "--data", place / "data")
    path = tmp_path / "page.html"
    done = run(
        "report", place / "run", *arguments, "--output", path, "--slice", "query"
    )
    assert done.exit_code == 0, done.output
    assert done.output.splitlines()[-1] == f"report in {path}"
    text = path.read_text("utf-8")
    for part in ("positives of like", "probability of like", "by popularity of the"):
        assert part in text
    assert "test requests" in text
    assert "k = 5" in text  # export.k
    wrong = run("report", place / "run", *arguments, "--output", tmp_path)
    assert wrong.exit_code == 2
    assert [file.name for file in tmp_path.iterdir()] == ["page.html"]


def test_query_prints_titles(place):
    from tfrs_prerank.serving import LocalServer

    with LocalServer(place / "models" / "small", rest_port=0, grpc_port=0) as server:
        arguments = ("--model", "small", "--data", place / "data", "--request", 3)
        rest = run("query", server.rest_url, *arguments)
        grpc = run("query", server.grpc_target, *arguments)
        beyond = run("query", server.grpc_target, *arguments[:4], "--request", 10**6)
    assert rest.exit_code == 0, rest.output
    assert rest.output == grpc.output
    assert " 1. Film " in rest.output
    assert beyond.exit_code == 1
    assert "numbered from 0. Received: 1000000" in beyond.output


def test_a_second_export_is_the_next_version(place):
    arguments = (
        *("export", place / "run", place / "c.yaml", "--data", place / "data"),
        *("--output", place / "models" / "small"),
    )
    taken = run(*arguments, "--version", 1)
    assert taken.exit_code == 1
    assert "exists; leave version out to take 2" in taken.output
    assert [p.name for p in (place / "models" / "small").iterdir()] == ["1"]


def test_a_refresh_is_the_next_version(place, tmp_path):
    directory = tmp_path / "small"
    shutil.copytree(place / "models" / "small", directory)
    documents = place / "data" / "documents.parquet"
    done = run("refresh", directory, documents, "--fuse", "like=2")
    assert done.exit_code == 0, done.output
    assert f"refreshed       {directory / '2'}" in done.output
    assert " unchanged, 0 changed, 0 added; 0 removed)" in done.output
    wrong = run("refresh", directory, documents, "--fuse", "like")
    assert wrong.exit_code == 2
    assert "'like' is not TASK=WEIGHT, such as like=2.5" in wrong.output
    assert sorted(path.name for path in directory.iterdir()) == ["1", "2"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ("prepare", "{c.yaml}", "--output", "{data}"),
            "exists; remove it or choose another directory",
        ),
        (
            ("train", "{c.yaml}", "--data", "{ml}", "--output", "{new}"),
            "is no prepared directory: no schema.yaml in it",
        ),
        (
            ("evaluate", "{ml}", "{c.yaml}", "--data", "{data}"),
            "is no run directory: no config.yaml in it",
        ),
        (
            ("evaluate", "{run}", "{c.yaml}", "--data", "{data}", "--split", "dev"),
            "dev",
        ),
        (("serve", "{ml}", "--rest-port", "0", "--grpc-port", "0"), "version"),
    ],
)
def test_errors_are_one_line_and_leave_nothing(place, arguments, message):
    before = sorted(path.name for path in place.iterdir())
    filled = [
        str(place / argument[1:-1]) if argument.startswith("{") else argument
        for argument in arguments
    ]
    result = run(*filled)
    assert result.exit_code == 1
    errors = [line for line in result.output.splitlines() if line]
    assert errors[-1].startswith("tfrs-prerank: ")
    assert message in errors[-1]
    assert sorted(path.name for path in place.iterdir()) == before


def test_a_truncated_file_is_named(place, tmp_path):
    data = tmp_path / "data"
    shutil.copytree(place / "data", data)
    file = data / "test-00000-of-00001.tfrecord"
    file.write_bytes(file.read_bytes()[:-10])
    result = run("evaluate", place / "run", place / "c.yaml", "--data", data)
    assert result.exit_code == 1
    assert file.name in result.output.splitlines()[-1]


def test_a_vocabulary_that_is_gone_is_named(place, tmp_path):
    data = tmp_path / "data"
    shutil.copytree(place / "data", data)
    (data / "vocabularies" / "movie_id.txt").unlink()
    result = run(
        *("train", place / "c.yaml", "--data", data, "--output", tmp_path / "run")
    )
    assert result.exit_code == 1
    assert "movie_id.vocabulary: no file at" in result.output.splitlines()[-1]
    assert [path.name for path in tmp_path.iterdir()] == ["data"]


def test_demo_without_movielens_names_three_ways(tmp_path, monkeypatch):
    monkeypatch.setenv("TFRS_PRERANK_MOVIELENS", str(tmp_path / "nowhere"))
    result = run("demo", "--runs", tmp_path / "runs", "--output", tmp_path / "out")
    assert result.exit_code == 1
    assert str(tmp_path / "nowhere") in result.output
    assert not (tmp_path / "out").exists()


def test_embed_adds_vectors_of_texts(tmp_path, monkeypatch):
    import tensorflow as tf

    from tfrs_prerank import layers
    from tfrs_prerank.datasets import read_documents

    class Encoder:
        """Stands in for a BERT: the vector of a text is its length."""

        @staticmethod
        def from_pretrained(directory):
            assert directory == tmp_path / "bert"
            return lambda texts: tf.cast(tf.strings.length(texts), tf.float32)[:, None]

    monkeypatch.setattr(layers, "SentenceBert", Encoder, raising=False)
    (tmp_path / "bert").mkdir()
    (tmp_path / "docs.csv").write_text(
        "doc_id,title,abstract\nd1,red hat,new\nd2,hat,\n"
    )
    arguments = (
        *("embed", "--model", tmp_path / "bert", "--documents", tmp_path / "docs.csv"),
        *("--column", "title", "--column", "abstract", "--into", "text_vector"),
        tmp_path / "new.parquet",
    )
    done = run(*arguments)
    assert done.exit_code == 0, done.output
    expected = f"2 documents with 'text_vector' in {tmp_path / 'new.parquet'}"
    assert done.output.splitlines()[-1] == expected
    documents = read_documents(tmp_path / "new.parquet")
    assert documents.columns["text_vector"].tolist() == [[11.0], [3.0]]
    again = run(*arguments)
    assert again.exit_code == 1
    assert again.output.splitlines()[-1].endswith(
        "new.parquet exists; remove it or choose another file"
    )
