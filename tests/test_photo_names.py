"""Names of written photos: as in the source, and different on every disk."""

import pytest

from data_preprocess.capture.photo_names import photo_names


@pytest.mark.parametrize(
    ("file_path", "name"),
    [
        ("images/a.png", "images/a"),
        ("images_4/b/c.d.png", "images/b/c.d"),
        ("./train/r_0.png", "images/train/r_0"),
        ("x.JPG", "images/x"),
        ("images", "images/images"),
        ("images_left/0.png", "images/images_left/0"),
        ("images_4x/0.png", "images/images_4x/0"),
        ("images_\u0664/0.png", "images/images_\u0664/0"),
        ("imagesets/0.png", "images/imagesets/0"),
        ("Bild\u202f1.png", "images/Bild\u202f1"),
    ],
)
def test_one_name(file_path, name):
    assert photo_names([file_path]) == [name]


@pytest.mark.parametrize(
    ("file_paths", "names"),
    [
        (["images_left/0.png", "images_right/0.png"], ["images_left/0", "images_right/0"]),
        (["images/0.png", "images_2/0.png", "images/1.png"], ["images/0", "images_2/0", "images/1"]),
        (["images/0.png", "0.png"], ["images/0", "0"]),
        (["images/images/0.png", "images/0.png", "images_2/0.png"], ["images/images/0", "images/0", "images_2/0"]),
        (["images_2/0.png", "images_4/1.png"], ["0", "1"]),
        (["images/a.jpg", "images/a.png", "images/b.png"], ["a_jpg", "a_png", "b"]),
        (["images_2/a.jpg", "images_4/a.png"], ["a_jpg", "a_png"]),
        (["a.jpg", "a.png", "a_png.png"], ["a_jpg", "a_png", "a_png_2"]),
        (["a.jpg", "a.jpg.png"], ["a", "a.jpg"]),
        (["a", "a.png"], ["a", "a_png"]),
        (["A.png", "a.png"], ["A_png", "a_png_2"]),
        (["A.png", "a.jpg"], ["A_png", "a_jpg"]),
        ([f"{'n' * 251}.jpg", f"{'n' * 251}.png"], [f"{'n' * 236}_jpg", f"{'n' * 236}_png"]),
        (["\u9577" * 83 + ".PNG", "\u9577" * 83 + ".png"], ["\u9577" * 78 + "_PNG", "\u9577" * 78 + "_png_2"]),
        (["Cam/0.png", "cam/0.png"], ["Cam/0_png", "cam/0_png_2"]),
        (["u\u0308.png", "\u00fc.png"], ["u\u0308_png", "\u00fc_png_2"]),
        (["stra\u00dfe.png", "strasse.jpg"], ["stra\u00dfe_png", "strasse_jpg"]),
    ],
)
def test_names_that_would_be_the_same(file_paths, names):
    assert photo_names(file_paths, "x") == [f"x/{name}" for name in names]
