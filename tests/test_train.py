"""Training: batches, exact resumption, distribution, adapters, and settings that cannot work."""

import json
import os
import subprocess
import sys
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from accelerate import Accelerator
from PIL import Image
from safetensors.torch import load_file

from g2e_lib import train as training
from g2e_lib.backbone.adapter import load_state, save_state
from g2e_lib.backbone.teacher import save_teacher
from g2e_lib.data.subsets import load_subsets
from g2e_lib.embedder import Embedder
from g2e_lib.glyphworld.sentences import PARAPHRASES, prepare_paraphrases
from g2e_lib.gradcache import info_nce
from g2e_lib.miners import Miner
from g2e_lib.mining import mine_subset, save_clusters
from g2e_lib.project.store import Store
from g2e_lib.project.tracking import read_log
from g2e_lib.train import Trainer, check_image_fits, choose_loss, cluster_batches, describe_similarities, train
from g2e_lib.train_config import TrainConfig, read_config, write_config
from g2e_lib.unime import choose_negatives, chosen_loss, distillation_loss

SUBSETS = ("ObjectName", "CaptionT2I", "Crop")


def settings(small_build, folder):
    return TrainConfig(
        folder=str(folder / "run"),
        data=str(small_build / "train"),
        subsets=SUBSETS,
        steps=4,
        pairs_per_step=6,
        chunk_size=5,
        warmup_steps=1,
        lora_dropout=0.2,
        save_every=2,
    )


@pytest.fixture
def config(small_build, tmp_path):
    return settings(small_build, tmp_path)


@pytest.fixture(scope="module")
def finished(small_build, tmp_path_factory):
    """The settings of a finished run, which several tests look at, and its adapter."""
    done = settings(small_build, tmp_path_factory.mktemp("finished"))
    return done, train(done)


@pytest.fixture
def clusters(config, embedder, tmp_path):
    """A file of clusters mined from the small build."""
    subsets = load_subsets(Path(config.data), SUBSETS)
    store, miner = Store(tmp_path / "store"), Miner("saha", 2)
    mined = {s.name: mine_subset(embedder, s, miner, False, store)["clusters"] for s in subsets}
    path = tmp_path / "clusters.json"
    save_clusters(path, mined, subsets, miner, embedder)
    return path


def weights(adapter):
    return load_file(adapter / "adapter_model.safetensors")


def assert_equal(one, other):
    assert one.keys() == other.keys()
    for name in one:
        assert torch.equal(one[name], other[name]), name


# --- batches -------------------------------------------------------------------------------------------------------


def test_batches_hold_whole_clusters_and_a_fixed_number_of_pairs():
    clusters = [[(0, 3 * i + j) for j in range(3)] for i in range(7)]
    batches = cluster_batches(clusters, 8, seed=1)
    for _ in range(20):
        batch = next(batches)
        assert len(batch) == 8
        starts = [row // 3 for _, row in batch]
        assert starts[:6] == [c for c in dict.fromkeys(starts[:6]) for _ in range(3)]  # two whole ones, one cut
        assert batch[6][1] % 3 == 0  # cut from its end: the anchor stays
    first, again, other = (next(cluster_batches(clusters, 21, seed)) for seed in (1, 1, 2))
    assert first == again != other
    assert sorted(first) == [(0, row) for row in range(21)]  # an epoch uses every cluster once
    assert len(next(cluster_batches(clusters, 50, seed=0))) == 50  # fewer clusters than a batch holds: repeated


def test_learning_rate_warms_up_and_decays_to_zero(config):
    trainer = object.__new__(Trainer)
    trainer.config = replace(config, steps=10, warmup_steps=4, learning_rate=1.0)
    rates = [trainer.learning_rate(step) for step in range(10)]
    assert rates == pytest.approx([0.2, 0.4, 0.6, 0.8, 1, 5 / 6, 4 / 6, 3 / 6, 2 / 6, 1 / 6])


# --- runs ----------------------------------------------------------------------------------------------------------


def test_a_killed_run_ends_with_the_same_weights(finished, config, tmp_path, monkeypatch):
    step, done = Trainer.step, []

    def dying_step(self, number, rows):
        if number + 1 == killed_before:
            raise KeyboardInterrupt
        done.append(number + 1)
        return step(self, number, rows)

    monkeypatch.setattr(Trainer, "step", dying_step)
    for killed_before in (1, 3, 4):  # noqa: B007 (the step reads it)
        with pytest.raises(KeyboardInterrupt):
            train(config)
    killed_before = None
    assert_equal(weights(train(config)), weights(finished[1]))
    assert done == [1, 2, 3, 3, 4]  # from the save after the second step, and no step more often than needed
    log = read_log(tmp_path / "run")
    assert [record["step"] for record in log] == [1, 2, 3, 4]
    fields = {"loss", "gradient_norm", "hardest_negative_similarity", "pairs_per_second", "peak_memory_mib"}
    assert fields <= set(log[0])


def test_chunks_do_not_change_a_run_and_seeds_do(config, tmp_path):
    config = replace(config, lora_dropout=0.0, steps=2)
    one = weights(train(config))
    chunked = weights(train(replace(config, chunk_size=100, folder=str(tmp_path / "b"))))
    for name, value in one.items():
        torch.testing.assert_close(value, chunked[name], atol=1e-5, rtol=0)
    other = weights(train(replace(config, seed=1, folder=str(tmp_path / "c"))))
    assert any(not torch.equal(one[name], other[name]) for name in one)


def test_training_on_clusters_lowers_the_loss(config, clusters, tmp_path):
    losses = {}
    for name, breaks in (("clusters", False), ("broken", True)):
        changes = {
            "steps": 1 if breaks else 12,
            "folder": str(tmp_path / name),
            "clusters": str(clusters),
            "breaks_clusters": breaks,
        }
        train(replace(config, learning_rate=2e-3, lora_dropout=0.0, **changes))
        losses[name] = [record["loss"] for record in read_log(tmp_path / name)]
    assert np.mean(losses["clusters"][-3:]) < np.mean(losses["clusters"][:3])
    assert losses["clusters"][0] != losses["broken"][0]  # other pairs meet in a batch


def test_places_and_memory_may_change_before_a_run_is_resumed(config, monkeypatch):
    def dying_step(*_):
        raise KeyboardInterrupt

    config = replace(config, steps=1)
    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr(Trainer, "step", dying_step)
        train(config)
    train(replace(config, chunk_size=3, save_every=1))


def test_weights_without_gradients_survive_a_resumption(config, tmp_path):
    config = replace(config, lora_targets=r".*(visual.*qkv|layers\.0.*q_proj)", subsets=("ObjectName",))
    trainer = Trainer(config, Accelerator(cpu=True))
    weight = next(iter(trainer.weights.values()))
    weight.grad = torch.ones_like(weight)
    trainer.optimizer.step()
    save_state(tmp_path / "state.safetensors", trainer.weights, trainer.optimizer, 1)
    again = Trainer(config, Accelerator(cpu=True))
    assert load_state(tmp_path / "state.safetensors", again.weights, again.optimizer) == 1
    assert list(again.optimizer.state) == [next(iter(again.weights.values()))]


def test_a_finished_run_is_left_alone_and_another_is_refused(finished):
    config, adapter = finished
    changed = (adapter / "adapter_model.safetensors").stat().st_mtime_ns
    train(config)
    assert (adapter / "adapter_model.safetensors").stat().st_mtime_ns == changed
    with pytest.raises(ValueError, match=r"holds a run with learning_rate 0.001 instead of 0.5: choose another folder"):
        train(replace(config, learning_rate=0.5))


def test_an_adapter_has_its_card_and_embeds(finished, embedder):
    config, adapter = finished
    noted = json.loads((adapter / "adapter_config.json").read_text())
    assert noted["base_model_name_or_path"] == "glyphworld-base"
    card = (adapter / "README.md").read_text()
    assert "base_model: glyphworld-base" in card
    assert "| steps x pairs | 4 x 6 |" in card
    adapted = Embedder.from_pretrained("glyphworld-base", adapter=adapter, device="cpu", dtype="float32")
    trainer = Trainer(config, Accelerator())
    load_state(Path(config.folder) / training.STATE, trainer.weights, trainer.optimizer)
    found, expected = adapted.encode(["a red sun", "what?"]), trainer.embedder.encode(["a red sun", "what?"])
    np.testing.assert_allclose(found, expected, atol=1e-5)  # merged as unmerged
    assert np.abs(found - embedder.encode(["a red sun", "what?"])).max() > 1e-4


def test_dora_and_vision_layers_can_be_trained(config):
    adapter = train(replace(config, use_dora=True, steps=1, lora_targets=r".*(visual.*qkv|layers\.0.*q_proj)"))
    names = set(weights(adapter))
    assert any("visual" in name for name in names)
    assert any("magnitude" in name for name in names)


def wide_image():
    return Image.new("RGB", (900, 300), "white")


def launch(path, processes):
    command = [sys.executable, "-m", "accelerate.commands.launch", "--cpu", "--num_processes", str(processes)]
    command += ["--num_machines", "1", "--mixed_precision", "no", "--dynamo_backend", "no", "-m", "g2e_lib.train", path]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.run(command, capture_output=True, text=True, env=environment, check=False)


def test_two_processes_equal_one(config, clusters, tmp_path):
    config = replace(
        config, lora_dropout=0.0, clusters=str(clusters), pairs_per_step=7, steps=2
    )  # shares of 3 and 4 pairs
    expected = weights(train(config))
    settings = asdict(replace(config, folder=str(tmp_path / "two"))) | {"subsets": list(SUBSETS)}
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(settings))
    done = launch(tmp_path / "config.yaml", 2)
    assert done.returncode == 0, done.stdout + done.stderr
    for name, value in weights(tmp_path / "two" / "adapter").items():
        torch.testing.assert_close(value, expected[name], atol=2e-4, rtol=0)
    losses = [[r["loss"] for r in read_log(tmp_path / folder)] for folder in ("run", "two")]
    np.testing.assert_allclose(*losses, rtol=1e-3)


# --- UniME: a teacher, a start, chosen negatives ------------------------------------------------------------------


class Teacher:
    """Stands for sentence-transformers: embeds a sentence by its letters."""

    def encode(self, sentences, **_):
        counts = np.array([[text.count(letter) + 1 for letter in "abcdefgh"] for text in sentences], dtype=np.float32)
        return counts / np.linalg.norm(counts, axis=1, keepdims=True)


@pytest.fixture
def distillation(config, tmp_path, monkeypatch):
    """A run of stage 1 on paraphrases, with the file of a stand-in teacher's embeddings."""
    data = prepare_paraphrases(tmp_path, 40)
    subsets = load_subsets(data, [PARAPHRASES])
    (tmp_path / "teacher").mkdir()
    (tmp_path / "teacher" / "modules.json").write_text("[]")
    monkeypatch.setattr("sentence_transformers.SentenceTransformer", lambda *_, **__: Teacher())
    save_teacher(tmp_path / "teacher.safetensors", tmp_path / "teacher", subsets, Store(tmp_path / "store"))
    settings = {"data": str(data), "subsets": (PARAPHRASES,), "prompt": "unime_distillation", "lora_dropout": 0.0}
    return replace(config, **settings, teacher=str(tmp_path / "teacher.safetensors"))


def test_stage_1_lowers_the_distance_to_its_teacher_and_trains_nothing_else(distillation, embedder):
    config = replace(distillation, steps=8, chunk_size=3, learning_rate=3e-3)
    trainer = Trainer(config, Accelerator(cpu=True))
    assert all("language_model" in name and "lora_" in name for name in trainer.weights)
    adapter = train(config)
    losses = [record["loss"] for record in read_log(Path(config.folder))]
    assert losses[-1] < losses[0]
    assert all("language_model" in name and "lora_" in name for name in weights(adapter))
    adapted = Embedder.from_pretrained("glyphworld-base", adapter=adapter, device="cpu", dtype="float32")
    before, after = embedder.model.state_dict(), adapted.model.state_dict()
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert changed
    assert all("language_model" in name and "_proj" in name for name in changed)


def test_the_loss_of_stage_1_is_that_of_the_whole_batch(distillation):
    trainer = Trainer(distillation, Accelerator(cpu=True))
    pairs = trainer.subsets[0].pairs[:6]
    texts = [pair.query.text for pair in pairs] + [pair.target.text for pair in pairs]
    student = torch.from_numpy(trainer.embedder.encode(texts, "query")).double()
    taught = torch.from_numpy(Teacher().encode(texts)).double()
    expected = distillation_loss(student, taught, distillation.temperature).item()
    assert trainer.step(0, [(0, row) for row in range(6)])["loss"] == pytest.approx(expected, rel=1e-3)


def test_a_run_goes_on_from_another_ones_adapter(finished, config, tmp_path):
    _, first = finished
    config = replace(config, folder=str(tmp_path / "second"), start=str(first), steps=1)
    trainer = Trainer(config, Accelerator(cpu=True))
    started = Embedder.from_pretrained("glyphworld-base", adapter=first, device="cpu", dtype="float32")
    found, expected = (one.encode(["a red sun", "what?"]) for one in (trainer.embedder, started))
    np.testing.assert_allclose(found, expected, atol=1e-5)
    train(config)
    assert json.loads((tmp_path / "second" / "config.json").read_text())["started from"]
    with pytest.raises(ValueError, match="has r 8: start from one with the settings of this run"):
        train(replace(config, folder=str(tmp_path / "third"), lora_rank=4))
    with pytest.raises(ValueError, match="has other layers: start from one"):
        train(replace(config, folder=str(tmp_path / "third"), lora_targets=r".*layers\.0.*q_proj"))
    with pytest.raises(ValueError, match="is no folder of an adapter"):
        train(replace(config, start=str(tmp_path / "nothing")))


def test_chosen_negatives_differ_in_what_they_are(config):
    some = replace(config, num_negatives=2, margin=2.0, learning_rate=0.0, lora_dropout=0.0)
    trainer, records = Trainer(some, Accelerator(cpu=True)), {}
    rows = next(cluster_batches(trainer.clusters, 20, seed=0))
    for order in ("hard", "random", "easy"):
        trainer.loss = choose_loss(replace(some, negatives=order), None)
        records[order] = trainer.step(0, rows)
    for field in ("negative_similarity", "loss"):
        assert records["hard"][field] > records["random"][field] > records["easy"][field], field
    assert records["hard"]["hardest_negative_similarity"] > records["easy"]["hardest_negative_similarity"]


def test_a_run_has_one_of_three_losses(config):
    config, generator = replace(config, num_negatives=2, margin=2.0), torch.Generator().manual_seed(0)
    queries, targets, taught = (
        torch.nn.functional.normalize(torch.randn(4, *shape, generator=generator), dim=-1)
        for shape in ((6,), (6,), (2, 5))
    )
    targets[2] = targets[0]
    ids = torch.tensor([0, 1, 0, 3])
    loss, is_negative = choose_loss(config, None)(queries, targets, ids, 0)
    assert loss == info_nce(queries, targets, ids, config.temperature)
    assert (is_negative == (ids[:, None] != ids)).all()
    assert choose_loss(replace(config, masks_duplicates=False), None)(queries, targets, ids, 0)[0] > loss
    loss, is_negative = choose_loss(replace(config, negatives="hard"), None)(queries, targets, ids, 0)
    assert (is_negative == choose_negatives(queries @ targets.T, ids, 2.0, 2)).all()
    assert loss == chosen_loss(queries, targets, is_negative, config.temperature)
    rows = torch.tensor([3, 0, 1, 2])  # with a teacher
    loss, _ = choose_loss(replace(config, teacher="a"), taught)(queries, targets, rows, 0)
    sentences, expected = torch.cat((queries, targets)), torch.cat((taught[rows, 0], taught[rows, 1]))
    assert loss == distillation_loss(sentences, expected, config.temperature)


def test_similarities_by_hand():
    similarity = torch.tensor([[0.9, 0.5, 0.1], [0.2, 0.8, 0.4], [0.3, 0.3, 0.7]])
    is_negative = torch.tensor([[False, True, True], [True, False, False], [False, False, False]])
    found = describe_similarities(similarity, is_negative)
    assert found["positive_similarity"] == pytest.approx(0.8)
    assert found["hardest_negative_similarity"] == pytest.approx((0.5 + 0.2 - 1) / 3)
    assert found["negative_similarity"] == pytest.approx((0.3 + 0.2 - 1) / 3)


def test_what_a_teacher_cannot_teach(distillation, config, tmp_path):
    with pytest.raises(ValueError, match="teaches the language model's adapter only, but lora_targets .* also trains"):
        train(replace(distillation, lora_targets=r".*(visual.*qkv|layers\.0.*q_proj)"))
    with pytest.raises(ValueError, match="was made from other pairs than those of 'ObjectName'"):
        train(replace(config, teacher=distillation.teacher))
    with pytest.raises(ValueError, match="there is no file of teacher embeddings"):
        train(replace(distillation, teacher=str(tmp_path / "none")))


# --- what cannot work ----------------------------------------------------------------------------------------------


def test_image_tokens_are_never_cut(config):
    with pytest.raises(ValueError, match="max_length 40 and max_pixels 16384 conflict: an image may take 16 tokens"):
        train(replace(config, max_length=40))
    short = Embedder.from_pretrained("glyphworld-base", prompt="none", max_length=40)
    check_image_fits(short)  # without the system message it fits
    with pytest.raises(ValueError, match="max_pixels 1048576 conflict"):
        train(replace(config, max_pixels=2**20, max_length=1000))


def test_image_rules_bound_the_tokens_of_an_image(config):
    embedder = Embedder.from_pretrained("glyphworld-base", max_length=120, images="paper_train")
    with pytest.raises(ValueError, match="an image may take 16 tokens"):  # 448 x 448, within the checkpoint's own limit
        check_image_fits(Embedder.from_pretrained("glyphworld-base", max_length=50, images="paper_train"))
    check_image_fits(embedder)
    (weight,) = {len(one.ids) for one in embedder.tokenize(embedder.inputs([{"image": wide_image()}], "target")[0])}
    assert weight <= 120
    trainer = Trainer(replace(config, image_rule="paper_train", limit=7), Accelerator(cpu=True))
    assert trainer.embedder.images.square == 448
    assert [len(subset.pairs) for subset in trainer.subsets] == [7, 7, 7]
    with pytest.raises(ValueError, match="unknown image rule 'huge'"):
        train(replace(config, image_rule="huge"))


def test_out_of_memory_names_the_setting(config, monkeypatch):
    def greedy(*_):
        raise torch.OutOfMemoryError

    monkeypatch.setattr(Trainer, "step", greedy)
    with pytest.raises(RuntimeError, match="out of memory in step 1 with chunk_size 5: lower it"):
        train(config)


def test_layers_that_do_not_exist(config):
    with pytest.raises(ValueError, match="lora_targets 'nothing' fit no layer"):
        train(replace(config, lora_targets="nothing"))


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"rate": 1}, "unknown setting 'rate': choose among folder, data"),
        ({"steps": "many"}, "steps takes a value of type int, not 'many'"),
        ({"subsets": "ObjectName"}, "subsets takes a list of names"),
        ({"lora_init": "gausian"}, "lora_init is 'gausian', but must be gaussian or kaiming"),
        ({"lora_dropout": 1.5}, "lora_dropout is 1.5, but must be at least 0 and below 1"),
        ({"lora_targets": "("}, "is no regular expression"),
        ({"warmup_steps": -1}, "warmup_steps is -1"),
        ({"steps": 0}, "steps is 0, but must be at least 1"),
        ({"fraction": 2.0}, "fraction is 2.0"),
        ({"negatives": "best"}, "negatives is 'best', but must be all, hard, easy or random"),
        ({"margin": -0.1}, "margin is -0.1, but must be at least 0"),
        ({"report_to": "mlflow"}, "report_to is 'mlflow', but must be tensorboard, wandb or none"),
        ({"subsets": []}, "subsets is empty"),
    ],
)
def test_bad_settings_are_named(values, message, tmp_path):
    path = tmp_path / "config.yaml"
    path.write_text(yaml.safe_dump({"folder": "a", "data": "b", "subsets": ["ObjectName"], **values}))
    with pytest.raises(ValueError, match=message):
        read_config(path)


def test_settings_survive_a_file(config, tmp_path):
    config = replace(config, learning_rate=5e-5, use_dora=True, clusters="größer.json", report_to="none")
    write_config(config, tmp_path / "config.yaml")
    assert read_config(tmp_path / "config.yaml") == config


def test_bad_files_are_named(tmp_path, capsys):
    with pytest.raises(ValueError, match="there is no configuration file"):
        read_config(tmp_path / "none.yaml")
    (tmp_path / "list.yaml").write_text("- a\n")
    with pytest.raises(ValueError, match="holds no settings"):
        read_config(tmp_path / "list.yaml")
    with pytest.raises(ValueError, match="cannot be read as a configuration file"):
        read_config(tmp_path)
    (tmp_path / "exponent.yaml").write_text("{folder: a, data: b, subsets: [Crop], learning_rate: 1e-3}\n")
    assert read_config(tmp_path / "exponent.yaml").learning_rate == 1e-3
    (tmp_path / "short.yaml").write_text("folder: a\n")
    with pytest.raises(ValueError, match="lacks the setting 'data'"):
        read_config(tmp_path / "short.yaml")
    assert training.main([]) == 2
    assert training.main([str(tmp_path / "short.yaml")]) == 1
    assert "train: " in capsys.readouterr().err
