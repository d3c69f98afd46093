"""Votes as shares and weights, and the columns of a catalog that say more of an image than its label."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from astroformer.errors import UserError
from astroformer.images.labelled import LabelledImages
from astroformer.images.sources import open_source
from astroformer.images.splits import holdout, read_split, write_split
from astroformer.images.votes import describe_votes, shares_of, voted

HEAD = "objid,smooth,spiral,odd,ra,dec,plate,sure\n"
ROWS = [
    "x9,6,3,1,10.0,20.0,p1,1.0",
    "x10,0,2,0,10.001,20.0,p1,0.5",
    "x1,1,1,0,50.0,-20.0,p2,2",
]


@pytest.fixture
def catalog(folder: Path) -> Path:
    """Votes on three images of the folder, whose ids are a part of their names."""
    (folder / "class2" / "deep" / "er" / "x.PNG").rename(folder / "class2" / "x1.png")
    return write(folder / "votes.csv", ROWS)


def write(path: Path, rows: list[str]) -> Path:
    path.write_text(HEAD + "\n".join(rows) + "\n")
    return path


def opened(path: Path, words: str = "@votes=smooth+spiral+odd", **arguments: object) -> LabelledImages:
    return open_source(f"{path}@id=objid@pattern=class2/{{id}}.png{words}", **arguments)  # type: ignore[arg-type]


# Shares and weights -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(20))
def test_counts_become_shares_and_their_sum_the_weight(seed: int) -> None:
    generator = np.random.default_rng(seed)
    votes_NK = generator.integers(0, 40, (generator.integers(1, 9), 3))
    votes_NK[:-1] *= generator.integers(0, 2, (len(votes_NK) - 1, 1))  # on some nobody voted
    shares_NK, weights_N = shares_of(votes_NK, "votes", "counts")
    assert weights_N is not None
    np.testing.assert_allclose(shares_NK * weights_N[:, None], votes_NK, rtol=1e-12)
    voted_on = weights_N > 0
    np.testing.assert_allclose(shares_NK[voted_on].sum(1), 1, rtol=1e-12)
    tenfold = shares_of(votes_NK * 10, "votes", "counts")
    np.testing.assert_array_equal(tenfold.weights_N, weights_N * 10)
    np.testing.assert_allclose(tenfold.shares_NK, shares_NK, rtol=1e-12)


def test_one_vote_and_ten_alike_are_one_target_of_two_weights() -> None:
    one, ten = shares_of(np.array([[1, 0], [1, 1]]), "v"), shares_of(np.array([[10, 0], [1, 1]]), "v")
    np.testing.assert_array_equal(one.shares_NK, ten.shares_NK)
    assert one.weights_N is not None
    assert ten.weights_N is not None
    assert (one.weights_N[0], ten.weights_N[0]) == (1, 10)


def test_fractions_may_be_rounded_and_count_alike() -> None:
    shares_NK, weights_N = shares_of(np.array([[0.33, 0.66], [0.5, 0.51]]), "v")
    assert weights_N is None
    np.testing.assert_allclose(shares_NK.sum(1), 1, rtol=1e-12)
    assert shares_of(np.array([[1.0, 0.0], [0.0, 1.0]]), "v").weights_N is None  # whole numbers, and none above 1


@pytest.mark.parametrize(
    ("votes", "sentence"),
    [
        ([[0.3, 0.4], [0.5, 0.5]], r"votes of 1 of 2 images do not sum to 1 \(row 1: 0\.7\)"),
        ([[2.5, 0.4], [0.5, 0.5]], r"do not sum to 1 \(row 1: 2\.9\)"),
        ([[-1, 3], [1, 1]], r"negative \(the first: row 1, vote 1, -1\)"),
        ([[np.nan, 1], [0, 1]], "are no number"),
        ([[np.inf, 1], [0, 1]], "are infinite"),
        ([[0, 0], [0, 0]], "all votes are 0"),
        ([[1], [1]], "two classes or more"),
        ([1, 2], r"shape \(2,\)"),
    ],
)
def test_what_are_no_votes(votes: list[object], sentence: str) -> None:
    with pytest.raises(UserError, match=sentence):
        shares_of(np.array(votes), "v")


def test_ties_go_to_the_first_and_are_counted() -> None:
    images = LabelledImages("three", ["a", "b", "c"], None, (), np.zeros((3, 4, 4, 1)).__getitem__)
    made = voted(images, np.array([[1, 1], [2, 1], [3, 3]]), ("x", "y"))
    assert made.labels is not None
    assert made.labels.tolist() == [0, 0, 0]
    assert describe_votes(made) == [
        "2 images have equally many votes for several classes; the first of them counts as the label"
    ]
    assert describe_votes(made.subset([1])) == []
    with pytest.raises(UserError, match=r"\(3, 2\) is needed"):
        voted(images, np.ones((3, 3)), ("x", "y"))


# Catalogs ---------------------------------------------------------------------------------------------------


def test_a_catalog_of_votes(catalog: Path) -> None:
    images = opened(catalog)
    assert images.classes == ("smooth", "spiral", "odd")
    assert images.files == ["class2/x9.png", "class2/x10.png", "class2/x1.png"]
    assert images.labels is not None
    assert images.votes_NK is not None
    assert images.labels.tolist() == [0, 1, 0]
    np.testing.assert_allclose(images.votes_NK, [[0.6, 0.3, 0.1], [0, 1, 0], [0.5, 0.5, 0]])
    assert images.weights_N is not None
    assert images.weights_N.tolist() == [10, 2, 2]
    assert images.positions_N2 is not None
    assert images.amounts()["spiral"] == pytest.approx(1.8)
    assert [int(images.read(i)[0, 0, 0]) for i in range(3)] == [4, 3, 2]
    some = images.subset([1])
    assert some.weights_N is not None
    assert some.weights_N.tolist() == [2]
    assert opened(catalog, labelled=False).votes_NK is None


def test_a_weight_overrules_the_number_of_votes(catalog: Path) -> None:
    images = opened(catalog, "@votes=smooth+spiral@weight=sure")
    assert images.weights_N is not None
    assert images.weights_N.tolist() == [1, 0.5, 2]


def test_images_that_nobody_voted_on_are_left_out(catalog: Path) -> None:
    images = opened(write(catalog, [*ROWS[:2], "x1,0,0,0,1,1,p,1"]), "@votes=smooth+spiral@weight=sure@group=plate")
    assert len(images) == 2
    assert images.ignored == ["class2/x1.png (nobody voted on it)"]
    assert images.groups is not None
    assert images.weights_N is not None
    assert (images.groups.tolist(), images.weights_N.tolist()) == ([1, 1], [1, 0.5])


def test_shares_of_people_some_of_whom_were_not_asked(catalog: Path) -> None:
    rows = ["x9,0.30,0.30,0,1,1,p,1", "x10,0.2,0,0,1,1,p,1", "x1,0.5,0.5,0,1,1,p,1"]
    write(catalog, rows)
    with pytest.raises(UserError, match=r"2 of 3 images do not sum to 1 \(row 1: 0\.6\).*say @votes-as=counts"):
        opened(catalog, "@votes=smooth+spiral")
    images = opened(catalog, "@votes=smooth+spiral@votes-as=counts")
    assert images.votes_NK is not None
    assert images.weights_N is not None
    np.testing.assert_allclose(images.votes_NK, [[0.5, 0.5], [1, 0], [0.5, 0.5]])
    np.testing.assert_allclose(images.weights_N, [0.6, 0.2, 1])
    with pytest.raises(UserError, match="do not sum to 1"):
        opened(write(catalog, ROWS), "@votes=smooth+spiral@votes-as=fractions")


def test_votes_in_the_order_of_a_model(catalog: Path) -> None:
    images = opened(catalog, "@votes=smooth+spiral", classes=("odd", "spiral", "smooth"))
    assert images.votes_NK is not None
    assert images.labels is not None
    np.testing.assert_allclose(images.votes_NK[0], [0, 1 / 3, 2 / 3])
    assert images.labels.tolist() == [2, 1, 1]  # of equal votes the first class of the model
    with pytest.raises(UserError, match=r"unknown class in the votes of .* 'odd'.*@votes"):
        opened(catalog, classes=("smooth", "spiral"))


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        ("@votes=smooth", "two columns or more"),
        ("@votes=smooth+smooth", "each once"),
        ("@votes=smooth+", "two columns or more"),
        ("@votes=smooth+spirl", "unknown column in .* 'spirl'. Did you mean 'spiral'"),
        ("@votes=smooth+plate", "'plate' has 'p1' in row 1, which is no number"),
        ("@votes=smooth+spiral@label=plate", "give @votes or @label, not both"),
        ("@votes=smooth+spiral@votes-as=count", "unknown word of @votes-as 'count'. Did you mean 'counts'"),
        ("@label=plate@votes-as=counts", "name them with @votes="),
        ("@label=plate@classes=a+b", "name them with @votes="),
        ("@votes=smooth+spiral@classes=a+a", "should name 2 classes, each once, in the order of @votes"),
        ("@votes=smooth+spiral@classes=a", "should name 2 classes"),
        ("@votes=smooth+spiral@weight=plate", "which is no number"),
        ("@votes=smooth+spiral@weight=wait", "unknown column"),
        ("@votes=smooth+spiral@group=nothing", "unknown column"),
        ("@votes=smooth+spiral@same-sky=wide", "@same-sky=wide should be the largest distance in arcsec"),
        ("@votes=smooth+spiral@same-sky=-1", "more than 0"),
        ("@votes=smooth+spiral@dec=plate", "is no number"),
        ("@votes=smooth+spiral@file=objid", "give one of the two"),
    ],
)
def test_words_of_a_catalog_that_can_not_be(catalog: Path, words: str, sentence: str) -> None:
    with pytest.raises(UserError, match=sentence):
        opened(catalog, words)


@pytest.mark.parametrize(
    ("row", "words", "sentence"),
    [
        ("x1,1,,0,1,1,p,1", "@votes=smooth+spiral", "votes of 1 of 3 images are no number"),
        ("x1,1,-2,0,1,1,p,1", "@votes=smooth+spiral", "negative"),
        ("x1,1,inf,0,1,1,p,1", "@votes=smooth+spiral", "infinite"),
        ("x1,1,many,0,1,1,p,1", "@votes=smooth+spiral", "'many' in row 3, which is no number"),
        ("x1,1,1,0,1,1,p,-1", "@votes=smooth+spiral@weight=sure", r"no weights \(the first: row 3, -1\)"),
        ("x1,1,1,0,1,1,p,", "@votes=smooth+spiral@weight=sure", r"no weights \(the first: row 3, missing\)"),
        ("x1,1,1,0,1,1,p,nan", "@votes=smooth+spiral@weight=sure", "no weights"),
        ("x1,1,1,0,1,1,,1", "@votes=smooth+spiral@group=plate", "'plate' is empty in 1 of 3 rows"),
        ("x1,1,1,0,1,95,p,1", "@votes=smooth+spiral@ra=ra@dec=dec", "'dec' has 95 in row 3; degrees from -90 to 90"),
        ("x1,1,1,0,700,9,p,1", "@votes=smooth+spiral@ra=ra@dec=dec", "'ra' has 700 in row 3"),
        (",1,1,0,1,1,p,1", "@votes=smooth+spiral", "'objid' is empty in 1 of 3 rows"),
        ("x9,1,1,0,1,1,p,1", "@votes=smooth+spiral", "lists 1 files more than once"),
    ],
)
def test_rows_that_can_not_be(catalog: Path, row: str, words: str, sentence: str) -> None:
    write(catalog, [*ROWS[:2], row])
    with pytest.raises(UserError, match=sentence):
        opened(catalog, words)


def test_a_class_without_votes_is_refused(catalog: Path) -> None:
    write(catalog, ["x9,6,3,0,1,1,p,1", "x10,1,3,0,1,1,p,1"])
    with pytest.raises(UserError, match="the class 'odd' has no votes"):
        opened(catalog)
    assert len(opened(catalog, "@votes=smooth+spiral")) == 2


def test_weights_that_are_all_zero(catalog: Path) -> None:
    write(catalog, ["x9,6,3,0,1,1,p,0", "x10,1,3,0,1,1,p,0"])
    with pytest.raises(UserError, match="all weights are 0"):
        opened(catalog, "@label=plate@weight=sure")


# Groups and positions ---------------------------------------------------------------------------------------


def test_groups_and_the_same_sky_stay_together(catalog: Path) -> None:
    write(
        catalog,
        ["x9,1,0,0,10.0,20.0,p1,1", "x10,0,1,0,10.001,20.0,p2,1", "x1,1,1,0,359.9999,-20.0,p2,1"],
    )
    assert opened(catalog, "@votes=smooth+spiral").groups is None  # positions alone change no split
    by_sky = opened(catalog, "@votes=smooth+spiral@same-sky=10").groups
    assert by_sky is not None
    assert by_sky[0] == by_sky[1] != by_sky[2]
    by_plate = opened(catalog, "@votes=smooth+spiral@group=plate").groups
    assert by_plate is not None
    assert by_plate[0] != by_plate[1] == by_plate[2]
    both = opened(catalog, "@votes=smooth+spiral@group=plate@same-sky=10").groups
    assert both is not None
    assert len(set(both.tolist())) == 1


def test_an_unknown_place_stands_alone(catalog: Path) -> None:
    write(catalog, ["x9,1,0,0,,20.0,p1,1", "x10,0,1,0,,20.0,p2,1", "x1,1,1,0,9,-20.0,p2,1"])
    assert opened(catalog, "@votes=smooth+spiral@same-sky=3599").groups is None  # none shows the sky of another


def test_columns_that_only_look_like_positions_are_let_alone(catalog: Path) -> None:
    write(catalog, ["x9,1,0,0,12h30m,20.0,p1,1", "x10,0,1,0,1,20.0,p2,1"])
    assert opened(catalog, "@votes=smooth+spiral").positions_N2 is None
    with pytest.raises(UserError, match="has '1' in row 2, and angles such as"):
        opened(catalog, "@votes=smooth+spiral@ra=ra@dec=dec")
    with pytest.raises(UserError, match="has '1' in row 2, and angles such as"):
        opened(catalog, "@votes=smooth+spiral@same-sky=60")


# Ids and patterns -------------------------------------------------------------------------------------------


def test_patterns(folder: Path) -> None:
    (folder / "p{0}").mkdir()
    for name in ("7_g.png", "17_g.png", "7_r.png"):
        (folder / "class2" / "x9.png").rename(folder / "p{0}" / name)
        (folder / "class2" / "x9.png").write_bytes((folder / "p{0}" / name).read_bytes())
    path = folder / "c.csv"
    path.write_text("id,label\n7,a\n17,b\n")
    images = open_source(f"{path}@id=id@pattern=p{{0}}/{{id}}_g.png")
    assert images.files == ["p{0}/7_g.png", "p{0}/17_g.png"]
    assert open_source(f"{path}@id=id@pattern=p*/{{id}}_g.*").files == images.files
    assert open_source(f"{path}@id=id@pattern=????/{{id}}_[g].png").files == images.files
    for words, sentence in (
        ("@id=id@pattern=p*/{id}_?.png", "stands for 2 files of the id 7: p{0}/7_g.png, p{0}/7_r.png"),
        ("@id=id@pattern=q*/{id}_g.png", "stands for none of the files"),
        ("@id=id@pattern=p/{id}.png", "none of its 2 files exists; the pattern is relative to"),
        ("@id=id@pattern=p/{ID}.png", "has no {id}"),
        ("@id=id", "belong together"),
        ("@pattern={id}.png", "belong together"),
        ("@id=di@pattern={id}.png", "unknown column in"),
    ):
        with pytest.raises(UserError) as error:
            open_source(f"{path}{words}")
        assert sentence in str(error.value)


def test_a_pattern_leaves_an_id_without_a_file_to_reading(folder: Path) -> None:
    path = folder / "c.csv"
    path.write_text("id,label\nx9,a\nx10,b\nx77,b\n")
    for pattern in ("class2/{id}.png", "class*/{id}.p*"):
        images = open_source(f"{path}@id=id@pattern={pattern}")
        assert len(images) == 3
        with pytest.raises(ValueError, match="No such file"):
            images.read(2)


def test_ids_in_magic_letters_mean_themselves(folder: Path) -> None:
    (folder / "class2" / "x9.png").rename(folder / "class2" / "x[9]*.png")
    path = folder / "c.csv"
    path.write_text("id,label\nx[9]*,a\nx10,b\n")
    for pattern in ("class2/{id}.png", "class?/{id}.png"):
        images = open_source(f"{path}@id=id@pattern={pattern}")
        assert images.files == ["class2/x[9]*.png", "class2/x10.png"]


# Splits -----------------------------------------------------------------------------------------------------


def test_a_split_keeps_votes_and_weights_and_sees_their_change(catalog: Path, tmp_path: Path) -> None:
    images = opened(catalog)
    write_split(tmp_path / "s.csv", images, [2, 0])
    np.testing.assert_array_equal(read_split(tmp_path / "s.csv", images), [2, 0])
    assert images.votes_NK is not None
    assert images.weights_N is not None
    nudged = images.votes_NK.copy()
    nudged[2] = np.nextafter(nudged[2], 1)
    for changed in (replace(images, votes_NK=nudged), replace(images, weights_N=images.weights_N + 1)):
        with pytest.raises(UserError, match="other votes or another weight"):
            read_split(tmp_path / "s.csv", changed)
    for changed in (replace(images, votes_NK=None), replace(images, weights_N=None)):
        with pytest.raises(UserError, match="votes or weights have been added or taken away"):
            read_split(tmp_path / "s.csv", changed)


def test_votes_split_as_their_majorities_do(folder: Path) -> None:
    labels = np.arange(40) % 3
    images = LabelledImages(
        "n", [str(i) for i in range(40)], labels, ("a", "b", "c"), np.zeros((40, 2, 2, 1)).__getitem__
    )
    of_votes = voted(replace(images, labels=None, classes=()), np.eye(3)[labels] * 5 + 1, ("a", "b", "c"))
    assert of_votes.labels is not None
    for one, other in zip(holdout(labels, 0.2, 4), holdout(of_votes.labels, 0.2, 4), strict=True):
        np.testing.assert_array_equal(one, other)
