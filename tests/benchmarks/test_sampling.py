"""The cost of sampling: what is compared is the same, and the ratios are right."""

from __future__ import annotations

import json

import numpy as np
import pytest

from tfrs_prerank.datasets.documents_file import read_documents


@pytest.fixture(scope="module")
def script(script_named):
    """The script as a module."""
    return script_named("sampling")


@pytest.fixture(scope="module")
def tables(script, tmp_path_factory):
    """The tables of a small run."""
    results = tmp_path_factory.mktemp("sampling") / "sampling.jsonl"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("sys.argv", ["sampling.py", "--small", "--results", str(results)])
        script.main()
    (line,) = results.read_text().splitlines()
    return json.loads(line)["tables"]


@pytest.mark.slow  # takes long
def test_a_small_run_has_the_ratios_of_its_numbers(script, tables):
    def ratio(above, below):
        return pytest.approx(above / below, rel=0.011)  # of rounded numbers

    rows = tables["sampling"]
    assert [row["mixture"] for row in rows] == list(script.MIXTURES)
    for row in rows:
        assert row["times choice"] == ratio(
            row["sample, CPU us"], row["choice, CPU us"]
        )
        assert row["times read"] == ratio(row["sample, CPU us"], row["read, CPU us"])
    whole, mixed = tables["preparing"]
    assert mixed["training lists"] == list(script.MIXTURES)[-1]
    assert mixed["times the whole list"] == ratio(
        mixed["CPU us a request"], whole["CPU us a request"]
    )


@pytest.mark.slow  # takes long
def test_requests_are_those_that_were_prepared(script, tmp_path):
    made = script.funnel.simulate(script.SMALL)
    made.write(tmp_path / "log")
    script.conversions(tmp_path, script.MIXTURES, 2)
    data = tmp_path / "whole list 0"
    requests = script.requests_of(data)
    assert len(requests) == 48  # .8 of 60
    documents = set(read_documents(data / "documents.parquet").ids)
    for request in requests:
        assert len(request["doc_ids"]) == 40 and set(request["doc_ids"]) <= documents
        assert "" not in request["history"] and "title" not in request
    # As the conversion samples them.
    samplers = script.samplers_of(data, requests)
    for name, mixture in script.MIXTURES.items():
        sampled = script.pipeline.open_requests(tmp_path / f"{name} 0", "train", 48)(0)
        want = {
            name: ids[mask].tolist()
            for batch in sampled
            for name, ids, mask in zip(
                batch["request_id"].numpy(),
                batch["doc_ids"].numpy(),
                batch["mask"].numpy(),
                strict=True,
            )
        }
        found = {
            request["request_id"].encode(): np.char.encode(
                np.asarray(samplers[name].sample(request).request["doc_ids"], str)
            ).tolist()
            for request in requests
        }
        assert found == want
        assert samplers[name].mixture is mixture
