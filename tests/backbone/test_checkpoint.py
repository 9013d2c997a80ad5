import json
import shutil

import pytest
import torch
from peft import LoraConfig, get_peft_model

from g2e_lib.backbone.checkpoint import (
    apply_adapter,
    checkpoint_fingerprint,
    checkpoint_folder,
    load_model,
    load_processor,
)
from g2e_lib.embedder import Embedder
from g2e_lib.project.config import resolve_model

BASE = resolve_model("glyphworld-base")


@pytest.fixture
def copy(tmp_path):
    return shutil.copytree(BASE, tmp_path / "model")


def test_missing_folder():
    with pytest.raises(ValueError, match="no checkpoint folder ./nowhere: check the path, or give a hub id"):
        checkpoint_folder("./nowhere")


def test_hub_without_network(monkeypatch):
    from g2e_lib.backbone import checkpoint

    def offline(*_, **__):
        raise OSError("no route to host")

    monkeypatch.setattr(checkpoint, "snapshot_download", offline)
    with pytest.raises(ValueError, match=r"cannot get 'org/model' from the hub \(no route to host\): check the name"):
        checkpoint_folder("org/model")


def test_missing_parts_are_named(copy):
    (copy / "tokenizer.json").unlink()
    with pytest.raises(ValueError, match="has no tokenizer"):
        load_processor(copy)
    (copy / "model.safetensors").unlink()
    with pytest.raises(ValueError, match=r"has no \*.safetensors weights"):
        load_model(copy, "float32")
    (copy / "config.json").unlink()
    with pytest.raises(ValueError, match="has no config.json"):
        load_model(copy, "float32")


def test_other_architectures_are_refused(copy):
    config = json.loads((copy / "config.json").read_text()) | {"model_type": "llava"}
    (copy / "config.json").write_text(json.dumps(config))
    with pytest.raises(ValueError, match="of type 'llava', but only 'qwen2_vl'"):
        load_model(copy, "float32")
    (copy / "processor_config.json").unlink()  # as a model of text alone has none
    with pytest.raises(ValueError, match="of type 'llava', but only 'qwen2_vl'"):
        Embedder.from_pretrained(copy)


def test_fingerprint_follows_content(copy):
    before = checkpoint_fingerprint(copy)
    assert before == checkpoint_fingerprint(checkpoint_folder("glyphworld-base"))
    (copy / "README.md").write_text("words")
    assert checkpoint_fingerprint(copy) == before
    weights = bytearray((copy / "model.safetensors").read_bytes())
    weights[-1] ^= 1
    (copy / "model.safetensors").write_bytes(weights)
    assert checkpoint_fingerprint(copy) != before


@pytest.fixture
def adapter(tmp_path):
    model = get_peft_model(
        load_model(checkpoint_folder("glyphworld-base"), "float32"), LoraConfig(target_modules=["q_proj"])
    )
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter)
    model.save_pretrained(tmp_path / "adapter")
    return tmp_path / "adapter"


def test_an_adapter_changes_embeddings_and_the_key(adapter, embedder):
    adapted = Embedder.from_pretrained("glyphworld-base", adapter=adapter, device="cpu", dtype="float32")
    assert abs(adapted.encode(["a red sun"]) - embedder.encode(["a red sun"])).max() > 1e-3
    assert adapted.key("query") != embedder.key("query")


def test_an_adapter_that_does_not_fit(adapter, embedder):
    config = json.loads((adapter / "adapter_config.json").read_text()) | {"r": 3}
    (adapter / "adapter_config.json").write_text(json.dumps(config))
    with pytest.raises(ValueError, match="does not fit the base model"):
        apply_adapter(load_model(checkpoint_folder("glyphworld-base"), "float32"), adapter)
