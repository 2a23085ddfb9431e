import builtins
import json
import re
import shutil
import subprocess
from html.parser import HTMLParser

import matplotlib
import numpy as np
import pytest

from tests.evaluation.requests import IDS, batches_of, logits_of, make_requests
from tfrs_prerank import Categorical, PreRanker, Schema, Task, Tower
from tfrs_prerank.evaluation import Slice, evaluate, report
from tfrs_prerank.metrics import (
    ASH,
    ECE,
    GAUC,
    PCOC,
    HitRate,
    KendallTau,
    RankerHitRate,
    TailShare,
)

EVIL = (
    "</title><script>document.title='run'</script><img src=http://127.0.0.1:9/x>$a_b$"
)
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
METRICS = [
    HitRate(2),
    GAUC(),
    PCOC(),
    ECE(),
    RankerHitRate(2, 1),
    KendallTau(),
    ASH(2),
    TailShare("popularity", 1.0, 2),
]


class Page(HTMLParser):
    """The elements of a page and its text."""

    def __init__(self, text):
        super().__init__()
        self.elements, self.words, self.open = [], [], []
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        self.elements.append((tag, dict(attributes)))

    def handle_data(self, data):
        self.words.append(data)

    def all(self, tag):
        return [attributes for name, attributes in self.elements if name == tag]


@pytest.fixture(scope="module")
def model():
    schema = Schema(
        features=[
            Categorical("city", "query", buckets=5),
            Categorical("user", "query", buckets=5),
            Categorical("category", "doc", buckets=5),
            Categorical("brand", "doc", buckets=5),
        ],
        tasks=[Task("click")],
    )
    gated = Tower(units=(4,), output=3, gate="attention")
    return PreRanker(schema, gated, gated)


@pytest.fixture(scope="module")
def data():
    requests = make_requests(60, users=12)
    generator = np.random.default_rng(1)
    requests["user"] = requests["group_id"]
    requests["brand"] = requests["doc_ids"]
    requests["stage"] = np.where(
        requests["mask"], generator.integers(0, 3, (60, 5)), -1
    )
    requests["position"] = np.where(requests["stage"] == 0, 0, -1)
    return batches_of(requests, 16)


def write(path, model, data, **options):
    rows = {
        "model": model,
        "_other": logits_of("other"),
        "popularity": "popularity",
        EVIL: "score",
        "ranker": "teacher/click",
        "random": "random",
    }
    options = {
        "k": 2,
        "m": 1,
        "doc_ids": np.array(IDS),
        "popularity": "popularity",
        "metrics": METRICS,
        "slices": {"city": "city", "年龄": Slice("age", edges=(10, 30))},
        "samples": 20,
        "about": {"data": EVIL},
        **options,
    }
    return report(rows, data, path, **options)


@pytest.fixture(scope="module")
def written(model, data, tmp_path_factory):
    path = tmp_path_factory.mktemp("report") / "deep" / "report.html"
    evaluation = write(path, model, data)
    return path, evaluation


def test_every_plot_is_there_and_says_what_it_shows(written):
    page = Page(written[0].read_text("utf-8"))
    alts = [svg["aria-label"] for svg in page.all("svg")]
    assert all(svg["role"] == "img" for svg in page.all("svg"))
    starts = [
        "Share of positives of click kept, against k. At k = 2: model 0.",
        "Share of liked elsewhere kept, against k.",
        "Share of the ranker's 1 best for click kept, against k.",
        "Documents per request by stage, and how many model keeps at k = 2.",
        "Predicted against observed rates of click. model: PCOC",
        "Lorenz curves of forwarded documents at k = 2. Gini: model 0.",
        "Share of positives of click kept, from the least to the most popular",
        "Mean weight of each field in the gates of model. query tower: most",
        "click, hit_rate@2 by city, in 2 parts",
        "click, ranker_hit_rate@2,1 by city, in 2 parts",
        "tail_share@2 by city, in 2 parts",
        "click, hit_rate@2 by 年龄, in 3 parts",
    ]
    assert len(alts) == len(starts)
    for alt, start in zip(alts, starts, strict=True):
        assert alt.startswith(start), alt
    # Axes are labelled, with text and not with drawn letters.
    words = " ".join(page.words)
    for label in (
        "k, documents that are forwarded",
        "documents per request (solid: kept)",
        "predicted probability",
        "share of documents, least forwarded first",
        "popularity of the document (equal numbers of positives)",
        "mean weight of the field",
    ):
        assert label in words


def test_the_tables_hold_what_was_measured(written):
    path, evaluation = written
    text = path.read_text("utf-8")
    for record in evaluation.records:
        assert f"{record.value:.4f}" in text
    words = " ".join(" ".join(Page(text).words).split())
    for finding in evaluation.findings:
        assert str(finding) in words
    for title in ("click: imitation of the ranker", "what is forwarded", "all tasks"):
        assert title in words
    assert "tfrs_prerank" in words
    assert "20 resamples, seed 0" in words


def test_the_evaluation_is_that_of_evaluate(data, tmp_path):
    rows = {"a": logits_of("score"), "random": "random"}
    metrics = [HitRate(2), ECE(), KendallTau()]
    options = {"metrics": metrics, "samples": 5, "slices": {"city": "city"}}
    want = evaluate(rows, data, **options)
    assert report(rows, data, tmp_path / "report.html", **options) == want


def test_one_seed_gives_one_page(written, model, data, tmp_path):
    # Whatever a notebook has set for its own drawings.
    with matplotlib.rc_context({"font.size": 30, "axes.grid": False}):
        write(tmp_path / "again.html", model, data)
    texts = [
        re.sub(r"\d{4}-\d\d-\d\d \d\d:\d\d UTC", "", path.read_text("utf-8"))
        for path in (written[0], tmp_path / "again.html")
    ]
    assert texts[0] == texts[1]
    assert [path.name for path in tmp_path.iterdir()] == ["again.html"]


def test_names_of_elements_do_not_meet(written):
    page = Page(written[0].read_text("utf-8"))
    ids = [attributes["id"] for _, attributes in page.elements if "id" in attributes]
    assert len(ids) == len(set(ids))
    links = [
        attributes[key].removeprefix("#")
        for _, attributes in page.elements
        for key in ("href", "xlink:href")
        if key in attributes
    ]
    assert set(links) <= set(ids)


def test_names_in_the_data_are_text(written):
    page = Page(written[0].read_text("utf-8"))
    assert page.all("script") == []
    assert page.all("img") == []
    assert "document.title='run'" in " ".join(page.words)
    # Not a formula.
    assert "$a_b$" in " ".join(page.words)


def test_the_page_follows_light_and_dark(written):
    text = written[0].read_text("utf-8")
    assert "#010203" not in text
    assert text.count("currentColor") > 100
    assert "prefers-color-scheme: dark" in text


def test_a_plain_report_says_what_it_has_not(data, tmp_path):
    less = [
        {
            name: batch[name]
            for name in ("mask", "doc_ids", "label/click", "popularity", "group_id")
        }
        for batch in data
    ]
    rows = {"popularity": "popularity"}
    report(rows, less, tmp_path / "report.html", samples=2)
    words = " ".join(
        " ".join(Page((tmp_path / "report.html").read_text()).words).split()
    )
    for sentence in (
        "The log has one stage only, or none.",
        "No ranking gives logits of a task with labels.",
        "No column of popularity was named, or no list has a positive.",
        "No ranking is a model with a gate.",
        "No slices were asked for.",
        "all candidates that occur",
    ):
        assert sentence in words


def test_candidates_outside_the_catalogue_are_told(data, tmp_path):
    path = tmp_path / "report.html"
    report({"a": "score"}, data, path, doc_ids=IDS[:-1], samples=2)
    last = sum((b["mask"] & (b["doc_ids"] == IDS[-1])).sum() for b in data)
    words = " ".join(" ".join(Page(path.read_text()).words).split())
    assert f"Over the catalogue; {last} candidates that it lacks are left out." in words


def one_batch(mask, **columns):
    mask = np.array(mask, bool)
    zeros = np.zeros(mask.shape)
    return {
        "mask": mask,
        "doc_ids": np.full(mask.shape, "a"),
        "group_id": np.full(len(mask), "u"),
        "stage": zeros.astype(int),
        "position": zeros.astype(int) - 1,
        **dict.fromkeys(("label/click", "label/out_of_scene", "teacher/click"), zeros),
        "score": zeros,
        "popularity": zeros,
        **columns,
    }


@pytest.mark.filterwarnings("ignore:.* is left out for", "error::RuntimeWarning")
@pytest.mark.parametrize(
    ("batch", "finding"),
    [
        (one_batch([[0, 0], [0, 0]]), "2 of 2 lists have no candidate"),
        (one_batch([[0, 0], [1, 1]]), "1 of 2 lists have no candidate"),
        (one_batch(np.zeros([2, 0])), "2 of 2 lists have no candidate"),
        (one_batch([[1]]), "1 of 1 lists have one candidate"),
        (one_batch([[1, 1]]), "1 of 1 lists have no positive in label/click"),
        (
            one_batch([[1, 1]], **{"label/click": np.full([1, 2], np.nan)}),
            "1 of 1 lists have no label/click",
        ),
        (
            one_batch([[1, 1]], **{"teacher/click": np.full([1, 2], np.nan)}),
            "1 of 1 lists have no teacher/click",
        ),
    ],
)
def test_data_with_little_to_show_has_a_report_that_says_so(batch, finding, tmp_path):
    path = tmp_path / "report.html"
    rows = {"a": logits_of("score"), "b": "score"}
    slices = {"age": Slice("popularity", edges=(1,))}
    report(
        rows,
        [batch],
        path,
        metrics=METRICS,
        popularity="popularity",
        slices=slices,
        samples=2,
    )
    text = path.read_text("utf-8")
    assert finding in text
    assert ">nan<" not in text.lower()


def test_nothing_is_left_of_a_failure(data, tmp_path):
    path = tmp_path / "report.html"
    path.write_text("yesterday's")
    with pytest.raises(KeyError, match="popularity='clicks'"):
        report({"a": "score"}, data, path, popularity="clicks", samples=2)
    assert path.read_text() == "yesterday's"
    assert [file.name for file in tmp_path.iterdir()] == ["report.html"]


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"k": 0}, ValueError, "k=0: give a positive number of documents"),
        ({"m": 2.5}, ValueError, r"m=2\.5: give a positive number"),
        ({"path": "."}, IsADirectoryError, "is a folder; name a file in it"),
        ({"doc_ids": ["a", "a"]}, ValueError, "doc_ids holds 'a' twice"),
    ],
)
def test_bad_arguments_are_named_before_the_work(options, error, message, tmp_path):
    with pytest.raises(error, match=message):
        report({"a": "score"}, None, **{"path": tmp_path / "r.html", **options})


@pytest.mark.parametrize("name", ["matplotlib", "jinja2"])
def test_what_is_not_installed_is_named_with_the_fix(name, tmp_path, monkeypatch):
    found = builtins.__import__

    def gone(module, *rest):
        if module.partition(".")[0] == name:
            raise ImportError(f"No module named {module!r}")
        return found(module, *rest)

    monkeypatch.setattr("importlib.import_module", gone)
    with pytest.raises(ImportError, match=r"pip install 'tfrs_prerank\[report\]'"):
        report({"a": "score"}, [], tmp_path / "report.html")


def browse(path, profile):
    """Opens a page in Chromium; returns what it shows and says, and all it asks for."""
    log = profile / "net.json"
    done = subprocess.run(
        [
            str(CHROMIUM),
            "--headless=new",
            "--no-sandbox",
            "--disable-gpu",
            "--disable-background-networking",
            "--disable-component-update",
            "--no-first-run",
            f"--user-data-dir={profile}",
            f"--log-net-log={log}",
            "--enable-logging=stderr",
            "--v=0",
            "--dump-dom",
            path.as_uri(),
        ],
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    console = [line for line in done.stderr.splitlines() if "CONSOLE" in line]
    events = json.loads(log.read_text("utf-8", "replace"))["events"]
    asked = [event.get("params", {}) for event in events]
    # Those of the page; the browser has business of its own.
    urls = {
        a["url"]
        for a in asked
        if a.get("network_isolation_key", "").startswith("file:")
    }
    return done.stdout, console, urls - {path.as_uri()}


@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium: apt-get install chromium")
def test_a_browser_shows_it_without_an_error_or_a_request(written, tmp_path):
    shown, console, urls = browse(written[0], tmp_path)
    assert console == []
    assert urls == set()
    page = Page(shown)
    assert len(page.all("svg")) == 12
    assert "What was measured" in page.words
    assert page.all("script") == []


@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium: apt-get install chromium")
def test_a_browser_would_tell(tmp_path):
    path = tmp_path / "bad.html"
    path.write_text(
        "<title>x</title><img src=http://127.0.0.1:9/x><script>missing()</script>"
    )
    _, console, urls = browse(path, tmp_path / "profile")
    assert any("missing is not defined" in line for line in console)
    assert urls == {"http://127.0.0.1:9/x"}
