"""What a profile of the papers' own scale will cost, said before anything starts. Estimates, with their assumptions."""

import math
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from g2e_lib.data.mmeb import dataset_of
from g2e_lib.project.config import DATA
from g2e_lib.project.published import reference

# Of Qwen2-VL's language model without its table of words, by what the model's name contains; of its vision tower.
PARAMETERS, VISION_PARAMETERS = {"2B": 1.3e9, "7B": 6.5e9}, 0.67e9
PATCHES = 4  # of an image for each visual token
PEAK_FLOPS = {"H200": 989e12, "H100": 989e12, "A100": 312e12, "L40": 181e12, "4090": 165e12, "3090": 71e12}
ASSUMED_GPU = "A100"  # where the GPU is another or none
UTILISATION, TRAINING_UTILISATION = 0.35, 0.15  # share of peak that is reached; a guess for chunks of 4 with DoRA
QUERIES = 1000  # rows of an MMEB evaluation dataset
TARGETS = 3000  # distinct candidates of one, a guess: a few hundred labels, or tens of thousands of images
TEXT_TOKENS = 70  # of an item and its prompt
VISUAL_TOKENS = {"paper_train": 256, "released_train": 256}  # others: a photo of 640 x 480 pixels
PHOTO_TOKENS = 391
TRAINING_PASSES = 3  # forward once without and once with a graph; frozen weights are gone through backward once
GB_PER_EMBEDDING = 2048 * 4 / 1e9
# Trainings a seed with the notebooks' own lists: at full length, and as long as ablations are.
RUNS = {"03_training": (4, 0), "04_ablations": (20, 0), "05_unime": (2, 9)}
TRAINED = [stem[3:] for stem in RUNS]
CREPE_ITEMS, CREPE_MODELS = 30_000, 6  # captions and photos of both sets; models besides the untrained one's prompts


@dataclass(frozen=True)
class Cost:
    """One stage.

    Attributes:
        stage: what it does.
        items: that run through the model.
        tokens: of all of them.
        gpu_hours: on one GPU of the assumed kind.
        disk: GB on disk.
    """

    stage: str
    items: int
    tokens: int
    gpu_hours: float
    disk: float


def flops_a_second() -> tuple[str, float]:
    """The GPU that is here or assumed, and what it is taken to reach when it embeds."""
    import torch  # only here: small profiles do without

    found = torch.cuda.get_device_name() if torch.cuda.is_available() else ""
    name = next((one for one in PEAK_FLOPS if one in found), ASSUMED_GPU)
    return name, PEAK_FLOPS[name] * UTILISATION


def _stage(stage: str, items: int, visual: int, parameters: float, disk: float = 0.0, trains: bool = False) -> Cost:
    shown = items * visual // 2  # visual tokens: half of MMEB's items have an image
    tokens = items * TEXT_TOKENS + shown
    passes, share = (TRAINING_PASSES, TRAINING_UTILISATION / UTILISATION) if trains else (1, 1.0)
    flops = 2 * (passes * parameters * tokens + VISION_PARAMETERS * PATCHES * shown)
    return Cost(stage, items, tokens, flops / share / flops_a_second()[1] / 3600, disk)


def estimate(settings: Mapping[str, Mapping[str, Any]]) -> list[Cost]:
    """The stages of a run with their costs; none for the embedded world.

    Args:
        settings: by notebook (file stem) all its parameters, defaults included.
    """
    table = reference("mmeb_datasets").set_index("dataset")
    setup, costs = settings.get("00_setup", {}), []
    datasets = setup.get("datasets") or list(table.index)
    subsets = [dataset_of(name) for name in setup.get("subsets") or table.index[table.train_pairs > 0]]
    if setup.get("world") == "mmeb":
        costs.append(Cost("data (archives, and the same unpacked)", 0, 0, 0.0, 2 * _gigabytes(setup)))
    if (one := settings.get("01_zero_shot")) and (size := _parameters(one)):
        items = _evaluated(one, datasets) * len(one["prompts"])
        costs.append(_stage("01 zero-shot", items, _visual(one), size, disk=items * GB_PER_EMBEDDING))
    if (one := settings.get("02_mining")) and (size := _parameters(one)):
        pairs = table.train_pairs[[dataset_of(name) for name in one["subsets"]] or subsets]
        pairs = pairs.clip(upper=one["limit"]) if one["limit"] else pairs
        items = round(2 * one["fraction"] * int(pairs.sum()))
        costs.append(_stage("02 mining", items, _visual(one), size, disk=items * GB_PER_EMBEDDING))
    for stem, (whole, short) in RUNS.items():
        if (one := settings.get(stem)) and (size := _parameters(one)):
            steps = whole * one["steps"] + short * one.get("ablation_steps", 0)
            items, name = 2 * steps * one["pairs_per_step"] * one["seeds"], stem.replace("_", " ")
            costs.append(_stage(name, items, VISUAL_TOKENS["paper_train"], size, trains=True))
            tested = _evaluated(one, datasets) * (whole + short) * one["seeds"]
            costs.append(_stage(f"{name}, evaluation", tested, _visual(one), size, disk=tested * GB_PER_EMBEDDING))
            if "first_steps" in one:
                items = 2 * one["first_steps"] * one["first_pairs"] * one["seeds"]
                costs.append(_stage(f"{name}, stage 1", items, 0, size, trains=True))
    if (one := settings.get("06_sugarcrepe")) and (size := _parameters(settings.get("05_unime", {}))):
        items = CREPE_ITEMS * (len(one["prompts"]) + CREPE_MODELS)
        costs.append(_stage("06 sugarcrepe", items, PHOTO_TOKENS, size, disk=items * GB_PER_EMBEDDING))
    return costs


def _evaluated(one: Mapping[str, Any], datasets: list[str]) -> int:
    """Items that are embedded to evaluate one model once."""
    return len(one["datasets"] or datasets) * (min(one["limit"] or QUERIES, QUERIES) + TARGETS)


def _gigabytes(setup: Mapping[str, Any]) -> float:
    """What notebook 00 would download, as the hub states it; NaN where it cannot be asked."""
    from g2e_lib.data import download  # only here, as torch is

    names = ("datasets", "subsets", "split", "parts", "eval_revision", "train_revision")
    try:
        return download.bytes_to_bring(DATA, download.Selection(**{name: setup[name] for name in names})) / 1e9
    except ValueError:
        return math.nan


def _parameters(one: Mapping[str, Any]) -> float:
    """Parameters of the model a notebook runs; 0 for a small or unknown one."""
    return next((count for name, count in PARAMETERS.items() if name in one.get("model", "")), 0)


def _visual(parameters: Mapping[str, Any]) -> int:
    return VISUAL_TOKENS.get(parameters.get("images", ""), PHOTO_TOKENS)


def describe(costs: list[Cost]) -> str:
    """The estimate as text, with its assumptions."""
    name, rate = flops_a_second()
    lines = [f"{'stage':44}{'items':>12}{'tokens':>10}{'GPU-hours':>11}{'disk, GB':>10}"]
    for one in costs:
        disk = "unknown" if math.isnan(one.disk) else f"{one.disk:,.1f}"
        lines.append(f"{one.stage:44}{one.items:12,}{one.tokens / 1e6:9,.0f}M{one.gpu_hours:11,.1f}{disk:>10}")
    hours, disk = sum(one.gpu_hours for one in costs), sum(one.disk for one in costs if not math.isnan(one.disk))
    lines.append(f"{'all, if nothing is cached':66}{hours:11,.1f}{disk:10,.1f}")
    if any(math.isnan(one.disk) for one in costs):
        lines.append("The hub cannot be asked how large the data are; the disk is checked again before each download.")
    if any(one.stage[3:] in TRAINED for one in costs):
        lines.append("Training takes one GPU unless `-p launch launch/one_machine.yaml` says otherwise.")
    lines.append(f"Estimates for one {name} at {rate / 1e12:,.0f} TFLOP/s; data go to {DATA}.")
    return "\n".join(lines)


def confirm(settings: Mapping[str, Mapping[str, Any]], asks: bool | None = None) -> bool:
    """Print what a run costs, if that is more than a laptop's, and ask whether to go on if somebody can answer.

    Args:
        settings: as in estimate.
        asks: whether to ask; None asks on a terminal only.

    Returns:
        Whether to go on.
    """
    costs = estimate(settings)
    if not costs:
        return True
    print(describe(costs), flush=True)  # noqa: T201
    asks = sys.stdin.isatty() if asks is None else asks
    return not asks or input("Go on? [y/N] ").strip().lower() in ("y", "yes")
