"""The schema: its checks, with the exact messages, and its files."""

from __future__ import annotations

import json
import re
import shutil
import string
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tfrs_prerank.declaration import ConfigurationError
from tfrs_prerank.features import (
    Categorical,
    Dense,
    Match,
    Numeric,
    Schema,
    Sequence,
    Task,
    Text,
)
from tfrs_prerank.features.declarations import RESERVED_NAMES

USER = Categorical("user_id", "query", buckets=10)
CITY = Categorical("city", "doc", buckets=5)
GENRES = Categorical("genres", "doc", buckets=5, max_values=3)
QUERY = Text("query", "query", buckets=10)
TITLE = Text("title", "doc", shares="query")
PRICE = Numeric("price", "doc")
BUDGET = Numeric("budget", "query")
BORN = Numeric("born", "doc", dtype="int64")
SHOWN = Categorical("shown", "doc", buckets=3, training_only=True)


CLICK = Task("click")
WORDPIECE = {"tokenizer": "wordpiece"}
PIECES = Text("words", "query", vocabulary="pieces.txt", **WORDPIECE)


def schema(*features, tasks=(CLICK,)) -> Schema:
    return Schema((USER, CITY, *features), tasks)


def gaps(times: str, name: str = "history", **options) -> Sequence:
    """A sequence under a Transformer that knows how old the behaviours are."""
    kind = {"encoder": "transformer", "positions": "time_gap"}
    return Sequence(name, shares="city", times=times, **kind, **options)


def refused(call) -> str:
    with pytest.raises(ConfigurationError) as error:
        call()
    assert "\n" not in str(error.value)
    return str(error.value)


@pytest.mark.parametrize(
    ("declare", "expected"),
    [
        (
            lambda: Categorical("User", "query"),
            "Categorical 'User': a name has lower-case letters, digits and _, starting "
            "with a letter. Received: 'User'",
        ),
        (
            lambda: Text("raw_bytes", "query"),
            "Text 'raw_bytes': a name must not end in _bytes, which TensorFlow Serving "
            "base64-codes. Received: 'raw_bytes'",
        ),
        (
            lambda: Task("1st"),
            "Task '1st': a name has lower-case letters, digits and _, starting with a "
            "letter. Received: '1st'",
        ),
        (
            lambda: Categorical("a", "qury"),
            "Categorical.owner: unknown 'qury'; did you mean 'query'?",
        ),
        (
            lambda: Categorical("a", "query", vocabulary="v.txt", buckets=3),
            "Categorical 'a': give a vocabulary file or a number of hash buckets, not "
            "both. Received: vocabulary='v.txt', buckets=3",
        ),
        (
            lambda: Categorical("a", "query", buckets=0),
            "Categorical 'a': buckets must be at least 1. Received: buckets=0",
        ),
        (
            lambda: Categorical("a", "query", max_vocabulary=0),
            "Categorical 'a': max_vocabulary must be at least 1. "
            "Received: max_vocabulary=0",
        ),
        (
            lambda: Categorical("a", "query", id_dropout=1),
            "Categorical 'a': id_dropout must be in [0, 1). Received: id_dropout=1.0",
        ),
        (
            lambda: Categorical("a", "query", l2=-0.1),
            "Categorical 'a': l2 must not be negative. Received: l2=-0.1",
        ),
        (
            lambda: Numeric("a", "doc", buckets=1),
            "Numeric 'a': buckets must be at least 2. Received: 1",
        ),
        (
            lambda: Numeric("a", "doc", buckets=3, boundaries=(1,)),
            "Numeric 'a': give buckets (boundaries from data) or boundaries, not both. "
            "Received: buckets=3, boundaries=(1.0,)",
        ),
        (
            lambda: Numeric("a", "doc", boundaries=(1, 1)),
            "Numeric 'a': boundaries must ascend strictly. Received: (1.0, 1.0)",
        ),
        (
            lambda: Numeric("a", "doc", boundaries=()),
            "Numeric 'a': boundaries must ascend strictly. Received: ()",
        ),
        (
            lambda: Numeric("a", "doc", boundaries=(1,), standardize=True),
            "Numeric 'a': standardize does nothing where there are buckets; leave one "
            "of the two out",
        ),
        (
            lambda: Numeric("a", "doc", buckets=3, log1p=True),
            "Numeric 'a': log1p does nothing where there are buckets; leave one of the "
            "two out",
        ),
        (
            lambda: Numeric("a", "doc", boundaries=(1,), log1p=True),
            "Numeric 'a': log1p does nothing where there are buckets; leave one of the "
            "two out",
        ),
        (
            lambda: Numeric("a", "doc", missing=float("nan")),
            "Numeric.missing: input should be a finite number. Received: nan",
        ),
        (
            lambda: Numeric("a", "doc", missing=0.5, dtype="int64"),
            "Numeric 'a': missing must be a whole number for int64. Received: 0.5",
        ),
        (
            lambda: Dense("a", "doc", size=0),
            "Dense 'a': size must be at least 1. Received: size=0",
        ),
        (
            lambda: Text("a", "doc", shares="b", buckets=3),
            "Text 'a': shares='b' brings its own vocabulary; leave out vocabulary, "
            "buckets and pretrained",
        ),
        (
            lambda: Text("a", "doc", tokenizer="wordpiece", buckets=3),
            "Text 'a': tokenizer='wordpiece' needs vocabulary=FILE",
        ),
        (
            lambda: Text("a", "doc", tokenizer="wordpiece"),
            "Text 'a': tokenizer='wordpiece' needs vocabulary=FILE",
        ),
        # What has no effect is refused.
        (
            lambda: Categorical("a", "doc", buckets=3, min_count=2),
            "Categorical 'a': min_count does nothing with buckets=3; leave it out. "
            "Received: min_count=2",
        ),
        (
            lambda: Categorical("a", "doc", buckets=3, max_vocabulary=9),
            "Categorical 'a': max_vocabulary does nothing with buckets=3; leave it "
            "out. Received: max_vocabulary=9",
        ),
        (
            lambda: Text("a", "doc", buckets=3, max_vocabulary=9),
            "Text 'a': max_vocabulary does nothing with buckets=3; leave it out. "
            "Received: max_vocabulary=9",
        ),
        (
            lambda: Text("a", "doc", shares="b", min_count=2),
            "Text 'a': min_count does nothing with shares='b'; leave it out. "
            "Received: min_count=2",
        ),
        (
            lambda: Text("a", "doc", shares="b", dimension=8),
            "Text 'a': dimension does nothing with shares='b'; leave it out. "
            "Received: dimension=8",
        ),
        (
            lambda: Text("a", "doc", shares="b", l2=0.1),
            "Text 'a': l2 does nothing with shares='b'; leave it out. Received: l2=0.1",
        ),
        (
            lambda: Sequence("a", shares="b", l2=0.1),
            "Sequence 'a': l2 does nothing with shares='b'; leave it out. "
            "Received: l2=0.1",
        ),
        (
            lambda: Sequence("a", shares="b", dimension=8),
            "Sequence 'a': dimension does nothing with shares='b'; leave it out. "
            "Received: dimension=8",
        ),
        (
            lambda: Sequence("a", buckets=3, min_count=2),
            "Sequence 'a': min_count does nothing with buckets=3; leave it out. "
            "Received: min_count=2",
        ),
        (
            lambda: Sequence("a", buckets=3, encoder="mean", heads=2),
            "Sequence 'a': heads does nothing with encoder='mean'; leave it out. "
            "Received: heads=2",
        ),
        (
            lambda: Sequence("a", buckets=3, encoder="dot_attention", heads=2),
            "Sequence 'a': heads does nothing with encoder='dot_attention'; leave it "
            "out. Received: heads=2",
        ),
        (
            lambda: Sequence("a", buckets=3, softmax=True),
            "Sequence 'a': softmax does nothing with encoder='zero_attention'; leave "
            "it out. Received: softmax=True",
        ),
        (
            lambda: Sequence("a", encoder="target_attention", zero_logit="query"),
            "Sequence 'a': zero_logit does nothing with encoder='target_attention'; "
            "leave it out. Received: zero_logit='query'",
        ),
        (
            lambda: Sequence("a", encoder="additive_attention", score="additive"),
            "Sequence 'a': score does nothing with encoder='additive_attention'; "
            "leave it out. Received: score='additive'",
        ),
        (
            lambda: Sequence("a", buckets=3, blocks=2),
            "Sequence 'a': blocks does nothing with encoder='zero_attention'; leave "
            "it out. Received: blocks=2",
        ),
        (
            lambda: Sequence("a", buckets=3, dropout=0.1),
            "Sequence 'a': dropout does nothing with encoder='zero_attention'; leave "
            "it out. Received: dropout=0.1",
        ),
        (
            lambda: Sequence("a", encoder="mean", positions=None),
            "Sequence 'a': positions does nothing with encoder='mean'; leave it out. "
            "Received: positions=None",
        ),
        (
            lambda: Sequence("a", encoder="mean", times="b"),
            "Sequence 'a': times does nothing with encoder='mean'; leave it out. "
            "Received: times='b'",
        ),
        (
            lambda: Sequence("a", encoder="transformer", times="b"),
            "Sequence 'a': times does nothing with positions='learned'; leave it out. "
            "Received: times='b'",
        ),
        (
            lambda: Sequence("a", encoder="transformer", positions="time_gap"),
            "Sequence 'a': positions='time_gap' needs times=COLUMN, the behaviours' "
            "times in seconds. Received: times=None",
        ),
        (
            lambda: gaps("At"),
            "Sequence 'history': a name has lower-case letters, digits and _, starting "
            "with a letter. Received: 'At'",
        ),
        (
            lambda: Sequence("a", encoder="transformer", blocks=0),
            "Sequence 'a': blocks must be at least 1. Received: blocks=0",
        ),
        (
            lambda: Sequence("a", encoder="transformer", dropout=1.0),
            "Sequence 'a': dropout must be in [0, 1). Received: dropout=1.0",
        ),
        (
            lambda: Sequence("a", encoder="transformer", positions="sine"),
            "Sequence.positions: unknown 'sine'; known: learned, time_gap",
        ),
        (
            lambda: Sequence("a", encoder="transfomer"),
            "Sequence.encoder: unknown 'transfomer'; did you mean 'transformer'?",
        ),
        (
            lambda: Sequence("a", owner="doc"),
            "Sequence.owner: unknown 'doc'; known: query",
        ),
        (
            lambda: Sequence("a", shares="b", vocabulary="v.txt"),
            "Sequence 'a': shares='b' brings its own table; leave out vocabulary and "
            "buckets",
        ),
        (
            lambda: Sequence("a", max_length=0),
            "Sequence 'a': max_length must be at least 1. Received: max_length=0",
        ),
        (
            lambda: Match("a", "b", "c", "overlp"),
            "Match.op: unknown 'overlp'; did you mean 'overlap'?",
        ),
    ],
)
def test_a_declaration_checks_itself(declare, expected):
    assert refused(declare) == expected


@pytest.mark.parametrize(
    ("declare", "expected"),
    [
        (
            lambda: schema(tasks=()),
            "a schema needs at least one task. Received: tasks=()",
        ),
        (
            lambda: schema(CITY),
            "'city' is declared 2 times; each feature and task has one name and one "
            "owner",
        ),
        (
            lambda: schema(Categorical("click", "doc", buckets=3)),
            "'click' is declared 2 times; each feature and task has one name and one "
            "owner",
        ),
        (
            lambda: Schema([USER], [Task("click")]),
            "no feature has owner='doc'; a tower needs one",
        ),
        # The bias of training alone is no tower.
        (
            lambda: Schema([USER, SHOWN], [Task("click")]),
            "no feature has owner='doc'; a tower needs one",
        ),
        (
            lambda: Schema([CITY], [Task("click")]),
            "no feature has owner='query'; a tower needs one",
        ),
        # Sharing tables.
        (
            lambda: schema(Sequence("history", shares="cty")),
            "history.shares names no Categorical or Text. Received: 'cty'; did you "
            "mean 'city'?",
        ),
        (
            lambda: schema(PRICE, Sequence("history", shares="price")),
            "history.shares names no Categorical or Text. Received: 'price'; known: "
            "city, user_id",
        ),
        (
            lambda: schema(QUERY, TITLE, Sequence("past", shares="title")),
            "past.shares='title' itself shares a table; name 'query' instead",
        ),
        (
            lambda: schema(QUERY, Sequence("past", shares="query", dtype="int64")),
            "past.dtype must be that of 'query', 'string'. Received: 'int64'",
        ),
        (
            lambda: schema(Text("title", "doc", shares="city")),
            "title.shares names no Text. Received: 'city'; there is none",
        ),
        (
            lambda: schema(Text("title", "doc", shares="title")),
            "title.shares names no Text. Received: 'title'; there is none",
        ),
        (
            lambda: schema(QUERY, TITLE, Text("tags", "doc", shares="title")),
            "tags.shares='title' itself shares a table; name 'query' instead",
        ),
        (
            lambda: schema(Sequence("history", shares="city", dtype="int64")),
            "history.dtype must be that of 'city', 'string'. Received: 'int64'",
        ),
        (
            lambda: schema(QUERY, Text("tags", "doc", shares="query", **WORDPIECE)),
            "tags.tokenizer must be that of 'query', 'words'. Received: 'wordpiece'",
        ),
        (
            lambda: schema(Sequence("history", shares="city", heads=3)),
            "history.heads must divide the size of its embeddings, 16 (those of "
            "'city'). Received: heads=3",
        ),
        (
            lambda: schema(Sequence("history", buckets=9, dimension=8, heads=3)),
            "history.heads must divide the size of its embeddings, 8. "
            "Received: heads=3",
        ),
        (
            lambda: Schema([Sequence("history", buckets=3), CITY], [Task("click")]),
            "history.encoder='zero_attention' needs another query feature, which "
            "attends to the sequence; add one or use encoder='mean'",
        ),
        (
            lambda: Schema(
                [Sequence("history", buckets=3, encoder="target_attention"), CITY],
                [Task("click")],
            ),
            "history.encoder='target_attention' needs another query feature, which "
            "attends to the sequence; add one or use encoder='mean'",
        ),
        # The times of a sequence.
        (
            lambda: schema(gaps("time")),
            "history.times must be a name of its own. Received: 'time', which is "
            "reserved or a feature or task",
        ),
        (
            lambda: schema(gaps("click")),
            "history.times must be a name of its own. Received: 'click', which is "
            "reserved or a feature or task",
        ),
        (
            lambda: schema(gaps("history")),
            "history.times must be a name of its own. Received: 'history', which is "
            "reserved or a feature or task",
        ),
        (
            lambda: schema(gaps("at"), gaps("at", name="shops", max_length=4)),
            "history and shops share times='at', so they need the same max_length. "
            "Received: 50 and 4",
        ),
        # Matches.
        (
            lambda: schema(Match("same", "user_id", "cty", "equal")),
            "same matches an unknown feature. Received: 'cty'; did you mean 'city'?",
        ),
        (
            lambda: schema(
                Match("one", "user_id", "city", "equal"),
                Match("two", "one", "city", "equal"),
            ),
            "two matches an unknown feature. Received: 'one'; known: city, user_id",
        ),
        (
            lambda: schema(SHOWN, Match("same", "user_id", "shown", "equal")),
            "same cannot match training_only 'shown'",
        ),
        (
            lambda: schema(BUDGET, Match("same", "user_id", "budget", "equal")),
            "same: owner='cross' pairs columns of doc and query. "
            "Received: left='user_id' of query, right='budget' of query",
        ),
        (
            lambda: schema(Match("same", "user_id", "city", "equal", owner="doc")),
            "same: owner='doc' pairs columns of doc. "
            "Received: left='user_id' of query, right='city' of doc",
        ),
        (
            lambda: schema(
                BUDGET,
                Numeric("clicks", "cross"),
                Match("gap", "budget", "clicks", "difference"),
            ),
            "gap: owner='cross' pairs columns of doc and query. "
            "Received: left='budget' of query, right='clicks' of cross",
        ),
        (
            lambda: schema(BORN, Match("age", "time", "born", "equal")),
            "age: op='equal' does not fit 'time' (number) and 'born' (number); "
            "it compares single ids or texts of one type",
        ),
        (
            lambda: schema(Match("age", "time", "city", "difference")),
            "age: op='difference' does not fit 'time' (number) and 'city' (string "
            "ids); it subtracts numbers",
        ),
        (
            lambda: schema(GENRES, Match("same", "user_id", "genres", "equal")),
            "same: op='equal' does not fit 'user_id' (string ids) and 'genres' "
            "(several string ids); it compares single ids or texts of one type",
        ),
        (
            lambda: schema(GENRES, Match("has", "user_id", "genres", "contains")),
            "has: op='contains' does not fit 'user_id' (string ids) and 'genres' "
            "(several "
            "string ids); it looks for a single id on the right among ids or a text on "
            "the left",
        ),
        # A text has several tokens.
        (
            lambda: schema(QUERY, TITLE, Match("has", "query", "title", "contains")),
            "has: op='contains' does not fit 'query' (text) and 'title' (text); it "
            "looks for a single id on the right among ids or a text on the left",
        ),
        (
            lambda: schema(
                Categorical("brand", "doc", buckets=3, dtype="int64"),
                Match("same", "user_id", "brand", "equal"),
            ),
            "same: op='equal' does not fit 'user_id' (string ids) and 'brand' (int64 "
            "ids); it compares single ids or texts of one type",
        ),
        (
            lambda: schema(
                Dense("taste", "query", size=3),
                Dense("cover", "doc", size=4),
                Match("gap", "taste", "cover", "distance"),
            ),
            "gap: op='distance' does not fit 'taste' (vector of 3) and 'cover' (vector "
            "of 4); it compares numbers, or vectors of one size",
        ),
        (
            lambda: schema(BUDGET, Match("same", "budget", "city", "overlap")),
            "same: op='overlap' does not fit 'budget' (number) and 'city' (string "
            "ids); it compares ids or texts of one type",
        ),
        # The batch's own columns.
        (
            lambda: schema(Categorical("position", "doc", buckets=3)),
            "'position' is a reserved name; rename the feature or declare it "
            "training_only",
        ),
        (
            lambda: schema(
                Categorical("position", "doc", buckets=3, training_only=True)
            ),
            "'position' is the batch's own column of whole numbers; declare it as "
            "Numeric, or Categorical with dtype='int64', and owner='doc'. "
            "Received: Categorical, owner='doc', dtype='string'",
        ),
        (
            lambda: schema(Numeric("position", "query", training_only=True)),
            "'position' is the batch's own column of whole numbers; declare it as "
            "Numeric, or Categorical with dtype='int64', and owner='doc'. "
            "Received: Numeric, owner='query', dtype='float32'",
        ),
        (
            lambda: schema(Numeric("time", "doc", training_only=True)),
            "'time' is the batch's own column of whole numbers; declare it as "
            "Numeric, or Categorical with dtype='int64', and owner='query'. "
            "Received: Numeric, owner='doc', dtype='float32'",
        ),
    ],
)
def test_a_schema_checks_its_parts(declare, expected):
    assert refused(declare) == f"Schema: {expected}"


@pytest.mark.parametrize("name", sorted(RESERVED_NAMES))
def test_reserved_names(name):
    end = " or declare it training_only" if name in ("position", "time") else ""
    assert refused(lambda: schema(Numeric(name, "cross"))) == (
        f"Schema: {name!r} is a reserved name; rename the feature{end}"
    )
    assert refused(lambda: schema(tasks=[Task(name)])) == (
        f"Schema: {name!r} is a reserved name; rename the task"
    )


@pytest.mark.parametrize(
    "features",
    [
        # Numbers, strings and batch columns in every place they are allowed.
        (Match("gap", "time", "price", "difference"), PRICE),
        (Match("age", "time", "born", "difference"), BORN),
        (Match("old", "born", "time", "log_ratio"), BORN),
        (Match("has", "genres", "user_id", "contains"), GENRES),
        (Match("has", "query", "city", "contains"), QUERY),
        (Match("same", "query", "title", "equal"), QUERY, TITLE),
        (
            Match("common", "title", "genres", "overlap", owner="doc"),
            QUERY,
            TITLE,
            GENRES,
        ),
        (Match("hour", "time", "budget", "difference", owner="query"), BUDGET),
        (Categorical("position", "doc", buckets=9, dtype="int64", training_only=True),),
        (Numeric("time", "query", training_only=True),),
        # Sharing across towers, before or after the owner.
        (Sequence("history", shares="city"),),
        (Sequence("history", shares="city", heads=4),),
        (QUERY, Sequence("past", shares="query")),
        # The times of one event, of which two attributes are given.
        (gaps("at"), gaps("at", name="again")),
        # A column of one name, and a bias that reads the batch's own time.
        (gaps("at"), Numeric("time", "query", training_only=True)),
        (TITLE, QUERY),
        (PIECES, Text("tags", "doc", shares="words", **WORDPIECE)),
        # A collected vocabulary keeps the limits that it was collected with.
        (Categorical("tag", "doc", vocabulary="v", min_count=2, max_vocabulary=9),),
    ],
)
def test_what_a_schema_allows(features):
    assert schema(*features).features[2:] == features


def test_lookups():
    checked = schema(GENRES, PRICE, SHOWN, Numeric("clicks", "cross"))
    assert checked["genres"] is checked.features[2]
    assert [f.name for f in checked.owned_by("doc")] == ["city", "genres", "price"]
    assert [f.name for f in checked.owned_by("cross")] == ["clicks"]
    assert [f.name for f in checked.training_only] == ["shown"]
    assert checked.task_names == ("click",)
    with pytest.raises(KeyError, match=r"no feature 'genre'; did you mean 'genres'?"):
        checked["genre"]


def test_columns():
    checked = schema(
        GENRES,
        PRICE,
        Numeric("views", "doc", point_in_time=True),
        Dense("cover", "doc", size=4),
        Sequence("history", shares="city", max_length=7),
        SHOWN,
        Categorical("position", "doc", buckets=9, dtype="int64", training_only=True),
        Match("common", "user_id", "genres", "overlap"),
        BORN,
        Match("age", "time", "born", "difference"),
    )
    columns = checked.columns()
    seen = {
        name: (c.dtype, c.length, c.owner, c.static, c.training_only, c.pad)
        for name, c in columns.items()
    }
    assert seen == {
        "user_id": ("string", None, "query", False, False, ""),
        "city": ("string", None, "doc", True, False, ""),
        "genres": ("string", 3, "doc", True, False, ""),
        "price": ("float32", None, "doc", True, False, 0.0),
        "views": ("float32", None, "doc", False, False, 0.0),
        "cover": ("float32", 4, "doc", True, False, 0.0),
        "history": ("string", 7, "query", False, False, ""),
        "shown": ("string", None, "doc", False, True, ""),
        "born": ("int64", None, "doc", True, False, -1),
        "time": ("int64", None, "query", False, False, -1),
    }
    assert list(checked.columns("query")) == ["user_id", "history", "time"]
    assert list(checked.columns("cross")) == []
    # The match is the cross tower's.
    assert not checked.query_tower_reads_time


def test_columns_of_behaviours_with_times():
    checked = schema(gaps("at", max_length=7), gaps("at", name="again", max_length=7))
    columns = checked.columns("query")
    assert list(columns) == ["user_id", "history", "at", "time", "again"]
    times = columns["at"]
    assert (times.dtype, times.length, times.pad) == ("int64", 7, -1)
    assert (columns["time"].dtype, columns["time"].length) == ("int64", None)
    assert checked.query_tower_reads_time
    # So does a match of the request's own columns.
    hour = Match("hour", "time", "budget", "difference", owner="query")
    assert schema(BUDGET, hour).query_tower_reads_time
    assert not schema(Sequence("history", shares="city")).query_tower_reads_time


# Files.


def test_yaml_text_is_short_and_exact(tmp_path: Path):
    path = tmp_path / "schema.yaml"
    schema(PRICE).to_yaml(path)
    assert path.read_text().splitlines() == [
        "features:",
        "- name: user_id",
        "  owner: query",
        "  buckets: 10",
        "  kind: categorical",
        "- name: city",
        "  owner: doc",
        "  buckets: 5",
        "  kind: categorical",
        "- name: price",
        "  owner: doc",
        "  kind: numeric",
        "tasks:",
        "- name: click",
    ]


def test_yaml_errors_name_file_place_and_nearest_key(tmp_path: Path):
    path = tmp_path / "schema.yaml"
    path.write_text(
        "features:\n- {kind: numeric, name: a, owner: doc, standardise: true}\n"
        "tasks: [{name: click}]\n"
    )
    assert refused(lambda: Schema.from_yaml(path)) == (
        f"{path}.features[0].numeric.standardise: unknown key 'standardise'; "
        "did you mean 'standardize'?"
    )
    path.write_text("feature: []\ntasks: [{name: click}]\n")
    assert refused(lambda: Schema.from_yaml(path)) == (
        f"{path}.feature: unknown key 'feature'; did you mean 'features'?"
    )


NUMBERS = st.floats(-1e6, 1e6, allow_nan=False)
SIZES = st.integers(1, 50)


@st.composite
def schemas(draw) -> Schema:
    """Draws schemas that pass their own checks."""
    names = draw(
        st.lists(
            st.text(string.ascii_lowercase + "_09", min_size=1, max_size=8)
            .map(lambda rest: "f" + rest)
            .filter(lambda name: not name.endswith("_bytes")),
            min_size=4,
            max_size=9,
            unique=True,
        )
    )
    user, city, task, *names = names
    dtype = draw(st.sampled_from(["string", "int64"]))
    features = [
        Categorical(user, "query", buckets=draw(SIZES)),
        Categorical(
            city, "doc", dtype=dtype, vocabulary=draw(st.none() | st.just("v"))
        ),
    ]
    for name in names:
        features.append(
            draw(
                st.one_of(
                    st.builds(
                        Categorical,
                        st.just(name),
                        st.sampled_from(["query", "doc", "cross"]),
                        buckets=st.none() | SIZES,
                        max_values=SIZES,
                        pooling=st.sampled_from(["mean", "sum"]),
                        id_dropout=st.floats(0, 0.99),
                        l2=st.floats(0, 1e-3),
                        point_in_time=st.booleans(),
                        training_only=st.booleans(),
                    ),
                    st.builds(
                        Numeric,
                        st.just(name),
                        st.sampled_from(["query", "doc", "cross"]),
                        log1p=st.booleans(),
                        missing=st.none() | NUMBERS,
                    ),
                    st.builds(
                        Numeric,
                        st.just(name),
                        st.just("doc"),
                        boundaries=st.lists(NUMBERS, min_size=1, unique=True).map(
                            lambda values: tuple(sorted(values))
                        ),
                    ),
                    st.builds(Dense, st.just(name), st.just("doc"), size=SIZES),
                    st.builds(
                        Sequence,
                        st.just(name),
                        shares=st.just(city),
                        dtype=st.just(dtype),
                        max_length=SIZES,
                        encoder=st.sampled_from(
                            ["mean", "zero_attention", "dot_attention"]
                        ),
                    ),
                    st.builds(
                        Sequence,
                        st.just(name),
                        shares=st.just(city),
                        dtype=st.just(dtype),
                        encoder=st.just("transformer"),
                        blocks=SIZES,
                        positions=st.sampled_from(["learned", None]),
                        zero_logit=st.sampled_from(["fixed", "learned", "query"]),
                        dropout=st.floats(0, 0.9),
                    ),
                    st.builds(
                        Text,
                        st.just(name),
                        st.just("query"),
                        vocabulary=st.none() | st.just("tokens.txt"),
                        max_tokens=SIZES,
                    ),
                )
            )
        )
    tasks = [Task(task, fuse=draw(st.floats(0, 9)))]
    return Schema(features, tasks, doc_id=draw(st.sampled_from(["string", "int64"])))


@given(schemas())
@settings(
    max_examples=60,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
def test_yaml_round_trip(tmp_path: Path, drawn: Schema):
    assert Schema.from_mapping(drawn.to_mapping()) == drawn
    path = tmp_path / "schema.yaml"
    # As it is written, with paths made absolute on both sides.
    drawn.to_yaml(path)
    again = Schema.from_yaml(path)
    at_home = drawn._with_paths(lambda file: Path(file).resolve())
    assert again._with_paths(lambda file: Path(file).resolve()) == at_home


def test_paths_in_yaml_are_relative_to_its_folder(tmp_path, monkeypatch):
    home = tmp_path / "home"
    (home / "words").mkdir(parents=True)
    (home / "words" / "city.txt").write_text("a\n")
    path = home / "schema.yaml"
    monkeypatch.chdir(tmp_path)
    given = Schema(
        [USER, Categorical("city", "doc", vocabulary="home/words/city.txt")],
        [Task("click")],
    )
    given.to_yaml(path)
    assert "vocabulary: words/city.txt" in path.read_text()
    monkeypatch.chdir(home / "words")
    read = Schema.from_yaml(path)["city"].vocabulary
    assert Path(read) == home / "words" / "city.txt"


def test_save_copies_everything_and_can_be_moved(tmp_path: Path):
    (tmp_path / "city.txt").write_text("rome\nparis\n")
    (tmp_path / "one.json").write_text(json.dumps({"price": {"mean": 0.1, "std": 2.0}}))
    (tmp_path / "two.json").write_text(
        json.dumps({"age": {"mean": 1.0, "std": 3.0, "boundaries": [0.1, 1 / 3]}})
    )
    given = Schema(
        [
            USER,
            Categorical("city", "doc", vocabulary=str(tmp_path / "city.txt")),
            Numeric(
                "price", "doc", standardize=True, statistics=str(tmp_path / "one.json")
            ),
            Numeric("age", "doc", buckets=3, statistics=str(tmp_path / "two.json")),
        ],
        [Task("click")],
    )
    saved = given.save(tmp_path / "run")
    assert Path(saved["city"].vocabulary) == tmp_path / "run/vocabularies/city.txt"
    assert str(tmp_path) not in (tmp_path / "run" / "schema.yaml").read_text()
    assert saved.save(tmp_path / "run") == saved  # onto itself
    for name in ("city.txt", "one.json", "two.json"):
        (tmp_path / name).unlink()
    shutil.move(tmp_path / "run", tmp_path / "moved")
    moved = Schema.from_yaml(tmp_path / "moved" / "schema.yaml")
    assert Path(moved["city"].vocabulary).read_text() == "rome\nparis\n"
    statistics = json.loads(Path(moved["price"].statistics).read_text())
    assert statistics == {
        "price": {"mean": 0.1, "std": 2.0},
        "age": {"mean": 1.0, "std": 3.0, "boundaries": [0.1, 1 / 3]},
    }
    assert moved["age"].statistics == moved["price"].statistics


def test_save_says_which_file_is_gone(tmp_path: Path):
    lost = Schema(
        [USER, Categorical("city", "doc", vocabulary="nowhere/city.txt")],
        [Task("click")],
    )
    with pytest.raises(FileNotFoundError) as error:
        lost.save(tmp_path)
    assert str(error.value) == (
        "city.vocabulary: no file at nowhere/city.txt; run `adapt` (tfrs-prerank "
        "prepare) to make it or correct the path"
    )


# Texts.


@pytest.mark.parametrize(
    ("declared", "message"),
    [
        ({"ngrams": (2, 1)}, "ngrams are the shortest and the longest run, from 1"),
        ({"ngrams": (0, 1)}, "ngrams are the shortest and the longest run, from 1"),
        (
            {"tokenizer": "wordpiece", "vocabulary": "v.txt", "ngrams": (1, 2)},
            "tokenizer='wordpiece' has none; leave ngrams out",
        ),
        ({"encoder": "cnn", "widths": ()}, "widths are numbers of tokens"),
        ({"encoder": "cnn", "widths": (0,)}, "widths are numbers of tokens"),
        ({"encoder": "cnn", "ngrams": (1, 2)}, "takes runs of one length"),
        ({"filters": 8}, "filters does nothing with encoder='mean'"),
        ({"pretrained": "bert"}, "pretrained does nothing with encoder='mean'"),
        ({"encoder": None, "dimension": 8}, "dimension does nothing with encoder=None"),
        (
            {"encoder": None, "training_only": True},
            "training_only does nothing with encoder=None",
        ),
        ({"l2": -1.0}, "l2 must not be negative. Received: l2=-1.0"),
        (
            {"encoder": None, "tokenizer": "wordpiece"},
            "tokenizer does nothing with encoder=None",
        ),
        (
            {"encoder": "sentence_bert", "pretrained": "bert"},
            "reads word pieces; declare tokenizer='wordpiece'",
        ),
        (
            {"encoder": "sentence_bert", "tokenizer": "wordpiece"},
            "encoder='sentence_bert' needs pretrained=FOLDER",
        ),
        *(
            (
                {
                    "encoder": "sentence_bert",
                    "tokenizer": "wordpiece",
                    "pretrained": "bert",
                    **options,
                },
                message,
            )
            for options, message in [
                ({"max_tokens": 2}, "max_tokens must be at least 3"),
                ({"trainable_blocks": -1}, "trainable_blocks is from 0 or 'all'"),
                (
                    {"trainable_blocks": 1, "layer_decay": 0.0},
                    "layer_decay in (0, 1]",
                ),
                ({"layer_decay": 0.5}, "layer_decay does nothing with trainable_block"),
                ({"min_count": 2}, "min_count does nothing with encoder='sentence_be"),
            ]
        ),
    ],
)
def test_a_text_checks_itself(declared, message):
    with pytest.raises(ConfigurationError, match=re.escape(message)):
        Text("query", "query", **declared)


BERT = {"tokenizer": "wordpiece", "encoder": "sentence_bert"}


@pytest.mark.parametrize(
    ("query", "title", "message"),
    [
        (
            {"ngrams": (1, 2)},
            {"shares": "query"},
            "title.ngrams must be that of 'query', (1, 2). Received: (1, 1)",
        ),
        (
            {"encoder": None},
            {"shares": "query"},
            "title.shares='query' has encoder=None, so there is nothing to share",
        ),
        (
            {**BERT, "pretrained": "bert"},
            {"tokenizer": "wordpiece", "shares": "query"},
            "title and 'query', which it shares, must both have "
            "encoder='sentence_bert' or neither. Received: 'mean' and 'sentence_bert'",
        ),
    ],
)
def test_shared_texts_are_checked(query, title, message):
    features = [
        Text("query", "query", **query),
        Categorical("user_id", "query", buckets=3),
        Text("title", "doc", **title),
        Categorical("city", "doc", buckets=3),
    ]
    with pytest.raises(ConfigurationError, match=re.escape(message)):
        Schema(features, [Task("click")])


def test_a_saved_schema_has_copies_of_what_is_pretrained(tmp_path):
    model = tmp_path / "model"
    (model / "1_Pooling").mkdir(parents=True)
    for name in ("config.json", "vocab.txt", "model.safetensors", "model.onnx"):
        (model / name).write_text(name)
    (model / "1_Pooling" / "config.json").write_text("{}")
    schema = Schema(
        [
            Text("query", "query", **BERT, pretrained=str(model)),
            Text("title", "doc", **BERT, shares="query", dimension=8),
        ],
        [Task("click")],
    )
    saved = schema.save(tmp_path / "run")
    copy = tmp_path / "run" / "pretrained" / "query"
    assert saved["query"].pretrained == str(copy)
    found = sorted(str(f.relative_to(copy)) for f in copy.rglob("*") if f.is_file())
    assert found == [
        "1_Pooling/config.json", "config.json", "model.safetensors", "vocab.txt",
    ]  # fmt: skip
    # Relative to its folder, which may move.
    (tmp_path / "run").rename(tmp_path / "moved")
    read = Schema.from_yaml(tmp_path / "moved" / "schema.yaml")
    assert read["query"].pretrained == str(tmp_path / "moved" / "pretrained" / "query")
    with pytest.raises(FileNotFoundError, match=r"query.pretrained: no folder at"):
        saved.save(tmp_path / "again")
