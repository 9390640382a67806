"""Summaries through plain transformers calls, nothing of ours in the generation: what the static engine is measured against.

    python -m serve_app.bench.plain_generate --model data/models/<folder> --batch-size 16 --articles 96

`bench engine` runs the same function in turn with the static engine (arm `plain`). The folder is the quantised copy that the first start
saved. Tests: tests/engine/test_bench_plain.py, tests/model/test_bench.py.
"""

from __future__ import annotations

import itertools
import pathlib
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import click
import torch

from serve_app.bench.prompts import article


@dataclass(frozen=True, slots=True)
class Done:
    """What it came to. The padding of shorter rows, and what a row is given after its end, count as no tokens."""

    articles: int
    seconds: float
    prompt_tokens: int
    completion_tokens: int

    @property
    def articles_per_min(self) -> float:
        """Of the whole time, with tokenisation."""
        return self.articles / self.seconds * 60


def summarise(
    model: Any,
    tokenizer: Any,
    texts: Sequence[str],
    batch_size: int,
    max_new_tokens: int,
    eos_ids: Sequence[int],
    threads: int | None = None,
) -> Done:
    """One static batch after the other, in the order of the texts: chat template, left padding, greedy `generate`."""
    if threads is not None:
        torch.set_num_threads(threads)
    pad_id = tokenizer.pad_token_id if tokenizer.pad_token_id is not None else eos_ids[0]
    started = time.perf_counter()
    num_prompt = num_new = 0
    for start in range(0, len(texts), batch_size):
        turns = [[{"role": "user", "content": text}] for text in texts[start : start + batch_size]]
        asked = [tokenizer.apply_chat_template(turn, tokenize=False, add_generation_prompt=True) for turn in turns]
        batch = tokenizer(asked, add_special_tokens=False, padding=True, padding_side="left", return_tensors="pt").to(model.device)
        with torch.inference_mode():
            out = model.generate(
                input_ids=batch["input_ids"],
                attention_mask=batch["attention_mask"],
                max_new_tokens=max_new_tokens,
                do_sample=False,
                eos_token_id=list(eos_ids) or None,
                pad_token_id=pad_id,
            )
        num_prompt += int(batch["attention_mask"].sum())
        num_new += sum(_length(row, eos_ids) for row in out[:, batch["input_ids"].shape[1] :].tolist())
    return Done(len(texts), time.perf_counter() - started, num_prompt, num_new)


def _length(tokens: Sequence[int], eos_ids: Sequence[int]) -> int:
    """Up to the first end-of-sequence token, with it."""
    return next((number for number, token in enumerate(tokens, 1) if token in eos_ids), len(tokens))


@click.command()
@click.option("--model", "folder", type=click.Path(exists=True, file_okay=False, path_type=pathlib.Path), required=True)
@click.option("--batch-size", type=click.IntRange(1), default=16, show_default=True)
@click.option("--articles", type=click.IntRange(1), default=96, show_default=True)
@click.option("--max-new-tokens", type=click.IntRange(1), default=64, show_default=True)
def main(folder: pathlib.Path, batch_size: int, articles: int, max_new_tokens: int) -> None:
    """Summarise the benchmark's articles with the model of a folder, and print the articles per minute."""
    if not (folder / "config.json").exists():
        raise click.UsageError(
            f"--model {folder} holds no config.json; name the folder of a model, such as one of data/models after a start"
        )
    from transformers import AutoModelForCausalLM, AutoTokenizer
    from transformers.utils import logging

    logging.disable_progress_bar()
    where = {"": "cuda:0" if torch.cuda.is_available() else "cpu"}
    model = AutoModelForCausalLM.from_pretrained(
        folder, dtype=torch.bfloat16, device_map=where, local_files_only=True, trust_remote_code=False, use_safetensors=True
    ).eval()
    tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    texts = [article(number) for number in range(articles)]
    summarise(model, tokenizer, texts[:1], 1, 1, _eos(model, tokenizer))  # the first forward packs 4-bit weights, and is not measured
    done = summarise(model, tokenizer, texts, batch_size, max_new_tokens, _eos(model, tokenizer))
    click.echo(
        f"{done.articles_per_min:.1f} articles/min: {done.articles} articles, batches of {batch_size}, {done.prompt_tokens} prompt and "
        f"{done.completion_tokens} new tokens in {done.seconds:.1f} s"
    )


def _eos(model: Any, tokenizer: Any) -> list[int]:
    """All that end an answer: generate's and the tokenizer's."""
    found = model.generation_config.eos_token_id
    ids = itertools.chain([found] if isinstance(found, int) else found or [], [tokenizer.eos_token_id])
    return list(dict.fromkeys(token for token in ids if token is not None))


if __name__ == "__main__":
    main()
