"""Plain generate on a tiny model: what it counts, and that its batches give what each text alone gives."""

from __future__ import annotations

import copy
import pathlib
from typing import Any

from click.testing import CliRunner

from serve_app.bench.plain_generate import main, summarise
from tests.model import tiny

NETWORK = copy.deepcopy(tiny.network())  # which no engine has in hand
TEXTS = ["w1 w2 w3", "w4", "w5 w6 w7 w8 w9 w10"]


def run(texts: list[str], batch_size: int, eos_ids: list[int]) -> Any:
    return summarise(NETWORK, tiny.tokenizer(), texts, batch_size, 6, eos_ids)


def test_tokens_are_counted_without_padding() -> None:
    done = run(TEXTS, 2, [])
    assert (done.articles, done.prompt_tokens, done.completion_tokens) == (3, sum(len(text.split()) + 1 for text in TEXTS), 18)
    assert done.articles_per_min == 3 / done.seconds * 60


def test_what_comes_behind_an_end_does_not_count_and_company_changes_nothing() -> None:
    for eos in range(2, 96):
        alone = sum(run([text], 1, [eos]).completion_tokens for text in TEXTS)
        if alone < 18:
            assert run(TEXTS, 3, [eos]).completion_tokens == alone
            return
    raise AssertionError("no token of the tiny model's answers was tried as the end")


def test_a_folder_without_a_model_is_refused_with_what_to_name(tmp_path: pathlib.Path) -> None:
    done = CliRunner().invoke(main, ["--model", str(tmp_path)])
    assert (done.exit_code, "holds no config.json; name the folder of a model" in done.output) == (2, True)
