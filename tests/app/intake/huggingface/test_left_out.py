import pytest

from app.intake.facts import LeftOut
from app.intake.huggingface.left_out import MOST_LISTED, listed, plain


def test_each_folder_is_listed_once_and_names_are_sorted() -> None:
    found = listed([("onnx/a.onnx", "x"), ("b.md", "y"), ("onnx/b/c.onnx", "x"), ("a.md", "y")])
    assert found == (LeftOut("a.md", "y"), LeftOut("b.md", "y"), LeftOut("onnx/", "x"))


@pytest.mark.parametrize("count", [0, 1, MOST_LISTED, MOST_LISTED + 1, 1000])
def test_the_list_is_bounded_and_says_how_many_more(count: int) -> None:
    found = listed((f"{number:04}", "x") for number in range(count))
    assert len(found) == min(count, MOST_LISTED + 1)
    if count > MOST_LISTED:
        assert found[-1].name == f"{count - MOST_LISTED} more"


@pytest.mark.parametrize("name", ["a\nb", "\u202egnp.exe", "x" * 300, "\ud800", "%s<b>", ""])
def test_names_are_fit_for_a_message(name: str) -> None:
    assert plain(name).isascii()
    assert plain(name).isprintable()
    assert len(plain(name)) <= 128
