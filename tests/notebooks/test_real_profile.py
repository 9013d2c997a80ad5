"""The profile qwen2-vl-2b against a stand-in for the hub: all subsets of MMEB, a tiny Qwen2-VL in its released form."""

import pytest
from peft import LoraConfig, get_peft_model
from standin import PROFILE, Project, profile_settings
from transformers import Qwen2VLForConditionalGeneration

pytestmark = pytest.mark.notebooks

NO_KERNEL = {"G2E_TEST_KERNEL": "no"}
# The profile as it is, but for sizes: of the rows of a subset only a few are embedded and trained on.
TRAINING = {"dtype": "float32", "steps": 2, "warmup_steps": 0, "pairs_per_step": 4, "limit": 2, "train_limit": 8}
SMALLER = {
    "01_zero_shot": {
        "dtype": "float32", "limit": 2, "gap_pairs": 4, "attention_pairs": 2,
        "prompts": ["none", "hierarchical", "unime"], "gap_prompts": ["none", "hierarchical"],
    },
    "02_mining": {"dtype": "float32", "limit": 8, "top_k": 3, "shown_row": 0, "shown_top_k": 2},
    "03_training": {**TRAINING, "top_k": 3},
    "04_ablations": {
        **TRAINING, "base_top_k": 3, "structure": ["saha", "no_mining"], "top_k": [], "pool_mult": [],
        "temperature": [0.05], "duplicates": [], "prompt": [], "lora_rank": [], "fraction": [],
        "datasets": ["CIRR", "VOC2007"], "subsets": ["CIRR", "VOC2007"],
    },
    "05_unime": {
        **TRAINING, "top_k": 3, "sentence_pairs": 16, "first_steps": 2, "first_pairs": 4, "retrieval_pairs": 4,
        "word_pairs": 2, "gap_arms": ["saha"], "filter_batches": 2, "ablation_steps": 2, "ablation_limit": 1,
        "ablate_margin": [], "ablate_num_negatives": [], "ablate_negatives": ["hard", "easy"], "ablate_stages": [],
        "datasets": ["CIRR", "VOC2007", "MSCOCO_i2t"], "subsets": ["CIRR", "VOC2007"],
    },
    "06_sugarcrepe": {"prompts": ["none", "hierarchical", "unime"]},
}  # fmt: skip


def cut_down(profile, smaller):
    """A profile's settings with smaller ones in their place."""
    return {stem: values | smaller.get(stem, {}) for stem, values in profile_settings(profile).items()}


@pytest.fixture(scope="module")
def project(notebook_hub, tmp_path_factory):
    """The whole profile, run once; kernels are what the smoke profile is run with."""
    made = Project(tmp_path_factory.mktemp("real"), notebook_hub, PROFILE, cut_down(PROFILE, SMALLER))
    assert "GPU-hours" in made.run(**NO_KERNEL)  # what the real one would cost
    return made


def test_every_dataset_and_subset_takes_part(project):
    zero_shot = project.metrics("zero_shot")
    assert len(zero_shot["datasets"]) == 36
    assert zero_shot["provenance"]["settings"]["images"] == "paper_eval"
    assert len(project.metrics("mining")["miners"]["saha"]["subsets"]) == 20
    training = project.metrics("training")
    assert training["provenance"]["settings"]["train_images"] == "paper_train"
    assert {len(log) for method in training["methods"].values() for log in method["log"]} == {2}
    setup = project.metrics("setup")
    assert setup["benchmark"]["world"] == "mmeb"
    assert {one["train_pairs"] > 0 for one in setup["datasets"].values()} == {True, False}


def test_unime_and_sugarcrepe_take_part(project):
    unime = project.metrics("unime")
    assert unime["teacher"]["model"] == "Qwen/Qwen3-Embedding-4B"
    assert unime["provenance"]["settings"]["use_dora"] is True
    assert list(unime["retrieval"]["unime_1_2"]) == ["short_i2t", "short_t2i", "long_i2t", "long_t2i"]
    assert "Urban1K" in (project.results / "tables" / "unime_retrieval.md").read_text()
    crepe = project.metrics("sugarcrepe")["sets"]
    assert [len(one["saha"]["subsets"]) for one in (crepe["sugarcrepe"]["image"], crepe["sugarcrepe_pp"]["text"])] == [
        7,
        5,
    ]
    assert (project.results / "claims.md").is_file()


def test_without_a_network_nothing_changes(project, notebook_hub):
    tables, asked = project.tables(), len(notebook_hub.requests)
    for number in ("00", "02"):
        project.run("--only", number, HF_HUB_OFFLINE="1", **NO_KERNEL)
    assert project.tables() == tables
    assert len(notebook_hub.requests) == asked


def test_nothing_names_this_machine(project):
    for path in project.results.rglob("*"):
        if path.is_file():
            assert str(project.root) not in path.read_text(errors="ignore"), path


def test_the_authors_release_is_evaluated_as_their_code_does(notebook_hub, tmp_path):
    """An adapter on the hub that names its base model there; image tokens without vision markers."""
    profile = profile_settings("saha-2b")
    released, base = (
        notebook_hub.folder / "models" / name for name in (profile["00_setup"]["model"], "Qwen/Qwen2-VL-2B-Instruct")
    )
    model = Qwen2VLForConditionalGeneration.from_pretrained(base)
    adapted = get_peft_model(
        model, LoraConfig(r=2, target_modules=r".*language_model.*q_proj", init_lora_weights=False)
    )
    adapted.peft_config["default"].base_model_name_or_path = "Qwen/Qwen2-VL-2B-Instruct"
    adapted.save_pretrained(released, save_embedding_layers=False)
    few = {"datasets": ["VOC2007", "MSCOCO_i2t"]}
    smaller = {"00_setup": few, "01_zero_shot": {"limit": 2, "gap_pairs": 2, "attention_pairs": 2, "dtype": "float32"}}
    project = Project(tmp_path, notebook_hub, "saha-2b", cut_down("saha-2b", smaller))
    project.run(**NO_KERNEL)
    zero_shot = project.metrics("zero_shot")
    assert list(zero_shot["prompts"]) == ["none", "hierarchical"]
    assert zero_shot["provenance"]["settings"]["images"] == "released_eval"
    assert not (tmp_path / "cache" / "mmeb" / "train").exists()  # nothing is trained, so nothing is downloaded for it
