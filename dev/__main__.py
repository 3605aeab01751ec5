"""Run one of the developers' commands: `python -m dev list` names them, from the pack's folder."""

from __future__ import annotations

import signal
import sys

from as_package import load

COMMANDS = {
    "demo": ("dev.demo.walk", "run the demo workflow in a real ComfyUI and write a contact sheet"),
    "serve": ("dev.demo.playground", "start a ComfyUI with the pack and leave it up"),
    "workflows": ("dev.demo.run_workflows", "run the saved workflows through comfy-cli"),
    "locales": ("dev.demo.write_locales", "write locales/ from locales/terms.csv"),
    "screenshots": ("dev.demo.panel_screenshots", "take the README's screenshots of panels"),
    "train-autoencoder": ("dev.sandbox.train_autoencoder", "train the sandbox's AutoencoderKL"),
    "train-diffusion": ("dev.sandbox.train_diffusion", "train the sandbox's Stable Diffusion"),
    "train-captioner": ("dev.sandbox.train_captioner", "train the sandbox's Kosmos-2"),
    "train-judge": ("dev.sandbox.train_judge", "train the judge that scores generated images"),
    "draw-scenes": ("dev.sandbox.draw_scenes", "write sandbox/scenes/ and sandbox/german/"),
    "draw-subject": ("dev.sandbox.draw_subject", "write sandbox/subject/"),
    "draw-banner": ("dev.sandbox.draw_banner", "write web/banner.png"),
    "score": ("dev.scores.all_scores", "measure the sandbox's models; --write: the model card"),
    "score-ablation": ("dev.scores.ablation", "measure what each training option is worth"),
    "score-insight": ("dev.scores.insight_scores", "measure retrieval and attention maps"),
    "score-languages": ("dev.scores.language_scores", "measure fine-tuning on other languages"),
    "score-quantized": ("dev.scores.quantized_scores", "measure what quantization costs"),
    "bench-captions": ("dev.bench.caption_speed", "captions against transformers' loop"),
    "bench-generation": ("dev.bench.generation_speed", "sampling against diffusers' pipeline"),
    "bench-training": ("dev.bench.training_speed", "training against diffusers' loop"),
    "bench-quantized": ("dev.bench.quantized_speed", "caption speed of quantized models"),
    "bench-export": ("dev.bench.export_equality", "exports against PyTorch: size, outputs, speed"),
    "bench-guidance": ("dev.bench.guidance_quality", "right kinds over guidance and steps, a plot"),
    "bench-core": ("dev.bench.core_equality", "KSampler against CFGSampler at the real sizes"),
    "bench-pipeline": ("dev.bench.pipeline_equality", "schedulers against diffusers' pipeline"),
    "bench-resume": ("dev.bench.resume_equality", "a run killed again and again: bit-identical?"),
    "bench-scale": ("dev.bench.scale_equality", "one process, two, and gradient accumulation"),
    "bench-cancel": ("dev.bench.cancel_speed", "seconds from Cancel to a resumable checkpoint"),
    "bench-memory": ("dev.bench.server_memory", "a server's memory over many runs"),
    "bench-panels": ("dev.bench.panel_speed", "what the panels cost the page"),
}
"""Command -> (module with a `main`, what it does)."""


def main() -> None:
    """Run the command that the first argument names; the rest are its own, see its `--help`."""
    name = sys.argv[1] if len(sys.argv) > 1 else "list"
    if name == "list":
        print(__doc__, *(f"  {key:18} {text}" for key, (_, text) in COMMANDS.items()), sep="\n")
    elif name not in COMMANDS:
        sys.exit(f"There is no command {name}; `python -m dev list` names all.")
    else:
        sys.argv[:2] = [f"python -m dev {name}"]
        # On SIGTERM as on Ctrl-C, `with` blocks are left, which stops the servers they started.
        signal.signal(signal.SIGTERM, signal.default_int_handler)
        load(COMMANDS[name][0]).main()


if __name__ == "__main__":
    main()
