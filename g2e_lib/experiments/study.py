"""Compare ways of training: mine, train, evaluate, each once, at equal steps and pairs a step."""

import inspect
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from tqdm.auto import tqdm

from g2e_lib.backbone.checkpoint import checkpoint_fingerprint, checkpoint_folder
from g2e_lib.backbone.teacher import save_teacher, teacher_folder, teacher_identity
from g2e_lib.data.items import EvalRow, item_digests
from g2e_lib.data.subsets import Subset, data_digest, load_subsets
from g2e_lib.embedder import Embedder, default_device, default_dtype
from g2e_lib.evaluation.scores import describe_datasets, evaluate_mmeb
from g2e_lib.evaluation.statistics import estimate, summarize
from g2e_lib.mining import labelled_subsets, mine_subset, save_clusters
from g2e_lib.project.config import code_fingerprint, fingerprint
from g2e_lib.project.store import Store
from g2e_lib.project.tracking import read_log
from g2e_lib.saha import Miner
from g2e_lib.scale.launching import launch_file, release_memory, train_launched
from g2e_lib.train import ADAPTER, train
from g2e_lib.train_config import TrainConfig

# Source files that decide what training gives, and what its evaluation gives.
TRAIN_CODE = ("data/subsets.py", "embedder.py", "backbone/inputs.py", "gradcache.py", "mining.py", "backbone/images.py")
TRAIN_CODE += ("prompts.py", "backbone/qwen2vl.py", "saha.py", "backbone/teacher.py", "train.py", "train_config.py")
TRAIN_CODE += ("unime.py", "backbone/adapter.py")
TEST_CODE = ("backbone/checkpoint.py", "data/items.py", "embedder.py", "evaluation/scores.py", "backbone/images.py")
TEST_CODE += ("prompts.py", "backbone/qwen2vl.py")
# Settings of TrainConfig that do not: where things are (their content counts), memory, what is written down meanwhile.
NOT_DECISIVE = ("folder", "data", "images", "chunk_size", "save_every", "report_to")
# How the embedder shows items where nothing else is said.
SHOWN = {name: inspect.signature(Embedder).parameters[name].default for name in ("images", "max_length")}
LIBRARIES = ("torch", "transformers", "peft", "accelerate")


@dataclass(frozen=True)
class Sentences:
    """What UniME's first stage learns from.

    Attributes:
        data: folder of text pairs, in MMEB-train's format.
        subsets: names.
        teacher: id or folder of a sentence-transformers model.
        prompt: in training.
    """

    data: Path
    subsets: tuple[str, ...]
    teacher: str
    prompt: str = "unime_distillation"


@dataclass(frozen=True)
class Arm:
    """One way of training.

    Attributes:
        name: shown in tables.
        prompt: in mining, training and evaluation.
        miner: None trains on random pairs with in-batch negatives only.
        settings: whatever of TrainConfig differs from the common settings.
        sentences: train on these instead of the laboratory's pairs (UniME, stage 1).
        start: the arm whose adapter this one goes on from, trained with the same seed (UniME, stage 2).
    """

    name: str
    prompt: str = "hierarchical"
    miner: Miner | None = None
    settings: Mapping[str, Any] = field(default_factory=dict)
    sentences: Sentences | None = None
    start: "Arm | None" = None


class Laboratory:
    """Runs arms on one base model, one training set and one benchmark, and remembers what it has run.

    Args:
        data: folder of training subsets.
        subsets: facts about those to train on by name; `meta_task` decides how SaHa mines them.
        rows: evaluation rows by dataset name.
        facts: `meta_task` and `distribution` by dataset name.
        cache: folder for runs, clusters and results.
        common: settings of TrainConfig shared by all arms.
        is_fresh: run again what was run before this object was made.
        embedding: settings of the embedder that mines and is evaluated: `images`, `max_length`, `tokens_per_batch`.
        launch: an accelerate configuration, such as launch/one_machine.yaml, to train in processes of their own; ""
            trains in this one. No part of what a run is remembered by: without dropout the number of processes changes
            nothing but rounding, with it which masks are drawn, as another GPU would; and what 8 GPUs have trained
            is evaluated, and drawn again, where there is one.

    Raises:
        ValueError: `launch` is no such file.
    """

    def __init__(  # noqa: PLR0913 (each a thing of its own)
        self,
        data: Path,
        subsets: Mapping[str, Mapping[str, Any]],
        rows: Mapping[str, Sequence[EvalRow]],
        facts: Mapping[str, Mapping[str, Any]],
        cache: Path,
        common: Mapping[str, Any],
        is_fresh: bool = False,
        embedding: Mapping[str, Any] | None = None,
        launch: str = "",
    ) -> None:
        self.embedding, self.launch = SHOWN | dict(embedding or {}), launch
        if launch:
            launch_file(launch)  # before anything is mined
        self.data, self.names, self.rows, self.facts, self.cache = data, tuple(subsets), rows, facts, cache
        self.labelled = labelled_subsets(subsets)
        # Dozens of short runs are of interest to trackers only if somebody asks for it.
        self.common, self.is_fresh = {"report_to": "none", **common}, is_fresh
        self.embeddings, self.results = Store(cache / "embeddings", is_fresh), Store(cache / "results", is_fresh)
        self.digests = item_digests(i for one in rows.values() for row in one for i in (row.query, *row.candidates))
        self.tested = fingerprint(
            {
                name: [fingerprint([self.digests[one] for one in (row.query, *row.candidates)]) for row in some]
                for name, some in rows.items()
            }
        )
        self.model = checkpoint_folder(self.common.get("model", TrainConfig.model))
        self.weights = checkpoint_fingerprint(self.model)
        self._trained: set[str] = set()  # by this object: what a fresh laboratory does not train again
        self._subsets: dict[tuple, tuple[list[Subset], str]] = {}

    def subsets(self, config: TrainConfig) -> tuple[list[Subset], str]:
        """What a run trains on, and its digest."""
        key = config.data, config.subsets, config.images, config.split, config.fraction, config.limit
        if key not in self._subsets:
            subsets = load_subsets(Path(config.data), *key[1:])
            self._subsets[key] = subsets, data_digest(subsets)
        return self._subsets[key]

    def training_subsets(self) -> list[Subset]:
        """The pairs that arms without settings of their own train on."""
        return self.subsets(TrainConfig(folder="", data=str(self.data), subsets=self.names, **self.common))[0]

    def run(self, arm: Arm, seed: int = 0) -> dict[str, Any]:
        """Mine, train and evaluate one arm with one seed, or recall it.

        Returns:
            `right` (answers as a string of 0 and 1 by dataset), `log` (records of training) and `seconds` of training.
        """
        key = {"trained": self._key(arm, seed), "tested on": self.tested, "code": code_fingerprint(TEST_CODE)}
        key |= {"prompt": arm.prompt, "embedding": self._shown()}
        return self.results.json(key, lambda: self._run(arm, seed))

    def _shown(self) -> dict[str, Any]:
        """The settings of embedding that change results."""
        return {name: value for name, value in self.embedding.items() if name != "tokens_per_batch"}

    def _run(self, arm: Arm, seed: int) -> dict[str, Any]:
        folder = self.train(arm, seed).parent
        log = read_log(folder)
        return {
            **self._evaluate(self.embedder(arm, seed)),
            "log": [{k: round(v, 6) for k, v in record.items()} for record in log],
            "seconds": round(sum(record["seconds"] for record in log), 1),
        }

    def _config(self, arm: Arm, seed: int) -> TrainConfig:
        """An arm's settings, without the files it needs."""
        settings = {**self.common, **arm.settings, "prompt": arm.prompt, "seed": seed}
        data, subsets = self.data, self.names
        if arm.sentences:
            data, subsets = arm.sentences.data, arm.sentences.subsets
            whole = {name: getattr(TrainConfig, name) for name in ("images", "split", "limit", "fraction")}
            settings |= {"prompt": arm.sentences.prompt, **whole}
        return TrainConfig(folder="", data=str(data), subsets=subsets, **settings)

    def _key(self, arm: Arm, seed: int) -> dict[str, Any]:
        """Everything that decides what an arm's adapter is."""
        config = self._config(arm, seed)
        described = {k: v for k, v in asdict(config).items() if k not in NOT_DECISIVE}
        miner = replace(arm.miner, seed=seed) if arm.miner else None
        return {
            "settings": described | {"model": self.weights},
            "device and dtype": self.device_and_dtype(),
            "miner": [asdict(miner), sorted(self.labelled), self._shown()] if miner else None,
            "teacher": teacher_identity(teacher_folder(arm.sentences.teacher)) if arm.sentences else None,
            "start": self._key(arm.start, seed) if arm.start else None,
            "pairs": self.subsets(config)[1],
            "code": code_fingerprint(TRAIN_CODE),
            "libraries": {name: version(name) for name in LIBRARIES},
        }

    def train(self, arm: Arm, seed: int = 0) -> Path:
        """The folder of an arm's adapter; whatever it needs is mined, embedded and trained if it is not there."""
        config, name = self._config(arm, seed), fingerprint(self._key(arm, seed))
        folder = self.cache / "runs" / name
        if self.is_fresh and name not in self._trained:
            shutil.rmtree(folder, ignore_errors=True)
        self._trained.add(name)
        if not (folder / ADAPTER).exists():
            files = {"folder": str(folder)}
            if arm.miner:
                files["clusters"] = str(self._clusters(config, replace(arm.miner, seed=seed)))
            if arm.sentences:
                files["teacher"] = str(self.cache / "teachers" / f"{name}.safetensors")
                pairs, on = self.subsets(config)[0], default_device()
                save_teacher(Path(files["teacher"]), arm.sentences.teacher, pairs, self.embeddings, on)
            if arm.start:
                files["start"] = str(self.train(arm.start, seed))
            config = replace(config, **files)
            train_launched(config, self.launch) if self.launch else train(config)
            release_memory()
        return folder / ADAPTER

    def embedder(self, arm: Arm | None, seed: int = 0, prompt: str = "") -> Embedder:
        """The model an arm has trained; None is the base model.

        Args:
            arm: trained if it is not yet.
            seed: of its training.
            prompt: of the embedder; "" is the arm's own (the base model has none of its own).
        """
        adapter = self.train(arm, seed) if arm else None
        dtype = self.common.get("dtype", "auto")
        settings = {"prompt": prompt or arm.prompt, "dtype": dtype, **self.embedding}
        return Embedder.from_pretrained(self.model, adapter=adapter, **settings)

    def _clusters(self, config: TrainConfig, miner: Miner) -> Path:
        """A file of clusters mined with the base model under the arm's prompt."""
        subsets, _ = self.subsets(config)
        embedder = self.embedder(None, prompt=config.prompt)
        labelled, on = self.labelled, embedder.device.type
        mined = {s.name: mine_subset(embedder, s, miner, s.name in labelled, self.embeddings, on) for s in subsets}
        path = self.cache / "clusters" / f"{fingerprint([one['clusters'] for one in mined.values()])}.json"
        save_clusters(path, {name: one["clusters"] for name, one in mined.items()}, subsets, miner, embedder)
        return path

    def device_and_dtype(self) -> tuple[str, str]:
        """Where training runs, and in what precision."""
        device, dtype = default_device(), self.common.get("dtype", "auto")
        return device, default_dtype(device) if dtype == "auto" else dtype

    def zero_shot(self, prompt: str) -> dict[str, Any]:
        """The base model without training, in the form of `run`."""
        return self._evaluate(self.embedder(None, prompt=prompt))

    def _evaluate(self, embedder: Embedder) -> dict[str, Any]:
        right = evaluate_mmeb(embedder, self.rows, self.embeddings, self.digests)
        return {"right": {name: "".join("01"[v] for v in values.astype(int)) for name, values in right.items()}}


def answers(records: Sequence[Mapping[str, Any]]) -> dict[str, np.ndarray]:
    """For each dataset (N,) float64: the share of seeds that answer a query right."""
    names = records[0]["right"]
    return {name: np.mean([[c == "1" for c in record["right"][name]] for record in records], axis=0) for name in names}


def compare_arms(
    records: Mapping[str, Sequence[Mapping[str, Any]]],
    rows: Mapping[str, Sequence[EvalRow]],
    facts: Mapping[str, Mapping[str, Any]],
    baselines: Sequence[str],
    seed: int = 0,
) -> dict[str, Any]:
    """Scores of arms with intervals over queries, their spread over seeds, and paired differences.

    Args:
        records: what Laboratory.run returned, for each arm one record a seed.
        rows: evaluation rows by dataset name.
        facts: `meta_task` and `distribution` by dataset name.
        baselines: arms that all later ones are compared with.
        seed: of the bootstrap.

    Returns:
        `datasets`: facts; `arms`: by name `groups`, `datasets`, `overall_by_seed`, `seconds` and `log` of every seed;
        `differences`: by baseline and arm estimates by group, with `overall_by_seed`.
    """
    shares = {name: answers(some) for name, some in records.items()}
    arms = {}
    for name, some in records.items():
        overall = [summarize(answers([one]), facts, seed=seed)["overall"]["value"] for one in some]
        arms[name] = {
            "groups": summarize(shares[name], facts, seed=seed),
            "datasets": {dataset: vars(estimate({dataset: values}, seed)) for dataset, values in shares[name].items()},
            "overall_by_seed": overall,
            "seconds": [one["seconds"] for one in some if "seconds" in one],
            "log": [one["log"] for one in some if "log" in one],
        }
    names = list(records)
    differences: dict[str, dict[str, Any]] = {}
    for baseline in baselines:
        theirs = arms[baseline]["overall_by_seed"]
        for name in names[names.index(baseline) + 1 :]:
            ours = arms[name]["overall_by_seed"]
            by_seed = [a - b for a, b in zip(ours, theirs * len(ours) if len(theirs) == 1 else theirs, strict=False)]
            groups = summarize(shares[name], facts, shares[baseline], seed)
            differences.setdefault(baseline, {})[name] = {**groups, "overall_by_seed": by_seed}
    return {"datasets": describe_datasets(rows, facts), "arms": arms, "differences": differences}


def run_arms(laboratory: Laboratory, arms: Sequence[Arm], seeds: int) -> dict[str, list[dict[str, Any]]]:
    """Run every arm with seeds 0, 1, ...: by arm one record a seed."""
    jobs = [(arm, seed) for arm in arms for seed in range(seeds)]
    records: dict[str, list[dict[str, Any]]] = {}
    for arm, seed in tqdm(jobs, desc="runs", unit="run"):
        records.setdefault(arm.name, []).append(laboratory.run(arm, seed))
    return records


def main_arms(top_k: int, pool_mult: int) -> list[Arm]:
    """The four ways of Table 2."""
    return [
        Arm("in-batch, no prompt (VLM2Vec)", prompt="none"),
        Arm("in-batch, hierarchical prompt"),
        Arm("top-k hard negatives", miner=Miner("topk", top_k)),
        Arm("SaHa", miner=Miner("saha", top_k, pool_mult)),
    ]


def run_ablations(
    laboratory: Laboratory, base: Arm, questions: Mapping[str, Sequence[Arm]], seeds: int
) -> dict[str, Any]:
    """Run the base arm and all others, and compare: what `compare_arms` returns, with the names by question.

    Returns:
        Also `questions` (names of arms), `base` (its name) and `base_names` (all arms that equal it).
    """
    arms = {arm.name: arm for arm in (base, *(arm for some in questions.values() for arm in some))}
    records = run_arms(laboratory, list(arms.values()), seeds)
    metrics = compare_arms(records, laboratory.rows, laboratory.facts, [base.name])
    equal = [name for name, one in records.items() if [r["log"] for r in one] == [r["log"] for r in records[base.name]]]
    names = {question: [arm.name for arm in some] for question, some in questions.items()}
    return {**metrics, "questions": names, "base": base.name, "base_names": equal}


def ablation_arms(base: Miner, points: Mapping[str, Sequence[Any]], lora_scale: float) -> dict[str, list[Arm]]:
    """One list of arms a question; every arm differs from the base one in one thing.

    Args:
        base: the miner of the base arm.
        points: values by question: structure, top_k, pool_mult, temperature, duplicates, prompt, lora_rank, fraction.
        lora_scale: alpha / r, kept when the rank changes.

    Raises:
        ValueError: an unknown question.
    """
    structures = {
        "SaHa": {},
        "no query-space filter": {"miner": replace(base, method="saha_no_filter")},
        "no clusters": {"settings": {"breaks_clusters": True}},
        "no second phase": {"miner": replace(base, use_second_phase=False)},
        "no mining": {"miner": None},
    }
    make = {
        "structure": lambda v: (v, structures[v]),
        "top_k": lambda v: (f"K = {v}", {"miner": replace(base, top_k=v)}),
        "pool_mult": lambda v: (f"m = {v}", {"miner": replace(base, pool_mult=v)}),
        "temperature": lambda v: (f"temperature {v}", {"settings": {"temperature": float(v)}}),
        "duplicates": lambda v: ("masked" if v else "not masked", {"settings": {"masks_duplicates": bool(v)}}),
        "prompt": lambda v: (f"prompt {v}", {"prompt": v}),
        "lora_rank": lambda v: (f"rank {v}", {"settings": {"lora_rank": v, "lora_alpha": round(v * lora_scale)}}),
        "fraction": lambda v: (f"{100 * v:.0f} % of pairs", {"settings": {"fraction": float(v)}}),
    }
    arms: dict[str, list[Arm]] = {}
    for question, values in points.items():
        if question not in make:
            raise ValueError(f"unknown ablation {question!r}: choose among {', '.join(make)}")
        for value in values:
            if question == "structure" and value not in structures:
                raise ValueError(f"unknown structure {value!r}: choose among {', '.join(structures)}")
            name, changes = make[question](value)
            arms.setdefault(question, []).append(Arm(name, **{"miner": base, **changes}))
    return arms
