"""The saved workflows' thumbnails in ComfyUI's template browser: images that their nodes show."""

from __future__ import annotations

import math
from collections.abc import Sequence

from PIL import Image, ImageOps

SIDE = 512
QUALITY = 90
BACKGROUND = (24, 24, 27)

SHOWN: dict[str, dict[str, int]] = {
    "caption_a_folder": {"Captions and boxes": 4},
    "choose_the_best_checkpoint": {
        "Similarity, prompt, drift, diversity": 1,
        "Images of the best": 3,
    },
    "compare_guidance_and_steps": {"Guidance to the right, steps downwards": 1},
    "find_and_mask_by_phrase": {"Crops": 4},
    "image_search": {"Found": 4},
    "image_to_image": {"Input image": 1, "Denoise 0.3": 1, "Denoise 0.5": 1, "Denoise 0.7": 1},
    "inpaint_by_grounding": {"Boxes of Kosmos-2": 1, "After": 1},
    "personalize_and_caption": {"Subject with boxes": 2, "Images of the subject": 2},
    "personalize_from_grounding": {"Training images": 1, "New scenes": 3},
    "quantize_and_compare": {"Comparison: Stable Diffusion": 1},
    "regional_prompts": {"Layout with boxes": 1, "Result": 1},
    "teach_a_subject.app": {"Images of the subject": 4},
    "textual_inversion": {"New scenes": 4},
    "translate_captions": {"German captions": 4},
    "vision_alignment": {"Attention maps": 4},
}
"""For each workflow the titles of nodes, and how many of their images are shown."""


def draw_thumbnail(images: Sequence[Image.Image]) -> Image.Image:
    """Images in a square grid, each as large as its cell allows, 512 x 512 RGB."""
    columns = math.ceil(math.sqrt(len(images)))
    rows, cell = math.ceil(len(images) / columns), SIDE // columns
    thumbnail = Image.new("RGB", (SIDE, SIDE), BACKGROUND)
    top = (SIDE - rows * cell) // 2
    for k, image in enumerate(images):
        shown = ImageOps.pad(
            image.convert("RGB"), (cell, cell), Image.Resampling.LANCZOS, BACKGROUND
        )
        thumbnail.paste(shown, (k % columns * cell, top + k // columns * cell))
    return thumbnail
