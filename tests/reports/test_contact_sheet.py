"""Contact sheets: every picture has its place, sections stand apart, small pictures keep their pixels."""

import numpy as np
from PIL import Image

from parallax.tasks.show_views import GAP, Picture, contact_sheet


def plain(colour: tuple[int, int, int], size: tuple[int, int] = (10, 10)) -> Picture:
    return Picture(Image.new("RGB", size, colour), "a label")


def test_every_picture_is_on_the_page() -> None:
    colours = [(10 * n, 255 - 10 * n, 77) for n in range(7)]
    page = contact_sheet(
        "title", {"one": [plain(c) for c in colours[:4]], "two": [plain(c) for c in colours[4:]]}, 40, 3
    )
    found = np.asarray(page).reshape(-1, 3)
    for colour in colours:
        assert int((found == colour).all(-1).sum()) == 40 * 40


def test_pictures_keep_their_aspect() -> None:
    page = contact_sheet("title", {"one": [plain((9, 99, 199), (20, 10))]}, 40, 1)
    rows, columns = np.nonzero((np.asarray(page) == (9, 99, 199)).all(-1))
    assert (np.ptp(rows) + 1, np.ptp(columns) + 1) == (20, 40)


def test_small_pictures_are_enlarged_without_smoothing() -> None:
    board = np.zeros((2, 2, 3), np.uint8)
    board[0, 0] = board[1, 1] = (200, 0, 0)
    page = contact_sheet("title", {"one": [Picture(Image.fromarray(board, "RGB"), "")]}, 40, 1)
    assert int((np.asarray(page) == (200, 0, 0)).all(-1).sum()) == 800


def test_more_pictures_than_columns_make_rows_and_empty_sections_nothing() -> None:
    one = contact_sheet("title", {"one": [plain((1, 2, 3))] * 3}, 40, 3)
    two = contact_sheet("title", {"none": [], "one": [plain((1, 2, 3))] * 4}, 40, 3)
    assert one.width == two.width == 3 * (40 + GAP) + GAP
    assert two.height > one.height
    assert two.height == contact_sheet("title", {"one": [plain((1, 2, 3))] * 6}, 40, 3).height


def test_long_labels_stay_below_their_picture() -> None:
    """Whatever is written, the label adds no height and does not reach the next picture."""
    short = contact_sheet("t", {"s": [plain((1, 2, 3))] * 2}, 60, 2)
    long = contact_sheet("t", {"s": [Picture(plain((1, 2, 3)).image, "word " * 40), plain((1, 2, 3))]}, 60, 2)
    assert short.size == long.size
    left = 60 + 2 * GAP
    assert np.array_equal(np.asarray(short)[:, left:], np.asarray(long)[:, left:])
