"""Native kernels are code: what the cache holds runs only where it is whole, and this user alone put it there."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from astroformer import native
from astroformer.classifier import Classifier, load
from astroformer.native import kept

if native.why_not() is not None:
    pytest.skip(f"no native kernels: {native.why_not()}", allow_module_level=True)

SOURCE = 'extern "C" int answer() { return 42; }\n'
STRANGER = 12345


@pytest.fixture
def cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """The folder of kernels in an empty cache, with two sources that compile at once."""
    sources = tmp_path / "sources"
    sources.mkdir()
    (sources / "answer.cpp").write_text(SOURCE)
    (sources / "other.cpp").write_text(SOURCE.replace("42", "13"))
    monkeypatch.setattr(native, "_SOURCES", sources)
    monkeypatch.setenv("ASTROFORMER_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / "native"


@pytest.fixture
def builds(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names of the sources that are compiled."""
    names: list[str] = []
    build = native._build
    monkeypatch.setattr(native, "_build", lambda source: names.append(source.name) or build(source))
    return names


def answer(name: str = "answer") -> int:
    """What the library says, loaded as a new process would."""
    library = native.library.__wrapped__(name)
    assert library is not None, native.why_not(name)
    return int(library.answer())


def kernel(cache: Path, name: str = "answer") -> Path:
    [file] = cache.glob(f"{name}-*.so")
    return file


def to_a_stranger(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Makes a file somebody else's; who may not do that becomes somebody else himself."""
    if os.geteuid() == 0:
        os.chown(path, STRANGER, -1)
    else:
        monkeypatch.setattr(os, "geteuid", lambda: STRANGER)


def flip(byte: int) -> Callable[[Path], None]:
    def change(file: Path) -> None:
        content = bytearray(file.read_bytes())
        content[byte] ^= 1
        file.write_bytes(content)

    return change


def cut(length: int) -> Callable[[Path], None]:
    return lambda file: os.truncate(file, length)


def by_the_other(file: Path) -> None:
    """A whole kernel of another source takes the place of this one."""
    answer("other")
    shutil.copy(kernel(file.parent, "other"), file)


def pipe(file: Path) -> None:
    file.unlink()
    os.mkfifo(file)


def link(file: Path) -> None:
    file.rename(file.with_name("elsewhere.so"))
    file.symlink_to("elsewhere.so")


@pytest.mark.parametrize(
    "damage",
    [
        *(flip(byte) for byte in (0, 20, 700, 5000, -1, -40)),
        *(cut(length) for length in (0, 10, 40, 4096, 9000)),
        lambda file: file.write_text("no library"),
        lambda file: file.write_bytes(file.read_bytes()[:-32]),  # as versions before wrote it
        lambda file: file.write_bytes(file.read_bytes() + b"\0"),
        by_the_other,
        pipe,
        link,
        lambda file: file.chmod(0o666),
    ],
)
def test_a_damaged_kernel_is_built_anew(cache: Path, builds: list[str], damage: Callable[[Path], object]) -> None:
    assert answer() == answer() == 42
    assert builds == ["answer.cpp"]
    file = kernel(cache)
    whole = file.read_bytes()
    damage(file)
    builds.clear()
    assert answer() == 42
    assert builds[-1:] == ["answer.cpp"]
    assert (file.is_symlink(), file.read_bytes()) == (False, whole)  # repaired
    builds.clear()
    assert answer() == 42
    assert builds == []


def test_what_stands_in_the_place_of_a_kernel_and_stays_costs_only_time(cache: Path, builds: list[str]) -> None:
    answer()
    file = kernel(cache)
    file.unlink()
    file.mkdir()
    assert answer() == answer() == 42
    assert len(builds) == 3


def test_a_kernel_in_use_does_not_mind_what_happens_to_its_file(cache: Path) -> None:
    answer()
    library = native.library.__wrapped__("answer")
    os.truncate(kernel(cache), 0)  # of a mapped file, the next call would be the end of the process
    assert library.answer() == 42
    by_the_other(kernel(cache))
    assert library.answer() == 42


def test_libraries_that_are_loaded_in_turn_are_not_mixed_up(cache: Path) -> None:
    assert [answer(name) for name in ("answer", "other", "answer", "other")] == [42, 13, 42, 13]


def test_a_system_without_files_in_memory_has_its_kernels(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(os, "memfd_create")
    assert [answer(name) for name in ("answer", "other")] == [42, 13]


def test_the_folder_is_for_this_user_alone_whatever_the_umask(cache: Path) -> None:
    before = os.umask(0)
    try:
        answer()
    finally:
        os.umask(before)
    assert cache.stat().st_mode & 0o777 == 0o700
    assert cache.parent.stat().st_mode & 0o022 == 0
    assert kernel(cache).stat().st_mode & 0o022 == 0


def test_the_kernel_of_somebody_else_is_not_loaded(
    cache: Path, builds: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    if os.geteuid() != 0:
        pytest.skip("only root can give files away")
    answer()
    to_a_stranger(kernel(cache), monkeypatch)
    builds.clear()
    assert answer() == 42
    assert builds == ["answer.cpp"]
    assert kernel(cache).stat().st_uid == 0


@pytest.mark.parametrize("place", [".", ".."])
@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda folder, patch: folder.chmod(0o777), "others may write to the cache folder '{}'.*`chmod go-w '{}'`, or"),
        (lambda folder, patch: folder.chmod(0o1777), "others may write to the cache folder '{}'"),
        (to_a_stranger, "the cache folder '.*' belongs to another user.*set ASTROFORMER_CACHE to a folder of your own"),
    ],
)
def test_folders_that_others_may_write_hold_no_kernels(
    cache: Path,
    builds: list[str],
    monkeypatch: pytest.MonkeyPatch,
    place: str,
    change: Callable[[Path, pytest.MonkeyPatch], None],
    said: str,
) -> None:
    answer()
    folder = (cache / place).resolve()
    change(folder, monkeypatch)
    builds.clear()
    assert native.library.__wrapped__("answer") is None
    assert builds == []
    said = said.format(folder, folder)
    assert re.match(said, str(native.why_not("answer")))
    assert re.match(f"plain torch answers, not the native kernels: {said}.*[.]$", str(native.caveat()))


def test_who_loads_a_model_is_told_that_the_cache_is_not_trusted(
    classifier: Classifier, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    folder, told = classifier.save(tmp_path / "model"), list[str]()
    load(folder, say=told.append)
    assert told == []
    (tmp_path / "cache").mkdir()
    (tmp_path / "cache").chmod(0o777)
    monkeypatch.setenv("ASTROFORMER_CACHE", str(tmp_path / "cache"))
    load(folder, say=told.append)
    assert told == [native.caveat()]
    assert "others may write" in told[0]
    monkeypatch.setenv("ASTROFORMER_NATIVE", "0")  # then it is not the cache that forbids them
    load(folder, say=told.append)
    assert len(told) == 1


def test_the_group_of_the_user_alone_may_write(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    answer()
    cache.parent.chmod(0o775)
    monkeypatch.setattr(kept, "_is_own_group", lambda group: False)
    assert "others may write" in str(native.why_not())
    monkeypatch.setattr(kept, "_is_own_group", lambda group: group == cache.parent.stat().st_gid)
    assert native.why_not() is None


@pytest.mark.parametrize(
    ("place", "said"),
    [
        ("/dev/null", "'/dev/null' is no folder"),
        ("/dev/null/cache", "can't be looked at: Not a directory"),
        ("/" + 300 * "x", "can't be looked at: File name too long"),
    ],
)
def test_a_cache_that_cannot_be_is_said(cache: Path, monkeypatch: pytest.MonkeyPatch, place: str, said: str) -> None:
    monkeypatch.setenv("ASTROFORMER_CACHE", place)
    assert native.library.__wrapped__("answer") is None
    assert said in str(native.why_not())
    assert "ASTROFORMER_CACHE" in str(native.why_not())


def test_without_any_folder_there_is_a_sentence(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def nowhere() -> Path:
        raise FileNotFoundError(2, "No usable temporary directory found")

    monkeypatch.setattr(native, "default_cache", nowhere)
    assert native.library.__wrapped__("answer") is None
    assert "there is neither a home folder nor a temporary one" in str(native.why_not())


@pytest.mark.parametrize("name", ["Windows", "Darwin"])
def test_other_systems_ask_nothing_of_the_cache(cache: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.setattr(native.platform, "system", lambda: name)
    monkeypatch.delattr(os, "geteuid")  # as Windows has none
    monkeypatch.delenv("TORCHINDUCTOR_CACHE_DIR", raising=False)
    cache.mkdir(parents=True)
    cache.chmod(0o777)
    assert native.library.__wrapped__("answer") is None
    assert native.caveat() is None
    assert f"this is {name}" in str(native.why_not())
    native.keep_compiled_code_private()
    assert "TORCHINDUCTOR_CACHE_DIR" not in os.environ


def test_a_full_disk_costs_only_time(cache: Path, builds: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    def full(path: Path, library: bytes) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(kept, "keep", full)
    assert answer() == answer() == 42
    assert len(builds) == 2
    assert not cache.exists()


def test_processes_that_build_at_once_agree(cache: Path) -> None:
    program = (
        "import sys, pathlib; from astroformer import native; native._SOURCES = pathlib.Path(sys.argv[1]);"
        "sys.stdin.readline(); print(native.library('answer').answer())"
    )
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", program, str(native._SOURCES)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for _ in range(3)
    ]
    outputs = [process.communicate("go\n", timeout=120)[0] for process in processes]
    assert outputs == ["42\n"] * 3
    assert [file.name for file in cache.iterdir()] == [kernel(cache).name]  # nothing half made is left
    assert kept.read(kernel(cache)) is not None


def test_torch_keeps_what_it_compiles_in_a_private_folder(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def chosen() -> Path:
        monkeypatch.delenv("TORCHINDUCTOR_CACHE_DIR", raising=False)
        native.keep_compiled_code_private()
        return Path(os.environ["TORCHINDUCTOR_CACHE_DIR"])

    assert chosen() == chosen() == cache / "inductor"
    assert [folder.stat().st_mode & 0o777 for folder in (cache, cache / "inductor")] == [0o700] * 2
    for folder in (cache / "inductor", cache, cache.parent):
        folder.chmod(0o777)
        other = chosen()
        assert other.parent != cache
        assert other.stat().st_mode & 0o777 == 0o700
        other.rmdir()
        folder.chmod(0o700)
    monkeypatch.setenv("ASTROFORMER_CACHE", "/dev/null")
    chosen().rmdir()
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", "mine")
    native.keep_compiled_code_private()
    assert os.environ["TORCHINDUCTOR_CACHE_DIR"] == "mine"
