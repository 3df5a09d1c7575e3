"""Whatever a library says of a full disk becomes one error that says what to do."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from demur.base.errors import ArtifactError
from demur.engines.training.resources.disk import disk_errors_named

FULL = """
import json, resource, signal, sys
from pathlib import Path
import torch
from safetensors.torch import save_file
from tokenizers import Tokenizer, models
from demur.base.errors import ArtifactError
from demur.engines.training.resources.disk import disk_errors_named

folder, tensor = Path(sys.argv[1]), torch.zeros(5000)
words = Tokenizer(models.WordLevel({f"word{n}": n for n in range(2000)}, unk_token="word0"))
writers = {
    "file": lambda path: path.write_bytes(b"x" * 9000),
    "safetensors": lambda path: save_file({"a": tensor}, path),
    "torch": lambda path: torch.save({"a": tensor}, path),
    "tokenizers": lambda path: words.save(str(path)),
}
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))
for name, write in writers.items():
    try:
        with disk_errors_named(folder):
            write(folder / name)
    except ArtifactError as e:
        print(name, str(e).replace("\\n", " "))
"""


def test_every_writer_of_a_training_names_a_disk_that_takes_no_more(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", FULL, str(tmp_path)],
        capture_output=True,
        text=True,
        check=True,
        timeout=120,
    )
    lines = dict(line.split(" ", 1) for line in done.stdout.splitlines())
    assert sorted(lines) == ["file", "safetensors", "tokenizers", "torch"]
    for text in lines.values():
        assert f"cannot write below {tmp_path}" in text
        assert "free some space" in text


@pytest.mark.parametrize(
    "other", [RuntimeError("size mismatch"), ValueError("no"), KeyboardInterrupt()]
)
def test_other_errors_pass_through(tmp_path: Path, other: BaseException) -> None:
    with pytest.raises(type(other)), disk_errors_named(tmp_path):
        raise other
    with pytest.raises(ArtifactError), disk_errors_named(tmp_path):
        raise OSError(28, "No space left on device")
