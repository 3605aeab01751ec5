"""Run inside ComfyUI: write the weights and tokens that core reads from prompts.

    python write_core_prompts.py --cpu FOLDER

FOLDER has prompts.json, a list of texts, and the folder embeddings; it gets weights.json, a list
of [text, weight] pairs for each, and tokens.json, the chunks of [id, weight] pairs of CLIP's
tokenizer; the id of a vector is -1.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

sys.path.insert(0, str(Path.cwd()))
folder = Path(sys.argv.pop())

import comfy.options  # noqa: E402

comfy.options.enable_args_parsing()

from comfy.sd1_clip import (  # noqa: E402
    SDTokenizer,
    escape_important,
    token_weights,
    unescape_important,
)

tokenizer = SDTokenizer(embedding_directory=str(folder / "embeddings"))
prompts = json.loads((folder / "prompts.json").read_text(encoding="utf-8"))
weights = [
    [[unescape_important(text), weight] for text, weight in token_weights(escape_important(p), 1.0)]
    for p in prompts
]
tokens = [
    [
        [[token if isinstance(token, int) else -1, weight] for token, weight in chunk]
        for chunk in tokenizer.tokenize_with_weights(prompt)
    ]
    for prompt in prompts
]
(folder / "weights.json").write_text(json.dumps(weights), encoding="utf-8")
(folder / "tokens.json").write_text(json.dumps(tokens), encoding="utf-8")
