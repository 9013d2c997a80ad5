"""Which data a profile runs on: the embedded world, or the papers' own. Both answer the same questions.

Notebook 00 prepares a benchmark and writes its settings to setup.json; the others open it from there.
"""

import json
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import pyarrow.parquet as pq

from g2e_lib.data import download
from g2e_lib.data.download import Selection
from g2e_lib.data.fetch import read_note
from g2e_lib.data.items import EvalRow, Item
from g2e_lib.data.mmeb import SKIPPED, dataset_of, read_mmeb_eval, skipped_images
from g2e_lib.data.subsets import Subset
from g2e_lib.data.sugarcrepe import CrepeRow
from g2e_lib.evaluation.negatives import AnnotatedJudge, Judge
from g2e_lib.glyphworld import benchmark, crepe, sentences, truth
from g2e_lib.project import config
from g2e_lib.project.config import fingerprint
from g2e_lib.project.published import reference
from g2e_lib.project.results import Results
from g2e_lib.project.store import build_once, write_json

CrepeSets = dict[str, dict[str, list[CrepeRow]]]  # by set and subset
World = Literal["glyphworld", "mmeb"]
Policy = Literal["stop", "skip"]
NAMED = 5  # faults named in a message; the file beside the data has them all
PAIRS = "Sentences"  # what pairs of real sentences are called as a training subset
MMEB_CAPTIONS = ("MSCOCO_i2t", "VisualNews_i2t")  # image-to-text datasets whose targets are captions


@dataclass(frozen=True)
class GlyphBenchmark:
    """MMEB-mini; methods of both benchmarks answer alike, and are described at MmebBenchmark."""

    size: benchmark.Size
    root: Path  #: of the build; training subsets are in root / "train"
    split: str = "original"
    captions: str = "CaptionI2T"
    retrieval_name: str = "GlyphWorld"

    @property
    def settings(self) -> dict[str, Any]:
        """What open_benchmark needs."""
        return vars(self.size)

    def load(self, names: Sequence[str] = (), limit: int = 0) -> tuple[dict[str, list[EvalRow]], dict[str, dict]]:
        """See benchmark.load."""
        return benchmark.load(self.root, names, limit)

    def training_facts(self, names: Sequence[str] = ()) -> dict[str, dict]:
        """See benchmark.training_facts."""
        return benchmark.training_facts(self.root, names)

    def identity(self) -> str:
        """See benchmark.identity."""
        return benchmark.identity(self.root)

    def crepe(self, limit: int = 300) -> tuple[CrepeSets, str]:
        """SugarCrepe-mini and SugarCrepe++-mini with `limit` rows a subset."""
        root = crepe.prepare_crepe(config.CACHE, _endless(limit))
        return crepe.load_crepe(root), crepe.identity(root)

    def sentences(self, limit: int) -> tuple[Path, str]:
        """Paraphrases; see sentences.prepare_paraphrases."""
        return sentences.prepare_paraphrases(config.CACHE, _endless(limit)), sentences.PARAPHRASES

    def held_out_sentences(self, limit: int) -> list[tuple[str, str]]:
        """Paraphrases of validation scenes."""
        return sentences.paraphrases(limit, "validation")

    def retrieval(self, limit: int) -> dict[str, list[EvalRow]]:
        """See sentences.prepare_retrieval: `limit` pictures for each kind of captions."""
        return sentences.prepare_retrieval(config.CACHE, _endless(limit))

    def judge(self, subset: Subset) -> Judge:
        """GlyphWorld's own truth."""
        return truth.Judge(self.root, subset.name)


@dataclass(frozen=True)
class MmebBenchmark:
    """The papers' own data, as download.py lays them out; ValueError wherever what is asked for is not on the disk."""

    selection: Selection
    policy: Policy = "stop"  #: at images that are missing or broken, or "skip" the rows that need them
    root: Path = field(default_factory=lambda: config.DATA)  #: training subsets are in root / "train"

    @property
    def split(self) -> str:
        """The split of the training subsets."""
        return self.selection.split

    @property
    def captions(self) -> str:
        """An image-to-text dataset whose targets are captions; ValueError if none is selected."""
        there = [name for name in MMEB_CAPTIONS if name in self.selection.all_datasets]
        if not there:
            raise ValueError(f"image-caption pairs are needed: add {MMEB_CAPTIONS[0]} to the datasets of notebook 00")
        return there[0]

    @property
    def settings(self) -> dict[str, Any]:
        """What `open_benchmark` needs, for setup.json."""
        skipped = sum(map(len, self._lists().values()))
        return {"world": "mmeb", "selection": vars(self.selection), "policy": self.policy, "skipped": skipped}

    def load(self, names: Sequence[str] = (), limit: int = 0) -> tuple[dict[str, list[EvalRow]], dict[str, dict]]:
        """Rows and facts (meta_task, distribution, why, and counts) by evaluation dataset; no names and 0 mean all."""
        images, rows, facts = self.root / download.EVAL_IMAGES, {}, {}
        for name in _asked(names, self.selection.all_datasets, "dataset"):
            some = rows[name] = read_mmeb_eval(self.root / download.EVAL, name, images, limit)
            published = _published(name)
            facts[name] = {
                "meta_task": published["meta_task"],
                "distribution": published["distribution"],
                "why": "MMEB trains on it" if published["distribution"] == "IND" else "not in MMEB's training data",
                "queries": len(some),
                "fewest_candidates": min((len(row.candidates) for row in some), default=0),
                "train_pairs": published["train_pairs"],
            }
        return rows, facts

    def training_facts(self, names: Sequence[str] = ()) -> dict[str, dict]:
        """Facts (meta_task, distribution, number of pairs) of training subsets, as MMEB-train spells them."""
        facts = {}
        for name in _asked(names, self.selection.all_subsets, "training subset"):
            files = download.tables(self.root / download.TRAIN / name, self.split)
            if not files:
                raise ValueError(f"{self.root} lacks {self.split} of {name}: run notebook 00_setup, which brings it")
            pairs = sum(pq.read_metadata(file).num_rows for file in files)
            facts[name] = {**_published(dataset_of(name)), "train_pairs": pairs}
        return facts

    def identity(self) -> str:
        """What the data are called in provenance: their commits, and what is left out of them."""
        return fingerprint([read_note(self.root / download.SOURCES), self._lists()])

    def crepe(self, limit: int = 0) -> tuple[CrepeSets, str]:
        """SugarCrepe and SugarCrepe++, the first `limit` rows a subset (0: all) whose images are there; a digest."""
        skipped = skipped_images(self.root) or frozenset()
        sets: CrepeSets = {folder: {} for folder, _, _ in download.CREPES}
        facts = {folder: {} for folder in sets}
        for folder, names, read in download.CREPES:
            for name in names:
                whole = read(self.root / folder, name, self.root / download.COCO_FOLDER)
                rows = sets[folder][name] = [row for row in whole if row.image not in skipped][: limit or None]
                facts[folder][name] = [[row.image.name, *row.captions, row.negative] for row in rows]
        return sets, fingerprint(facts)

    def sentences(self, limit: int = 0) -> tuple[Path, str]:
        """`limit` distinct pairs (0: all) of sentences of which one follows from the other (AllNLI), drawn at random.

        Returns:
            A folder in MMEB-train's format, and the name of its one subset.
        """
        pairs = self._pairs("train")
        drawn = random.Random("sentences").sample(pairs, limit if 0 < limit < len(pairs) else len(pairs))
        folder = config.CACHE / f"sentences-{fingerprint(drawn)}"
        return build_once(folder, lambda partial: sentences.write_pairs(partial, PAIRS, drawn)), PAIRS

    def held_out_sentences(self, limit: int = 0) -> list[tuple[str, str]]:
        """Such pairs from the split "dev", by which a teacher is judged: the first `limit` of them, 0 for all."""
        return self._pairs("dev")[: limit or None]

    def _pairs(self, split: str) -> list[tuple[str, str]]:
        path = self.root / download.NLI_FOLDER / download.NLI_FILES[split]
        self._need(path, "sentences")
        columns = pq.read_table(path, columns=["anchor", "positive"]).to_pydict()
        pairs = dict.fromkeys(zip(columns["anchor"], columns["positive"], strict=True))
        return [(anchor, positive) for anchor, positive in pairs if anchor != positive]

    def _need(self, path: Path, what: str) -> None:
        if not path.is_file():
            raise ValueError(f"{path} does not exist, so there are no {what}: add 'unime' to `parts` of notebook 00")

    @property
    def retrieval_name(self) -> str:
        """Whose captions `retrieval` has, short and long ones."""
        return f"{self.captions.removesuffix('_i2t')} of MMEB / Urban1K"

    def retrieval(self, limit: int = 0) -> dict[str, list[EvalRow]]:
        """Retrieval with short captions (MMEB's own lists of candidates) and long ones (Urban1K, each among all).

        Returns:
            Rows by name: `short_i2t`, `short_t2i` (if MMEB's dataset is there), `long_i2t`, `long_t2i`.
        """
        short = {"short_i2t": self.captions, "short_t2i": self.captions.replace("_i2t", "_t2i")}
        loaded, _ = self.load([name for name in short.values() if name in self.selection.all_datasets], limit)
        rows = {task: loaded[name] for task, name in short.items() if name in loaded}
        folder, skipped = self.root / download.URBAN_FOLDER, skipped_images(self.root) or frozenset()
        self._need(folder / download.URBAN_CAPTIONS, "long captions")
        texts = {folder / name: text for name, text in read_note(folder / download.URBAN_CAPTIONS).items()}
        # By number: "2.jpg" before "10.jpg".
        paths = sorted(set(texts) - skipped, key=lambda path: (len(path.name), path.name))[: limit or None]
        images, captions = [Item("", path) for path in paths], [Item(texts[path]) for path in paths]
        rows["long_i2t"] = sentences.retrieval_rows(images, captions)
        return rows | {"long_t2i": sentences.retrieval_rows(captions, images)}

    def judge(self, subset: Subset) -> Judge:
        """What is known of the answers of a training subset: its annotation."""
        return AnnotatedJudge(subset)

    def _lists(self) -> dict[str, list[str]]:
        paths = {place: self.root / place / SKIPPED for place in (".", download.EVAL_IMAGES)}
        return {place: json.loads(path.read_text("utf-8")) for place, path in paths.items() if path.exists()}


Benchmark = GlyphBenchmark | MmebBenchmark


def _asked(names: Sequence[str], known: Sequence[str], kind: str) -> Sequence[str]:
    """The names, or all that are known if there are none."""
    if unknown := [name for name in names if name not in known]:
        raise ValueError(f"notebook 00_setup did not ask for {kind} {unknown[0]!r}: choose among {', '.join(known)}")
    return names or known


def _endless(count: int) -> int:
    if count < 1:
        raise ValueError(f"GlyphWorld has scenes without end, so {count} of them cannot be all: give a number above 0")
    return count


def _published(dataset: str) -> dict[str, Any]:
    table = reference("mmeb_datasets").set_index("dataset")
    return table.loc[dataset, ["meta_task", "distribution", "train_pairs"]].to_dict()


def _faulty(verified: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """The images that are missing or broken in any table; see download.verify."""
    return sorted({name for table in verified.values() for name in (*table["missing"], *table["broken"])})


def prepare_benchmark(
    world: World, size: benchmark.Size, selection: Selection, policy: Policy = "stop", is_fresh: bool = False
) -> tuple[Benchmark, str]:
    """Build ("glyphworld", of a size) or download ("mmeb", a selection) a benchmark, and verify it.

    `is_fresh` builds again, or opens every image again.

    Returns:
        The benchmark, and a sentence on what was verified.

    Raises:
        ValueError: something is wrong with the data, or cannot be had.
    """
    if world == "glyphworld":
        root = benchmark.prepare(config.CACHE, size, is_fresh)
        return GlyphBenchmark(size, root), f"{root.name}: {benchmark.check(root)}"
    if world != "mmeb" or policy not in ("stop", "skip"):
        raise ValueError(f"unknown world {world!r} or policy {policy!r}: use glyphworld or mmeb, and stop or skip")
    bench = MmebBenchmark(selection, policy)
    download.download(bench.root, selection)
    verified = download.verified(bench.root, selection, is_fresh)
    wrong = _faulty(verified)
    if wrong and policy == "stop":
        some, remedy = (
            ", ".join(wrong[:NAMED]),
            "run `python -m g2e_lib download repair`, or set broken_images to 'skip'",
        )
        place = bench.root / download.VERIFIED
        raise ValueError(f"{len(wrong)} images are missing or broken, such as {some} (all in {place}): {remedy}")
    _list_skipped(bench.root)
    total = sum(table["images"] for table in verified.values())
    return bench, f"{bench.root.name}: {total} images in {len(verified)} tables, {len(wrong)} of them skipped"


def _list_skipped(root: Path) -> None:
    """Note faulty images where readers look for them; of all tables, so that profiles which share the folder agree."""
    listed, prefix = _faulty(read_note(root / download.VERIFIED)), f"{download.EVAL_IMAGES}/"
    write_json(root / SKIPPED, [name for name in listed if not name.startswith(prefix)])
    evaluated = [name.removeprefix(prefix) for name in listed if name.startswith(prefix)]
    write_json(root / download.EVAL_IMAGES / SKIPPED, evaluated)


def open_benchmark(results: Results) -> Benchmark:
    """The benchmark that notebook 00 prepared for a run; ValueError if it has not run."""
    settings = results.metrics("setup")["benchmark"]
    if settings.get("world") == "mmeb":
        return MmebBenchmark(Selection(**settings["selection"]), settings["policy"])
    size = benchmark.Size(**settings)
    return GlyphBenchmark(size, benchmark.prepare(config.CACHE, size))
