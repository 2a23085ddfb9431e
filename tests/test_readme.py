"""The two READMEs say the same, and what they show works."""

import json
import re
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

import tfrs_prerank
from tests.datasets.movielens_files import Movie, Rating, User, write_100k

ROOT = Path(__file__).resolve().parent.parent
ENGLISH = (ROOT / "README.md").read_text(encoding="utf-8")
CHINESE = (ROOT / "README.zh-CN.md").read_text(encoding="utf-8")
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
    functions = {name for name in tfrs_prerank.losses.__all__ if name.islower()}
    assert named["losses"] == functions | {"in_batch_softmax"}
    from tfrs_prerank.cli import main

    assert named["commands"] == set(main.commands)


# What the code does.


@pytest.fixture
def small_movielens(tmp_path, monkeypatch):
    """Made-up ratings in GroupLens' format, found as real ones would be."""
    rng = np.random.default_rng(0)
    names = ("Comedy|Romance", "Comedy", "Drama", "Action|Thriller")
    movies = [Movie(m, names[m % 4], 1980 + m % 20) for m in range(1, 101)]
    users = [User(u, age=20 + u) for u in range(1, 31)]
    ratings = [
        Rating(user, int(movie), int(rng.integers(3, 6)), 5000 * user + 60 * place)
        for user in range(1, 31)
        for place, movie in enumerate(rng.permutation(np.arange(1, 101))[:20])
    ]
    folder = write_100k(tmp_path / "ml", users, movies, ratings)
    monkeypatch.setenv("TFRS_PRERANK_MOVIELENS", str(folder))
    monkeypatch.chdir(tmp_path)
    return folder


def test_python_runs_and_the_served_answer_has_the_shown_form(small_movielens, capsys):
    by_hand, request = blocks(ENGLISH, "python")
    space: dict = {}
    exec(by_hand, space)
    assert "ndcg@10" in capsys.readouterr().out
    assert len(space["schema"].columns("query")) == 6

    with tfrs_prerank.serving.LocalServer(
        "saved_models/movies", name="movielens", rest_port=0, grpc_port=0
    ) as server:
        url = "http://localhost:8501"
        assert url in request
        exec(request.replace(url, server.rest_url), space)
    answer = space["answer"].json()["outputs"]
    (shown,) = blocks(ENGLISH, "json")
    shown = json.loads(shown)["outputs"]
    assert set(answer) == set(shown)
    for name, rows in shown.items():
        assert np.shape(answer[name]) == np.shape(rows)
    # Of the shown candidates, the made-up table has 70 and 88 only.
    assert answer["found"] == [[True, True, False, False, False]]
    assert {*answer["doc_ids"][0][:2]} == {"70", "88"}
    assert answer["positions"][0][2:] == [-1, -1, -1]


def test_yaml_prepares_logs_as_it_says(tmp_path):
    from tfrs_prerank import pipeline
    from tfrs_prerank.config import Config

    (text,) = blocks(ENGLISH, "yaml")
    (tmp_path / "shop.yaml").write_text(text, encoding="utf-8")
    config = Config.from_yaml(tmp_path / "shop.yaml")
    assert config.schema.task_names == ("click", "buy")
    assert [term.weight for term in config.objective.terms] == [1.0, 2.0]
    assert config.model.doc_tower.gate == "senet"

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
