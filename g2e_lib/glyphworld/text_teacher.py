"""A text teacher for the embedded world: a small bidirectional encoder, trained on paraphrases of training scenes.

To UniME's first stage it is a sentence-transformers model like any other; it has never seen a picture.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from datasets import Dataset
from transformers import BertConfig, BertModel, PreTrainedTokenizerFast, set_seed

from g2e_lib.backbone.teacher import embed_sentences, teacher_folder, teacher_identity
from g2e_lib.data.items import unique
from g2e_lib.embedder import default_device
from g2e_lib.evaluation.statistics import estimate
from g2e_lib.glyphworld.builds import build_folder
from g2e_lib.glyphworld.sentences import paraphrases
from g2e_lib.gradcache import TEMPERATURE
from g2e_lib.project.config import EMBEDDED_MODELS
from g2e_lib.project.store import Store, build_once

EMBEDDED = "glyphworld"  # the name of this teacher
MAX_LENGTH = 128  # tokens; long captions have about 90


@dataclass(frozen=True)
class TeacherSize:
    """How large a teacher is and how long it is trained."""

    pairs: int = 8192  # paraphrases of training scenes; one epoch
    batch: int = 128  # pairs, each with all others' sentences as negatives
    hidden: int = 128  # size of the states, and of the embedding
    layers: int = 3  # of the encoder
    learning_rate: float = 2e-3  # peak; linear warm-up over a tenth of the steps, linear decay
    seed: int = 0  # of weights and order


def train_teacher(folder: Path, size: TeacherSize) -> None:
    """Train a teacher and write it to a folder as a sentence-transformers model."""
    import sentence_transformers as st
    from sentence_transformers.losses import MultipleNegativesRankingLoss
    from sentence_transformers.models import Normalize, Pooling, Transformer

    set_seed(size.seed)
    words = EMBEDDED_MODELS["glyphworld-base"] / "tokenizer.json"  # the student's, for there is no better one
    tokenizer = PreTrainedTokenizerFast(tokenizer_file=str(words), pad_token="<|endoftext|>")
    model = BertModel(
        BertConfig(
            vocab_size=len(tokenizer),
            hidden_size=size.hidden,
            num_hidden_layers=size.layers,
            num_attention_heads=4,
            intermediate_size=4 * size.hidden,
            max_position_embeddings=MAX_LENGTH,
            pad_token_id=tokenizer.pad_token_id,
            hidden_dropout_prob=0.0,
            attention_probs_dropout_prob=0.0,
        )
    )
    bare = folder.with_name(f"{folder.name}-bare")
    model.save_pretrained(bare)
    tokenizer.save_pretrained(bare)
    encoder = Transformer(str(bare), max_seq_length=MAX_LENGTH)
    teacher = st.SentenceTransformer(modules=[encoder, Pooling(size.hidden, "mean"), Normalize()], device="cpu")
    sentences, others = zip(*paraphrases(size.pairs, "train"), strict=True)
    arguments = st.SentenceTransformerTrainingArguments(
        output_dir=str(bare),
        num_train_epochs=1,
        per_device_train_batch_size=size.batch,
        learning_rate=size.learning_rate,
        warmup_steps=0.1,
        seed=size.seed,
        save_strategy="no",
        logging_strategy="no",
        report_to="none",
        use_cpu=True,
    )
    trainer = st.SentenceTransformerTrainer(
        model=teacher,
        args=arguments,
        train_dataset=Dataset.from_dict({"anchor": sentences, "positive": others}),
        loss=MultipleNegativesRankingLoss(teacher, scale=1 / TEMPERATURE),
    )
    trainer.train()
    teacher.save_pretrained(str(folder), create_model_card=False)


def prepare_teacher(cache: Path, size: TeacherSize) -> Path:
    """The folder of a teacher, trained if it is not there."""
    folder = build_folder(cache, "text-teacher", "glyphworld.text_teacher", asdict(size))
    return build_once(folder, lambda partial: train_teacher(partial, size))


def open_teacher(
    cache: Path, teacher: str, pairs: int, held_out: Sequence[tuple[str, str]], store: Store
) -> tuple[Path, dict[str, Any]]:
    """A teacher's folder and what is known about it: `model`, `identity`, `recall` and, of the embedded one, its size.

    `teacher` is EMBEDDED, trained here on so many `pairs` of paraphrases, or the id or folder of a
    sentence-transformers model; `held_out` pairs of sentences judge it, see judge_teacher.
    """
    size = TeacherSize(pairs=pairs)
    is_ours = teacher == EMBEDDED
    folder = prepare_teacher(cache, size) if is_ours else teacher_folder(teacher)
    facts = {"model": teacher, "identity": teacher_identity(folder), **(asdict(size) if is_ours else {})}
    return folder, facts | {"recall": judge_teacher(folder, held_out, store)}


def judge_teacher(folder: Path, pairs: Sequence[tuple[str, str]], store: Store) -> dict[str, Any]:
    """Recall at 1, an estimate in percent: how well a teacher finds the other sentence of a pair among all others'."""
    sentences, rows = unique(sentence for pair in pairs for sentence in pair)
    embeddings = embed_sentences(folder, sentences, store, default_device())[rows]
    similarity = embeddings[::2] @ embeddings[1::2].T
    own = similarity.diagonal().copy()
    np.fill_diagonal(similarity, -np.inf)
    return vars(estimate({"paraphrases": own > similarity.max(1)}))
