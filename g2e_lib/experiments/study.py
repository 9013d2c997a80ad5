"""Compare methods of training: mine, train, evaluate, each once, at equal steps and pairs a step."""

import shutil
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property
from importlib.metadata import version
from pathlib import Path
from typing import Any

from tqdm.auto import tqdm

from g2e_lib.backbone.checkpoint import checkpoint_fingerprint, checkpoint_folder
from g2e_lib.backbone.teacher import save_teacher, teacher_folder, teacher_identity
from g2e_lib.data.items import EvalRow, item_digests
from g2e_lib.data.subsets import Subset, data_digest, load_subsets
from g2e_lib.embedder import Embedder, default_device, default_dtype
from g2e_lib.evaluation.compare import compare, write_answers
from g2e_lib.evaluation.scores import describe_datasets, evaluate_mmeb
from g2e_lib.evaluation.statistics import group_names
from g2e_lib.experiments.benchmarks import Benchmark
from g2e_lib.experiments.settings import StudySettings, TrainingSettings
from g2e_lib.miners import Miner
from g2e_lib.mining import labelled_subsets, mine_subset, save_clusters
from g2e_lib.project import config
from g2e_lib.project.config import fingerprint
from g2e_lib.project.fingerprint import code_fingerprint
from g2e_lib.project.provenance import Run
from g2e_lib.project.results import Results
from g2e_lib.project.tracking import read_log
from g2e_lib.scale.launching import launch_file, release_memory, train_launched
from g2e_lib.train import ADAPTER, train
from g2e_lib.train_config import TrainConfig

# Settings of TrainConfig that do not: where things are (their content counts), memory, what is written down meanwhile.
NOT_DECISIVE = ("folder", "data", "images", "chunk_size", "save_every", "report_to")
LIBRARIES = ("torch", "transformers", "peft", "accelerate")


@dataclass(frozen=True)
class Sentences:
    """What UniME's first stage learns from."""

    data: Path  #: folder of text pairs, in MMEB-train's format
    subsets: tuple[str, ...]  #: names
    teacher: str  #: id or folder of a sentence-transformers model
    prompt: str = "unime_distillation"  #: in training


@dataclass(frozen=True)
class Method:
    """One way of training."""

    key: str  #: by which results name it
    prompt: str = "hierarchical"  #: in mining, training and evaluation
    miner: Miner | None = None  #: None trains on random pairs with in-batch negatives only
    settings: Mapping[str, Any] = field(default_factory=dict)  #: whatever of TrainConfig differs from the study's
    sentences: Sentences | None = None  #: train on these instead of the study's pairs (UniME, stage 1)
    start: "Method | None" = None  #: whose adapter this one goes on from, with the same seed (UniME, stage 2)


class Study:
    """Runs methods on one base model, one training set and one benchmark, and remembers what it has run.

    Args:
        results: of the run; gives the caches.
        bench: the data.
        settings: shared by all methods. A run is remembered without `launch`: the number of processes changes rounding,
            and with dropout which masks are drawn, as another GPU would; what 8 GPUs trained, one can evaluate.
        retrains: train again what was trained before this object was made; None does if caches are to be ignored.

    Raises:
        ValueError: an unknown subset, or `launch` is no such file.
    """

    def __init__(
        self, results: Results, bench: Benchmark, settings: StudySettings, retrains: bool | None = None
    ) -> None:
        if settings.launch:
            launch_file(settings.launch)  # before anything is mined
        self.results, self.bench, self.settings, self.cache = results, bench, settings, config.CACHE
        self.retrains = results.is_fresh if retrains is None else retrains
        self.common = settings.train_settings() | {"split": bench.split}
        self.trained_on = bench.training_facts(settings.subsets)
        self.embeddings, self.records = results.store("embeddings"), results.store("results")
        self.model = checkpoint_folder(settings.model)
        self.weights = checkpoint_fingerprint(self.model)
        self._made: set[str] = set()  # by this object: not trained again
        self._subsets: dict[tuple, tuple[list[Subset], str]] = {}

    @cached_property
    def _tests(self) -> tuple[dict[str, list[EvalRow]], dict[str, dict]]:
        return self.bench.load(self.settings.datasets, self.settings.limit)  # not before they are asked for

    @property
    def rows(self) -> dict[str, list[EvalRow]]:
        """Evaluation rows by dataset."""
        return self._tests[0]

    @property
    def facts(self) -> dict[str, dict]:
        """`meta_task` and `distribution` by dataset."""
        return self._tests[1]

    @cached_property
    def _digests(self) -> dict[Any, str]:
        return item_digests(i for some in self.rows.values() for row in some for i in (row.query, *row.candidates))

    @cached_property
    def _tested(self) -> str:
        def digest(row: EvalRow) -> str:
            return fingerprint([self._digests[item] for item in (row.query, *row.candidates)])

        return fingerprint({name: list(map(digest, some)) for name, some in self.rows.items()})

    def provenance(self) -> Run:
        """What this study's results depend on."""
        given = self.settings.record() | {"subsets": list(self.trained_on), "datasets": list(self.rows)}
        return Run(given, self.weights, self.bench.identity(), self.settings.seed, *self.device_and_dtype())

    @property
    def queries(self) -> int:
        """How many there are."""
        return sum(map(len, self.rows.values()))

    def device_and_dtype(self) -> tuple[str, str]:
        """Where training runs, and in what precision."""
        device, dtype = default_device(), self.settings.dtype
        return device, default_dtype(device) if dtype == "auto" else dtype

    def training_subsets(self) -> list[Subset]:
        """The pairs that methods without settings of their own train on."""
        return self._pairs(self._config(Method(""), 0))[0]

    def _pairs(self, run: TrainConfig) -> tuple[list[Subset], str]:
        """What a run trains on, and its digest."""
        key = run.data, run.subsets, run.images, run.split, run.fraction, run.limit
        if key not in self._subsets:
            subsets = load_subsets(Path(run.data), *key[1:])
            self._subsets[key] = subsets, data_digest(subsets)
        return self._subsets[key]

    def _shown(self) -> dict[str, Any]:
        """The settings of embedding that change results."""
        return {name: value for name, value in self.settings.embedding().items() if name != "tokens_per_batch"}

    def _config(self, method: Method, seed: int) -> TrainConfig:
        """A method's settings, without the files it needs."""
        settings = {**self.common, **method.settings, "prompt": method.prompt, "seed": seed}
        data, subsets = self.bench.root / "train", tuple(self.trained_on)
        if method.sentences:
            data, subsets = method.sentences.data, method.sentences.subsets
            whole = {name: getattr(TrainConfig, name) for name in ("images", "split", "limit", "fraction")}
            settings |= {"prompt": method.sentences.prompt, **whole}
        return TrainConfig(folder="", data=str(data), subsets=subsets, **settings)

    def _key(self, method: Method, seed: int) -> dict[str, Any]:
        """Everything that decides what a method's adapter is."""
        run, miner = self._config(method, seed), None
        if method.miner:
            labelled = sorted(labelled_subsets(self.trained_on))
            miner = [asdict(replace(method.miner, seed=seed)), labelled, self._shown()]
        return {
            "settings": {k: v for k, v in asdict(run).items() if k not in NOT_DECISIVE} | {"model": self.weights},
            "device and dtype": self.device_and_dtype(),
            "miner": miner,
            "teacher": teacher_identity(teacher_folder(method.sentences.teacher)) if method.sentences else None,
            "start": self._key(method.start, seed) if method.start else None,
            "pairs": self._pairs(run)[1],
            "code": code_fingerprint("train"),
            "libraries": {name: version(name) for name in LIBRARIES},
        }

    def train(self, method: Method, seed: int = 0) -> Path:
        """The folder of a method's adapter; whatever it needs is mined, embedded and trained if it is not there."""
        name = fingerprint(self._key(method, seed))
        folder = self.cache / "runs" / name
        if self.retrains and name not in self._made:
            shutil.rmtree(folder, ignore_errors=True)
        self._made.add(name)
        if not (folder / ADAPTER).exists():
            run = self._config(method, seed)
            run = replace(run, folder=str(folder), **self._files(method, run, name))
            train_launched(run, self.settings.launch) if self.settings.launch else train(run)
            release_memory()
        return folder / ADAPTER

    def _files(self, method: Method, run: TrainConfig, name: str) -> dict[str, str]:
        """What a run needs, made if it is not there."""
        files = {}
        if method.miner:
            files["clusters"] = self._clusters(run, replace(method.miner, seed=run.seed))
        if method.sentences:
            path = files["teacher"] = self.cache / "teachers" / f"{name}.safetensors"
            save_teacher(path, method.sentences.teacher, self._pairs(run)[0], self.embeddings, default_device())
        if method.start:
            files["start"] = self.train(method.start, run.seed)
        return {kind: str(path) for kind, path in files.items()}

    def _clusters(self, run: TrainConfig, miner: Miner) -> Path:
        """A file of clusters mined with the base model under the method's prompt."""
        subsets, labelled = self._pairs(run)[0], labelled_subsets(self.trained_on)
        embedder, clusters = self.embedder(None, prompt=run.prompt), {}
        for subset in subsets:
            options = subset.name in labelled, self.embeddings, embedder.device.type
            clusters[subset.name] = mine_subset(embedder, subset, miner, *options)["clusters"]
        path = self.cache / "clusters" / f"{fingerprint(list(clusters.values()))}.json"
        save_clusters(path, clusters, subsets, miner, embedder)
        return path

    def embedder(self, method: Method | None, seed: int = 0, prompt: str = "") -> Embedder:
        """The model a method has trained, now if it was not yet; None is the base model.

        `prompt` of the embedder: "" is the method's own (the base model has none).
        """
        adapter = self.train(method, seed) if method else None
        shown = {"prompt": prompt or method.prompt, "dtype": self.settings.dtype, **self.settings.embedding()}
        return Embedder.from_pretrained(self.model, adapter=adapter, **shown)

    def run(self, method: Method, seed: int = 0) -> dict[str, Any]:
        """Mine, train and evaluate one method with one seed, or recall it.

        Returns `right` (by dataset a string of 0 and 1), `log` (records of training) and `seconds` of training.
        """
        key = {"trained": self._key(method, seed), "tested on": self._tested}
        key |= {"prompt": method.prompt, "embedding": self._shown(), "code": code_fingerprint("evaluation.scores")}
        return self.records.json(key, lambda: self._run(method, seed))

    def _run(self, method: Method, seed: int) -> dict[str, Any]:
        log = read_log(self.train(method, seed).parent)
        rounded = [{name: round(value, 6) for name, value in record.items()} for record in log]
        seconds = round(sum(record["seconds"] for record in log), 1)
        return {**self._evaluate(self.embedder(method, seed)), "log": rounded, "seconds": seconds}

    def zero_shot(self, prompt: str) -> dict[str, Any]:
        """The base model without training, in the form of `run`."""
        return self._evaluate(self.embedder(None, prompt=prompt))

    def _evaluate(self, embedder: Embedder) -> dict[str, Any]:
        return {"right": write_answers(evaluate_mmeb(embedder, self.rows, self.embeddings, self._digests))}

    def run_all(self, methods: Sequence[Method]) -> dict[str, list[dict[str, Any]]]:
        """Run every method with seeds 0, 1, ...: by key one record a seed."""
        jobs = [(method, seed) for method in methods for seed in range(self.settings.seeds)]
        records: dict[str, list[dict[str, Any]]] = {}
        for method, seed in tqdm(jobs, desc="runs", unit="run"):
            records.setdefault(method.key, []).append(self.run(method, seed))
        return records

    def compare(
        self, records: Mapping[str, Sequence[Mapping[str, Any]]], baselines: Sequence[str], seed: int = 0
    ) -> dict[str, Any]:
        """What evaluation.compare returns for MMEB's groups, with the facts about datasets, and how training went.

        Records are by method one a seed, from `run` or `zero_shot`; all after each baseline are compared with it.
        """
        found = compare(records, group_names(self.facts), baselines, seed, by_seed="overall")
        for key, some in records.items():
            of_training = {name: [record[name] for record in some if name in record] for name in ("seconds", "log")}
            found["methods"][key] |= of_training
        return {"datasets": describe_datasets(self.rows, self.facts), **found}

    def ask(self, base: Method, questions: Mapping[str, Sequence[Method]]) -> dict[str, Any]:
        """Run a base and all points that differ from it in one thing, and compare: see `compare`.

        Returns also `questions` (keys of points), `base` (its key) and `base_names` (keys of all that equal it).
        """
        methods = {method.key: method for method in (base, *(point for some in questions.values() for point in some))}
        records = self.run_all(list(methods.values()))
        logs = {key: [record["log"] for record in some] for key, some in records.items()}
        keys = {question: [point.key for point in some] for question, some in questions.items()}
        equal = [key for key, log in logs.items() if log == logs[base.key]]
        return {**self.compare(records, [base.key]), "questions": keys, "base": base.key, "base_names": equal}


def main_methods(settings: TrainingSettings) -> dict[str, Method]:
    """The four ways of Table 2, by key."""
    saha, topk = Miner("saha", settings.top_k, settings.pool_mult), Miner("topk", settings.top_k)
    plain = Method("in_batch_no_prompt", prompt="none"), Method("in_batch")
    methods = (*plain, Method("topk", miner=topk), Method("saha", miner=saha))
    return {method.key: method for method in methods}
