"""Run one of the developers' commands from the pack's folder; `python -m dev list` names them.

`python -m dev COMMAND --help` shows a command's arguments.
"""

from __future__ import annotations

import ast
import signal
import sys

from as_package import ROOT, load

COMMANDS = {
    "demo": "demo.run_demo",
    "serve": "demo.playground",
    "workflows": "demo.run_workflows",
    "replay-faults": "faults.replay_faults",
    "locales": "demo.write_locales",
    "core-nodes": "demo.write_core_nodes",
    "layout-workflows": "demo.layout_workflows",
    "blueprints": "demo.write_blueprints",
    "screenshots": "demo.panel_screenshots",
    "help-images": "demo.help_images",
    "train-autoencoder": "sandbox.train_autoencoder",
    "train-diffusion": "sandbox.train_diffusion",
    "train-decoder": "sandbox.train_decoder",
    "train-captioner": "sandbox.train_captioner",
    "train-judge": "sandbox.train_judge",
    "draw-scenes": "sandbox.draw_scenes",
    "draw-subject": "sandbox.draw_subject",
    "draw-banner": "sandbox.draw_banner",
    "score": "scores.all_scores",
    "score-ablation": "scores.ablation",
    "score-insight": "scores.insight_scores",
    "score-languages": "scores.language_scores",
    "score-reconstruction": "scores.reconstruction_scores",
    "score-quantized": "scores.quantized_scores",
    "paper-grounding": "papers.phrase_grounding",
    "paper-refcoco": "papers.referring",
    "paper-captions": "papers.flickr_captions",
    "paper-vqa": "papers.vqa",
    "paper-regions": "papers.region_captions",
    "paper-dreambooth": "papers.dreambooth",
    "gpu": "bench.gpu",
    "bench-captions": "bench.caption_speed",
    "bench-generation": "bench.generation_speed",
    "bench-training": "bench.training_speed",
    "bench-time-to-quality": "scores.time_to_quality",
    "bench-quantized": "bench.quantized_speed",
    "bench-captioner-memory": "bench.captioner_memory",
    "bench-xl-memory": "bench.xl_memory",
    "bench-export": "bench.export_equality",
    "bench-guidance": "bench.guidance_quality",
    "bench-core": "bench.core_equality",
    "bench-any-model": "bench.any_model",
    "bench-model-equality": "bench.model_equality",
    "bench-pipeline": "bench.pipeline_equality",
    "bench-resume": "bench.resume_equality",
    "bench-scale": "bench.scale_equality",
    "bench-cancel": "bench.cancel_speed",
    "bench-memory": "bench.server_memory",
    "bench-panels": "bench.panel_speed",
    "fuzz-prompts": "bench.fuzz_prompts",
}
"""Command -> module in dev/, with a `main` and a docstring that says what it does."""


def main() -> None:
    """Run the command that the first argument names, with the arguments after it."""
    name = sys.argv[1] if len(sys.argv) > 1 else "list"
    if name == "list":
        print(__doc__)
        for command, module in COMMANDS.items():
            file = ROOT / "dev" / f"{module.replace('.', '/')}.py"
            docstring = ast.get_docstring(ast.parse(file.read_text(encoding="utf-8"))) or ""
            print(f"  {command:18} {file.relative_to(ROOT)!s:36} {docstring.splitlines()[0]}")
    elif name not in COMMANDS:
        sys.exit(f"There is no command {name}: choose one from `python -m dev list`.")
    else:
        sys.argv[:2] = [f"python -m dev {name}"]
        # SIGTERM raises KeyboardInterrupt, so that `with` blocks stop the servers they started.
        signal.signal(signal.SIGTERM, signal.default_int_handler)
        user_error = load("shared.errors").UserError
        try:
            load(f"dev.{COMMANDS[name]}").main()
        except user_error as error:
            sys.exit(str(error))


if __name__ == "__main__":
    main()
