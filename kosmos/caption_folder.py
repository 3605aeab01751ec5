"""Caption all images of a folder: `python kosmos/caption_folder.py FOLDER`, `--help` for more.

On several GPUs or machines: `torchrun --nproc-per-node 8 kosmos/caption_folder.py FOLDER`.
"""

import sys
from pathlib import Path

if __name__ == "__main__":
    sys.path[0] = str(Path(__file__).resolve().parents[1])
    from as_package import load

    load("kosmos.files.folder_command").main()
