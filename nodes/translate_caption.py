"""The node that translates captions."""

from __future__ import annotations

from typing import TYPE_CHECKING

from comfy_api.latest import io

from ..kosmos.generate.language import LANGUAGES
from ..shared.errors import UserError
from . import host
from .sockets import GROUNDING

if TYPE_CHECKING:
    from ..kosmos.grounding import Grounding

NONE = "none"


class TranslateCaption(io.ComfyNode):
    """Translated captions with their boxes."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """Describe the node; the combo lists models/translation as it is now."""
        return host.node_schema(
            node_id="TranslateCaption",
            display_name="Translate Caption",
            category="Kosmos DreamBooth/vision",
            search_aliases="translate, translation, language, caption, nllb, marian",
            description="Translates captions with a local MarianMT, M2M100 or NLLB model, and "
            "keeps each box with the words that it belongs to.",
            inputs=[
                GROUNDING.Input("grounding", tooltip="English captions and their boxes."),
                io.Combo.Input(
                    "translator",
                    options=[NONE, *host.list_models("translation")],
                    default=NONE,
                    tooltip="A folder in models/translation in the transformers layout, such as "
                    "Helsinki-NLP/opus-mt-en-de or facebook/nllb-200-distilled-600M.",
                ),
                io.Combo.Input(
                    "language",
                    options=LANGUAGES,
                    default="German",
                    tooltip="Language to translate to. A MarianMT model for one pair of languages "
                    "always translates to its own.",
                ),
            ],
            outputs=[
                io.String.Output(
                    display_name="captions",
                    is_output_list=True,
                    tooltip="One translated text per image.",
                ),
                GROUNDING.Output(
                    display_name="translated",
                    tooltip="The translations, their phrases and boxes.",
                ),
            ],
        )

    @classmethod
    def execute(cls, grounding: Grounding, translator: str, language: str) -> io.NodeOutput:
        """Translate the captions."""
        from ..kosmos.grounding import Grounding
        from ..kosmos.translate import load_translator, translate

        if translator == NONE:
            raise UserError(
                "No translator is chosen: put the folder of a MarianMT, M2M100 or NLLB into "
                "ComfyUI's models/translation, press R and choose it."
            )
        loaded = load_translator(
            host.model_path("translation", translator), host.torch_dtype("auto")
        )
        host.load_to_device(host.register_model(loaded.model))
        progress = host.Progress(100)
        texts = translate(
            loaded,
            grounding.captions,
            language,
            on_batch=lambda done, total: progress.step(100 * done // total),
        )
        return io.NodeOutput([text.caption for text in texts], Grounding(tuple(texts)))
