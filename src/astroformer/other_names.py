"""What other tools call our settings: a word that is known elsewhere is refused with ours, and never with a word that
means something else."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection

_SAME = {
    "batch-size": "batch bs train-batch-size minibatch",
    "cache": "cache-dir cache-folder",
    "channels": "in-chans in-channels num-channels bands",
    "class-weights": "class-weight weighted-loss loss-weights",
    "balanced-sampling": "balanced oversample weighted-sampler",
    "clip": "clip-grad grad-clip gradient-clip gradient-clip-val max-grad-norm clip-grad-norm",
    "crop": "crop-pct",
    "ensemble": "members num-models n-models",
    "epochs": "num-epochs n-epochs max-epochs num-train-epochs",
    "folds": "k-folds n-folds num-folds kfold cv",
    "image-size": "size img-size input-size imgsz image-dim resize resolution",
    "init-from": "initial-checkpoint finetune-from start-from",
    "label-smoothing": "smoothing label-smooth",
    "learning-rate": "lr max-lr base-lr lr0",
    "minutes": "max-minutes",
    "model": "arch architecture backbone variant model-name",
    "network.head-dropout": "drop dropout drop-rate head-drop",
    "network.stochastic-depth": "drop-path drop-path-rate",
    "optimizer": "opt optim optimiser",
    "out": "output output-dir out-dir outdir output-folder save-dir save-path save-to results",
    "precision": "mixed-precision",
    "recipe": "config cfg config-file preset",
    "resume": "continue restart resume-from resume-from-checkpoint",
    "seed": "random-state random-seed manual-seed seed-everything",
    "track": "logger log-to report-to tensorboard",
    "valid": "val validation val-data valid-data val-dir validation-data eval-data",
    "valid-fraction": "val-split validation-split val-fraction valid-split test-size val-size holdout",
    "warmup": "warmup-ratio",
    "weight-decay": "wd l2",
    "accumulate": "grad-accum-steps gradient-accumulation-steps accumulate-grad-batches",
    "checkpointing": "gradient-checkpointing grad-checkpointing",
}
_INSTEAD = {
    "gpu gpus cuda use-gpu": "The GPU is chosen by {device} cuda; auto takes it where there is one",
    "cpu no-cuda no-gpu": "The processor is chosen by {device} cpu",
    "lr-scheduler scheduler sched lr-schedule lr-sched lr-decay step-size": (
        "The learning rate rises and then falls as a cosine; {warmup} and {final-learning-rate} say how"
    ),
    "warmup-epochs warmup-steps": "{warmup} is a share of the run, such as 0.05",
    "workers num-workers n-workers j n-jobs dataloader-num-workers": (
        "Images are decoded once and kept, by as many threads as there are cores, so there is nothing to set"
    ),
    "patience early-stopping early-stop": (
        "A run keeps the averaged weights of its end, and its length is {minutes} or {epochs}"
    ),
    "checkpoint ckpt weights": "{resume} RUN goes on with a run, and {init-from} MODEL starts a new one from a model",
    "amp fp16 half": "Half precision is chosen by {precision} fp16 or bf16; auto takes bf16 where it is fast",
    "bf16 bfloat16": "{precision} bf16 chooses it; auto does so where it is fast",
    "pretrained finetune fine-tune": (
        "Nothing here is pre-trained; {init-from} MODEL starts from the weights of a model that was trained here"
    ),
    "num-classes n-classes classes nb-classes": "The classes are those of the labels, so there is nothing to set",
    "data dataset data-dir data-path input input-dir train-dir train-data images folder path": (
        "The images stand without an option before them"
    ),
    "aug augmentation transforms transform aa auto-augment": (
        "{recipe} sky or photo chooses the augmentation, and {augment.policy} and its neighbours change it"
    ),
    "no-aug no-augment no-augmentation": (
        "Augmentation is changed setting by setting: {augment.policy} none, {augment.rotation} 0 and so on"
    ),
    "name run-name experiment experiment-name": "{out} names the run folder",
    "loss criterion": "The loss is cross-entropy; {class-weights} and {label-smoothing} change it",
    "yes y force": "Nothing is overwritten here; {out} names another folder",
}


def instead(name: str, known: Collection[str], spelled: Callable[[str], str]) -> str | None:
    """What to use in place of a word that is not known here, as a sentence; None if no word means the same.

    Args:
        name: the unknown word, `lr` or `img_size`, without dashes before it.
        known: the words that there are, as a command line spells them (`image-size`, `augment.rotation`).
        spelled: how the reader is to write one of them.

    Examples:
        >>> instead("lr", {"learning-rate"}, lambda word: f"--{word}")
        "It is called '--learning-rate' here."
    """
    plain = name.lower().replace("_", "-")
    for ours, others in _SAME.items():
        if plain in others.split() and ours in known:
            return f"It is called '{spelled(ours)}' here."
    for others, sentence in _INSTEAD.items():
        if plain in others.split():
            if not all(word in known for word in re.findall("{(.+?)}", sentence)):
                return None  # of a command that does not have the words
            return re.sub("{(.+?)}", lambda word: spelled(word[1]), sentence) + "."
    longer = [word for word in known if word.partition(".")[2] == plain]
    return f"It is called '{spelled(longer[0])}' here." if longer else None
