import shutil
import struct
import unicodedata
import warnings

import numpy as np
import pytest
import torch
from PIL import Image

from law_lightning.data import ImageFolderDataModule
from law_lightning.data.class_folders import ClassFolders, load_image
from law_lightning.data.vision import distinct
from tiny_data import write_folders


def ready(root, **kwargs):
    module = ImageFolderDataModule(root, **{"val_size": 3, "image_size": 32} | kwargs)
    module.setup()
    return module


DEEP = np.linspace(0, 1, 40 * 30, dtype=np.float32).reshape(40, 30)


@pytest.mark.parametrize(
    ("values", "suffix", "white"),
    [
        ((DEEP * 40000).astype(np.uint16), "png", 65535),
        ((DEEP * 40000).astype(np.uint16), "tif", 65535),
        ((DEEP * 40000).astype(">u2"), "tif", 65535),
        ((DEEP * 40000).astype(np.uint16), "pgm", 65535),  # which Pillow opens as 32 bits
        ((DEEP * 40000).astype(np.uint16), "jp2", 65535),
        (DEEP, "tif", 1),
        (DEEP, "pfm", 1),
    ],
)
def test_deep_images_keep_their_values(tmp_path, values, suffix, white):
    Image.fromarray(values).save(tmp_path / f"a.{suffix}")
    for coarsely in (False, True):
        tensor = load_image(tmp_path / f"a.{suffix}", coarsely)
        assert (tensor.shape, tensor.dtype) == ((3, 40, 30), torch.float32)
        torch.testing.assert_close(tensor[1], torch.from_numpy(values.astype(np.float32) / white))
    for transform in ImageFolderDataModule(image_size=32).default_transforms():
        assert len(transform(tensor)[0].unique()) > 300


def test_white_of_12_bits(tmp_path):
    Image.fromarray(np.full((4, 6), 65535, np.uint16)).save(path := tmp_path / "a.tif")
    path.write_bytes(
        path.read_bytes().replace(struct.pack("<HHLH", 258, 3, 1, 16), struct.pack("<HHLH", 258, 3, 1, 12))
    )
    assert load_image(path).unique().tolist() == [1.0]


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ((DEEP * 40000).astype(np.int32), "32-bit integer pixels from 0 to 40000"),
        (np.zeros((40, 30), np.int32), "32-bit integer pixels from 0 to 0"),
        (DEEP * 255, "float pixels from 0.0 to 255.0"),
        (DEEP - 0.5, "float pixels from -0.5 to 0.5"),
        (np.where(DEEP > 0.5, np.nan, DEEP), "float pixels from nan to nan"),
    ],
)
def test_deep_images_without_a_white_are_refused_before_training(tmp_path, values, message):
    write_folders(tmp_path)
    path = tmp_path / "train" / "n0001" / "1.tif"
    Image.fromarray(values).save(path)
    with pytest.raises(ValueError, match=rf"n0001/1\.tif has {message}, .* 8 or 16 bits, or as floats in \[0, 1\]"):
        ready(tmp_path)


@pytest.fixture
def root(tmp_path):
    write_folders(tmp_path)
    return tmp_path


@pytest.mark.filterwarnings("error")
def test_hidden_files_and_folders_are_neither_classes_nor_images(root):
    train = root / "train"
    for name in (".ipynb_checkpoints", "__MACOSX", "n0001/.ipynb_checkpoints", "n0002/@eaDir", "n0002/deep/.thumbs/x"):
        shutil.copytree(train / "n0000", train / name)
    for name in ("n0000/._0.png", "n0001/.DS_Store", "n0001/Thumbs.db", "n0001/labels.txt", ".DS_Store"):
        (train / name).write_bytes(b"no image")
    module = ready(root)
    assert module.num_classes == 3
    assert len(module._datasets["train"]) == 18 - 3


def test_a_hidden_folder_may_hold_them_all(tmp_path):
    write_folders(hidden := tmp_path / ".cache" / "set")
    assert len(ClassFolders(hidden / "train")) == 18


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("suffix", ["jfif", "avif", "gif", "JPE", "jp2", "tga", "ico"])
def test_every_format_that_pillow_reads(root, suffix):
    kind = {"JPE": "JPEG", "jfif": "JPEG"}.get(suffix)
    Image.new("RGB", (32, 32), (200, 0, 0)).save(root / "train" / "n0001" / f"new.{suffix}", kind)
    dataset = ClassFolders(root / "train")
    assert dataset.targets.count(1) == 7
    assert dataset[dataset.targets.index(1) + 6][0].getpixel((9, 9))[0] > 150


def test_files_that_are_not_read_are_counted(root):
    for name in ("a.heic", "b.HEIC", "sub/c.svg", "d", "film.mpg"):
        (root / "test" / "n0001" / name).parent.mkdir(exist_ok=True)
        (root / "test" / "n0001" / name).write_bytes(b"")
    with pytest.warns(UserWarning, match=r"5 files in .*/test are not used, .*: 2 \.heic, ") as caught:
        ready(root)
    assert all(part in str(caught[0].message) for part in ("1 .svg", "1 without a suffix", "1 .mpg"))


def test_large_images_are_not_called_damaged(root, monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 700)
    message = r"n0000/0\.png is larger than Pillow opens \(.*1600 pixels.*\)\. Scale it down"
    with pytest.raises(ValueError, match=message):
        ready(root)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1000)  # Pillow warns only
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(ValueError, match=message):
            ready(root)


def test_memory_that_does_not_suffice_is_no_damage(root, monkeypatch):
    def allocate(path):
        raise MemoryError("no memory")

    monkeypatch.setattr(Image, "open", allocate)
    with pytest.raises(ValueError, match=r"is larger than Pillow opens \(no memory\)"):
        ready(root)


@pytest.mark.parametrize("part", ["train", "test"])
@pytest.mark.parametrize(("name", "told"), [(None, ""), ("a.heic", r" Of other files there are: 1 \.heic\.")])
def test_empty_classes_are_named(root, part, name, told):
    for index in (3, 7):
        (root / part / f"n000{index}").mkdir()
    if name:
        (root / part / "n0003" / name).write_bytes(b"")
    message = rf"2 of the 5 classes in .*/{part} have no image: n0003, n0007\.{told} Add images, or"
    with pytest.raises(ValueError, match=message):
        ready(root)


def test_folders_without_any_image_tell_what_they_hold(root):
    shutil.rmtree(root / "test")
    (root / "test" / "n0000").mkdir(parents=True)
    (root / "test" / "n0000" / "a.heic").write_bytes(b"")
    with pytest.raises(FileNotFoundError, match=r"no images in it\. .*No folder in .*: 1 \.heic\.\)"):
        ready(root)


def renamed(root, *names):
    """The folders of a part under other names, in order."""
    for folder, name in zip(sorted(root.iterdir()), names, strict=False):
        folder.rename(root / name)


#: The first sorts after "z" in one form and before it in the other.
NAMES = ["\u00e9t\u00e9", "z", "\ud55c"]


def test_class_names_are_the_same_in_every_unicode_form(root):
    renamed(root / "train", *NAMES)
    renamed(root / "test", *(unicodedata.normalize("NFD", name) for name in NAMES))
    module = ready(root)
    train, test = (ClassFolders(root / part) for part in ("train", "test"))
    assert train.classes == test.classes == sorted(NAMES)
    for dataset in (train, test):  # a class has its index whatever the order of the folders
        for path, target in dataset.samples:
            assert unicodedata.normalize("NFC", path.split("/")[-2]) == dataset.classes[target]
    assert module.num_classes == 3


def test_two_folders_of_one_name_are_told_apart(root):
    renamed(root / "train", "\u00e9", "e\u0301")
    with pytest.raises(ValueError, match=r"in two forms of Unicode: 'e\\u0301' and '\\xe9'\. Move"):
        ready(root)


@pytest.mark.parametrize(
    ("name", "shown"),
    [("cat", "cat"), ("a b", "a b"), ("cat ", "cat  ('cat ')"), ("c\u0430t", "c\u0430t ('c\\u0430t')")],
)
def test_names_that_look_alike_are_spelled_out(name, shown):
    assert distinct(name) == shown
