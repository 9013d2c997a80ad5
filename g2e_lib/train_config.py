"""The settings of a training run, and how they are read from a file. Needs no torch."""

from dataclasses import dataclass, fields
from pathlib import Path

import yaml

# The linear layers of the language model; the vision tower stays as it is.
LANGUAGE_LAYERS = r".*language_model.*\.(q_proj|k_proj|v_proj|o_proj|gate_proj|up_proj|down_proj)"


@dataclass(frozen=True)
class TrainConfig:
    """All settings of a training run.

    Attributes:
        folder: receives the adapter, the log and the state to resume from.
        data: folder with one folder a subset, in MMEB-train's format.
        images: folder that image paths are relative to; "" is the data folder's parent.
        subsets: names.
        split: of each subset.
        fraction: share of each subset's pairs that is used, the first ones.
        model: "glyphworld-base", a checkpoint folder or a hub id.
        prompt: a name in prompts.PROMPTS, for queries and targets.
        clusters: file of clusters (mining.save_clusters); "" trains on random pairs, in-batch negatives only.
        breaks_clusters: use the clusters' rows, each apart from the others (an ablation).
        steps: optimisation steps.
        pairs_per_step: query-target pairs in a step, over all processes; each has all others' targets as negatives.
        chunk_size: items encoded at once; memory only.
        learning_rate: peak; linear warm-up and linear decay to zero.
        warmup_steps: steps of warm-up.
        weight_decay: of AdamW.
        max_gradient_norm: gradients are scaled down to this norm.
        temperature: of InfoNCE.
        masks_duplicates: targets identical to a query's positive are no negatives of it.
        lora_rank: r.
        lora_alpha: the adapter is scaled by alpha / r.
        lora_dropout: on the adapter's input; the paper's 0.1 costs a third of a CPU's time, so 0 is the default.
        lora_targets: regular expression of the layers that get an adapter.
        use_dora: decompose weights into magnitude and direction (DoRA).
        lora_init: how peft initialises the first factor; "gaussian" or "kaiming".
        max_length: tokens; texts are cut, images never.
        max_pixels: of an image; 0 leaves the checkpoint's own limit.
        dtype: "float32", "bfloat16", or "auto": bfloat16 on a GPU.
        seed: of adapters' initial weights, order of clusters and dropout.
        save_every: steps between two saves of the state.
    """

    folder: str
    data: str
    subsets: tuple[str, ...]
    images: str = ""
    split: str = "original"
    fraction: float = 1.0
    model: str = "glyphworld-base"
    prompt: str = "hierarchical"
    clusters: str = ""
    breaks_clusters: bool = False
    steps: int = 60
    pairs_per_step: int = 64
    chunk_size: int = 128
    learning_rate: float = 1e-3
    warmup_steps: int = 6
    weight_decay: float = 0.0
    max_gradient_norm: float = 1.0
    temperature: float = 0.02
    masks_duplicates: bool = True
    lora_rank: int = 8
    lora_alpha: int = 64
    lora_dropout: float = 0.0
    lora_targets: str = LANGUAGE_LAYERS
    use_dora: bool = False
    lora_init: str = "gaussian"
    max_length: int = 1024
    max_pixels: int = 0
    dtype: str = "auto"
    seed: int = 0
    save_every: int = 20

    def __post_init__(self) -> None:
        for name in ("steps", "pairs_per_step", "chunk_size", "lora_rank", "save_every"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}, but must be at least 1")
        if not 0 < self.fraction <= 1:
            raise ValueError(f"fraction is {self.fraction}, but must be above 0 and at most 1")
        if not self.subsets:
            raise ValueError("subsets is empty: name at least one subset to train on")


def read_config(path: Path) -> TrainConfig:
    """Read a configuration from a YAML or JSON file.

    Raises:
        ValueError: no such file, an unknown setting, or a value of the wrong type; the message lists the right ones.
    """
    try:
        values = yaml.safe_load(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ValueError(f"there is no configuration file {path}: write one with the settings of TrainConfig") from None
    except yaml.YAMLError as error:
        raise ValueError(f"{path} is not valid YAML: {str(error).splitlines()[0]}") from None
    known = {field.name: field for field in fields(TrainConfig)}
    if unknown := sorted(set(values or ()) - set(known)):
        raise ValueError(f"{path} has the unknown setting {unknown[0]!r}: choose among {', '.join(known)}")
    if missing := [n for n in ("folder", "data", "subsets") if n not in (values or ())]:
        raise ValueError(f"{path} lacks the setting {missing[0]!r}")
    for name, value in values.items():
        expected = tuple if name == "subsets" else known[name].type
        value = tuple(value) if name == "subsets" and isinstance(value, list) else value
        value = float(value) if expected is float and type(value) is int else value
        if type(value) is not expected:
            raise ValueError(f"{path}: {name} takes a {expected.__name__}, not {value!r}")
        values[name] = value
    return TrainConfig(**values)
