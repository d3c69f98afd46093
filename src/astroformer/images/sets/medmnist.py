"""MedMNIST: sets of small medical pictures, each a set by name."""

from __future__ import annotations

import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import ClassVar
from zipfile import BadZipFile

import numpy as np

from astroformer.images.sets.declared import Content, NamedSet, damaged
from astroformer.images.sets.download import Resource


def _file(name: str, size: int, md5: str) -> tuple[Resource]:
    """MD5, licence, classes and numbers of images: medmnist/info.py of version 3.0.2.

    Sizes: those of the copies in huggingface.co/datasets/albertvillanova/medmnist-v2, in three digits.
    """
    place = "https://zenodo.org/records/10519652/files"
    return (Resource(f"{name}.npz", (f"{place}/{name}.npz",), size, md5=md5, exact=False),)


class _MedMnist(NamedSet):
    """Pictures of 28 × 28 pixels, grey or in colour, with one label each.

    An .npz holds for each part the images (N, H, W) or (N, H, W, 3) uint8 and the labels (N, 1).
    """

    licence = "CC BY 4.0"
    citation = (
        "J. Yang et al., MedMNIST v2: A large-scale lightweight benchmark for 2D and 3D biomedical image "
        "classification, Scientific Data, 2023, doi:10.1038/s41597-022-01721-8, and the source of the set, which "
        "medmnist.com names"
    )
    homepage = "https://github.com/MedMNIST/MedMNIST"

    def read(self, files: Sequence[Path], part: str, digest: str) -> Content:
        path = files[0]
        try:
            with np.load(path, allow_pickle=False) as archive:
                images, labels = archive[f"{part}_images"], archive[f"{part}_labels"]
        except (BadZipFile, KeyError, ValueError, EOFError, AttributeError, TypeError, zlib.error) as error:
            raise damaged(path, str(error).strip("'\"") or type(error).__name__) from None
        n = len(images) if images.ndim in (3, 4) else 0
        fits = images.dtype == np.uint8 and images.shape[3:] in ((), (3,)) and labels.dtype.kind in "iu"
        if not n or not fits or labels.shape != (n, 1):
            raise damaged(path, f"it has images {images.shape} of {images.dtype} and labels {labels.shape}")
        numbers = labels[:, 0].astype(np.int64)
        if numbers.min() < 0 or numbers.max() >= len(self.classes):
            raise damaged(path, f"labels are {numbers.min()} to {numbers.max()}, of {len(self.classes)} classes")
        return Content(
            images if images.ndim == 3 else images.transpose(0, 3, 1, 2),
            numbers,
            self.classes,
            [f"{self.name}-{part}-{i}" for i in range(n)],
        )


class PathMnist(_MedMnist):
    """Tissue of the colon under the microscope."""

    name = "pathmnist"
    title = "PathMNIST"
    resources = _file("pathmnist", 206_000_000, "a8b06965200029087d5bd730944a56c1")
    classes = (
        "adipose",
        "background",
        "debris",
        "lymphocytes",
        "mucus",
        "smooth muscle",
        "normal colon mucosa",
        "cancer-associated stroma",
        "colorectal adenocarcinoma epithelium",
    )
    number_of_classes = 9
    images: ClassVar[Mapping[str, int]] = {"train": 89_996, "val": 10_004, "test": 7_180}


class DermaMnist(_MedMnist):
    """Spots of the skin."""

    name = "dermamnist"
    title = "DermaMNIST"
    resources = _file("dermamnist", 19_700_000, "0744692d530f8e62ec473284d019b0c7")
    licence = "CC BY-NC 4.0"
    classes = (
        "actinic keratoses and intraepithelial carcinoma",
        "basal cell carcinoma",
        "benign keratosis-like lesions",
        "dermatofibroma",
        "melanoma",
        "melanocytic nevi",
        "vascular lesions",
    )
    number_of_classes = 7
    images: ClassVar[Mapping[str, int]] = {"train": 7_007, "val": 1_003, "test": 2_005}


class OCTMnist(_MedMnist):
    """Sections of the retina, by optical coherence tomography."""

    name = "octmnist"
    title = "OCTMNIST"
    resources = _file("octmnist", 54_900_000, "c68d92d5b585d8d81f7112f81e2d0842")
    classes = (
        "choroidal neovascularization",
        "diabetic macular edema",
        "drusen",
        "normal",
    )
    number_of_classes = 4
    images: ClassVar[Mapping[str, int]] = {"train": 97_477, "val": 10_832, "test": 1_000}


class PneumoniaMnist(_MedMnist):
    """X-ray pictures of the chests of children."""

    name = "pneumoniamnist"
    title = "PneumoniaMNIST"
    resources = _file("pneumoniamnist", 4_170_000, "28209eda62fecd6e6a2d98b1501bb15f")
    classes = (
        "normal",
        "pneumonia",
    )
    number_of_classes = 2
    images: ClassVar[Mapping[str, int]] = {"train": 4_708, "val": 524, "test": 624}


class RetinaMnist(_MedMnist):
    """The back of the eye: five grades of diabetic retinopathy, published as numbers."""

    name = "retinamnist"
    title = "RetinaMNIST"
    resources = _file("retinamnist", 3_290_000, "bd4c0672f1bba3e3a89f0e4e876791e4")
    classes = (
        "grade 0",
        "grade 1",
        "grade 2",
        "grade 3",
        "grade 4",
    )
    number_of_classes = 5
    images: ClassVar[Mapping[str, int]] = {"train": 1_080, "val": 120, "test": 400}


class BreastMnist(_MedMnist):
    """Ultrasound pictures of the breast."""

    name = "breastmnist"
    title = "BreastMNIST"
    resources = _file("breastmnist", 560_000, "750601b1f35ba3300ea97c75c52ff8f6")
    classes = (
        "malignant",
        "normal, benign",
    )
    number_of_classes = 2
    images: ClassVar[Mapping[str, int]] = {"train": 546, "val": 78, "test": 156}


class BloodMnist(_MedMnist):
    """Blood cells."""

    name = "bloodmnist"
    title = "BloodMNIST"
    resources = _file("bloodmnist", 35_500_000, "7053d0359d879ad8a5505303e11de1dc")
    classes = (
        "basophil",
        "eosinophil",
        "erythroblast",
        "immature granulocytes(myelocytes, metamyelocytes and promyelocytes)",
        "lymphocyte",
        "monocyte",
        "neutrophil",
        "platelet",
    )
    number_of_classes = 8
    images: ClassVar[Mapping[str, int]] = {"train": 11_959, "val": 1_712, "test": 3_421}


class TissueMnist(_MedMnist):
    """Cells of the kidney."""

    name = "tissuemnist"
    title = "TissueMNIST"
    # We found no size of its file: this is that of the pixels, which the file compresses.
    resources = _file("tissuemnist", 185_326_624, "ebe78ee8b05294063de985d821c1c34b")
    classes = (
        "Collecting Duct, Connecting Tubule",
        "Distal Convoluted Tubule",
        "Glomerular endothelial cells",
        "Interstitial endothelial cells",
        "Leukocytes",
        "Podocytes",
        "Proximal Tubule Segments",
        "Thick Ascending Limb",
    )
    number_of_classes = 8
    images: ClassVar[Mapping[str, int]] = {"train": 165_466, "val": 23_640, "test": 47_280}


_ORGANS = (
    "bladder",
    "femur-left",
    "femur-right",
    "heart",
    "kidney-left",
    "kidney-right",
    "liver",
    "lung-left",
    "lung-right",
    "pancreas",
    "spleen",
)


class OrganAMnist(_MedMnist):
    """Organs in computed tomography, axial sections."""

    name = "organamnist"
    title = "OrganAMNIST"
    resources = _file("organamnist", 38_200_000, "68e3f8846a6bd62f0c9bf841c0d9eacc")
    classes = _ORGANS
    number_of_classes = 11
    images: ClassVar[Mapping[str, int]] = {"train": 34_561, "val": 6_491, "test": 17_778}


class OrganCMnist(_MedMnist):
    """Organs in computed tomography, coronal sections."""

    name = "organcmnist"
    title = "OrganCMNIST"
    resources = _file("organcmnist", 15_500_000, "b9ceb9546e10131b32923c5bbeaea2b1")
    classes = _ORGANS
    number_of_classes = 11
    images: ClassVar[Mapping[str, int]] = {"train": 12_975, "val": 2_392, "test": 8_216}


class OrganSMnist(_MedMnist):
    """Organs in computed tomography, sagittal sections."""

    name = "organsmnist"
    title = "OrganSMNIST"
    resources = _file("organsmnist", 16_500_000, "9ab87b696fb54e2a387ebe992d6ed5f1")
    classes = _ORGANS
    number_of_classes = 11
    images: ClassVar[Mapping[str, int]] = {"train": 13_932, "val": 2_452, "test": 8_827}


MEDMNIST: tuple[NamedSet, ...] = (
    PathMnist(),
    DermaMnist(),
    OCTMnist(),
    PneumoniaMnist(),
    RetinaMnist(),
    BreastMnist(),
    BloodMnist(),
    TissueMnist(),
    OrganAMnist(),
    OrganCMnist(),
    OrganSMnist(),
)
"""Its sets of flat pictures, but for ChestMNIST, whose pictures have several labels each."""
