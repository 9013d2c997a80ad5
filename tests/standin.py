"""A stand-in for the hub: tiny checkpoints in the released form, and every subset of MMEB with a few rows each."""

import json
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from transformers import Qwen2Tokenizer, Qwen2VLConfig, Qwen2VLForConditionalGeneration

ADDED_TOKENS = [
    "<|endoftext|>",
    "<|im_start|>",
    "<|im_end|>",
    "<|object_ref_start|>",
    "<|object_ref_end|>",
    "<|box_start|>",
    "<|box_end|>",
    "<|quad_start|>",
    "<|quad_end|>",
    "<|vision_start|>",
    "<|vision_end|>",
    "<|vision_pad|>",
    "<|image_pad|>",
    "<|video_pad|>",
]
# As the released checkpoint writes them.
PREPROCESSOR = {
    "min_pixels": 3136, "max_pixels": 12845056, "patch_size": 14, "temporal_patch_size": 2, "merge_size": 2,
    "image_mean": [0.48145466, 0.4578275, 0.40821073], "image_std": [0.26862954, 0.26130258, 0.27577711],
    "image_processor_type": "Qwen2VLImageProcessor", "processor_class": "Qwen2VLProcessor",
}  # fmt: skip


def released_tokenizer(folder: Path) -> Qwen2Tokenizer:
    """Qwen2's own vocabulary, with Qwen2-VL's added tokens in their published order."""
    return Qwen2Tokenizer.from_pretrained(folder, pad_token="<|endoftext|>", extra_special_tokens=ADDED_TOKENS[1:])


def build_model(folder: Path, tokenizer_folder: Path, seed: int = 0) -> Path:
    """A tiny random Qwen2-VL whose files look like those of the released checkpoint: flat config, old names."""
    tokenizer = released_tokenizer(tokenizer_folder)
    tokenizer.save_pretrained(folder)
    ids = tokenizer.convert_tokens_to_ids
    settings = {
        "architectures": ["Qwen2VLForConditionalGeneration"], "model_type": "qwen2_vl", "hidden_act": "silu",
        "bos_token_id": ids("<|endoftext|>"), "eos_token_id": ids("<|im_end|>"),
        "vision_start_token_id": ids("<|vision_start|>"), "vision_end_token_id": ids("<|vision_end|>"),
        "vision_token_id": ids("<|vision_pad|>"), "image_token_id": ids("<|image_pad|>"),
        "video_token_id": ids("<|video_pad|>"), "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2,
        "num_attention_heads": 2, "num_key_value_heads": 1, "rms_norm_eps": 1e-06, "rope_theta": 1000000.0,
        "rope_scaling": {"type": "mrope", "mrope_section": [2, 3, 3]}, "tie_word_embeddings": True,
        "torch_dtype": "bfloat16", "max_position_embeddings": 32768, "vocab_size": len(tokenizer),
        "use_sliding_window": False, "sliding_window": 32768, "max_window_layers": 2, "attention_dropout": 0.0,
        "vision_config": {
            "depth": 2, "embed_dim": 32, "mlp_ratio": 2, "num_heads": 2, "in_chans": 3, "hidden_size": 32,
            "patch_size": 14, "spatial_merge_size": 2, "spatial_patch_size": 14, "temporal_patch_size": 2,
        },
    }  # fmt: skip
    (folder / "config.json").write_text(json.dumps(settings, indent=1))
    (folder / "preprocessor_config.json").write_text(json.dumps(PREPROCESSOR, indent=1))
    torch.manual_seed(seed)
    model = Qwen2VLForConditionalGeneration(Qwen2VLConfig.from_pretrained(folder))
    model.save_pretrained(folder / "new")
    weights = load_file(folder / "new" / "model.safetensors")
    named = {
        n.replace("model.language_model.", "model.").replace("model.visual.", "visual."): t for n, t in weights.items()
    }
    save_file(named, folder / "model.safetensors", metadata={"format": "pt"})
    for file in (folder / "new").iterdir():
        file.unlink()
    (folder / "new").rmdir()
    return folder
