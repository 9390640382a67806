"""transformers' continuous batching as this product runs it: its configuration, its memory, its thread, and requests by number.

Everything that depends on how the library is built is here and in paged_sampling.py; continuous.py makes an engine of it. The library
(transformers.generation.continuous_batching) schedules steps over a paged KV cache in a thread of its own and puts each request's new
token into a queue; steps and wake-ups travel in the same queue, so that their order is known. Tests: tests/fast/test_paged.py.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator
from typing import Any

import torch
from transformers import GenerationConfig
from transformers.generation.configuration_utils import ContinuousBatchingConfig
from transformers.utils import is_flash_attn_2_available, is_flash_attn_3_available

from serve_app.errors import ModelLoadError
from serve_app.model.devices import free_on
from serve_app.model.kvcache import num_slots_in
from serve_app.model.loader import LoadedModel
from serve_app.model.paged_sampling import PagedSampling, PagedStep, Ticket
from serve_app.model.runner import dtype_of

MAX_ROWS = 256  # as max_batch_size
STOP_S = 5.0  # how long the library's thread may take to end its step
PAGE_TOKENS = 32  # of a page; a prompt shares whole pages with those before it
FLASH_PAGE_TOKENS = 256  # flash attention reads pages of a multiple of this
CPU_CHUNK_TOKENS, CUDA_CHUNK_TOKENS = 512, 2048  # of one step: running rows wait for it; a GPU is not filled by less


class PagedBatching:
    """The library's manager over one model. `with batching.running():` around all use; not thread-safe but for `poke` and `alive`."""

    def __init__(self, loaded: LoadedModel, budget_bytes: int) -> None:
        """Allocates the cache and, with flash attention, records the CUDA graphs. The model attends over pages until `running` ends.

        Raises:
            ModelLoadError: the model cannot be run so, the budget holds no sequence of `max_context`, or the machine has not the memory.
        """
        model = loaded.model
        if not getattr(model, "_supports_attention_backend", False) or not hasattr(model, "init_continuous_batching"):
            raise ModelLoadError(f"transformers has no continuous batching for {type(model).__name__}; set model.engine: slots or static")
        self._attention = model.config._attn_implementation
        self._model = model
        flash = flash_attention(loaded.device, model.dtype)
        page_tokens = FLASH_PAGE_TOKENS if flash else PAGE_TOKENS
        longest = min(loaded.card.max_context, loaded.max_positions)
        kind = (model.config.get_text_config(), dtype_of(model), loaded.device, page_tokens)
        _num_in(budget_bytes, longest, *kind)  # one whole sequence; the library dies of a longer one
        config = ContinuousBatchingConfig(
            page_size=page_tokens,
            num_blocks=_num_in(budget_bytes, page_tokens, *kind),
            max_batch_tokens=CUDA_CHUNK_TOKENS if loaded.device.startswith("cuda") else CPU_CHUNK_TOKENS,
            max_requests_per_batch=MAX_ROWS,
            max_memory_percent=0.9,
            auto_switch_to_flash=False,  # it would fetch a kernel from the network where no package has one
            # The next step prepared during this one would draw from tokens that the host has not seen; and a request that is cancelled in
            # between at the end of a page raises in the library's thread (5.23: mark_complete_blocks after free_blocks), which ends it.
            use_async_batching=False,
            use_cuda_graph=None if loaded.card.quantization != "int8" else False,  # LLM.int8() looks for outliers on the host
        )
        _check_memory(budget_bytes, loaded.device)
        with _load_errors(type(model).__name__):
            model.set_attn_implementation(flash or "sdpa")
            # No end-of-sequence of its own: each request brings its own. Greedy, because the argmax of PagedSampling is the choice.
            generation = GenerationConfig(do_sample=False, pad_token_id=loaded.pad_id, eos_token_id=-1)
            self._manager = model.init_continuous_batching(generation, config)
            self.sampling = PagedSampling(loaded.eos_ids, MAX_ROWS, longest, loaded.device, self._tell)
            self.sampling.recorded = any(self._manager.continuous_batching_config.cuda_graph_booleans)
            self._manager.logit_processor = self.sampling
            self._eos_ids = list(loaded.eos_ids) or [-1]
            self._manager.warmup()
        self._started = threading.Event()

    @property
    def alive(self) -> bool:
        """False once the library's thread has ended."""
        return not self._started.is_set() or self._manager.is_running()

    @contextlib.contextmanager
    def running(self) -> Iterator[None]:
        """The library's thread runs in here. It inherits being a daemon from the caller's, so that it does not outlive the program."""
        self._manager.start()
        self._started.set()
        try:
            yield
        finally:
            self._manager.stop(block=True, timeout=STOP_S, hard_stop=True)
            if not self._manager.is_running():
                self._manager.destroy()
            self._model.set_attn_implementation(self._attention)

    def add(self, ticket: Ticket) -> None:
        """Into the library's line: it joins the batch at the next step where there is room."""
        row = ticket.row
        self._manager.add_request(
            row.prompt_ids,
            request_id=str(ticket.number),
            max_new_tokens=row.max_tokens,
            streaming=True,
            eos_token_id=[-1] if ticket.sampling.ignore_eos else self._eos_ids,
            ticket=ticket,
        )

    def cancel(self, number: int) -> None:
        """Nothing is computed for it from the step after the one in progress on. Nothing is put for it; what was put before stays.

        Only for a request that has been in a step: the library empties first the line of new requests, then that of cancellations, and
        forgets one whose request came in between (5.23).
        """
        self._manager.cancel_request(str(number))

    def next(self, timeout_s: float) -> PagedStep | Any | None:
        """What comes next: a step that begins, a `GenerationOutput` with a request's tokens so far, or None after a poke or the time."""
        item = self._manager.get_result(timeout=timeout_s)
        if item is None and self._manager.batch_processor is not None:
            # Once it has preempted a request, the library begins with no other one until one has ended (5.23). Where all that run are
            # cancelled instead, it would wait for ever: for those that it does not begin with.
            self._manager.batch_processor.scheduler.block_new_requests = False
        return item

    def poke(self) -> None:
        """Make `next` return at once; from any thread."""
        self._manager.output_router.output_queue.put(None)

    def _tell(self, step: PagedStep) -> None:
        if step.work:  # there is none while it warms up
            self._manager.output_router.output_queue.put(step)


def _num_in(budget_bytes: int, num_tokens: int, config: Any, dtype: torch.dtype, device: str, page_tokens: int) -> int:
    """How many sequences of that length, in the library's pages, a budget holds; ModelLoadError where not one."""
    whole = -(-num_tokens // page_tokens) * page_tokens
    return num_slots_in(budget_bytes, config, whole, dtype, device, page_tokens)


def flash_attention(device: str, dtype: torch.dtype) -> str | None:
    """The flash attention that is installed, as transformers names it; None on a CPU, in fp32 and where there is none."""
    if not device.startswith("cuda") or dtype not in (torch.float16, torch.bfloat16):
        return None
    if is_flash_attn_3_available():
        return "flash_attention_3"
    return "flash_attention_2" if is_flash_attn_2_available() else None


def _check_memory(budget_bytes: int, device: str) -> None:
    free = free_on(device)
    if budget_bytes > free:
        raise ModelLoadError(
            f"model.kv_cache_mb is {budget_bytes / 1e6:,.0f} and {free / 1e6:,.0f} MB are free on {device}; "
            "lower model.kv_cache_mb, or take a smaller model"
        )


@contextlib.contextmanager
def _load_errors(name: str) -> Iterator[None]:
    try:
        yield
    except (MemoryError, torch.cuda.OutOfMemoryError) as error:
        raise ModelLoadError(
            f"the paged KV cache and what a step needs beside it do not fit into memory ({error}); lower model.kv_cache_mb"
        ) from error
    except ValueError as error:  # layers of a kind that the library has no cache for
        raise ModelLoadError(
            f"transformers cannot run {name} with continuous batching: {error}; set model.engine: slots or static"
        ) from error
