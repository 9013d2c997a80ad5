"""All ways of training that are compared in the embedded world, rebuilt from settings that a notebook has recorded."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from g2e_lib.data import EvalRow
from g2e_lib.experiments import Arm, Laboratory, Sentences, main_arms
from g2e_lib.glyphworld.benchmark import TRAIN_FOLDER, training_facts
from g2e_lib.glyphworld.sentences import PARAPHRASES, prepare_paraphrases
from g2e_lib.glyphworld.text_teacher import open_teacher
from g2e_lib.unime_experiments import unime_arms
from g2e_lib.worlds import GlyphBenchmark, open_benchmark


def embedded_root(settings: Mapping[str, Any]) -> Path:
    """The folder of MMEB-mini that notebook 00 prepared.

    Args:
        settings: `benchmark` of metrics/setup.json.

    Raises:
        ValueError: notebook 00 prepared the papers' own data.
    """
    bench = open_benchmark(settings)
    if not isinstance(bench, GlyphBenchmark):
        raise ValueError("UniME is trained and compared in the embedded world only: use profile mini or smoke")
    return bench.root


def open_methods(
    root: Path,
    settings: Mapping[str, Any],
    rows: Mapping[str, Sequence[EvalRow]],
    facts: Mapping[str, Mapping[str, Any]],
    cache: Path,
    is_fresh: bool = False,
) -> tuple[Laboratory, dict[str, Arm], dict[str, Any]]:
    """A laboratory and its arms; the text teacher is trained if it is not there.

    Args:
        root: folder of a build of MMEB-mini.
        settings: `common` (of TrainConfig), `subsets`, `top_k` and `pool_mult` (of SaHa), `teacher`, `teacher_pairs`
            and `sentence_pairs` (of stage 1), `first` and `second` (of TrainConfig, for UniME's stages).
        rows: evaluation rows by dataset name.
        facts: of these datasets.
        cache: folder of everything that can be made again.
        is_fresh: train again what was trained before.

    Returns:
        The laboratory; arms by name: those of main_arms and of unime_arms; what is known of the teacher.
    """
    trained = training_facts(root, settings["subsets"])
    laboratory = Laboratory(root / TRAIN_FOLDER, trained, rows, facts, cache, settings["common"], is_fresh)
    folder, known = open_teacher(cache, settings["teacher"], settings["teacher_pairs"], laboratory.embeddings)
    data = prepare_paraphrases(cache, settings["sentence_pairs"])
    stages = unime_arms(Sentences(data, (PARAPHRASES,), str(folder)), settings["first"], settings["second"])
    arms = {arm.name: arm for arm in main_arms(settings["top_k"], settings["pool_mult"])}
    return laboratory, arms | stages, known
