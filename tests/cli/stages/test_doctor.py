"""demur doctor on a base, as a terminal sees it."""

import json
import os
import subprocess
import sys

import pytest

pytest.importorskip("gguf", reason="GGUF files need the package gguf")

from tests.engines.gguf_files import make_gguf


def doctor(cache, *words):
    return subprocess.run(
        [sys.executable, "-m", "demur", "doctor", *map(str, words)],
        env={**os.environ, "DEMUR_CACHE": str(cache)},
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("doctor")


@pytest.mark.slow
def test_a_file_is_unpacked_and_examined_and_nothing_but_our_lines_is_printed(folder):
    make_gguf(folder / "m.gguf", "llama")
    ran = doctor(folder / "cache", folder / "m.gguf", "--rows", "100")
    assert ran.returncode == 0, ran.stderr
    assert ran.stderr == f"{folder / 'm.gguf'} is ready to be trained\n"
    assert "6 of 6 are added" in ran.stdout
    found = json.loads(
        doctor(folder / "cache", folder / "m.gguf", "--recipe", "none", "--json").stdout
    )
    assert found["ready"]
    assert next(f["detail"] for f in found["findings"] if f["check"] == "layers").startswith(
        "all 2 learn"
    )


@pytest.mark.slow
def test_a_base_that_cannot_be_had_is_not_ready(folder):
    ran = doctor(folder / "cache", folder / "no.gguf")
    assert ran.returncode == 2
    assert "base: give the path of a GGUF file" in ran.stderr
