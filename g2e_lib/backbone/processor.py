"""A Qwen2-VL processor that needs no torchvision, which the video half of transformers' own cannot do without.

`import g2e_lib` makes AutoProcessor aware of it, so a checkpoint that names it loads without remote code.
"""

from transformers import AutoProcessor, Qwen2VLConfig
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil
from transformers.models.qwen2_vl.processing_qwen2_vl import Qwen2VLProcessor
from transformers.tokenization_utils_base import PreTrainedTokenizerBase


class G2EProcessor(Qwen2VLProcessor):
    """Qwen2VLProcessor without its video half; calls, chat template and outputs are the parent's."""

    def __init__(
        self,
        image_processor: Qwen2VLImageProcessorPil | None = None,
        tokenizer: PreTrainedTokenizerBase | None = None,
        chat_template: str | None = None,
    ) -> None:
        super().__init__(image_processor, tokenizer, chat_template=chat_template)


AutoProcessor.register(Qwen2VLConfig, G2EProcessor, exist_ok=True)
