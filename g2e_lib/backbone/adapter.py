"""LoRA adapters while they train: new ones, saved states, the card; checkpoint.py applies finished ones."""

from collections.abc import Mapping
from pathlib import Path

import torch
from peft import (
    LoraConfig,
    PeftModel,
    get_peft_model,
    get_peft_model_state_dict,
    load_peft_weights,
    set_peft_model_state_dict,
)
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor
from torch.optim import Optimizer
from transformers import Qwen2VLForConditionalGeneration

from g2e_lib.backbone.checkpoint import checkpoint_fingerprint
from g2e_lib.project.store import atomic_path, write_text


def new_adapter(model: Qwen2VLForConditionalGeneration, settings: LoraConfig, name: str) -> PeftModel:
    """Put a new adapter, which calls its base model `name`, onto a model in place; ValueError where no layer fits."""
    try:
        adapted = get_peft_model(model, settings)
    except ValueError as error:
        reason = str(error).splitlines()[0]
        raise ValueError(f"lora_targets {settings.target_modules!r} fit no layer: {reason}") from None
    # The folder of an embedded model is this machine's business; its name is everybody's.
    adapted.peft_config["default"].base_model_name_or_path = name
    return adapted


def start_from(adapted: PeftModel, folder: Path) -> str:
    """Give a new adapter the weights of another one of the same shape; returns that one's fingerprint.

    Raises:
        ValueError: there is no adapter in the folder, or it has other layers, rank or scale.
    """
    try:
        theirs = LoraConfig.from_pretrained(folder)
        weights = load_peft_weights(str(folder), device="cpu")
    except (ValueError, OSError) as error:
        raise ValueError(f"start {folder} is no folder of an adapter ({str(error).splitlines()[0]})") from None
    ours, state = adapted.peft_config["default"], get_peft_model_state_dict(adapted, save_embedding_layers=False)
    different = [n for n in ("r", "lora_alpha", "use_dora") if getattr(ours, n) != getattr(theirs, n)]
    if different or {n: w.shape for n, w in weights.items()} != {n: w.shape for n, w in state.items()}:
        what = f"{different[0]} {getattr(theirs, different[0])}" if different else "other layers"
        raise ValueError(f"the adapter in {folder} has {what}: start from one with the settings of this run")
    set_peft_model_state_dict(adapted, weights)
    return checkpoint_fingerprint(folder)


def save_state(path: Path, weights: Mapping[str, Tensor], optimizer: Optimizer, step: int) -> None:
    """Write weights and what the optimizer knows of them after so many steps, atomically."""
    tensors = {f"weight {name}": weight.detach() for name, weight in weights.items()}
    for name, weight in weights.items():
        tensors |= {f"{key} {name}": value for key, value in optimizer.state[weight].items()}
    with atomic_path(path) as partial:
        save_file({n: t.contiguous() for n, t in tensors.items()}, partial, metadata={"step": str(step)})


def load_state(path: Path, weights: Mapping[str, Tensor], optimizer: Optimizer) -> int:
    """Go back to a saved state; returns how many steps were done, 0 without one."""
    if not path.exists():
        return 0
    device = str(next(iter(weights.values())).device)
    with safe_open(path, "pt", device=device) as file, torch.no_grad():
        found: dict[str, dict[str, Tensor]] = {name: {} for name in weights}
        for key in file.keys():  # noqa: SIM118
            kind, name = key.split(" ", 1)
            found[name][kind] = file.get_tensor(key)
        for name, weight in weights.items():
            weight.copy_(found[name].pop("weight"))
            if state := found[name]:  # a weight that has had no gradient yet has none
                optimizer.state[weight] = {**state, "step": state["step"].cpu()}
        return int(file.metadata()["step"])


def write_card(folder: Path, model: str, facts: Mapping[str, object]) -> None:
    """Write an adapter's model card, a table of facts."""
    card = ["---", f"base_model: {model}", "library_name: peft", "tags: [embeddings, lora]", "---", ""]
    card += ["# A multimodal embedder (LoRA adapter)", "", "| fact | value |", "|---|---|"]
    card += [f"| {name} | {value} |" for name, value in facts.items()]
    card += ["", "Use: `Embedder.from_pretrained(base, prompt=..., adapter=this_folder)` of g2e_lib.", ""]
    write_text(folder / "README.md", "\n".join(card))
