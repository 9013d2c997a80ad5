"""Find, check and load the parts of a Qwen2-VL checkpoint, with errors that say what is missing."""

import json
import warnings
from collections.abc import Sequence
from pathlib import Path

import torch
from huggingface_hub import snapshot_download
from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError
from peft import PeftModel
from transformers import AutoTokenizer, Qwen2VLConfig, Qwen2VLForConditionalGeneration
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil
from transformers.utils import is_flash_attn_2_available

from g2e_lib.backbone.processor import G2EProcessor
from g2e_lib.backbone.qwen2vl import PACKED_ATTENTION
from g2e_lib.project.config import file_digest, fingerprint, resolve_model

# Modules had these names before transformers 4.52; an adapter keeps those it was trained with.
OLD_MODULE_NAMES = {r"^model\.layers\.": "model.language_model.layers.", r"^visual\.": "model.visual."}
FLASH = "flash_attention_2"
MODEL_FILES = ("*.safetensors", "*.safetensors.index.json", "*.json", "*.jinja", "merges.txt")


def hub_folder(name: str, patterns: Sequence[str], what: str, remedy: str) -> Path:
    """The local copy of a hub repository's ("org/name[@revision]") files that fit the patterns, downloaded if missing.

    Raises:
        ValueError: it cannot be reached; the message calls it `what` and names the `remedy`, what else could be given.
    """
    repository, _, revision = name.partition("@")
    try:
        return Path(snapshot_download(repository, revision=revision or None, allow_patterns=list(patterns)))
    except (HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, OSError) as error:
        reason = next(iter(str(error).strip().splitlines()), type(error).__name__)
        raise ValueError(
            f"cannot get {what}{name!r} from the hub ({reason}): check the name and the network, or give {remedy}"
        ) from None


def checkpoint_folder(id_or_path: str | Path) -> Path:
    """The local folder of a checkpoint or adapter, from the hub if it is an id; ValueError where there is neither."""
    name = resolve_model(id_or_path)
    if Path(name).is_dir():
        return Path(name)
    if Path(name).is_absolute() or name.startswith(".") or name.partition("@")[0].count("/") != 1:
        raise ValueError(f"there is no checkpoint folder {name}: check the path, or give a hub id such as 'org/name'")
    return hub_folder(name, MODEL_FILES, "", "a local folder")


def checkpoint_fingerprint(folder: Path) -> str:
    """A hash of every file that determines what a checkpoint or adapter computes."""
    files = sorted({file for pattern in MODEL_FILES for file in folder.glob(pattern)})
    return fingerprint({file.name: file_digest(file) for file in files})


def base_of_adapter(folder: Path) -> str | None:
    """The model an adapter was trained from, if the folder holds an adapter and no model; else None."""
    path = folder / "adapter_config.json"
    is_adapter = path.is_file() and not (folder / "config.json").is_file()
    return json.loads(path.read_text(encoding="utf-8"))["base_model_name_or_path"] if is_adapter else None


def check_type(folder: Path) -> None:
    """Refuse, by a ValueError, a folder without a model or with any but a Qwen2-VL."""
    if not (folder / "config.json").is_file():
        raise ValueError(f"checkpoint folder {folder} has no config.json: it is not a model folder, or incomplete")
    found = Qwen2VLConfig.get_config_dict(folder)[0].get("model_type")
    if found != Qwen2VLConfig.model_type:
        raise ValueError(f"{folder} holds a model of type {found!r}, but only 'qwen2_vl' (Qwen2-VL) is supported")


def load_processor(folder: Path) -> G2EProcessor:
    """Load tokenizer and image processor; torchvision is not needed. ValueError where one of the two is missing."""
    check_type(folder)
    has_processor = any((folder / name).is_file() for name in ("preprocessor_config.json", "processor_config.json"))
    has_tokenizer = any((folder / name).is_file() for name in ("tokenizer.json", "vocab.json"))
    if not (has_processor and has_tokenizer):
        what = "tokenizer (tokenizer.json)" if has_processor else "processor (preprocessor_config.json)"
        raise ValueError(f"checkpoint folder {folder} has no {what}: copy it there from the model it was trained from")
    image_processor = Qwen2VLImageProcessorPil.from_pretrained(folder)
    return G2EProcessor(image_processor, AutoTokenizer.from_pretrained(folder, padding_side="right"))


def default_device() -> str:
    """A GPU if there is one."""
    return "cuda" if torch.cuda.is_available() else "cpu"


def default_dtype(device: str) -> str:
    """The precision of a device: float32 on a CPU, bfloat16 elsewhere."""
    return "float32" if device == "cpu" else "bfloat16"


def default_attention(device: str, dtype: str) -> str:
    """flash-attention 2 where it is installed and applies (bfloat16 on a CUDA device), else sdpa."""
    can_flash = dtype == "bfloat16" and device.startswith("cuda") and is_flash_attn_2_available()
    return FLASH if can_flash else "sdpa"


def load_model(folder: Path, dtype: str, attention: str = "sdpa") -> Qwen2VLForConditionalGeneration:
    """Load the generative model, its vision tower with packed attention where it does not come with flash-attention.

    Raises:
        ValueError: the folder holds no Qwen2-VL, or not its weights, or the attention is not to be had.
    """
    if attention not in ("sdpa", FLASH):
        raise ValueError(f"unknown attention {attention!r}: choose 'sdpa', {FLASH!r} or 'auto'")
    if attention == FLASH and not is_flash_attn_2_available():
        raise ValueError("flash-attention 2 is not installed, or there is no CUDA device: use attention 'sdpa'")
    check_type(folder)
    if not any(folder.glob("*.safetensors")):
        raise ValueError(f"checkpoint folder {folder} has no *.safetensors weights: download or convert them")
    parts = {"text_config": attention, "vision_config": FLASH if attention == FLASH else PACKED_ATTENTION}
    return Qwen2VLForConditionalGeneration.from_pretrained(folder, dtype=dtype, attn_implementation=parts)


def apply_adapter(model: Qwen2VLForConditionalGeneration, folder: Path) -> None:
    """Put a PEFT adapter onto a model, in place; merged into the weights where float32 loses nothing by it.

    Raises:
        ValueError: the adapter does not fit the model. PEFT itself only warns and leaves the model as it was.
    """
    if not (folder / "adapter_model.safetensors").is_file():
        raise ValueError(
            f"adapter folder {folder} has no adapter_model.safetensors: convert *.bin weights to safetensors"
        )
    try:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            adapted = PeftModel.from_pretrained(model, folder, key_mapping=OLD_MODULE_NAMES)
    except (ValueError, RuntimeError, KeyError) as error:
        raise ValueError(f"adapter {folder} does not fit the base model: {str(error).splitlines()[0]}") from None
    if missing := [str(w.message) for w in caught if "missing adapter keys" in str(w.message)]:
        raise ValueError(
            f"adapter {folder} does not fit the base model, it was trained on another class or size: {missing[0][:200]}"
        )
    if model.dtype == torch.float32:
        adapted.merge_and_unload()


def load_checkpoint(
    id_or_path: str | Path, adapter: str | Path | None, device: str, dtype: str, attention: str
) -> tuple[Qwen2VLForConditionalGeneration, G2EProcessor, str]:
    """What Embedder.from_pretrained loads: model, processor, and an identity of both with the adapter."""
    device = default_device() if device == "auto" else device
    dtype = default_dtype(device) if dtype == "auto" else dtype
    attention = default_attention(device, dtype) if attention == "auto" else attention
    folder = checkpoint_folder(id_or_path)
    if adapter is None and (base := base_of_adapter(folder)):
        folder, adapter = checkpoint_folder(base), folder
    processor, model = load_processor(folder), load_model(folder, dtype, attention)
    identity = checkpoint_fingerprint(folder)
    if adapter is not None:
        adapter_folder = checkpoint_folder(adapter)
        apply_adapter(model, adapter_folder)
        identity = f"{identity}+{checkpoint_fingerprint(adapter_folder)}"
    return model.to(device), processor, identity
