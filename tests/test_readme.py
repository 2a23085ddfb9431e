"""The two READMEs say the same, and what they show works."""

import ast
import contextlib
import dataclasses
import io
import json
import re
import shutil
import typing
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import tensorflow as tf
import yaml

import tfrs_prerank
from tests.datasets.movielens_files import Movie, Rating, User, write_100k

ROOT = Path(__file__).resolve().parent.parent
ENGLISH = (ROOT / "README.md").read_text(encoding="utf-8")
CHINESE = (ROOT / "README.zh-CN.md").read_text(encoding="utf-8")
PAGE = {
    page.stem: page.read_text(encoding="utf-8") for page in (ROOT / "docs").glob("*.md")
}
KEPT_EXPORT = ROOT / "saved_models" / "funnel"
PAGES = [
    ROOT / "README.md",
    ROOT / "README.zh-CN.md",
    ROOT / "saved_models" / "README.md",
    ROOT / "tutorials" / "README.md",
    *sorted((ROOT / "docs").rglob("*.md")),
]


def blocks(text: str, language: str | None = None) -> list[str]:
    """Returns the code blocks of a page, all or those of a language."""
    found = re.findall(r"^```(\w*)\n(.*?)^```$", text, re.DOTALL | re.MULTILINE)
    return [code for name, code in found if language is None or name == language]


def prose(text: str) -> str:
    return re.sub(r"^```.*?^```$", "", text, flags=re.DOTALL | re.MULTILINE)


def headings(text: str) -> list[str]:
    return re.findall(r"^(#+) (.*)$", prose(text), re.MULTILINE)


def links(text: str) -> list[str]:
    return re.findall(r"\]\(([^)\s]+)\)", prose(text))


def anchor(heading: str) -> str:
    return re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")


# The two languages.


def test_languages_have_the_same_headings():
    levels = [level for level, _ in headings(ENGLISH)]
    assert levels == [level for level, _ in headings(CHINESE)]
    assert len(levels) > 5


def test_languages_have_the_same_code_and_links():
    assert blocks(ENGLISH) == blocks(CHINESE)
    assert links(ENGLISH) == links(CHINESE)


def test_languages_have_tables_of_the_same_names():
    names = [re.findall(r"^\|.*$", text, re.MULTILINE) for text in (ENGLISH, CHINESE)]
    english, chinese = (
        [re.findall(r"`([^`]+)`", row) for row in rows] for rows in names
    )
    assert english == chinese


# What pages point to and say.


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_relative_links_exist(page):
    for link in links(page.read_text(encoding="utf-8")):
        if re.match(r"[a-z]+:", link):
            continue
        path, _, part = link.partition("#")
        target = (page.parent / path).resolve() if path else page
        assert target.exists(), f"{page}: {link}"
        if part and target.suffix == ".md":
            titles = [title for _, title in headings(target.read_text("utf-8"))]
            assert part in map(anchor, titles), f"{page}: {link}"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_pages_hold_no_path_of_a_machine(page):
    assert not re.search(r"(/home/|/root/|/tmp/|/Users/)", page.read_text("utf-8"))


def test_table_of_what_exists_is_complete():
    rows = dict(re.findall(r"^\| (\w+) \| (.*) \|$", ENGLISH, re.MULTILINE))
    named = {part: set(re.findall(r"`(\w+)`", row)) for part, row in rows.items()}
    assert named["layers"] == set(tfrs_prerank.layers.__all__)
    assert named["metrics"] == set(tfrs_prerank.metrics.__all__)
    from tfrs_prerank.objectives.objective import LOSSES

    functions = {name for name in tfrs_prerank.losses.__all__ if name.islower()}
    assert named["losses"] == functions | {"in_batch_softmax"}
    assert named["losses"] | named["objectives"] == set(LOSSES)
    from tfrs_prerank.cli import main

    assert named["commands"] == set(main.commands)


# What the code does.


@pytest.fixture(scope="module")
def by_hand(tmp_path_factory):
    """What the README's Python leaves behind, run on made-up ratings."""
    rng = np.random.default_rng(0)
    names = ("Comedy|Romance", "Comedy", "Drama", "Action|Thriller")
    movies = [Movie(m, names[m % 4], 1980 + m % 20) for m in range(1, 101)]
    users = [User(u, age=20 + u) for u in range(1, 31)]
    ratings = [
        Rating(user, int(movie), int(rng.integers(3, 6)), 5000 * user + 60 * place)
        for user in range(1, 31)
        for place, movie in enumerate(rng.permutation(np.arange(1, 101))[:20])
    ]
    folder = tmp_path_factory.mktemp("by_hand")
    write_100k(folder / "ml", users, movies, ratings)
    space: dict = {}
    with pytest.MonkeyPatch.context() as patch, io.StringIO() as printed:
        patch.setenv("TFRS_PRERANK_MOVIELENS", str(folder / "ml"))
        patch.chdir(folder)
        with contextlib.redirect_stdout(printed):
            exec(blocks(ENGLISH, "python")[0], space)
        space["printed"] = printed.getvalue()
    space["folder"] = folder
    return space


@pytest.fixture(scope="module")
def server(by_hand):
    with tfrs_prerank.serving.LocalServer(
        by_hand["folder"] / "saved_models" / "movies",
        name="movielens",
        rest_port=0,
        grpc_port=0,
    ) as server:
        yield server


def run(code: str, server) -> dict:
    """Runs an example that asks the server that the pages speak of."""
    assert "localhost:850" in code
    code = code.replace("http://localhost:8501", server.rest_url)
    space: dict = {}
    exec(code.replace("localhost:8500", server.grpc_target), space)
    return space


def test_python_by_hand_runs(by_hand):
    assert "ndcg@10" in by_hand["printed"]
    # The last statement prints one score for each candidate.
    scores = by_hand["printed"][by_hand["printed"].rindex("[") :].strip("[]\n ").split()
    assert len(scores) == len(by_hand["request"]["doc_ids"])
    assert np.isfinite(np.array(scores, float)).all()


def test_request_gets_the_shown_answer():
    (shown,) = blocks(ENGLISH, "json")
    shown = json.loads(shown)["outputs"]
    ports = {"rest_port": 0, "grpc_port": 0}
    with tfrs_prerank.serving.LocalServer(KEPT_EXPORT, **ports) as server:
        answer = run(blocks(ENGLISH, "python")[1], server)["answer"].json()["outputs"]
    scores = answer.pop("scores")
    np.testing.assert_allclose(scores, shown.pop("scores"), rtol=1e-4)
    assert answer == shown


def test_serving_page_asks_as_it_says(server):
    client, stubs, wait, _ = blocks(PAGE["serving"], "python")
    found = run(client, server)
    lowest = np.finfo(np.float32).min
    known = [True, False, False, True, False]
    assert (found["scores"] > lowest).tolist() == known
    assert (found["task"] > 0).tolist() == known
    # The same order over the stubs, by another signature.
    ranked = run(stubs, server)["ranked"].tolist()
    best = np.argsort(-found["scores"])[:2]
    assert ranked == [found["candidates"][i].encode() for i in best] + [b""] * 3
    assert run(wait, server)["version"] == 1


def test_documents_are_refreshed_as_it_says(by_hand, tmp_path):
    (*_, code) = blocks(PAGE["serving"], "python")
    directory = tmp_path / "movies"
    shutil.copytree(by_hand["folder"] / "saved_models" / "movies", directory)
    assert "saved_models/shop" in code
    code = code.replace("saved_models/shop", str(directory))
    space = {"documents": by_hand["movies"].documents}
    with contextlib.redirect_stdout(io.StringIO()) as printed:
        exec(code, space)
    assert printed.getvalue() == "100 0 0 0\n"


def test_signature_table_is_that_of_an_export(by_hand):
    (version,) = (by_hand["folder"] / "saved_models" / "movies").iterdir()
    loaded = tf.saved_model.load(str(version))
    rows = re.findall(r"^\| `(\w+)` \| (.*) \| (.*) \|$", PAGE["serving"], re.MULTILINE)
    rows = {name: (inputs, outputs) for name, inputs, outputs in rows}
    assert set(rows) == set(loaded.signatures)
    tasks = {"click", "like"}
    for name, (_, outputs) in rows.items():
        named = set(re.findall(r"`(\w+)`", outputs))
        named |= tasks if "each task" in outputs else set()
        assert named == set(loaded.signatures[name].structured_outputs), name


def test_yaml_prepares_logs_as_it_says(tmp_path):
    from tfrs_prerank import pipeline
    from tfrs_prerank.config import Config

    (text,) = blocks(ENGLISH, "yaml")
    (tmp_path / "shop.yaml").write_text(text, encoding="utf-8")
    config = Config.from_yaml(tmp_path / "shop.yaml")
    assert config.schema.task_names == ("click", "buy")
    assert [term.weight for term in config.objective.terms] == [1.0, 2.0]
    assert config.model.doc_tower.gate.kind == "senet"

    ids = [f"d{number}" for number in range(4)]
    documents = {"doc_id": ids, "item_id": ids, "title": ["Red shoes"] * 4}
    documents["sales"] = [1.0, 2.0, 3.0, 4.0]
    pd.DataFrame(documents).to_parquet(tmp_path / "documents.parquet")
    rows = [
        {
            "request_id": f"r{request}",
            "time": 1000 + request,
            "user_id": f"u{request % 3}",
            "query": "red shoes",
            "last_viewed": ["d0"],
            "doc_id": doc_id,
            "sales": 1.0,
            "clicked": float(doc_id == "d1"),
            "bought": 0.0,
        }
        for request in range(10)
        for doc_id in ids
    ]
    (tmp_path / "logs").mkdir()
    pd.DataFrame(rows).to_parquet(tmp_path / "logs" / "day.parquet")
    pipeline.prepare(config, tmp_path / "data")
    report = json.loads((tmp_path / "data" / "report.json").read_text("utf-8"))
    # 80/10/10 of ten requests.
    wanted = {"train": 8, "validation": 1, "test": 1}
    assert report["requests_written"] == wanted
    (batch,) = pipeline.open_requests(tmp_path / "data", "test", batch_size=4)
    clicked = batch["doc_ids"].numpy()[batch["label/click"].numpy() > 0]
    assert clicked.tolist() == [b"d1"]
    assert batch["group_id"].numpy().tolist() == [b"u0"]


# The other pages.


def field_default(field: dataclasses.Field) -> str:
    """Returns what a configuration page says of a field's default."""
    if field.default_factory is not dataclasses.MISSING:
        value = field.default_factory()
    else:
        value = field.default
    if value is dataclasses.MISSING:
        return "required"
    if value is None:
        return ""
    if dataclasses.is_dataclass(value):
        return "the defaults"
    return "`" + json.dumps(value).replace("|", "\\|") + "`"


def declarations(hint: object) -> typing.Iterator[type]:
    """Yields a declaration and every one inside of it."""
    if dataclasses.is_dataclass(hint):
        yield typing.cast(type, hint)
        for inner in typing.get_type_hints(hint).values():
            yield from declarations(inner)
    for inner in typing.get_args(hint):
        yield from declarations(inner)


def test_configuration_page_has_every_key_with_its_default():
    from tfrs_prerank.config import Config

    tables = [
        dict(re.findall(r"^\| `(\w+)` \| .*? \| (.*?) \| ", table, re.MULTILINE))
        for table in PAGE["configuration"].split("| key | type | default | meaning |")
    ]
    wanted = []
    for declaration in dict.fromkeys(declarations(Config)):
        table = {}
        for field in dataclasses.fields(declaration):
            kinds = typing.get_args(typing.get_type_hints(declaration)[field.name])
            # What tells declarations apart must be written.
            tells = field.name in ("kind", "source") and len(kinds) == 1
            table[field.name] = "required" if tells else field_default(field)
        wanted.append(table)
    assert len(wanted) == 29
    for table in wanted:
        assert table in tables


def strings_in_package() -> list[str]:
    """Returns every string of the package's source, its holes as a NUL."""
    found = []
    for path in Path(tfrs_prerank.__file__).parent.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.JoinedStr):
                parts = [getattr(part, "value", None) for part in node.values]
                found.append("".join(p if isinstance(p, str) else "\0" for p in parts))
            elif isinstance(node, ast.Constant) and isinstance(node.value, str):
                found.append(node.value)
    return found


def test_troubleshooting_page_quotes_messages_of_the_code():
    tables = PAGE["troubleshooting"].split("| message | cause | fix |")[1:]
    messages = [
        message
        for table in tables
        for message in re.findall(
            r"^\| `(.+?)` \| ", table.split("\n\n")[0], re.MULTILINE
        )
    ]
    assert len(messages) > 30
    strings = strings_in_package()
    for message in messages:
        parts = [part for part in message.split("...") if part.strip()]
        pattern = ".*".join(re.escape(part.strip()) for part in parts)
        assert any(re.search(pattern, text, re.DOTALL) for text in strings), message


def test_serving_files_are_understood():
    from google.protobuf import text_format
    from tensorflow_serving.config import model_server_config_pb2

    folder = ROOT / "docs" / "serving"
    compose = yaml.safe_load((folder / "compose.yaml").read_text("utf-8"))
    (service,) = compose["services"].values()
    assert service["image"] == "tensorflow/serving:2.20.0"
    # Also in flags that are commented out.
    files = re.findall(r"=/config/(\S+)", (folder / "compose.yaml").read_text("utf-8"))
    assert len(files) == 3
    assert all((folder / file).is_file() for file in files)
    # The page says that batching is to be turned on by hand.
    assert not [flag for flag in service["command"] if "batching" in flag]
    text = (folder / "models.config").read_text("utf-8")
    config = text_format.Parse(text, model_server_config_pb2.ModelServerConfig())
    (model,) = config.model_config_list.config
    assert model.base_path == f"/models/{model.name}"
    loaded = model.model_version_policy.specific.versions
    assert dict(model.version_labels) == {"stable": 1}
    # A labelled version must never be unloaded by a newer one.
    assert set(model.version_labels.values()) <= set(loaded)
