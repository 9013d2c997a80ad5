"""The base model's parts: an unmodified, small Qwen2-VL, its tokenizer and its processor, all untrained."""

from collections.abc import Iterable

import torch
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
from torch import Tensor
from transformers import PreTrainedTokenizerFast, Qwen2VLConfig, Qwen2VLForConditionalGeneration
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil

from g2e_lib.backbone.processor import G2EProcessor
from g2e_lib.glyphworld.world.render import CELL

VOCABULARY_SIZE = 1000  # byte-level BPE entries, special tokens not counted
MAX_TOKENS = 1024
SPECIAL_TOKENS = (
    "<|endoftext|>",
    "<|im_start|>",
    "<|im_end|>",
    "<|vision_start|>",
    "<|vision_end|>",
    "<|image_pad|>",
    "<|video_pad|>",
)

# Qwen2-VL's chat format without the released one's default system message: equals g2e_lib.prompts.render for one turn.
CHAT_TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message.role }}\n"
    "{% if message.content is string %}{{ message.content }}{% else %}"
    "{% for part in message.content %}"
    "{% if part.type == 'image' %}<|vision_start|><|image_pad|><|vision_end|>{% else %}{{ part.text }}{% endif %}"
    "{% if not loop.last %}{{ '\\n' }}{% endif %}{% endfor %}{% endif %}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def build_tokenizer(texts: Iterable[str]) -> PreTrainedTokenizerFast:
    """Train a byte-level BPE tokenizer with Qwen2's word splitting and special tokens on `texts`."""
    split_words = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}"
    split_rest = r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(split_words + split_rest), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY_SIZE,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    tokenizer.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in SPECIAL_TOKENS])
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        eos_token="<|im_end|>",
        pad_token="<|endoftext|>",
        padding_side="right",
        model_max_length=MAX_TOKENS,
        clean_up_tokenization_spaces=False,
    )


def build_processor(tokenizer: PreTrainedTokenizerFast) -> G2EProcessor:
    """The processor: 16-pixel patches merged 2x2, so one visual token a 32x32 cell, and images of 1 to 16 cells."""
    image_processor = Qwen2VLImageProcessorPil(
        patch_size=CELL // 2, merge_size=2, size={"shortest_edge": CELL**2, "longest_edge": 16 * CELL**2}
    )
    return G2EProcessor(image_processor, tokenizer, chat_template=CHAT_TEMPLATE)


def build_model(tokenizer: PreTrainedTokenizerFast, seed: int) -> Qwen2VLForConditionalGeneration:
    """An untrained Qwen2-VL of about three and a half million parameters, float32, for this tokenizer."""
    ids = tokenizer.convert_tokens_to_ids
    config = Qwen2VLConfig(
        text_config={
            "vocab_size": len(tokenizer),
            "hidden_size": 192,
            "intermediate_size": 512,
            "num_hidden_layers": 6,
            "num_attention_heads": 6,
            "num_key_value_heads": 6,
            "initializer_range": 0.06,  # with the usual 0.02, looking back at a text is learned ten times later
            "max_position_embeddings": MAX_TOKENS,
            "rope_parameters": {"rope_type": "default", "rope_theta": 1000000.0, "mrope_section": [4, 6, 6]},
            "bos_token_id": ids("<|endoftext|>"),
            "eos_token_id": ids("<|im_end|>"),
            "pad_token_id": ids("<|endoftext|>"),
        },
        vision_config={
            "depth": 3,
            "embed_dim": 96,
            "hidden_size": 192,
            "num_heads": 3,
            "mlp_ratio": 4,
            "patch_size": CELL // 2,
            "spatial_merge_size": 2,
            "temporal_patch_size": 2,
        },
        image_token_id=ids("<|image_pad|>"),
        video_token_id=ids("<|video_pad|>"),
        vision_start_token_id=ids("<|vision_start|>"),
        vision_end_token_id=ids("<|vision_end|>"),
        tie_word_embeddings=True,
    )
    torch.manual_seed(seed)
    model = Qwen2VLForConditionalGeneration(config)
    _share_stems(model.get_input_embeddings().weight, tokenizer)
    _look_for_what_is_alike(model)
    return model


@torch.no_grad()
def _look_for_what_is_alike(model: Qwen2VLForConditionalGeneration) -> None:
    """Let every head begin by attending to tokens like its own, and by passing on what it sees.

    Keys begin equal to queries, outputs as the transpose of values (after Trockman and Kolter, arXiv 2305.09828).
    """
    for layer in model.model.language_model.layers:
        attention = layer.self_attn
        attention.k_proj.weight.copy_(attention.q_proj.weight)
        attention.o_proj.weight.copy_(attention.v_proj.weight.T)


@torch.no_grad()
def _share_stems(embeddings: Tensor, tokenizer: PreTrainedTokenizerFast) -> None:
    """Give a word after a space and the same word at the start of a line, two tokens, embeddings of cosine 0.8.

    An answer begins a line, what it repeats stood after a space: reading would begin by learning that the two are one.
    """
    vocabulary = tokenizer.get_vocab()
    for token, index in vocabulary.items():
        bare = vocabulary.get(token[1:])
        if token.startswith("Ġ") and bare is not None and not token[1:].startswith("Ġ"):
            embeddings[index] = 0.8 * embeddings[bare] + 0.6 * embeddings[index]
