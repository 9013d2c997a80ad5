"""The settings of a training run; how they are read from a file and written to one. Needs no torch."""

import contextlib
import re
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import yaml

from g2e_lib.miners import FILTER_MARGIN, HARD_NEGATIVES
from g2e_lib.project.store import write_text

# The linear layers of the language model; the vision tower stays as it is.
LANGUAGE_LAYERS = r".*language_model.*\.(q_proj|k_proj|v_proj|o_proj|gate_proj|up_proj|down_proj)"

AT_LEAST_ONE = (lambda value: value >= 1, "at least 1")
LIMITS = {
    **dict.fromkeys(("steps", "pairs_per_step", "chunk_size", "lora_rank", "save_every", "max_length"), AT_LEAST_ONE),
    "negatives": (lambda value: value in ("all", "hard", "easy", "random"), "all, hard, easy or random"),
    "num_negatives": AT_LEAST_ONE,
    "margin": (lambda value: value >= 0, "at least 0"),
    **dict.fromkeys(("warmup_steps", "limit", "max_pixels"), (lambda value: value >= 0, "at least 0")),
    "fraction": (lambda value: 0 < value <= 1, "above 0 and at most 1"),
    "lora_dropout": (lambda value: 0 <= value < 1, "at least 0 and below 1"),
    "temperature": (lambda value: value > 0, "above 0"),
    "lora_init": (lambda value: value in ("gaussian", "kaiming"), "gaussian or kaiming"),
    "dtype": (lambda value: value in ("auto", "float32", "bfloat16"), "auto, float32 or bfloat16"),
    "report_to": (lambda value: value in ("tensorboard", "wandb", "none"), "tensorboard, wandb or none"),
}


@dataclass(frozen=True)
class TrainConfig:
    """All settings of a training run."""

    folder: str  # receives the adapter, the log and the state to resume from
    data: str  # folder with one folder a subset, in MMEB-train's format
    subsets: tuple[str, ...]  # names
    images: str = ""  # folder that image paths are relative to; "" is the data folder's parent
    split: str = "original"  # of each subset
    fraction: float = 1.0  # share of each subset's pairs that is used, the first ones
    limit: int = 0  # at most this many pairs of each subset, the first ones; 0 for all
    model: str = "glyphworld-base"  # that name, a checkpoint folder or a hub id
    prompt: str = "hierarchical"  # a name in prompts.PROMPTS, for queries and targets
    clusters: str = ""  # file of clusters (mining.save_clusters); "" trains on random pairs, in-batch negatives only
    breaks_clusters: bool = False  # use the clusters' rows, each apart from the others (an ablation)
    # Which of the batch's other targets are negatives: "all", or UniME's second stage, "hard" ones chosen by each
    # query, and for comparison "easy" or "random" ones.
    negatives: str = "all"
    num_negatives: int = HARD_NEGATIVES  # K, how many each query chooses
    margin: float = FILTER_MARGIN  # beta; a target more similar than the positive by more is not chosen: likely right
    # File of a text teacher's embeddings of all pairs (teacher.save_teacher); the run is then UniME's first stage, in
    # which similarities are learnt from the teacher's. "" learns from pairs.
    teacher: str = ""
    start: str = ""  # folder of an adapter of the same shape to go on from; "" begins a new one
    steps: int = 60
    pairs_per_step: int = 64  # over all processes; each pair has all others' targets as negatives
    chunk_size: int = 128  # items encoded at once; decides memory (and, with dropout, the masks)
    learning_rate: float = 1e-3  # peak; linear warm-up and linear decay to zero
    warmup_steps: int = 6
    weight_decay: float = 0.0  # of AdamW
    max_gradient_norm: float = 1.0  # gradients are scaled down to this norm
    temperature: float = 0.02  # of InfoNCE, and of the distillation's softmax
    masks_duplicates: bool = True  # targets identical to a query's positive are no negatives of it
    lora_rank: int = 8
    lora_alpha: int = 64  # the adapter is scaled by alpha / rank
    lora_dropout: float = 0.0  # the paper's 0.1 costs a third of a CPU's time
    lora_targets: str = LANGUAGE_LAYERS  # regular expression of the layers that get an adapter
    use_dora: bool = False  # decompose weights into magnitude and direction (DoRA)
    lora_init: str = "gaussian"  # how peft initialises the first factor; "gaussian" or "kaiming"
    max_length: int = 1024  # tokens; texts are cut, images never
    max_pixels: int = 0  # of an image; 0 leaves the checkpoint's own limit
    image_rule: str = "native"  # how images are shown, a name in backbone.images.IMAGE_RULES
    dtype: str = "auto"  # "float32", "bfloat16", or "auto": bfloat16 on a GPU
    seed: int = 0  # of adapters' initial weights, order of clusters and dropout
    save_every: int = 20  # steps between two saves of the state
    report_to: str = "tensorboard"  # who shows the curves: that, "wandb" or "none"; log.jsonl is always written

    def __post_init__(self) -> None:
        if not self.subsets:
            raise ValueError("subsets is empty: name at least one subset to train on")
        for name, (is_right, rule) in LIMITS.items():
            if not is_right(getattr(self, name)):
                raise ValueError(f"{name} is {getattr(self, name)!r}, but must be {rule}")
        try:
            re.compile(self.lora_targets)
        except re.error as error:
            raise ValueError(f"lora_targets {self.lora_targets!r} is no regular expression: {error}") from None


def read_config(path: Path) -> TrainConfig:
    """Read a configuration from a YAML or JSON file.

    Raises:
        ValueError: no such file, an unknown setting, or a value of the wrong type; the message lists the right ones.
    """
    try:
        values = yaml.safe_load(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ValueError(f"there is no configuration file {path}: write one with the settings of TrainConfig") from None
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(f"{path} cannot be read as a configuration file: {error}") from None
    except yaml.YAMLError as error:
        raise ValueError(f"{path} is not valid YAML: {str(error).splitlines()[0]}") from None
    if not isinstance(values, dict):
        raise ValueError(f"{path} holds no settings: write one 'name: value' a line")
    known = {field.name: field for field in fields(TrainConfig)}
    if unknown := sorted(set(values) - set(known)):
        raise ValueError(f"{path} has the unknown setting {unknown[0]!r}: choose among {', '.join(known)}")
    if missing := [n for n in ("folder", "data", "subsets") if n not in values]:
        raise ValueError(f"{path} lacks the setting {missing[0]!r}")
    return TrainConfig(**{name: _read_value(path, name, known[name].type, value) for name, value in values.items()})


def write_config(config: TrainConfig, path: Path) -> None:
    """Write a configuration as the YAML that read_config reads."""
    values = {name: list(value) if isinstance(value, tuple) else value for name, value in asdict(config).items()}
    write_text(path, yaml.safe_dump(values, sort_keys=False, allow_unicode=True))


def _read_value(path: Path, setting: str, kind: Any, value: Any) -> Any:  # noqa: ANN401
    """A setting's value, of the setting's own type."""
    if setting == "subsets":
        if isinstance(value, list) and all(isinstance(name, str) for name in value):
            return tuple(value)
        raise ValueError(f"{path}: subsets takes a list of names such as [CaptionT2I, Crop], not {value!r}")
    if kind is float and type(value) in (int, str):  # YAML reads 1e-3 as a text
        with contextlib.suppress(ValueError):
            return float(value)
    if type(value) is not kind:
        raise ValueError(f"{path}: {setting} takes a value of type {kind.__name__}, not {value!r}")
    return value
