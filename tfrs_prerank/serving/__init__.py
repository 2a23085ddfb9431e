"""From a trained model to scores: export, lint, local server, client."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

_MODULE_OF = {
    "Client": "tfrs_prerank.serving.client",
    "Exported": "tfrs_prerank.serving.exporter",
    "LintError": "tfrs_prerank.serving.lint",
    "LintReport": "tfrs_prerank.serving.lint",
    "LocalServer": "tfrs_prerank.serving.server",
    "Refreshed": "tfrs_prerank.serving.refresh",
    "export": "tfrs_prerank.serving.exporter",
    "lint_saved_model": "tfrs_prerank.serving.lint",
    "refresh_documents": "tfrs_prerank.serving.refresh",
    "wait_until_available": "tfrs_prerank.serving.client",
}
"""The client must not pay for the exporter, nor the exporter for gRPC."""

__all__ = [
    "Client",
    "Exported",
    "LintError",
    "LintReport",
    "LocalServer",
    "Refreshed",
    "export",
    "lint_saved_model",
    "refresh_documents",
    "wait_until_available",
]


def __getattr__(name: str) -> Any:
    if name not in _MODULE_OF:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(_MODULE_OF[name]), name)
    globals()[name] = value
    return value


if TYPE_CHECKING:
    from tfrs_prerank.serving.client import Client as Client
    from tfrs_prerank.serving.client import wait_until_available as wait_until_available
    from tfrs_prerank.serving.exporter import Exported as Exported
    from tfrs_prerank.serving.exporter import export as export
    from tfrs_prerank.serving.lint import LintError as LintError
    from tfrs_prerank.serving.lint import LintReport as LintReport
    from tfrs_prerank.serving.lint import lint_saved_model as lint_saved_model
    from tfrs_prerank.serving.refresh import Refreshed as Refreshed
    from tfrs_prerank.serving.refresh import refresh_documents as refresh_documents
    from tfrs_prerank.serving.server import LocalServer as LocalServer
