"""Make a folder others can load: an adapter, or a merged checkpoint that is also a SentenceTransformer.

A merged folder loads as an ordinary Qwen2-VL, as `Embedder.from_pretrained(folder)`, and, after `import g2e_lib`, as
`SentenceTransformer(folder)`: the chat template then writes the prompt, `encode_query` with the query's own line and
`encode_document` without, and small files say to pool the last token and normalise.
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
from huggingface_hub import HfApi

from g2e_lib.backbone.checkpoint import apply_adapter, checkpoint_folder, load_model, load_processor
from g2e_lib.project.store import write_json, write_text
from g2e_lib.prompts import ASSISTANT_HEADER, TURN_END, TURN_START, VISION_BLOCK, Prompt, get_prompt

CARD = "README.md"
ST = "sentence_transformers"
FORWARD = {"method": "forward", "method_output_name": "last_hidden_state"}


@dataclass(frozen=True)
class Release:
    """What is published.

    Attributes:
        model: the base model, a name that others can resolve: it goes into the card and the adapter's settings.
        adapter: folder of a PEFT adapter; "" publishes the base model as an embedder.
        prompt: a name in prompts.PROMPTS.
        dtype: of the merged weights, "float32" or "bfloat16".
        max_pixels: of an image, written into the image processor's settings; 0 leaves them.
        license: of the weights.
        datasets: hub ids of the training data, for the card.
        results: a results folder whose tables go into the card; "" for none.
    """

    model: str
    adapter: str = ""
    prompt: str = "hierarchical"
    dtype: str = "bfloat16"
    max_pixels: int = 0
    license: str = "apache-2.0"
    datasets: tuple[str, ...] = ("TIGER-Lab/MMEB-train",)
    results: str = ""


def embedding_template(prompt: Prompt) -> str:
    """A Jinja chat template that renders one user message as `prompts.render` does.

    Whether the message is a query is told by the variable `task`, which sentence-transformers sets. The image comes
    first, whatever the order of the parts.

    Args:
        prompt: its fusion must be "joint".

    Raises:
        ValueError: the prompt embeds image and text apart, which no template can say.
    """
    if prompt.fusion != "joint":
        raise ValueError(f"prompt {prompt.name!r} embeds image and text apart: publish another one")
    lines = []
    for condition, role in (("is_query", "query"), ("not is_query", "target")):
        if line := prompt.instruction(role):
            with_image, text_only = json.dumps(line.with_image), json.dumps(line.text_only)
            lines.append(
                f"{{%- if {condition} %}}{{%- set ns.line = {with_image} if ns.image else {text_only} %}}{{%- endif %}}"
            )
    system = json.dumps(prompt.system or "")
    return "".join(
        (
            "{%- set is_query = task is defined and task == 'query' %}",
            f"{{%- set ns = namespace(system={system}, image='', text='', line='') %}}",
            "{%- for message in messages %}{%- set parts = message.content %}",
            "{%- if parts is string %}{%- set parts = [{'type': 'text', 'text': parts}] %}{%- endif %}",
            "{%- for part in parts %}",
            "{%- if message.role == 'system' %}{%- set ns.system = part.text %}",
            f"{{%- elif part.type == 'image' %}}{{%- set ns.image = {json.dumps(VISION_BLOCK)} %}}",
            "{%- elif part.type == 'text' %}{%- set ns.text = part.text | trim %}{%- endif %}",
            "{%- endfor %}{%- endfor %}",
            *lines,
            f"{{%- if ns.system %}}{{{{- {json.dumps(f'{TURN_START}system' + chr(10))} + ns.system",
            f" + {json.dumps(TURN_END + chr(10))} }}}}{{%- endif %}}",
            f"{{{{- {json.dumps(f'{TURN_START}user' + chr(10))} }}}}",
            '{{- [ns.image, ns.text, ns.line] | select | join("\\n") }}',
            f"{{{{- {json.dumps(TURN_END + chr(10) + ASSISTANT_HEADER)} }}}}",
        )
    )


def sentence_transformers_files(prompt: Prompt, dimension: int) -> dict[str, Any]:
    """The JSON files, by path, that make a Qwen2-VL folder a SentenceTransformer.

    Args:
        prompt: as in embedding_template.
        dimension: D.
    """
    modules = (
        ("", f"{ST}.base.modules.transformer.Transformer"),
        ("1_Pooling", f"{ST}.{ST[:-1]}.modules.pooling.Pooling"),
        ("2_Normalize", f"{ST}.base.modules.normalize.Normalize"),
    )
    system = prompt.system or ""
    return {
        "modules.json": [{"idx": i, "name": str(i), "path": p, "type": t} for i, (p, t) in enumerate(modules)],
        "sentence_bert_config.json": {
            "transformer_task": "feature-extraction",
            "module_output_name": "token_embeddings",
            "unpad_inputs": False,
            "modality_config": {"text": FORWARD, "image": FORWARD, "message": {**FORWARD, "format": "structured"}},
        },
        "1_Pooling/config.json": {
            "embedding_dimension": dimension,
            "pooling_mode": "lasttoken",
            "include_prompt": True,
        },
        "2_Normalize/config.json": {},
        "config_sentence_transformers.json": {
            "model_type": "SentenceTransformer",
            "prompts": {"query": system, "document": system},
            "similarity_fn_name": "cosine",
        },
    }


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
    """Write an adapter with its card, tokenizer, processor and template.

    Args:
        release: what to publish.
        folder: must be new or empty.

    Raises:
        ValueError: the folder is not empty, or the adapter is not there.
    """
    source = checkpoint_folder(release.adapter)
    _claim(folder)
    save_processor(release, checkpoint_folder(release.model), folder)
    for name in ("adapter_model.safetensors", "adapter_config.json"):
        if not (source / name).is_file():
            raise ValueError(f"adapter folder {source} has no {name}: train one, or give another folder")
        shutil.copy(source / name, folder / name)
    settings = json.loads((folder / "adapter_config.json").read_text(encoding="utf-8"))
    write_json(folder / "adapter_config.json", settings | {"base_model_name_or_path": release.model})
    write_text(folder / CARD, model_card(release, is_merged=False))
    return folder


def publish_merged(release: Release, folder: Path) -> Path:
    """Write merged weights with everything that `SentenceTransformer(folder)` and `Embedder` need.

    Args:
        release: what to publish.
        folder: must be new or empty.

    Raises:
        ValueError: the folder is not empty, model and adapter do not fit, or the prompt cannot be published.
    """
    source, prompt = checkpoint_folder(release.model), get_prompt(release.prompt)
    embedding_template(prompt)  # refuses before anything is loaded
    if release.dtype not in ("float32", "bfloat16"):
        raise ValueError(f"unknown dtype {release.dtype!r}: use 'float32' or 'bfloat16'")
    _claim(folder)
    model = load_model(source, "float32")  # merging in bfloat16 would round twice
    if release.adapter:
        apply_adapter(model, checkpoint_folder(release.adapter))
    model.to(getattr(torch, release.dtype)).save_pretrained(folder)
    save_processor(release, source, folder)
    for name, content in sentence_transformers_files(prompt, model.config.text_config.hidden_size).items():
        write_json(folder / name, content)
    write_text(folder / CARD, model_card(release, is_merged=True))
    return folder


def _claim(folder: Path) -> None:
    if folder.exists() and any(folder.iterdir()):
        raise ValueError(f"{folder} is not empty: choose a new folder, so that nothing old is published with the new")
    folder.mkdir(parents=True, exist_ok=True)


def model_card(release: Release, is_merged: bool) -> str:
    """The README.md of a published folder."""
    facts = {
        "license": release.license,
        "library_name": "sentence-transformers" if is_merged else "peft",
        "base_model": release.model,
        "pipeline_tag": "feature-extraction",
    }
    lists = {"datasets": release.datasets, "tags": ("multimodal-embedding", "qwen2_vl", "gen2embed")}
    head = [f"{name}: {value}" for name, value in facts.items()]
    for name, values in lists.items():
        head += [f"{name}:", *(f"- {value}" for value in values)]
    prompt = get_prompt(release.prompt)
    line = prompt.instruction("query")
    with_st = """
```python
import g2e_lib  # a processor that needs no torchvision
from sentence_transformers import SentenceTransformer

model = SentenceTransformer("PATH")
queries = model.encode_query(["a red sun", {"text": "what is this?", "image": "photo.jpg"}])
targets = model.encode_document(["sun", {"image": "photo.jpg"}])
print(model.similarity(queries, targets))
```
sentence-transformers cuts long inputs at their very end, where the embedding is read; keep texts within its limit.
"""
    loader = f'Embedder.from_pretrained("PATH", prompt="{release.prompt}")'
    parts = [
        "---\n" + "\n".join(head) + "\n---",
        f"# Embeddings of texts, images and both, from {release.model}",
        "The embedding is the last hidden state at the end of the assistant header, scaled to unit length.",
        f"- system message: `{prompt.system or 'none'}`",
        f"- line after a query's own text: `{line.with_image if line else 'none'}`"
        + (f" (text alone: `{line.text_only}`)" if line else ""),
        f"- trained adapter: {'merged' if is_merged and release.adapter else 'apart' if release.adapter else 'none'}",
        "## Use",
        f"```python\nfrom g2e_lib.embedder import Embedder\n\nembedder = {loader}\n"
        'queries = embedder.encode(["a red sun"], role="query")\n```',
        with_st.strip() if is_merged else "",
        _results(release.results),
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def _results(folder: str) -> str:
    """The tables of a results folder that a card shows."""
    tables = (
        [Path(folder) / "tables" / f"{name}.md" for name in ("table_2_training", "table_1_zero_shot")] if folder else []
    )
    found = [path.read_text(encoding="utf-8").strip() for path in tables if path.is_file()]
    if folder and not found:
        raise ValueError(f"{folder} has no table of results: run the notebooks first, or publish without results")
    return "\n\n".join(["## Results", *found]) if found else ""


def push(folder: Path, repository: str, is_private: bool = True) -> str:
    """Upload a published folder to the hub; returns its address.

    Raises:
        ValueError: the hub refuses.
    """
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
    parser.add_argument("folder", type=Path, help="new folder to write")
    parser.add_argument("--model", required=True, help="base model: a hub id that others can resolve, or a folder")
    parser.add_argument("--adapter", default="", help="folder of a PEFT adapter")
    parser.add_argument("--prompt", default=Release.prompt, help=f"name of the prompt (default: {Release.prompt})")
    parser.add_argument("--dtype", default=Release.dtype, help=f"of merged weights (default: {Release.dtype})")
    parser.add_argument("--results", default="", help="results folder whose tables go into the card")
    parser.add_argument("--adapter-only", action="store_true", help="publish the adapter, not merged weights")
    parser.add_argument("--push", metavar="ORG/NAME", default="", help="upload there afterwards")
    parser.add_argument("--public", action="store_true", help="make a new repository public")
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
