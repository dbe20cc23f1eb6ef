"""The text of a file: unpacked, decoded, and refused in words if the file holds something else."""

import bz2
import contextlib
import gzip
import lzma
import re
import struct
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import IO

import charset_normalizer

from helpers.common.errors import DamagedError, UnsupportedError

LARGEST = 1_000_000_000  # bytes of what is unpacked
SAMPLE = 2**16  # bytes at the start that must look like text before the rest is read

OPENERS = {rb"\x1f\x8b": gzip.open, rb"BZh\d1AY&": bz2.open, rb"\xfd7zXZ\0": lzma.open}
ZIP = b"PK\x03\x04"
DAMAGED_ZIP = (zipfile.BadZipFile, RuntimeError, ValueError, struct.error)  # what opening one can raise
PACKED_ERRORS = (OSError, EOFError, RuntimeError, zlib.error, lzma.LZMAError, zipfile.BadZipFile)

# How files of other kinds begin, and what they are.
FOREIGN = {
    rb"%PDF-": "a PDF document",
    rb"\x89PNG|\xff\xd8\xff|GIF8|RIFF....WEBP|II\*\0|MM\0\*": "a picture",
    rb"GGUF.\0\0\0": "a model in GGUF",
    rb"\x80[\x02-\x05]": "a Python pickle",
    rb".{3}\0{5}\{\"": "a safetensors file",
    rb"\x93NUMPY": "a NumPy array",
    rb"\x89HDF": "an HDF5 file",
    rb"SQLite format": "an SQLite database",
    rb"\x28\xb5\x2f\xfd|7z\xbc\xaf|Rar!|PK\x03\x04|\x1f\x8b|PAR1|ARROW1": "a packed file not unpacked here",
    rb".{257}ustar": "a tar archive",
    rb"\xd0\xcf\x11\xe0": "an old Excel file (.xls), or one with a password",
    rb"(?i:\s*<(!doctype|html|head|\?xml))": "a page in HTML or XML",
    rb"version https://git-lfs": "only the pointer to a file that Git LFS keeps elsewhere",
}
REMEDIES = {
    "an old": "Save it as .xlsx or CSV, without a password.",
    "a page": "Download the file itself, not the page that shows it.",
    "only the": "Fetch the file itself: git lfs pull.",
    "a packed": "Unpack it, and give the table in it.",
    "a tar": "Unpack it, and give the table in it.",
}
FORMS = "Give a table as CSV, JSON lines, JSON, xlsx or Parquet."

BYTE_ORDER_MARKS = {
    b"\xef\xbb\xbf": "utf-8-sig",
    b"\xff\xfe\0\0": "utf-32",
    b"\0\0\xfe\xff": "utf-32",
    b"\xff\xfe": "utf-16",
    b"\xfe\xff": "utf-16",
}
# What programs still write besides UTF-8 and UTF-16; more candidates only mean more wrong guesses.
OLD_ENCODINGS: list[str] = [
    "cp1252", "cp1250", "cp1251", "cp1253", "cp1254", "cp1255", "cp1256", "cp1257", "koi8_r",
    "cp932", "euc_jp", "cp949", "gb18030", "big5", "cp850", "mac_roman",
]  # fmt: skip
CONTROLS = bytes(set(range(1, 32)) - set(b"\t\n\r\v\f\x1a\x1b"))
# Words of cp1252, two characters or more, and what may stand for a letter in those of Western Europe.
WORD = re.compile(r"[^\s\d!-/:-@\[-`{-~‘-„†-…‹›«»–—€£§°¡¿]{2,}")
WESTERN = re.compile(r"[À-ÏÑ-ÖØ-ÜßÑñà-ïò-öø-üÿŒœŸŠšŽž’²½µ´©®™·]")


def read_text(path: Path) -> tuple[str, list[str]]:
    """(The text of a file, what was found out about it). One packed file is unpacked.

    Raises UnsupportedError for a file that holds no text, DamagedError for one that is broken.
    """
    with open_unpacked(path) as (file, notes):
        sample = file.read(SAMPLE)
        refuse_foreign(path, sample)
        data = sample + file.read(LARGEST if notes else -1)
        if notes:
            refuse_large(path, len(data))
        text, found = decode(path, data)
    return text, notes + found


def refuse_large(path: Path, size: int) -> None:
    """An UnsupportedError for a packed file that grows to more than LARGEST: it can be far smaller itself."""
    if size > LARGEST:
        problem = f"{path} becomes larger than {LARGEST / 1e9:g} GB when it is unpacked."
        raise UnsupportedError(problem, "Give a part of the table.")


@contextlib.contextmanager
def open_unpacked(path: Path) -> Iterator[tuple[IO[bytes], list[str]]]:
    """The bytes of a file, unpacked if it is packed, and a note if so."""
    with path.open("rb") as file:
        head = file.read(8)
    packed = [opener for start, opener in OPENERS.items() if re.match(start, head)]
    if not packed and not head.startswith(ZIP):
        with path.open("rb") as file:
            yield file, []
        return
    try:
        if packed:
            with packed[0](path, "rb") as file:
                yield file, ["The file was unpacked."]
        else:
            with open_member(path) as file:
                yield file, [f"{file.name} was unpacked."]
    except PACKED_ERRORS as error:
        problem = f"{path} cannot be unpacked: {' '.join(str(error).split())}."
        raise DamagedError(problem, "Pack it again without a password, or unpack it.") from None


@contextlib.contextmanager
def open_member(path: Path) -> Iterator[IO[bytes]]:
    """The only file in an archive, open to read. Raises BadZipFile, or as find_member."""
    with contextlib.ExitStack() as stack:
        try:
            archive = stack.enter_context(zipfile.ZipFile(path))
            file = stack.enter_context(archive.open(find_member(path, archive)))
        except DAMAGED_ZIP as error:
            raise zipfile.BadZipFile(str(error)) from None
        yield file


def is_excel(path: Path) -> bool:
    """True if a zip file is a workbook in Excel's form xlsx, whatever its name."""
    try:
        with zipfile.ZipFile(path) as archive:
            return "xl/workbook.xml" in archive.namelist()
    except DAMAGED_ZIP:
        return False


def find_member(path: Path, archive: zipfile.ZipFile) -> str:
    """The name of the only file in an archive; UnsupportedError if it holds several, or a document."""
    hidden = re.compile(r"(^|/)(__MACOSX/|\.)|/$")
    names = [name for name in archive.namelist() if not hidden.search(name)]
    if {"[Content_Types].xml", "mimetype"} & set(names):
        problem = f"{path} is a document or workbook of a kind that is not read here."
        raise UnsupportedError(problem, "Save the table in it as .xlsx or CSV.")
    if not names:
        problem = f"{path} is a zip file without a table: its files are hidden, or lead out of it."
        raise UnsupportedError(problem, "Pack the table again, or give it unpacked.")
    if len(names) != 1:
        listed = ", ".join(names[:3]) + (" ..." if len(names) > 3 else "")
        problem = f"{path} is a zip file with {len(names)} files ({listed})."
        raise UnsupportedError(problem, "Unpack it, and give the table in it.")
    return names[0]


def refuse_foreign(path: Path, sample: bytes) -> None:
    """UnsupportedError, in the words for its kind, if a file that begins with `sample` is not text."""
    for pattern, kind in FOREIGN.items():
        if re.match(pattern, sample, re.DOTALL):
            remedy = next((text for start, text in REMEDIES.items() if kind.startswith(start)), FORMS)
            raise UnsupportedError(f"{path} is {kind}, not a table.", remedy)
    if find_mark(sample) or find_utf_16(sample):
        return
    controls = len(sample) - len(sample.translate(None, CONTROLS))
    if sample.count(0) > len(sample) / 4 or controls > max(4, len(sample) / 50):
        raise UnsupportedError(f"{path} is a binary file of an unknown kind, not a table.", FORMS)


def decode(path: Path, data: bytes) -> tuple[str, list[str]]:
    """(The text, a note about its encoding unless that is UTF-8). DamagedError if no encoding fits."""
    encoding = find_mark(data) or find_utf_16(data) or "utf-8"
    try:
        text = data.decode(encoding)
        return text, [] if encoding.startswith("utf-8") else [f"The encoding is {encoding}."]
    except UnicodeDecodeError as error:
        if encoding != "utf-8" or is_damaged_utf_8(data):
            line = data.count(b"\n", 0, error.start) + 1
            problem = f"Line {line} of {path} is not in {encoding.upper()}, as the rest is."
            raise DamagedError(problem, "Correct that line, or save the file as UTF-8 again.") from None
    for guess in guess_encodings(data):
        with contextlib.suppress(UnicodeDecodeError):
            remedy = "save the file as UTF-8 if letters look wrong"
            return data.decode(guess), [f"The encoding seems to be {guess}; {remedy}."]
    raise DamagedError(f"The encoding of {path} was not recognised.", "Save the file as UTF-8.")


def find_mark(data: bytes) -> str | None:
    """The encoding that a byte order mark at the start names."""
    return next((name for mark, name in BYTE_ORDER_MARKS.items() if data.startswith(mark)), None)


def find_utf_16(data: bytes) -> str | None:
    """utf-16-le or utf-16-be if a good part of every second byte is zero, and hardly any other."""
    sample = data[:SAMPLE]
    first, second = sample[::2].count(0), sample[1::2].count(0)
    if max(first, second) < len(sample) / 8 or min(first, second) > len(sample) / 100:
        return None
    return "utf-16-le" if second > first else "utf-16-be"


def is_damaged_utf_8(data: bytes) -> bool:
    """True if most characters outside ASCII are sound UTF-8, which never happens in another encoding."""
    text = data.decode("utf-8", errors="replace")
    wrong = text.count("\ufffd")
    sound = sum(map(len, re.findall(r"[^\x00-\x7f\ufffd]+", text)))
    return sound > wrong


def guess_encodings(data: bytes) -> list[str]:
    """Encodings for text that is not UTF-8, the likeliest first. Only lines with such letters count."""
    lines = re.finditer(rb"[^\n\r]*[\x80-\xff][^\n\r]*", data)
    sample = b""
    for line in lines:
        sample += line[0] + b"\n"
        if len(sample) > SAMPLE:
            break
    if looks_western(sample):
        return ["cp1252"]
    ranked = [match.encoding for match in charset_normalizer.from_bytes(sample, cp_isolation=OLD_ENCODINGS)]
    return [*ranked, "cp1252"]


def looks_western(sample: bytes) -> bool:
    """True if nearly all words are as those of Western European languages are in cp1252.

    Few of their letters are outside ASCII, and none of these is a sign such as ³ or ¾, which is how letters
    of other encodings look in cp1252.
    """
    text = sample.decode("cp1252", errors="replace")
    words = [word for word in WORD.findall(text) if not word.isascii()]
    western = 0
    for word in words:
        special = [letter for letter in word if not letter.isascii()]
        western += len(special) <= max(2, len(word) / 2) and all(map(WESTERN.match, special))
    return "\ufffd" not in text and western >= 0.95 * len(words)
