"""What a profile of the papers' own scale will cost, said before anything starts. Estimates, with their assumptions."""

import math
import sys
from collections.abc import Mapping, Sequence
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
    """What a stage of a run costs."""

    stage: str
    items: int  # that run through the model
    tokens: int
    gpu_hours: float  # on one GPU, assumed or here
    disk: float  # GB


def flops_a_second() -> tuple[str, float]:
    """The GPU that is here or assumed, and what it is taken to reach when it embeds."""
    import torch  # only here: small profiles do without

    found = torch.cuda.get_device_name() if torch.cuda.is_available() else ""
    name = next((kind for kind in PEAK_FLOPS if kind in found), ASSUMED_GPU)
    return name, PEAK_FLOPS[name] * UTILISATION


def _stage(stage: str, items: int, visual: int, parameters: float, trains: bool = False) -> Cost:
    """A stage that embeds and stores items, or trains on them; half of them have an image of so many visual tokens."""
    shown = items * visual // 2
    tokens = items * TEXT_TOKENS + shown
    passes, share = (TRAINING_PASSES, TRAINING_UTILISATION / UTILISATION) if trains else (1, 1.0)
    flops = 2 * (passes * parameters * tokens + VISION_PARAMETERS * PATCHES * shown)
    disk = 0.0 if trains else items * GB_PER_EMBEDDING
    return Cost(stage, items, tokens, flops / share / flops_a_second()[1] / 3600, disk)


def estimate(settings: Mapping[str, Mapping[str, Any]]) -> list[Cost]:
    """The stages of a run with their costs, none for the embedded world, from all settings by notebook (file stem)."""
    table = reference("mmeb_datasets").set_index("dataset")
    setup, costs = settings.get("00_setup", {}), []
    datasets = setup.get("datasets") or list(table.index)
    subsets = [dataset_of(name) for name in setup.get("subsets") or table.index[table.train_pairs > 0]]
    large = {stem: chosen for stem, chosen in settings.items() if _parameters(chosen)}
    if setup.get("world") == "mmeb":
        costs.append(Cost("data (archives, and the same unpacked)", 0, 0, 0.0, 2 * _gigabytes(setup)))
    if zero_shot := large.get("01_zero_shot"):
        items = _evaluated(zero_shot, datasets) * len(zero_shot["prompts"])
        costs.append(_stage("01 zero-shot", items, _visual(zero_shot), _parameters(zero_shot)))
    if mining := large.get("02_mining"):
        pairs = table.train_pairs[[dataset_of(name) for name in mining["subsets"]] or subsets]
        pairs = pairs.clip(upper=mining["limit"]) if mining["limit"] else pairs
        items = round(2 * mining["fraction"] * int(pairs.sum()))
        costs.append(_stage("02 mining", items, _visual(mining), _parameters(mining)))
    for stem in filter(large.get, RUNS):
        costs += _study(stem, large[stem], datasets)
    if "06_sugarcrepe" in settings and "05_unime" in large:
        items = CREPE_ITEMS * (len(settings["06_sugarcrepe"]["prompts"]) + CREPE_MODELS)
        costs.append(_stage("06 sugarcrepe", items, PHOTO_TOKENS, _parameters(large["05_unime"])))
    return costs


def _study(stem: str, chosen: Mapping[str, Any], datasets: Sequence[str]) -> list[Cost]:
    """The stages of a notebook that trains."""
    (whole, short), name, size = RUNS[stem], stem.replace("_", " "), _parameters(chosen)
    steps = whole * chosen["steps"] + short * chosen.get("ablation_steps", 0)
    items = 2 * steps * chosen["pairs_per_step"] * chosen["seeds"]
    tested = _evaluated(chosen, datasets) * (whole + short) * chosen["seeds"]
    training = _stage(name, items, VISUAL_TOKENS["paper_train"], size, trains=True)
    costs = [training, _stage(f"{name}, evaluation", tested, _visual(chosen), size)]
    if "first_steps" in chosen:
        items = 2 * chosen["first_steps"] * chosen["first_pairs"] * chosen["seeds"]
        costs.append(_stage(f"{name}, stage 1", items, 0, size, trains=True))
    return costs


def _evaluated(chosen: Mapping[str, Any], datasets: Sequence[str]) -> int:
    """Items that are embedded to evaluate one model once."""
    return len(chosen["datasets"] or datasets) * (min(chosen["limit"] or QUERIES, QUERIES) + TARGETS)


def _gigabytes(setup: Mapping[str, Any]) -> float:
    """What notebook 00 would download, as the hub states it; NaN where it cannot be asked."""
    from g2e_lib.data import download  # only here, as torch is

    names = ("datasets", "subsets", "split", "parts", "eval_revision", "train_revision")
    try:
        return download.bytes_to_bring(DATA, download.Selection(**{name: setup[name] for name in names})) / 1e9
    except ValueError:
        return math.nan


def _parameters(chosen: Mapping[str, Any]) -> float:
    """Parameters of the model a notebook runs; 0 for a small or unknown one."""
    return next((count for name, count in PARAMETERS.items() if name in chosen.get("model", "")), 0)


def _visual(chosen: Mapping[str, Any]) -> int:
    return VISUAL_TOKENS.get(chosen.get("images", ""), PHOTO_TOKENS)


def describe(costs: list[Cost]) -> str:
    """The estimate as text, with its assumptions."""
    name, rate = flops_a_second()
    lines = [f"{'stage':44}{'items':>12}{'tokens':>10}{'GPU-hours':>11}{'disk, GB':>10}"]
    for cost in costs:
        disk = "unknown" if math.isnan(cost.disk) else f"{cost.disk:,.1f}"
        lines.append(f"{cost.stage:44}{cost.items:12,}{cost.tokens / 1e6:9,.0f}M{cost.gpu_hours:11,.1f}{disk:>10}")
    hours, disks = sum(cost.gpu_hours for cost in costs), [cost.disk for cost in costs if not math.isnan(cost.disk)]
    lines.append(f"{'all, if nothing is cached':66}{hours:11,.1f}{sum(disks):10,.1f}")
    if len(disks) < len(costs):
        lines.append("The hub cannot be asked how large the data are; the disk is checked again before each download.")
    if any(cost.stage[3:] in TRAINED for cost in costs):
        lines.append("Training takes one GPU unless `-p launch launch/one_machine.yaml` says otherwise.")
    lines.append(f"Estimates for one {name} at {rate / 1e12:,.0f} TFLOP/s; data go to {DATA}.")
    return "\n".join(lines)


def confirm(settings: Mapping[str, Mapping[str, Any]], asks: bool | None = None) -> bool:
    """Print what a run costs, if that is more than a laptop's; whether to go on, which None asks on a terminal only."""
    costs = estimate(settings)
    if not costs:
        return True
    print(describe(costs), flush=True)  # noqa: T201
    asks = sys.stdin.isatty() if asks is None else asks
    return not asks or input("Go on? [y/N] ").strip().lower() in ("y", "yes")
