"""Load, sample and save Stable Diffusion models, and generate class images; without ComfyUI."""

import logging

# Imported without the optional package torchao, diffusers warns of checkpoints that need it.
logging.getLogger("diffusers.quantizers.torchao.torchao_quantizer").setLevel(logging.ERROR)
