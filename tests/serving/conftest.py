"""Exports that several tests read; each is written once a process."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorflow as tf

from tests.serving import export_models
from tfrs_prerank import PreRanker
from tfrs_prerank.features import DocumentTable
from tfrs_prerank.metrics import GAUC, NDCG
from tfrs_prerank.serving import documents as documents_of_exports
from tfrs_prerank.serving.exporter import Exported, export


@dataclasses.dataclass(frozen=True)
class Case:
    """A model, its documents and its export, loaded."""

    model: PreRanker
    documents: DocumentTable
    exported: Exported
    loaded: Any
    name: str
    k: int
    task: str

    @property
    def path(self) -> Path:
        return self.exported.path

    def request(self, rows: Any, seed: int = 0) -> dict[str, np.ndarray]:
        return export_models.request_of(self.name, self.model.schema, rows, seed)

    def call(self, name: str, inputs: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        return export_models.call(self.loaded.signatures[name], inputs)


@pytest.fixture(scope="session")
def small(tmp_path_factory: pytest.TempPathFactory) -> Case:
    """Two towers, dot, int64 ids, 40 documents; straight after `fit` with metrics."""
    documents = export_models.small_documents(40)
    model = export_models.small_model()
    model.compile(metrics=[NDCG(3), GAUC()])
    model.fit(export_models.small_training(documents), verbose=0)
    directory = tmp_path_factory.mktemp("small") / "model"
    with pytest.MonkeyPatch.context() as patch:
        # Three chunks, the last one shorter.
        patch.setattr(documents_of_exports, "CHUNK", 16)
        exported = export(
            model, documents, directory, k=7, warmup_lengths=(100, 10, 10)
        )
    loaded = tf.saved_model.load(str(exported.path))
    return Case(model, documents, exported, loaded, "small", 7, "click")


@pytest.fixture(scope="session")
def full(tmp_path_factory: pytest.TempPathFactory) -> Case:
    """Three towers, cosine, string ids, two tasks, texts, every `Match`."""
    folder = tmp_path_factory.mktemp("full")
    model = export_models.full_model(folder / "vocabularies")
    documents = export_models.full_documents()
    exported = export(
        model, documents, folder / "model", k=5, task="like", warmup_lengths=(3,)
    )
    loaded = tf.saved_model.load(str(exported.path))
    return Case(model, documents, exported, loaded, "full", 5, "like")
