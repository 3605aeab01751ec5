"""Record this version as the last release: `python tests/host/write_promises.py`.

Writes `last_release/workflows/`, the saved workflows, and `last_release/values.json`: the choices
of each combo and the bounds of each number, on a server without models.
"""

from __future__ import annotations

import json
import shutil
import sys
import tempfile
from pathlib import Path

LAST_RELEASE = Path(__file__).with_name("last_release")

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
    from as_package import ROOT, load
    from tests.host.node_schema import fields

    comfyui, client = load("dev.demo.comfyui_server"), load("dev.demo.server_client")
    with tempfile.TemporaryDirectory() as base, comfyui.ComfyUI(Path(base)) as server:
        schemas = client.Client(server.address).nodes()
    values: dict[str, dict[str, list]] = {}
    for name, schema in schemas.items():
        if schema["python_module"].endswith(comfyui.PACK_NAME):
            values[name] = {
                field.name: field.options["options"]
                if field.kind == "COMBO"
                else [field.options["min"], field.options["max"]]
                for field in fields(schema)
                if field.is_widget and field.kind in ("COMBO", "INT", "FLOAT")
            }
    if not values:
        sys.exit("The pack did not load: start it with `make serve` and read the log.")
    (LAST_RELEASE / "values.json").write_text(json.dumps(values, indent=1) + "\n", encoding="utf-8")
    shutil.rmtree(LAST_RELEASE / "workflows", ignore_errors=True)
    (LAST_RELEASE / "workflows").mkdir(parents=True)
    for file in (ROOT / "workflows").glob("*.json"):
        graph = json.loads(file.read_text(encoding="utf-8"))
        text = json.dumps(graph, ensure_ascii=False, separators=(",", ":"))
        (LAST_RELEASE / "workflows" / file.name).write_text(text + "\n", encoding="utf-8")
