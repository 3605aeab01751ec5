"""A model's answers in a JSON-lines file, so that an interrupted run can go on."""

from __future__ import annotations

import json
from pathlib import Path

from ...shared.errors import UserError


class AnswerFile:
    """Texts by key, appended to a file as they are generated.

    The first line holds `settings` that decide the answers. Raises UserError when the file was
    written with other ones. A last line that an interruption cut off is removed.
    """

    def __init__(self, file: Path, settings: dict[str, str]) -> None:
        self._file = file
        self._texts: dict[str, str] = {}
        file.parent.mkdir(parents=True, exist_ok=True)
        content = file.read_bytes() if file.exists() else b""
        complete = content[: content.rfind(b"\n") + 1]
        lines = [json.loads(line) for line in complete.decode("utf-8").splitlines()]
        if lines and lines[0] != settings:
            raise UserError(
                f'"{file}" holds answers with other settings ({lines[0]}): choose another --out, '
                "or delete the file."
            )
        if lines:
            file.write_bytes(complete)
            self._texts = {line["key"]: line["text"] for line in lines[1:]}
        else:
            file.write_text(json.dumps(settings) + "\n", encoding="utf-8")

    def __contains__(self, key: str) -> bool:
        return key in self._texts

    def __getitem__(self, key: str) -> str:
        return self._texts[key]

    def add(self, texts: dict[str, str]) -> None:
        """Append texts by key."""
        lines = [json.dumps({"key": key, "text": text}) + "\n" for key, text in texts.items()]
        with self._file.open("a", encoding="utf-8") as file:
            file.writelines(lines)
        self._texts |= texts
