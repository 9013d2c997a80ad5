"""Every setting of every notebook, with its default, once. Needs no torch.

A notebook shows the settings a reader would turn; the others come from its class here, from the profile, and from
`-p`. `TrainingSettings.from_cell(results, globals())` puts them together.
"""

from dataclasses import asdict, dataclass, fields
from typing import TYPE_CHECKING, Any, ClassVar, Self, get_args, get_origin

if TYPE_CHECKING:  # it needs numpy
    from g2e_lib.project.results import Results

Names = tuple[str, ...]
PROMPTS = ("none", "user", "system", "hierarchical", "hierarchical_both", "e5v", "unime")
KINDS = {int: "a whole number", float: "a number", str: "a text", bool: "true or false"}


@dataclass(frozen=True)
class Settings:
    """Settings of a notebook; lists may be given for tuples, whole numbers for others; other types raise ValueError."""

    notebook: ClassVar[str]  # file stem

    seed: int = 0  #: of the bootstrap, and of whatever else is drawn at random

    def __post_init__(self) -> None:
        for field in fields(self):
            given = getattr(self, field.name)
            value = _converted(field.type, given)
            if value is None:
                is_list = get_origin(field.type) is tuple
                takes = f"a list, each element {KINDS[get_args(field.type)[0]]}" if is_list else KINDS[field.type]
                raise ValueError(f"{self.notebook}: {field.name} takes {takes}, not {given!r}")
            object.__setattr__(self, field.name, value)

    @classmethod
    def of(cls, results: "Results", **shown: Any) -> Self:  # noqa: ANN401 (whatever the fields take)
        """The defaults, changed by what a run was started with, changed by what the notebook itself says (`shown`).

        Raises:
            ValueError: an unknown setting, or one of the wrong type.
        """
        known = [field.name for field in fields(cls)]
        given = {**results.settings(cls.notebook, known), **shown}
        if unknown := [name for name in given if name not in known]:
            raise ValueError(f"{cls.notebook} has no setting {unknown[0]!r}: choose among {', '.join(known)}")
        return cls(**given)

    @classmethod
    def from_cell(cls, results: "Results", names: dict[str, Any]) -> Self:
        """Like `of`, with whatever of a notebook's `globals()` is a setting: its parameters cell."""
        return cls.of(results, **{field.name: names[field.name] for field in fields(cls) if field.name in names})

    def record(self) -> dict[str, Any]:
        """All settings, for provenance."""
        return asdict(self)

    def picked(self, *names: str, **renamed: str) -> dict[str, Any]:
        """Some settings by name; `renamed` are those that are called otherwise by whoever takes them."""
        return {name: getattr(self, ours) for name, ours in {**{n: n for n in names}, **renamed}.items()}


def _converted(kind: Any, value: Any) -> Any:  # noqa: ANN401
    """The value as `kind`, None if it is something else."""
    if get_origin(kind) is tuple:
        elements = (
            [_converted(get_args(kind)[0], part) for part in value] if isinstance(value, list | tuple) else [None]
        )
        return None if None in elements else tuple(elements)
    if kind is float and type(value) in (int, str):  # YAML reads 1e-3 as a text
        try:
            return float(value)
        except ValueError:
            return None
    return value if type(value) is kind else None


@dataclass(frozen=True)
class SetupSettings(Settings):
    """Notebook 00: data and base model."""

    notebook = "00_setup"

    model: str = "glyphworld-base"  #: embedded model, checkpoint folder or hub id
    world: str = "glyphworld"  #: "glyphworld", or "mmeb" for the papers' own data
    datasets: Names = ()  #: evaluation datasets of MMEB to download; [] for all
    subsets: Names = ()  #: training subsets of MMEB to download; [] for all
    parts: Names = ("training", "sugarcrepe", "unime")  #: what to download besides MMEB's evaluation
    split: str = "diverse_instruction"  #: of MMEB's training subsets
    eval_revision: str = "main"  #: commit, tag or branch of MMEB-eval
    train_revision: str = "main"  #: commit, tag or branch of MMEB-train
    broken_images: str = "stop"  #: "stop" at missing or broken images, or "skip" the rows that need them
    queries: int = 300  #: rows of each evaluation dataset
    train_pairs: int = 1200  #: rows of each training subset
    candidates: int = 100  #: most candidates of a row, the right one included
    families: int = 100  #: families of near-duplicate scenes in each split
    questions_per_kind: int = 300  #: validation questions of each kind for the competence table
    retrain: bool = False  #: train a new base model first (hours on a CPU), into cache/base_model

    def size(self) -> dict[str, int]:
        """What glyphworld.benchmark.Size takes."""
        return self.picked("queries", "candidates", "families", pairs="train_pairs")

    def selection(self) -> dict[str, Any]:
        """What data.download.Selection takes."""
        return self.picked("datasets", "subsets", "split", "parts", "eval_revision", "train_revision")


@dataclass(frozen=True)
class ModelSettings(Settings):
    """What every notebook that embeds has."""

    model: str = "glyphworld-base"  #: embedded model, checkpoint folder or hub id
    images: str = "native"  #: how images are shown in mining and evaluation; a name in backbone.images.IMAGE_RULES
    max_length: int = 2048  #: tokens in mining and evaluation; texts are cut, images never
    tokens_per_batch: int = 4096  #: padded tokens in one forward pass of mining and evaluation; memory only
    dtype: str = "auto"  #: "float32", "bfloat16", or "auto"

    def embedding(self) -> dict[str, Any]:
        """How items are shown: what Embedder takes besides model, prompt, adapter, device and dtype."""
        return self.picked("images", "max_length", "tokens_per_batch")


@dataclass(frozen=True)
class ZeroShotSettings(ModelSettings):
    """Notebook 01: prompts without training."""

    notebook = "01_zero_shot"

    adapter: str = ""  #: folder or hub id of a PEFT adapter; "" for none
    prompts: Names = PROMPTS  #: variants to compare
    datasets: Names = ()  #: names of evaluation datasets; [] for all
    limit: int = 0  #: at most this many queries of each dataset; 0 for all
    gap_pairs: int = 200  #: image-caption pairs for the modality gap and the next words
    gap_prompts: Names = ("none", "user", "system", "hierarchical")  #: panels of the gap and attention figures
    attention_pairs: int = 100  #: image-caption pairs for the attention shares
    top_words: int = 5  #: next words shown
    device: str = "auto"  #: "cpu", "cuda", or "auto"


@dataclass(frozen=True)
class MiningSettings(ModelSettings):
    """Notebook 02: miners and the truth about their negatives."""

    notebook = "02_mining"

    prompt: str = "hierarchical"  #: of the embeddings that are mined
    subsets: Names = ()  #: names of training subsets; [] for all
    fraction: float = 1.0  #: share of each subset's pairs
    limit: int = 0  #: at most this many pairs of each subset; 0 for all
    top_k: int = 15  #: K, hard negatives of a cluster
    pool_mult: int = 3  #: m, owners looked at for each one kept
    miners: Names = ("random", "topk", "threshold", "saha_no_filter", "saha")  #: to compare, saha among them
    shown_subset: str = "CaptionT2I"  #: subset of the worked example
    shown_row: int = 4  #: its anchor
    shown_top_k: int = 4  #: K of the worked example
    shown_pool_mult: int = 2  #: m of the worked example
    device: str = "auto"  #: "cpu", "cuda", or "auto"


@dataclass(frozen=True)
class StudySettings(ModelSettings):
    """What every notebook that trains has."""

    datasets: Names = ()  #: names of evaluation datasets; [] for all
    subsets: Names = ()  #: names of training subsets; [] for all
    limit: int = 0  #: at most this many queries of each dataset; 0 for all
    steps: int = 60  #: optimisation steps
    pairs_per_step: int = 64  #: pairs in a step; each has all others' targets as negatives
    chunk_size: int = 128  #: items encoded at once; memory only
    learning_rate: float = 1e-3  #: peak; chosen on validation scenes
    warmup_steps: int = 6  #: linear warm-up
    seeds: int = 1  #: runs of each method; 3 for mean and spread
    train_images: str = "native"  #: how images are shown in training
    train_limit: int = 0  #: at most this many pairs of each subset; 0 for all
    report_to: str = "none"  #: "tensorboard", "wandb" or "none"; who shows the curves of training while it runs
    launch: str = ""  #: an accelerate configuration such as "launch/one_machine.yaml" to train on several GPUs

    def train_settings(self) -> dict[str, Any]:
        """What TrainConfig takes, for all methods of a study."""
        names = ("model", "steps", "pairs_per_step", "chunk_size", "learning_rate", "warmup_steps", "dtype")
        return self.picked(*names, "report_to", image_rule="train_images", limit="train_limit")


@dataclass(frozen=True)
class TrainingSettings(StudySettings):
    """Notebook 03: ways to fine-tune."""

    notebook = "03_training"

    top_k: int = 15  #: K of SaHa and of top-k
    pool_mult: int = 3  #: m of SaHa
    temperature: float = 0.02  #: of InfoNCE
    lora_rank: int = 8  #: r
    lora_alpha: int = 64  #: the adapter is scaled by alpha / r
    lora_dropout: float = 0.0  #: the paper's 0.1 costs a CPU a third of its time
    use_dora: bool = False  #: weight-decomposed LoRA, as in the official code; slower
    seeds: int = 3

    def train_settings(self) -> dict[str, Any]:
        """Also the settings of the adapter."""
        adapter = self.picked("temperature", "lora_rank", "lora_alpha", "lora_dropout", "use_dora")
        return super().train_settings() | adapter


@dataclass(frozen=True)
class AblationSettings(StudySettings):
    """Notebook 04: one thing changed at a time; an empty list leaves a question out."""

    notebook = "04_ablations"

    structure: Names = ("saha", "no_filter", "no_clusters", "no_second_phase", "no_mining")  #: parts taken away
    top_k: tuple[int, ...] = (3, 15, 31)  #: K, hard negatives of a cluster
    pool_mult: tuple[int, ...] = (1, 3, 6)  #: m, owners looked at for each one kept
    temperature: tuple[float, ...] = (0.01, 0.02, 0.05)  #: of InfoNCE
    duplicates: tuple[bool, ...] = (True, False)  #: whether targets identical to a query's positive are masked
    prompt: Names = ("hierarchical", "none")  #: in mining, training and evaluation
    lora_rank: tuple[int, ...] = (2, 8, 32)  #: r; alpha / r stays the same
    fraction: tuple[float, ...] = (0.1, 0.25, 0.5, 1.0)  #: share of each subset's pairs
    base_top_k: int = 15  #: K of the base point
    base_pool_mult: int = 3  #: m of the base point
    base_lora_rank: int = 8  #: r of the base point
    lora_scale: float = 8.0  #: alpha / r, of every point
    limit: int = 100
    steps: int = 30
    warmup_steps: int = 3

    def train_settings(self) -> dict[str, Any]:
        """Also the adapter of the base point."""
        alpha = round(self.lora_scale * self.base_lora_rank)
        return super().train_settings() | {"lora_rank": self.base_lora_rank, "lora_alpha": alpha}

    def points(self) -> dict[str, tuple]:
        """Values by question."""
        names = ("structure", "top_k", "pool_mult", "temperature", "duplicates", "prompt", "lora_rank", "fraction")
        return self.picked(*names)


@dataclass(frozen=True)
class UnimeSettings(TrainingSettings):
    """Notebook 05: UniME's stages under the conditions of notebook 03."""

    notebook = "05_unime"

    teacher: str = "glyphworld"  #: embedded, trained here; or the id or folder of a sentence-transformers model
    teacher_pairs: int = 8192  #: paraphrases the embedded teacher is trained on
    sentence_pairs: int = 6000  #: pairs of sentences stage 1 draws from; 0 for all there are
    first_steps: int = 60  #: optimisation steps of stage 1
    first_pairs: int = 64  #: pairs of sentences in one of them
    first_learning_rate: float = 1e-4  #: peak of stage 1; chosen on validation scenes
    first_temperature: float = 0.1  #: of both softmaxes of stage 1; chosen on validation scenes, the paper has 0.02
    margin: float = 0.1  #: beta: targets more similar than the positive by more are dropped
    num_negatives: int = 8  #: k, hard negatives of a query in stage 2
    retrieval_pairs: int = 200  #: pictures with a short, and with a long caption; on real data 0 takes all there are
    word_pairs: int = 100  #: pictures and captions whose next words are compared
    gap_arms: Names = ("in_batch_no_prompt", "saha", "unime_1_2")  #: methods whose modality gap is measured
    filter_batches: int = 20  #: batches in which negatives are judged
    ablation_steps: int = 20  #: of stage 2 in the ablations
    ablation_limit: int = 60  #: queries of each dataset in the ablations
    ablate_margin: tuple[float, ...] = (0.0, 0.1, 2.0)  #: beta; cosines never differ by more than 2
    ablate_num_negatives: tuple[int, ...] = (4, 8, 32)  #: k
    ablate_negatives: Names = ("hard", "random", "easy")  #: which k targets
    ablate_stages: Names = ("both", "stage_1", "stage_2", "neither")  #: what is left of the two stages
    seeds: int = 1

    def first_stage(self) -> dict[str, Any]:
        """What TrainConfig takes, for stage 1 only."""
        first = {"steps": "first_steps", "pairs_per_step": "first_pairs", "learning_rate": "first_learning_rate"}
        return self.picked("warmup_steps", **first, temperature="first_temperature")

    def second_stage(self) -> dict[str, Any]:
        """What TrainConfig takes, for stage 2 only."""
        return {"negatives": "hard"} | self.picked("margin", "num_negatives")

    def points(self) -> dict[str, tuple]:
        """Values of the ablations by question."""
        return self.picked(**{n: f"ablate_{n}" for n in ("margin", "num_negatives", "negatives", "stages")})


@dataclass(frozen=True)
class CompositionSettings(Settings):
    """Notebook 06: SugarCrepe, with the models of notebook 05's settings."""

    notebook = "06_sugarcrepe"

    crepe_rows: int = 300  #: of each subset; on real data 0 takes all there are
    prompts: Names = PROMPTS  #: without training
    launch: str = ""  #: as in notebook 05, for what is not trained yet


ALL = (SetupSettings, ZeroShotSettings, MiningSettings, TrainingSettings, AblationSettings, UnimeSettings)
NOTEBOOK_SETTINGS: dict[str, type[Settings]] = {kind.notebook: kind for kind in (*ALL, CompositionSettings)}
