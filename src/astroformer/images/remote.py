"""Sources that lie elsewhere, named by a URL: they are copied here once, and are local files from then on.

The cache has a folder for each URL, and in that one for each version of what lies there:

    remote/NAME-HASH/entry.json     the version that was last seen there, its files and their sizes
    remote/NAME-HASH/VERSION/NAME   the copy of a version, a file or a folder
    remote/NAME-HASH/VERSION.part/  what has come in of one, which the next command goes on with

A version is a hash of what the server says of its files: entity tag, size, time. `https://` and `http://` are read
with Python alone, all else (`s3://`, `gs://`, `abfs://`, `sftp://`, ...) through fsspec and the package that it names.
"""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path

from astroformer.cache import default_cache
from astroformer.errors import UserError, unknown_name
from astroformer.files import is_url, read_cached_json, without_secrets, write_json
from astroformer.images.labelled import LabelledImages
from astroformer.images.remote_places import WEB, Found, Place, Refused, Unreachable, hash_of, look, opened
from astroformer.images.sets.download import ATTEMPTS, Listener, only_process_in, readable_size, refusal_of_disk

_RECORD = "entry.json"
_CHANGES = 3  # versions that are begun before a source counts as one that does not rest
# What fsspec calls files here, and file systems that lie in other ones.
_OF_FILES_HERE = {"file", "local", "dir", "zip", "tar", "libarchive", "reference", "git"}
_OF_FILES_HERE |= {"generic", "simplecache", "filecache", "blockcache", "cached"}
# Extras of fsspec that bring what reads a scheme, where their names are others.
_EXTRAS = {"s3a": "s3", "az": "abfs", "abfss": "abfs", "webhdfs": "http"}


# What a URL may be -------------------------------------------------------------------------------------------


def check_no_secrets(url: str) -> None:
    """Raises `UserError` where a URL holds what no record and no message may show."""
    if (shown := without_secrets(url)) != url:
        raise UserError(
            f"'{shown}' holds a password, or behind a '?' what may be a key, and a run records the name of its source. "
            "Leave that out: keys are found where the tools of the provider keep them (environment, ~/.aws, "
            "~/.config/fsspec), and what has a signed address can be downloaded first."
        )


def check_url(url: str) -> None:
    """Raises `UserError` where a URL can't name a source, or what reads it is not installed. Asks no network."""
    check_no_secrets(url)
    scheme, _, rest = url.partition("://")
    if not rest.strip("/") or any(part in (".", "..") for part in rest.split("/")):
        raise UserError(f"'{url}' names no file or folder; write {scheme}://PLACE/NAME.")
    if any(letter in rest for letter in "*?{}"):
        raise UserError(f"'{url}' is a pattern, and those stand for files here alone. Name one file, or the folder.")
    if "::" in url or scheme.lower() in _OF_FILES_HERE:
        raise UserError(f"'{url}' is not read: name a file here by its path, and a file elsewhere by its own URL.")
    if scheme.lower() in WEB:
        return
    import fsspec

    known = fsspec.available_protocols()
    if scheme.lower() not in known:
        raise unknown_name(
            "kind of URL",
            f"{scheme}://",
            [f"{name}://" for name in known],
            see="https, s3, gs, abfs, sftp and others are.",
        )
    try:
        fsspec.get_filesystem_class(scheme.lower())
    except ImportError as error:
        from importlib.metadata import metadata

        extra = _EXTRAS.get(scheme.lower(), scheme.lower())
        named = extra in (metadata("fsspec").get_all("Provides-Extra") or ())
        how = f': pip install "fsspec[{extra}]"' if named else "."
        raise UserError(f"'{url}' needs a package that is not installed ({error}){how}") from None


# Copies -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Copy:
    """The copy of what lies at a URL.

    Attributes:
        url: as it was named.
        path: a file or folder.
        note: what a person should know of it, if anything.
    """

    url: str
    path: Path
    note: str | None = None

    @property
    def version(self) -> str:
        """Which content it is a copy of."""
        return self.path.parent.name


def copy_of(url: str, listener: Listener | None = None) -> Copy:
    """What lies at a URL, copied if it is not here yet or has changed there.

    Where its server can't be asked, the copy of before is used, with a note.

    Raises:
        UserError: the URL is none of a source, or what lies there can't be had.
    """
    check_url(url)
    folder, kept = _folder_of(url), kept_copy_of(url)
    date = "" if kept is None else f"of {datetime.fromtimestamp(kept.path.parent.stat().st_mtime):%Y-%m-%d}"
    try:
        place = opened(url)
        found = look(place, ATTEMPTS if kept is None else 1)
        if kept is not None and kept.version == found.version:
            note = f"'{url}': its server does not say when it changes; the copy {date} is used ('{kept.path}')"
            return kept if found.dated else replace(kept, note=note)
        if kept is not None and listener is not None:
            listener.say(f"'{url}' has changed since the copy {date}, which stays in '{kept.path.parent}'")
    except Unreachable as error:
        if kept is None:
            raise UserError(f"'{url}' can't be copied: {error}. Try again later.") from None
        return replace(kept, note=f"'{url}': {error}, so nobody knows whether it has changed; the copy {date} is used")
    except Refused as error:
        hint = "" if kept is None else f" The copy {date} is still in '{kept.path}'."
        raise UserError(f"'{url}' can't be copied: {error}.{hint}") from None
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with only_process_in(folder, listener):
            return Copy(url, _bring(place, url, found, listener))
    except Unreachable as error:
        raise UserError(f"'{url}' can't be copied: {error}. Try again; what has come in is kept.") from None
    except Refused as error:
        raise UserError(f"'{url}' can't be copied: {error}.") from None
    except OSError as error:
        raise refusal_of_disk(error, folder, f"'{url}'", found.size) from None


def kept_copy_of(url: str) -> Copy | None:
    """The copy that a URL had when it was last asked for, without asking its server; None if it is not whole."""
    record = read_cached_json(_folder_of(url) / _RECORD)
    try:
        version, files = str(record["version"]), dict(record["files"])
    except (LookupError, TypeError, ValueError):
        return None
    path = _folder_of(url) / version / _name_of(url)
    return Copy(url, path) if _is_whole(path, files) else None


def _bring(place: Place, url: str, found: Found, listener: Listener | None) -> Path:
    """The path of the copy of what was found, or of what has taken its place meanwhile. Nobody else writes here."""
    folder = _folder_of(url)
    for _ in range(_CHANGES):
        entry, part = folder / found.version, folder / f"{found.version}.part"
        if not _is_whole(entry / _name_of(url), found.files):  # another process may have made it
            for leftover in [entry, *folder.glob("*.part")]:
                if leftover != part or not found.dated:  # its beginning may be that of another version
                    shutil.rmtree(leftover, ignore_errors=True)
            part.mkdir(exist_ok=True)
            if listener is not None:
                files = "1 file" if len(found.files) == 1 else f"{len(found.files):,} files"
                listener.say(f"copying '{url}' ({files}, {readable_size(found.size)}) to '{folder}'")
            try:
                place.copy(found, part / _name_of(url), listener)
                now = look(place, ATTEMPTS)
            except (Unreachable, Refused):
                now = look(place, ATTEMPTS)
                if now.version == found.version:
                    raise
            if now.version != found.version:
                shutil.rmtree(part)
                found = now
                continue
            if not _is_whole(part / _name_of(url), found.files):
                shutil.rmtree(part)
                raise Refused("it holds names that this disk takes for one, such as A and a")
            part.rename(entry)
        write_json(folder / _RECORD, {"url": url, "version": found.version, "files": found.files})
        return entry / _name_of(url)
    raise Refused(f"it has changed {_CHANGES} times while it was copied")


def _is_whole(path: Path, files: Mapping[str, int]) -> bool:
    """Whether all files lie at a place, with their sizes."""
    try:
        return bool(files) and all(os.stat(path / name).st_size == size for name, size in files.items())
    except (OSError, ValueError, TypeError):
        return False


def _folder_of(url: str) -> Path:
    scheme, _, rest = url.partition("://")
    readable = re.sub(r"[^\w.-]", "_", _name_of(url))[-40:]
    return default_cache() / "remote" / f"{readable}-{hash_of(scheme.lower(), rest.rstrip('/'))}"


def _name_of(url: str) -> str:
    return url.rstrip("/").rpartition("/")[2]


# Sources ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Brought:
    """A source whose URLs are replaced by paths.

    Attributes:
        name: of the source, without options.
        options: behind it.
        copies: of what lay at its URLs.
    """

    name: str
    options: dict[str, str]
    copies: tuple[Copy, ...]

    def named(self, text: str) -> str:
        """A text in which the copies are called by their URLs."""
        for copy in self.copies:
            text = text.replace(str(copy.path), copy.url.rstrip("/"))
        return text

    def name_in(self, images: LabelledImages) -> LabelledImages:
        """The images of this source, called by its URLs, with the notes on its copies."""
        if not self.copies:
            return images
        notes = [*map(self.named, images.notes), *(copy.note for copy in self.copies if copy.note is not None)]
        return replace(images, files=list(map(self.named, images.files)), notes=notes)

    @contextmanager
    def errors_named(self) -> Iterator[None]:
        """Within it, a `UserError` calls the copies by their URLs."""
        try:
            yield
        except UserError as error:
            error.args = (self.named(str(error)),)
            raise


def bring(name: str, options: Mapping[str, str], listener: Listener | None = None) -> Brought:
    """A source with its URLs replaced by copies, made where they are not here yet; see `copy_of`."""
    return _brought(name, options, lambda url: copy_of(url, listener))


def bring_kept(name: str, options: Mapping[str, str]) -> Brought:
    """The same with the copies that are here already, for what is opened in this moment. It asks no network."""
    return _brought(name, options, kept_copy_of)


def urls_in(name: str, options: Mapping[str, str]) -> list[str]:
    """The URLs in a source; an option such as `@mosaic=` may hold several, with commas between them."""
    words = (word.strip() for text in options.values() for word in text.split(","))
    return [word for word in (name, *words) if is_url(word)]


def _brought(name: str, options: Mapping[str, str], copied: Callable[[str], Copy | None]) -> Brought:
    copies = [copy for url in urls_in(name, options) if (copy := copied(url)) is not None]
    paths = {copy.url: copy.path for copy in copies}

    def here(text: str) -> str:
        words = [word.strip() for word in text.split(",")]
        return ",".join(str(paths.get(word, word)) for word in words) if any(map(paths.get, words)) else text

    return Brought(str(paths.get(name, name)), {word: here(text) for word, text in options.items()}, tuple(copies))
