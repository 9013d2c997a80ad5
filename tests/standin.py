"""A stand-in for the hub: tiny models in the released form, all subsets of MMEB with a few rows each, notebooks run."""

import csv
import io
import json
import os
import random
import shutil
import subprocess
import sys
import urllib.parse
import zipfile
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

import matplotlib
import matplotlib.pyplot
import nbformat
import pyarrow as pa
import pyarrow.parquet as pq
import torch
import yaml
from PIL import Image
from safetensors.torch import load_file, save_file
from transformers import (
    AutoTokenizer,
    BertConfig,
    BertModel,
    PreTrainedTokenizerFast,
    Qwen2Tokenizer,
    Qwen2VLConfig,
    Qwen2VLForConditionalGeneration,
)

from g2e_lib.__main__ import run, setting_defaults
from g2e_lib.data.download import COCO, CREPE, CREPE_PP, MMEB_EVAL, MMEB_TRAIN, NLI, NLI_FILES, URBAN
from g2e_lib.data.mmeb import EVAL_SCHEMA, IMAGE_PLACEHOLDER, TRAIN_NAMES, TRAIN_SCHEMA
from g2e_lib.data.sugarcrepe import SUGARCREPE, SUGARCREPE_PP
from g2e_lib.glyphworld.world.language import long_caption, short_caption
from g2e_lib.glyphworld.world.render import render
from g2e_lib.glyphworld.world.scenes import sample_scene
from g2e_lib.project import config, runner
from g2e_lib.project.notebooks import cell_parameters, known_settings

PROFILE = "qwen2-vl-2b"  # that notebooks are run with
ADDED_TOKENS = [
    "<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|object_ref_start|>", "<|object_ref_end|>", "<|box_start|>",
    "<|box_end|>", "<|quad_start|>", "<|quad_end|>", "<|vision_start|>", "<|vision_end|>", "<|vision_pad|>",
    "<|image_pad|>", "<|video_pad|>",
]  # fmt: skip
# As the released checkpoint writes them.
PREPROCESSOR = {
    "min_pixels": 3136, "max_pixels": 12845056, "patch_size": 14, "temporal_patch_size": 2, "merge_size": 2,
    "image_mean": [0.48145466, 0.4578275, 0.40821073], "image_std": [0.26862954, 0.26130258, 0.27577711],
    "image_processor_type": "Qwen2VLImageProcessor", "processor_class": "Qwen2VLProcessor",
}  # fmt: skip


def released_tokenizer(folder: Path) -> Qwen2Tokenizer:
    """Qwen2's own vocabulary, with Qwen2-VL's added tokens in their published order."""
    return Qwen2Tokenizer.from_pretrained(folder, pad_token="<|endoftext|>", extra_special_tokens=ADDED_TOKENS[1:])


def build_model(folder: Path, tokenizer_folder: Path | None = None, seed: int = 0) -> Path:
    """A tiny random Qwen2-VL whose files look like those of the released checkpoint: flat config, old names.

    Without Qwen2's own vocabulary it has that of the embedded model.
    """
    embedded = config.resolve_model("glyphworld-base")
    tokenizer = released_tokenizer(tokenizer_folder) if tokenizer_folder else AutoTokenizer.from_pretrained(embedded)
    tokenizer.save_pretrained(folder)
    ids = tokenizer.convert_tokens_to_ids
    settings = {
        "architectures": ["Qwen2VLForConditionalGeneration"], "model_type": "qwen2_vl", "hidden_act": "silu",
        "bos_token_id": ids("<|endoftext|>"), "eos_token_id": ids("<|im_end|>"),
        "vision_start_token_id": ids("<|vision_start|>"), "vision_end_token_id": ids("<|vision_end|>"),
        "image_token_id": ids("<|image_pad|>"),
        "video_token_id": ids("<|video_pad|>"), "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2,
        "num_attention_heads": 2, "num_key_value_heads": 1, "rms_norm_eps": 1e-06, "rope_theta": 1000000.0,
        "rope_scaling": {"type": "mrope", "mrope_section": [2, 3, 3]}, "tie_word_embeddings": True,
        "torch_dtype": "bfloat16", "max_position_embeddings": 32768, "vocab_size": len(tokenizer),
        "use_sliding_window": False, "sliding_window": 32768, "max_window_layers": 2, "attention_dropout": 0.0,
        "vision_config": {
            "depth": 2, "embed_dim": 32, "mlp_ratio": 2, "num_heads": 2, "in_chans": 3, "hidden_size": 32,
            "patch_size": 14, "spatial_merge_size": 2, "spatial_patch_size": 14, "temporal_patch_size": 2,
        },
    }  # fmt: skip
    (folder / "config.json").write_text(json.dumps(settings, indent=1))
    (folder / "preprocessor_config.json").write_text(json.dumps(PREPROCESSOR, indent=1))
    torch.manual_seed(seed)
    model = Qwen2VLForConditionalGeneration(Qwen2VLConfig.from_pretrained(folder))
    model.save_pretrained(folder / "new")
    weights = load_file(folder / "new" / "model.safetensors")
    named = {
        n.replace("model.language_model.", "model.").replace("model.visual.", "visual."): t for n, t in weights.items()
    }
    save_file(named, folder / "model.safetensors", metadata={"format": "pt"})
    for file in (folder / "new").iterdir():
        file.unlink()
    (folder / "new").rmdir()
    return folder


# --- data in MMEB's format -----------------------------------------------------------------------------------------


class Pictures:
    """Small distinct pictures: crops of real photos where there are any, and scenes of GlyphWorld."""

    def __init__(self, photos: list[Path]) -> None:
        self.photos = [Image.open(path).convert("RGB") for path in photos]
        self.random = random.Random("stand-in")

    def draw(self) -> tuple[bytes, str]:
        """A JPEG file and a caption."""
        scene = sample_scene(self.random, "train")
        picture, caption = render(scene, self.random.getrandbits(32)), short_caption(scene, self.random)[0]
        if self.photos and self.random.random() < 0.5:
            photo = self.random.choice(self.photos)
            x, y = self.random.randrange(photo.width - 96), self.random.randrange(photo.height - 96)
            picture, caption = photo.crop((x, y, x + 96, y + 64)), f"a photo, {x} from the left and {y} from above"
        file = io.BytesIO()
        picture.save(file, "JPEG", quality=90)
        return file.getvalue(), caption


def write_table(path: Path, records: list[dict], schema: pa.Schema) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.Table.from_pylist(records, schema), path)


def side(pictures: Pictures, modality: str, folder: str, number: int, images: dict[str, bytes]) -> tuple[str, str]:
    """The text and the image path of an item with the given modality ("T", "I" or "I+T")."""
    file, caption = pictures.draw()
    if modality == "T":
        return f"{caption}, number {number}", ""
    path = f"{folder}/{number}.jpg"
    images[path] = file
    return f"{IMAGE_PLACEHOLDER}\n" + ("" if modality == "I" else f"{caption}, number {number}"), path


def build_mmeb(hub: Path, photos: list[Path], queries: int = 4, pairs: int = 12, candidates: int = 4) -> None:
    """Both MMEB repositories, all 36 and 20 subsets, as folders."""
    pictures, eval_images = Pictures(photos), {}
    table = csv.DictReader((config.PACKAGE / "project" / "reference" / "mmeb_datasets.csv").open())
    for facts in table:
        name, kinds = facts["dataset"], (facts["query_modality"], facts["target_modality"])
        rows, count = [], 0
        for number in range(queries):
            query = side(pictures, kinds[0], f"{name}/query", number, eval_images)
            targets = [side(pictures, kinds[1], f"{name}/target", count + i, eval_images) for i in range(candidates)]
            count += candidates
            texts, paths = map(list, zip(*targets, strict=True))
            rows.append({"qry_text": query[0], "qry_img_path": query[1], "tgt_text": texts, "tgt_img_path": paths})
        write_table(hub / "datasets" / MMEB_EVAL / name / "test-00000-of-00001.parquet", rows, EVAL_SCHEMA)
        if facts["distribution"] == "IND":
            build_training(hub / "datasets" / MMEB_TRAIN, TRAIN_NAMES.get(name, name), kinds, pictures, pairs)
    write_zip(hub / "datasets" / MMEB_EVAL / "images.zip", eval_images)


def build_training(folder: Path, name: str, kinds: tuple[str, str], pictures: Pictures, pairs: int) -> None:
    images, rows = {}, []
    for number in range(pairs):
        query = side(pictures, kinds[0], f"{name}/Train", number, images)
        if number % 2 == 0:  # every target has two owners
            target = side(pictures, kinds[1], f"{name}/Train", pairs + number, images)
        whole = [(text, f"images/{path}" if path else "") for text, path in (query, target)]
        rows.append(dict(zip(TRAIN_SCHEMA.names, (*whole[0], *whole[1], "", ""), strict=True)))
    for split in ("original", "diverse_instruction"):
        for part in range(2):
            file = folder / name / f"{split}-0000{part}-of-00002.parquet"
            write_table(file, rows[part * pairs // 2 : (part + 1) * pairs // 2], TRAIN_SCHEMA)
    if images:
        write_zip(folder / "images_zip" / f"{name}.zip", images)


def write_zip(path: Path, files: dict[str, bytes]) -> None:
    """An archive with the junk that macOS adds."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in files.items():
            archive.writestr(name, content)
        archive.writestr("__MACOSX/._junk.jpg", b"junk")
        archive.writestr(str(Path(next(iter(files))).with_name("._junk.jpg")), b"junk")


def build_crepe(mirror: Path, photos: int = 5) -> None:
    """SugarCrepe's and SugarCrepe++'s files with a few rows, and the archive of their images."""
    pictures = Pictures([])
    drawn = {f"{number:012d}.jpg": pictures.draw() for number in range(photos)}
    rows = [
        {"filename": name, "caption": one[1], "caption2": f"there is {one[1]}", "negative_caption": f"not {one[1]}"}
        for name, one in drawn.items()
    ]
    for url, subsets, is_list in ((CREPE, SUGARCREPE, False), (CREPE_PP, SUGARCREPE_PP, True)):
        for name in subsets:
            path = mirror / url.format(revision="main", name=name).partition("://")[2]
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(json.dumps(rows if is_list else {str(i): row for i, row in enumerate(rows)}))
    write_zip(mirror / COCO.partition("://")[2], {f"val2017/{name}": one[0] for name, one in drawn.items()})


def build_unime(hub: Path, sentences: int = 24, pictures: int = 5) -> None:
    """What UniME needs: pairs of sentences, and pictures with long captions in an archive."""
    rng = random.Random("stand-in sentences")
    for name in NLI_FILES.values():
        scenes = [sample_scene(rng, "train") for _ in range(sentences)]
        rows = [{"anchor": long_caption(scene, rng)[0], "positive": short_caption(scene, rng)[0]} for scene in scenes]
        rows += rows[:2] + [{"anchor": "the same", "positive": "the same"}]  # to be left out
        write_table(
            hub / "datasets" / NLI / name, rows, pa.schema([("anchor", pa.string()), ("positive", pa.string())])
        )
    files = {}
    for number in range(1, pictures + 1):
        scene, file = sample_scene(rng, "train"), io.BytesIO()
        render(scene, number).save(file, "JPEG", quality=90)
        files[f"Urban1k/image/{number}.jpg"] = file.getvalue()
        files[f"Urban1k/caption/{number}.txt"] = f"{long_caption(scene, rng)[0]}\n".encode()
    write_zip(hub / "datasets" / URBAN / "Urban1k.zip", files)


def build_teacher(folder: Path) -> None:
    """A tiny random sentence-transformers model, with the embedded model's words."""
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.models import Normalize, Pooling, Transformer

    words = config.EMBEDDED_MODELS["glyphworld-base"] / "tokenizer.json"
    tokenizer = PreTrainedTokenizerFast(tokenizer_file=str(words), pad_token="<|endoftext|>")
    sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32}
    BertModel(BertConfig(vocab_size=len(tokenizer), **sizes)).save_pretrained(folder / "bare")
    tokenizer.save_pretrained(folder / "bare")
    modules = [Transformer(str(folder / "bare")), Pooling(16, "mean"), Normalize()]
    SentenceTransformer(modules=modules, device="cpu").save_pretrained(str(folder), create_model_card=False)
    shutil.rmtree(folder / "bare")


# --- the server ----------------------------------------------------------------------------------------------------

COMMIT = "0123456789abcdef0123456789abcdef01234567"


class Hub:
    """Serves a folder on this machine as the hub (datasets/ and models/) and as a mirror of other hosts.

    Attributes:
        requests: paths that were asked for, in order.
        cuts: paths whose next answer stops after so many bytes.
    """

    def __init__(self, folder: Path) -> None:
        hub = self
        self.folder, self.requests, self.cuts = folder, [], {}

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_HEAD(self) -> None:
                hub.answer(self, has_body=False)

            def do_GET(self) -> None:
                hub.answer(self, has_body=True)

            def log_message(self, *_: object) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        Thread(target=self._server.serve_forever, args=(0.02,), daemon=True).start()
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"

    def environment(self) -> dict[str, str]:
        """Variables that send a process here instead of into the world."""
        return {"HF_ENDPOINT": self.url, "G2E_MIRROR": self.url, "HF_HUB_DISABLE_XET": "1", "HF_HUB_OFFLINE": "0"}

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()

    def answer(self, request: BaseHTTPRequestHandler, has_body: bool) -> None:
        path = urllib.parse.unquote(request.path.partition("?")[0]).strip("/")
        self.requests.append(path)
        if path.startswith("api/"):
            kind, org, name, *rest = [*path.removeprefix("api/").split("/"), "", ""]
            folder = self.folder / kind / org / name
            if not folder.is_dir() or rest[1] not in ("main", COMMIT, ""):
                return self._send(request, 404, b"", {"X-Error-Code": "RevisionNotFound"})
            files = sorted(file for file in folder.rglob("*") if file.is_file())
            siblings = [self._facts(file, folder) for file in files]
            body = json.dumps({"id": f"{org}/{name}", "sha": COMMIT, "siblings": siblings, "tags": [], "downloads": 0})
            if rest[:1] == ["tree"]:
                body = json.dumps([{**one, "type": "file", "path": one["rfilename"], "oid": "0"} for one in siblings])
            return self._send(request, 200, body.encode() if has_body else b"", {"Content-Type": "application/json"})
        return self._send_file(request, path, has_body)

    @staticmethod
    def _facts(file: Path, folder: Path) -> dict:
        size, digest = file.stat().st_size, config.file_digest(file)
        lfs = {"sha256": digest, "oid": digest, "size": size, "pointerSize": 130}
        return {"rfilename": file.relative_to(folder).as_posix(), "size": size, "blobId": digest, "lfs": lfs}

    def _send_file(self, request: BaseHTTPRequestHandler, path: str, has_body: bool) -> None:
        parts = path.split("/")
        headers = {}
        if "resolve" in parts:
            at = parts.index("resolve")
            kind = [] if parts[0] == "datasets" else ["models"]
            path, headers["X-Repo-Commit"] = "/".join([*kind, *parts[:at], *parts[at + 2 :]]), COMMIT
        file = self.folder / path
        if not file.is_file():
            return self._send(request, 404, b"", {"X-Error-Code": "EntryNotFound"})
        content, digest = file.read_bytes(), config.file_digest(file)
        headers |= {"ETag": f'"{digest}"', "X-Linked-Size": str(len(content)), "X-Linked-ETag": f'"{digest}"'}
        headers["Accept-Ranges"] = "bytes"
        wanted, status = request.headers.get("Range", ""), 200
        if wanted and request.headers.get("If-Range", headers["ETag"]) == headers["ETag"]:
            start, end = wanted.removeprefix("bytes=").split("-")
            headers["Content-Range"] = f"bytes {start}-{end or len(content) - 1}/{len(content)}"
            content, status = content[int(start) : int(end) + 1 if end else None], 206
        cut = self.cuts.pop(path, None) if has_body else None
        return self._send(request, status, content, headers, has_body, cut)

    @staticmethod
    def _send(request, status, content, headers, has_body=True, cut=None) -> None:
        request.send_response(status)
        for name, value in headers.items():
            request.send_header(name, value)
        request.send_header("Content-Length", str(len(content)))
        request.end_headers()
        if has_body:
            request.wfile.write(content if cut is None else content[:cut])
        if cut is not None:
            request.wfile.flush()
            request.close_connection = True
            request.connection.close()


# --- notebooks -----------------------------------------------------------------------------------------------------


def build_models(folder: Path, released: Path) -> None:
    """The model and the teacher that the profile names, tiny; with Qwen2's own vocabulary if it is here."""
    profile = profile_settings(PROFILE)
    (folder / "models" / profile["00_setup"]["model"]).mkdir(parents=True)
    (folder / "models" / profile["05_unime"]["teacher"]).mkdir(parents=True)
    build_model(folder / "models" / profile["00_setup"]["model"], released if released.is_dir() else None)
    build_teacher(folder / "models" / profile["05_unime"]["teacher"])


def profile_settings(profile: str) -> dict[str, dict]:
    """What a profile chooses for each of its notebooks, `extends:` and `common:` put in."""
    return config.load_profile(profile, known_settings(setting_defaults()))


def execute_here(path: Path, output: Path, parameters: dict) -> None:
    """Run a notebook's code in this process, as papermill does in a kernel, whose start would take seconds."""
    names: dict = {"__name__": "__main__"}
    for cell in nbformat.read(path, as_version=4).cells:
        if cell.cell_type == "code":
            exec(compile(cell.source, path.stem, "exec"), names)
            names |= parameters if "parameters" in cell.metadata.get("tags", []) else {}
    matplotlib.pyplot.close("all")
    output.parent.mkdir(parents=True, exist_ok=True)
    shutil.copy(path, output)


def run_here(root: Path, *arguments: str) -> int:
    """What run_all.sh does, in another place; with G2E_TEST_KERNEL=no without kernels."""
    config.ROOT, config.RESULTS, config.FIGURES = root, root / "results", root / "figures"
    if (root / "profiles").is_dir():
        config.PROFILES = root / "profiles"
    if os.environ.get("G2E_TEST_KERNEL") == "no":
        matplotlib.use("agg")
        runner.run_notebook = execute_here
    return run(arguments)


def solve_here(root: Path, profile: str) -> None:
    """Run the solutions of the exercises, each of which checks its own answers, on results that are there."""
    config.RESULTS, config.FIGURES = root / "results", root / "figures"
    matplotlib.use("agg")
    chosen = profile_settings(profile)
    for path in sorted((config.NOTEBOOKS / "solutions").glob("*.ipynb")):
        shown = {name: chosen[path.stem][name] for name in cell_parameters(path) if name in chosen[path.stem]}
        execute_here(path, root / "solutions" / path.name, {"run": profile, **shown})


RUN = "import pathlib, sys, standin; sys.exit(standin.run_here(pathlib.Path(sys.argv[1]), *sys.argv[2:]))"
SOLVE = "import pathlib, sys, standin; standin.solve_here(pathlib.Path(sys.argv[1]), sys.argv[2])"


class Project:
    """A place to run notebooks in, away from the world.

    Args:
        root: its folder.
        hub: has data and model.
        profile: the name of the one that `run` runs.
        settings: what notebooks with which parameters it has here; None for the profile as it is.
    """

    def __init__(self, root: Path, hub: Hub | None, profile: str, settings: dict[str, dict] | None = None) -> None:
        self.root, self.profile = root, profile
        self.results, self.figures = (root / kind / self.profile for kind in ("results", "figures"))
        if settings is not None:
            (root / "profiles").mkdir()
            content = {"notebooks": list(settings), **settings}
            (root / "profiles" / f"{profile}.yaml").write_text(yaml.safe_dump(content, sort_keys=False))
        paths = os.pathsep.join([str(config.ROOT), str(config.ROOT / "tests")])
        self.environment = {**os.environ, "G2E_CACHE": str(root / "cache"), "PYTHONPATH": paths}
        self.environment |= {"HF_HOME": str(root / "hf"), "OMP_NUM_THREADS": "1"}
        self.environment |= hub.environment() if hub else {"HF_HUB_OFFLINE": "1"}

    def command(self, *arguments: str) -> list[str]:
        """What run_all.sh would execute."""
        return [sys.executable, "-c", RUN, str(self.root), "--profile", self.profile, *arguments]

    def run(self, *arguments: str, **more: str) -> str:
        """Run to the end, with further variables in the environment; returns what was printed."""
        done = subprocess.run(
            self.command(*arguments),
            capture_output=True, text=True, env=self.environment | more, cwd=self.root, check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    def metrics(self, name: str) -> dict:
        """A metrics file."""
        return json.loads((self.results / "metrics" / f"{name}.json").read_text())

    def record(self) -> dict:
        """What run.json says."""
        return json.loads((self.results / "run.json").read_text())

    def tables(self) -> dict[str, bytes]:
        """The tables' files by name."""
        return {path.name: path.read_bytes() for path in sorted((self.results / "tables").iterdir())}

    def drawn(self) -> dict[str, bytes]:
        """The figures' files by name."""
        return {path.name: path.read_bytes() for path in sorted(self.figures.iterdir())}
