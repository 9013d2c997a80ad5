"""Make a folder others can load: an adapter, or a merged checkpoint that is also a SentenceTransformer.

A merged folder loads as an ordinary Qwen2-VL, as `Embedder.from_pretrained(folder)`, and, after `import g2e_lib`, as
`SentenceTransformer(folder)`, whose `encode_query` adds the query's own line to the prompt.
"""

import argparse
import json
import shutil
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import HfApi, ModelCard, ModelCardData

from g2e_lib.backbone.checkpoint import apply_adapter, checkpoint_folder, load_model, load_processor
from g2e_lib.project.store import write_json, write_text
from g2e_lib.prompts import ASSISTANT_HEADER, TURN_END, TURN_START, VISION_BLOCK, Prompt, get_prompt

TEMPLATES = Path(__file__).with_name("templates")


@dataclass(frozen=True)
class Release:
    """What is published."""

    model: str  # the base model, a name that others can resolve: it goes into the card and the adapter's settings
    adapter: str = ""  # folder of a PEFT adapter; "" publishes the base model as an embedder
    prompt: str = "hierarchical"  # a name in prompts.PROMPTS
    dtype: str = "bfloat16"  # of the merged weights, or "float32"
    max_pixels: int = 0  # of an image, written into the image processor's settings; 0 leaves them
    license: str = "apache-2.0"  # of the weights
    datasets: tuple[str, ...] = ("TIGER-Lab/MMEB-train",)  # hub ids of the training data, for the card
    results: str = ""  # a results folder whose tables go into the card; "" for none


def embedding_template(prompt: Prompt) -> str:
    """A Jinja chat template that renders one user message as `prompts.render` does, the image first.

    Whether the message is a query is told by the variable `task`, which sentence-transformers sets.

    Raises:
        ValueError: the prompt embeds image and text apart, which no template can say.
    """
    if prompt.fusion != "joint":
        raise ValueError(f"prompt {prompt.name!r} embeds image and text apart: publish another one")
    instructions = {role: prompt.instruction(role) for role in ("query", "target")}
    lines = {role: [line.with_image, line.text_only] if line else ["", ""] for role, line in instructions.items()}
    constants = {"SYSTEM": prompt.system or "", "LINES": lines, "VISION": VISION_BLOCK}
    constants |= {"START": TURN_START, "END": TURN_END, "ASSISTANT": ASSISTANT_HEADER}
    head = "".join(f"{{%- set {name} = {json.dumps(value)} %}}\n" for name, value in constants.items())
    return head + (TEMPLATES / "chat_template.jinja").read_text(encoding="utf-8")


def sentence_transformers_files(prompt: Prompt, dimension: int) -> dict[str, Any]:
    """The JSON files, by path, that make a Qwen2-VL folder with embeddings of that dimension a SentenceTransformer."""
    files = json.loads((TEMPLATES / "sentence_transformers.json").read_text(encoding="utf-8"))
    files["1_Pooling/config.json"]["embedding_dimension"] = dimension
    files["config_sentence_transformers.json"]["prompts"] = dict.fromkeys(("query", "document"), prompt.system or "")
    return files


def save_processor(release: Release, source: Path, folder: Path) -> None:
    """Write tokenizer, image processor and the template of the prompt."""
    processor = load_processor(source)
    if release.max_pixels:
        processor.image_processor.size["longest_edge"] = release.max_pixels
    processor.chat_template = embedding_template(get_prompt(release.prompt))
    processor.save_pretrained(folder)
    settings = {**processor.image_processor.to_dict(), "processor_class": type(processor).__name__}
    write_json(folder / "preprocessor_config.json", settings)  # older readers look here


def publish_adapter(release: Release, folder: Path) -> Path:
    """Write an adapter with its card and processor into a folder; ValueError if that is not empty, or has none."""
    source = checkpoint_folder(release.adapter)
    _make_new(folder)
    save_processor(release, checkpoint_folder(release.model), folder)
    for name in ("adapter_model.safetensors", "adapter_config.json"):
        if not (source / name).is_file():
            raise ValueError(f"adapter folder {source} has no {name}: train one, or give another folder")
        shutil.copy(source / name, folder / name)
    settings = json.loads((folder / "adapter_config.json").read_text(encoding="utf-8"))
    write_json(folder / "adapter_config.json", settings | {"base_model_name_or_path": release.model})
    write_text(folder / "README.md", model_card(release, is_merged=False))
    return folder


def publish_merged(release: Release, folder: Path) -> Path:
    """Write merged weights, and what SentenceTransformer and Embedder need besides, into a new or empty folder.

    Raises:
        ValueError: the folder is not empty, model and adapter do not fit, or the prompt cannot be published.
    """
    source, prompt = checkpoint_folder(release.model), get_prompt(release.prompt)
    embedding_template(prompt)  # refuses before anything is loaded
    if release.dtype not in ("float32", "bfloat16"):
        raise ValueError(f"unknown dtype {release.dtype!r}: use 'float32' or 'bfloat16'")
    _make_new(folder)
    model = load_model(source, "float32")  # merging in bfloat16 would round twice
    if release.adapter:
        apply_adapter(model, checkpoint_folder(release.adapter))
    model.to(getattr(torch, release.dtype)).save_pretrained(folder)
    save_processor(release, source, folder)
    for name, content in sentence_transformers_files(prompt, model.config.text_config.hidden_size).items():
        write_json(folder / name, content)
    write_text(folder / "README.md", model_card(release, is_merged=True))
    return folder


def _make_new(folder: Path) -> None:
    if folder.exists() and any(folder.iterdir()):
        raise ValueError(f"{folder} is not empty: choose a new folder, so that nothing old is published with the new")
    folder.mkdir(parents=True, exist_ok=True)


def model_card(release: Release, is_merged: bool) -> str:
    """The README.md of a published folder; ValueError if the results have none of the tables that it shows."""
    names = ("table_2_training", "table_1_zero_shot") if release.results else ()
    files = [Path(release.results) / "tables" / f"{name}.md" for name in names]
    tables = [path.read_text(encoding="utf-8").strip() for path in files if path.is_file()]
    if release.results and not tables:
        remedy = "run the notebooks first, or publish without results"
        raise ValueError(f"{release.results} has no table of results: {remedy}")
    prompt = get_prompt(release.prompt)
    facts = ModelCardData(
        license=release.license,
        library_name="sentence-transformers" if is_merged else "peft",
        base_model=release.model,
        pipeline_tag="feature-extraction",
        datasets=list(release.datasets),
        tags=["multimodal-embedding", "qwen2_vl", "gen2embed"],
    )
    card = ModelCard.from_template(
        facts,
        template_path=str(TEMPLATES / "model_card.md"),
        system=prompt.system,
        line=prompt.instruction("query"),
        adapter="none" if not release.adapter else "merged" if is_merged else "apart",
        prompt=release.prompt,
        is_merged=is_merged,
        tables=tables,
    )
    return str(card).rstrip() + "\n"


def push(folder: Path, repository: str, is_private: bool = True) -> str:
    """Upload a published folder to the hub; returns its address; ValueError if the hub refuses."""
    try:
        api = HfApi()
        api.create_repo(repository, private=is_private, exist_ok=True)
        return str(api.upload_folder(repo_id=repository, folder_path=folder))
    except Exception as error:  # the client raises its own, the hub's, and those of the HTTP library below
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise ValueError(f"cannot upload to {repository!r} ({reason}): check the name and `hf auth login`") from None


def main(arguments: Sequence[str] | None = None) -> int:
    """Run from the command line; returns the exit status. Nothing is uploaded without --push."""
    parser = argparse.ArgumentParser(prog="python -m g2e_lib publish", description=__doc__.splitlines()[0])
    add = parser.add_argument
    add("folder", type=Path, help="new folder to write")
    add("--model", required=True, help="base model: a hub id that others can resolve, or a folder")
    add("--adapter", default="", help="folder of a PEFT adapter")
    add("--prompt", default=Release.prompt, help="name of the prompt (default: %(default)s)")
    add("--dtype", default=Release.dtype, help="of merged weights (default: %(default)s)")
    add("--results", default="", help="results folder whose tables go into the card")
    add("--adapter-only", action="store_true", help="publish the adapter, not merged weights")
    add("--push", metavar="ORG/NAME", default="", help="upload there afterwards")
    add("--public", action="store_true", help="make a new repository public")
    options = parser.parse_args(arguments)
    release = Release(options.model, options.adapter, options.prompt, options.dtype, results=options.results)
    try:
        publish = publish_adapter if options.adapter_only else publish_merged
        print(publish(release, options.folder))  # noqa: T201
        if options.push:
            print(push(options.folder, options.push, not options.public))  # noqa: T201
    except ValueError as error:
        print(f"publish: {error}", file=sys.stderr)  # noqa: T201
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
