"""UniME's text teacher: any sentence-transformers model, run once over all sentences, its embeddings kept on disk.

Training reads the file and never the teacher, whose size then costs nothing (UniME, stage 1: offline embeddings).
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from g2e_lib.backbone.checkpoint import hub_folder
from g2e_lib.data.items import unique
from g2e_lib.data.subsets import Subset, subset_digest
from g2e_lib.project.config import file_digest, fingerprint
from g2e_lib.project.store import Store, atomic_path

# A hub repository may hold the same weights in other formats as well.
TEACHER_FILES = ("*.safetensors", "*.json", "*.txt", "*.model")


def teacher_folder(id_or_path: str | Path) -> Path:
    """The local folder of a sentence-transformers model, from the hub if it is an id; ValueError if it is neither."""
    folder = Path(id_or_path)
    if not folder.is_dir():
        folder = hub_folder(
            str(id_or_path), TEACHER_FILES, "the teacher ", "the folder of a sentence-transformers model"
        )
    if not (folder / "modules.json").is_file():
        raise ValueError(f"teacher {id_or_path} has no modules.json: give a sentence-transformers model")
    return folder


def teacher_identity(folder: Path) -> str:
    """A hash of all files that decide a teacher's embeddings."""
    files = sorted({file for pattern in TEACHER_FILES for file in folder.rglob(pattern)})
    return fingerprint({file.relative_to(folder).as_posix(): file_digest(file) for file in files})


def embed_sentences(
    folder: Path, sentences: Sequence[str], store: Store, device: str = "cpu", show_progress: bool = True
) -> np.ndarray:
    """The teacher's embeddings of N sentences without repetitions, through the store: (N, E) float32, unit rows."""

    def compute() -> np.ndarray:
        from sentence_transformers import SentenceTransformer  # takes seconds to import

        model = SentenceTransformer(str(folder), device=device)
        embeddings = model.encode(list(sentences), normalize_embeddings=True, show_progress_bar=show_progress)
        return embeddings.astype(np.float32)

    return store.array({"teacher": teacher_identity(folder), "sentences": fingerprint(list(sentences))}, compute)


def save_teacher(path: Path, teacher: str | Path, subsets: Sequence[Subset], store: Store, device: str = "cpu") -> None:
    """Embed both sentences of all pairs into a safetensors file, where `TrainConfig.teacher` finds them.

    The file names by checksum the teacher, an id or folder of a sentence-transformers model that runs on `device`, and
    the data; the store keeps the embeddings for another file.

    Raises:
        ValueError: a pair has an image, or there is no such teacher.
    """
    folder = teacher_folder(teacher)
    embeddings = {}
    for subset in subsets:
        items = [item for pair in subset.pairs for item in (pair.query, pair.target)]
        if any(item.image is not None for item in items):
            raise ValueError(
                f"subset {subset.name!r} has images, but a teacher embeds sentences: distil from text pairs"
            )
        sentences, rows = unique(item.text for item in items)
        embedded = embed_sentences(folder, sentences, store, device)
        embeddings[subset.name] = embedded[rows].reshape(len(subset.pairs), 2, -1)
    metadata = {"teacher": teacher_identity(folder), **{s.name: subset_digest(s) for s in subsets}}
    with atomic_path(path) as partial:
        save_file(embeddings, partial, metadata=metadata)


def load_teacher(path: Path, subsets: Sequence[Subset]) -> tuple[np.ndarray, str]:
    """Read what `save_teacher` wrote, and check that it belongs to these pairs.

    Returns (N, 2, E) float32, unit rows: query and target of all pairs, subset after subset; and the teacher's
    identity.

    Raises:
        ValueError: the file is missing or damaged, or was made from other pairs.
    """
    if not path.is_file():
        raise ValueError(f"there is no file of teacher embeddings {path}: write it with teacher.save_teacher")
    try:
        with safe_open(path, "numpy") as file:
            metadata = file.metadata() or {}
            for subset in subsets:
                if metadata.get(subset.name) != subset_digest(subset):
                    raise ValueError(f"{path} was made from other pairs than those of {subset.name!r}: write it again")
            embeddings = [file.get_tensor(subset.name) for subset in subsets]
    except SafetensorError as error:
        raise ValueError(f"{path} holds no teacher embeddings ({error}): write it again") from None
    return embeddings[0] if len(embeddings) == 1 else np.concatenate(embeddings), metadata["teacher"]
