import subprocess
import sys

import pytest

from demur.assembly import wiring
from demur.base.errors import ConfigError, MissingDependency
from demur.sources.corpus import BuiltinSource


def test_a_name_finds_its_class():
    assert wiring.import_by_name("builtin", wiring.SOURCES, "source") is BuiltinSource


def test_a_dotted_path_finds_anybodys_class():
    assert (
        wiring.import_by_name("collections:Counter", wiring.SOURCES, "source").__name__ == "Counter"
    )


@pytest.mark.parametrize("name", wiring.SOURCES)
def test_every_source_can_be_found(name):
    assert hasattr(wiring.import_by_name(name, wiring.SOURCES, "source"), "read")


def test_an_unknown_name_gets_a_suggestion_or_the_list():
    with pytest.raises(ConfigError, match="unknown source 'bultin'") as e:
        wiring.import_by_name("bultin", wiring.SOURCES, "source")
    assert "did you mean 'builtin'?" in e.value.hint
    with pytest.raises(ConfigError) as e:
        wiring.import_by_name("zzz", wiring.SOURCES, "source")
    assert "known: builtin, files, jsonl, hub" in e.value.hint


def test_a_module_or_class_that_is_not_there_is_named():
    with pytest.raises(ConfigError, match="no module 'acme'"):
        wiring.import_by_name("acme.rows:Rows", wiring.SOURCES, "source")
    with pytest.raises(ConfigError, match="has no 'Rows'"):
        wiring.import_by_name("demur.sources.files:Rows", wiring.SOURCES, "source")


def test_a_missing_package_says_which_extra_brings_it(tmp_path):
    (tmp_path / "needy.py").write_text("import torch.nonexistent_part\n")
    child = (
        "import sys; sys.modules['torch'] = None; from demur.assembly import wiring; "
        "wiring.import_by_name('needy:X', {}, 'x')"
    )
    run = subprocess.run(
        [sys.executable, "-c", child],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert "MissingDependency: x 'needy:X' needs torch" in run.stderr
    assert "pip install 'demur[hf]'" in run.stderr
    assert issubclass(MissingDependency, Exception)


def test_a_part_that_is_installed_but_broken_raises_its_own_error(tmp_path, monkeypatch):
    (tmp_path / "broken_part.py").write_text("import a_package_of_its_own\n")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(ModuleNotFoundError, match="a_package_of_its_own"):
        wiring.import_by_name("broken_part:X", {}, "engine")
