"""`RunRecord`: what `run.json` says of a run, typed."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from types import NoneType
from typing import Any, Generic, TypeVar

from astroformer.errors import brief
from astroformer.images.labelled import SetRecord
from astroformer.images.preprocessing import Preprocessing
from astroformer.network import AnswersConfig, AstroformerConfig
from astroformer.network.config import joined_words, split_words
from astroformer.training.machine import Machine
from astroformer.training.task import Task

Value = TypeVar("Value")
_READ_APART = ("task", "answers", "teacher", "machine")  # fields of `RunRecord` that run.json has in another way


@dataclass(frozen=True)
class Parts(Generic[Value]):
    """Something of the images to train on and of those to validate on."""

    train: Value
    valid: Value


@dataclass(frozen=True)
class TeacherRecord:
    """Which model a run learns from: its folder, and the hash of its weights when the run began."""

    model: str
    weights_sha256: str


@dataclass(frozen=True)
class RunRecord:
    """What `run.json` says of a run, but for where it was made.

    Attributes:
        task: what it is trained on, by absolute paths.
        images: how many there are.
        content: name of each store, a hash of what its images contain.
        left_out: number of files that could not be read.
        data_sets: what a published set says of itself, for each that was used.
        ignored: files of the source that are no images, with the reason.
        counts: images a class.
        decisions: the sentences of the rules.
        parameters: of the network.
        network: that is trained.
        preprocessing: of the images.
        answers: how the network is asked while it is trained: with a frame or without.
        teacher: the model that answers in place of labels, if there is one.
        machine: that the run begins on, with the threads that it is trained with.
        augmentation: the name of the function of a program that changes batches too, if there is one.
    """

    task: Task
    images: Parts[int]
    content: Parts[str]
    left_out: int
    data_sets: list[SetRecord]
    ignored: list[str]
    counts: dict[str, int]
    decisions: list[str]
    parameters: int
    network: AstroformerConfig
    preprocessing: Preprocessing
    answers: AnswersConfig = field(default_factory=AnswersConfig)
    teacher: TeacherRecord | None = None
    machine: Machine = field(default_factory=Machine.here)
    augmentation: str | None = None

    def to_dict(self) -> dict[str, Any]:
        """As JSON values; the task's words stand beside the others."""
        fields = {**vars(self), "network": joined_words(self.network, self.answers)}
        del fields["answers"], fields["machine"]
        fields |= {"threads": self.machine.threads, "instructions": self.machine.instructions}
        fields["preprocessing"] = self.preprocessing.to_dict()
        fields |= {"images": asdict(self.images), "content": asdict(self.content)}
        fields["teacher"] = None if self.teacher is None else asdict(self.teacher)
        return {**vars(fields.pop("task")), **fields}

    @classmethod
    def from_dict(cls, fields: dict[str, Any]) -> RunRecord:
        """What `to_dict` gave. Raises `KeyError`, `TypeError` or `ValueError` where something is missing or of another
        kind."""
        # Runs of before know of none of these.
        fields = {"allow_shared": False, "only_known": False, "augmentation": None, **fields}
        for name, kinds in _KINDS.items():
            if not isinstance(fields[name], kinds) or (isinstance(fields[name], bool) and bool not in kinds):
                raise TypeError(f"its {name} is {brief(fields[name])}")
        task = Task(**{name: fields[name] for name in Task.__dataclass_fields__})
        own = {name: fields[name] for name in cls.__dataclass_fields__ if name not in _READ_APART}
        network, answers = split_words(own["network"])
        teacher = fields.get("teacher")  # runs of before know of none
        own |= {
            "images": Parts(**own["images"]),
            "content": Parts(**own["content"]),
            "network": AstroformerConfig.from_dict(network),
            "answers": answers,
            "preprocessing": Preprocessing.from_dict(own["preprocessing"]),
            "teacher": None if teacher is None else TeacherRecord(**teacher),
            "machine": Machine.from_record(fields),
        }
        for name in ("images", "content"):
            kind = int if name == "images" else str
            if type(own[name].train) is not kind or type(own[name].valid) is not kind:
                raise TypeError(f"its {name} is {brief(fields[name])}")
        return cls(task=task, **own)


_KINDS: dict[str, tuple[type, ...]] = {
    "source": (str,),
    "valid": (str, NoneType),
    "init_from": (str, NoneType),
    "strict": (bool,),
    "allow_shared": (bool,),
    "only_known": (bool,),
    "cache": (str, NoneType),
    "left_out": (int,),
    "data_sets": (list,),
    "ignored": (list,),
    "counts": (dict,),
    "decisions": (list,),
    "parameters": (int,),
    "network": (dict,),
    "preprocessing": (dict,),
    "augmentation": (str, NoneType),
}
"""Of what kind each word of run.json is."""
