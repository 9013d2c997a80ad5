"""Which of the papers' data are wanted."""

from collections.abc import Sequence
from dataclasses import dataclass

from g2e_lib.data.mmeb import TRAIN_NAMES
from g2e_lib.project.published import reference

EVAL, TRAIN, CREPE_FOLDER, CREPE_PP_FOLDER = "eval", "train", "sugarcrepe", "sugarcrepe_pp"  # in the data folder
# Besides MMEB's evaluation: its training, both SugarCrepes with their images, UniME's sentences and long captions.
PARTS = ("training", "sugarcrepe", "unime")


@dataclass(frozen=True)
class Selection:
    """What to download.

    Revisions are a commit, tag or branch; the commit that a hub's revision stands for is noted at the first download
    and kept from then on.
    """

    datasets: Sequence[str] = ()  # of MMEB's evaluation; none means all 36
    subsets: Sequence[str] = ()  # of MMEB's training; none means all 20
    split: str = "diverse_instruction"  # of the training subsets
    parts: Sequence[str] = PARTS
    eval_revision: str = "main"
    train_revision: str = "main"
    crepe_revision: str = "main"
    crepe_pp_revision: str = "main"

    def __post_init__(self) -> None:
        for kind, names, known in (
            ("dataset", self.datasets, reference_names()),
            ("training subset", self.subsets, training_names()),
            ("part", self.parts, PARTS),
        ):
            if unknown := [name for name in names if name not in known]:
                raise ValueError(f"MMEB has no {kind} {unknown[0]!r}: choose among {', '.join(known)}")

    @property
    def all_datasets(self) -> list[str]:
        """Names of the evaluation datasets."""
        return list(self.datasets or reference_names())

    @property
    def all_subsets(self) -> list[str]:
        """Names of the training subsets, as MMEB-train spells them."""
        return list(self.subsets or training_names()) if "training" in self.parts else []

    @property
    def revisions(self) -> dict[str, str]:
        """By folder the revision of the repository it comes from; others' is "main"."""
        crepes = {CREPE_FOLDER: self.crepe_revision, CREPE_PP_FOLDER: self.crepe_pp_revision}
        return {EVAL: self.eval_revision, TRAIN: self.train_revision, **crepes}


def reference_names(distribution: str = "") -> list[str]:
    """MMEB's evaluation datasets, all or those of a distribution ("IND", "OOD")."""
    table = reference("mmeb_datasets")
    return table.dataset[table.distribution.str.contains(distribution)].tolist()


def training_names() -> list[str]:
    """The training subsets of MMEB, as MMEB-train spells them."""
    return [TRAIN_NAMES.get(name, name) for name in reference_names("IND")]
