"""From settings to loaded weights, in phases that are reported in plain words.

    locate -> (first time only: read bf16 -> quantise -> save a copy) -> read the copy -> measure

Both the first and every later start read the saved copy, so that they run the same bits; it is written before any forward, because the
first forward repacks 4-bit CPU weights in place and they cannot be saved after it. Whatever would fail inside a forward is checked here.
Tests: tests/model/test_loader.py.
"""

from __future__ import annotations

import contextlib
import gc
import importlib.metadata
import io
import pathlib
import re
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch

from serve_app.errors import FrugalError, ModelLoadError
from serve_app.messages import ModelCard
from serve_app.model import copies
from serve_app.model.devices import free_on
from serve_app.model.fingerprint import bits_of, fingerprint, sha256_of
from serve_app.model.measure import measure_alone, memory_of
from serve_app.model.quantize import is_fast_cpu, quantise, unpack
from serve_app.model.source import Source, locate
from serve_app.settings import ModelSettings

Report = Callable[[str], None]

FORMAT = 1  # of the saved copy; raise it when old copies must be made again


@dataclass(frozen=True, slots=True)
class LoadedModel:
    """Weights ready to run, and what an engine must know of them. `max_positions` is the longest sequence that the model itself takes."""

    model: Any
    tokenizer: Any
    card: ModelCard
    eos_ids: tuple[int, ...]
    pad_id: int
    threads: int
    max_positions: int

    @property
    def device(self) -> str:
        """Where the weights are, as torch names it."""
        return self.card.device


def load(settings: ModelSettings, data_path: pathlib.Path, threads: int, report: Report) -> LoadedModel:
    """Load the model of the settings. Blocks for seconds, for minutes the first time. Sets the calling thread's number of torch threads.

    Raises:
        ModelLoadError: with what to change.
    """
    try:
        return _load(settings, data_path, threads, report)
    except FrugalError:
        raise
    except torch.cuda.OutOfMemoryError as error:
        raise ModelLoadError("the GPU's memory is full; set model.quantization: nf4, or take a smaller model") from error
    except Exception as error:  # a file that is not what it seems to be: transformers raises many classes
        reason = str(error).strip().splitlines()[0][:300] if str(error).strip() else ""
        raise ModelLoadError(f"cannot load {settings.source}: {type(error).__name__}: {reason}; check model.source") from error


def _load(settings: ModelSettings, data_path: pathlib.Path, threads: int, report: Report) -> LoadedModel:
    _quieten()
    torch.set_num_threads(threads)
    device = _device(settings)
    report("finding weights")
    source = locate(settings)
    folder = _folder(settings, source, device, data_path, report)
    report("reading weights")
    _check_memory(sum(file.stat().st_size for file in folder.glob("*.safetensors")), device)
    plain_cpu = device == "cpu" and not is_fast_cpu()
    dtype = torch.float32 if plain_cpu and settings.quantization == "none" else torch.bfloat16
    model, tokenizer = _read(folder, device, dtype=dtype)
    _check_context(settings, model.config)
    if plain_cpu and settings.quantization != "none" and memory_of(model)[0] * 4 * 6 // 5 < free_on("cpu"):
        report("unpacking 4-bit weights for a CPU without AVX512-BF16")
        model = unpack(model)
    loaded = _describe(settings, source, device, threads, model, tokenizer)
    report("measuring")
    prefill, step_s = measure_alone(model, loaded.pad_id, settings.max_context)
    num_parameters, weights_bytes = memory_of(model)
    card = replace(
        loaded.card,
        num_parameters=num_parameters,
        weights_bytes=weights_bytes,
        alone_prefill_tokens_per_s=prefill,
        alone_decode_step_s=step_s,
        loaded_at=time.time(),
    )
    return replace(loaded, card=card)


def _quieten() -> None:
    """Progress bars and notices of transformers are for notebooks."""
    from transformers.utils import logging

    logging.disable_progress_bar()
    logging.set_verbosity_error()


def _device(settings: ModelSettings) -> str:
    has_cuda = torch.cuda.is_available()
    if settings.device == "cuda" and not has_cuda:
        raise ModelLoadError("model.device is cuda, but torch sees no GPU; set model.device: cpu, or install a CUDA build of torch")
    device = "cuda:0" if has_cuda and settings.device != "cpu" else "cpu"
    if settings.quantization == "int8" and device == "cpu":
        raise ModelLoadError("model.quantization int8 needs a GPU, and torch sees none; use nf4, fp4 or none")
    return device


def _folder(settings: ModelSettings, source: Source, device: str, data_path: pathlib.Path, report: Report) -> pathlib.Path:
    """The folder to read: the source's own where its weights are taken as they are, else the saved copy, made where it is missing."""
    if source.gguf is None and settings.quantization == "none":
        return source.folder
    name = re.sub(r"[^\w.-]", "-", settings.id)
    folder = data_path / "models" / f"{name}-{_copy_key(settings, source)[:16]}"
    return copies.ensure(folder, lambda working: _make_copy(settings, source, device, working, report))


def _copy_key(settings: ModelSettings, source: Source) -> str:
    """SHA-256 over everything that decides the copy's bytes."""
    versions = {name: importlib.metadata.version(name) for name in ("transformers", "bitsandbytes", "gguf")}
    return sha256_of({"format": FORMAT, "source": source.identity, "versions": versions, **bits_of(settings)})


def _make_copy(settings: ModelSettings, source: Source, device: str, working: pathlib.Path, report: Report) -> None:
    if source.gguf is None and _is_quantised(source.folder):
        raise ModelLoadError(f"{settings.source} is quantised already; set model.quantization: none to run it as it is")
    report("converting weights to bf16" if source.gguf else "reading bf16 weights")
    # A GGUF file is unpacked through fp32: 8 times the size of its 4-bit weights.
    _check_memory(source.size_bytes * (8 if source.gguf else 1), "cpu")
    with contextlib.redirect_stderr(io.StringIO()):  # the GGUF reader's progress bar has no switch
        model, tokenizer = _read(source.folder, "cpu", gguf=source.gguf)
    if settings.quantization != "none":
        report(f"quantising to {settings.quantization}")
        quantise(model, settings, device)
    report("saving quantised weights" if settings.quantization != "none" else "saving weights")
    model.save_pretrained(working)
    tokenizer.save_pretrained(working)
    del model
    gc.collect()


def _is_quantised(folder: pathlib.Path) -> bool:
    from transformers import AutoConfig

    config = AutoConfig.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    return bool(getattr(config, "quantization_config", None))


def _read(folder: pathlib.Path, device: str, gguf: str | None = None, dtype: torch.dtype = torch.bfloat16) -> tuple[Any, Any]:
    from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig

    # trust_remote_code must be said: left out, a person at a terminal is asked, and whoever else starts this waits for the answer.
    common: dict[str, Any] = {"local_files_only": True, "trust_remote_code": False, **({"gguf_file": gguf} if gguf else {})}
    how: dict[str, Any] = {"quantization_config": GgufConfig(dequantize=True)} if gguf else {"use_safetensors": True}
    # No attn_implementation: that is sdpa, and eager where sdpa cannot compute a model (Gemma 2). Asked for, sdpa would be an error there.
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=dtype, device_map={"": device}, **common, **how)
    tokenizer = AutoTokenizer.from_pretrained(folder, **common)
    return model.eval(), tokenizer


def _check_memory(num_bytes: int, device: str) -> None:
    """Weights and a fifth for what runs them must fit, or the kernel kills the replica without a word."""
    free = free_on(device)
    need = num_bytes * 6 // 5
    if need > free:
        raise ModelLoadError(
            f"the weights need about {need / 1e9:.1f} GB of memory and {free / 1e9:.1f} GB are free on {device}; "
            "free some, take a smaller model, or set model.quantization: nf4"
        )


def _check_context(settings: ModelSettings, config: Any) -> None:
    limit = getattr(config, "max_position_embeddings", None)
    if limit is not None and settings.max_context > limit:
        raise ModelLoadError(f"model.max_context is {settings.max_context}, but this model takes {limit} tokens; set it to {limit} or less")


def _describe(settings: ModelSettings, source: Source, device: str, threads: int, model: Any, tokenizer: Any) -> LoadedModel:
    """Everything but what has to be measured. Empties the model's generation defaults: what a request does not say is the product's."""
    from transformers import GenerationConfig

    found = model.generation_config.eos_token_id
    found = [found] if isinstance(found, int) else list(found or [])
    eos_ids = tuple(dict.fromkeys([*found, *([] if tokenizer.eos_token_id is None else [tokenizer.eos_token_id])]))
    pad_id = tokenizer.pad_token_id if tokenizer.pad_token_id is not None else (eos_ids or (0,))[0]
    model.generation_config = GenerationConfig(pad_token_id=pad_id)
    dtype = str(next(model.get_output_embeddings().parameters()).dtype).removeprefix("torch.")
    card = ModelCard(
        id=settings.id,
        source=settings.source,
        revision=source.revision,
        architecture=type(model).__name__,
        quantization=settings.quantization,
        dtype=dtype,
        device=device,
        fingerprint=fingerprint(settings, source, dtype, tokenizer),
        max_context=settings.max_context,
        num_parameters=0,
        weights_bytes=0,
        alone_prefill_tokens_per_s=0.0,
        alone_decode_step_s=0.0,
        loaded_at=0.0,
        notes=tuple(_notes(settings, device, dtype, tokenizer, eos_ids)),
    )
    max_positions = getattr(model.config, "max_position_embeddings", None) or settings.max_context
    return LoadedModel(model, tokenizer, card, eos_ids, pad_id, threads, max_positions)


def _notes(settings: ModelSettings, device: str, dtype: str, tokenizer: Any, eos_ids: tuple[int, ...]) -> list[str]:
    four_bit_cpu = device == "cpu" and settings.quantization in ("nf4", "fp4")
    slow = four_bit_cpu and not is_fast_cpu()
    notes = {
        "no chat template: only prompt completions are answered": not tokenizer.chat_template,
        "no end-of-sequence token: answers end at max_tokens or a stop string": not eos_ids,
        "this CPU has no AVX512-BF16: the 4-bit values run unpacked in fp32, which is slower and saves no memory": slow
        and dtype == "float32",
        "this CPU has no AVX512-BF16 and no memory to unpack the weights: they are dequantised at every step, which is very slow": slow
        and dtype != "float32",
        "double quantization saves nothing on a CPU: the scales are unpacked at the first step": four_bit_cpu
        and settings.double_quantization,
    }
    return [note for note, holds in notes.items() if holds]
