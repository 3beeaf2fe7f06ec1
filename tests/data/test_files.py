"""Finding images: layouts of folders, patterns, and everything that may lie between them."""

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from loopworks.core.errors import Invalid, NotFound
from loopworks.data.files import Finding, find


def touch(root: Path, *names: str) -> Path:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(b"x")
    return root


def said(finding: Finding) -> list[tuple[str, str, str]]:
    return [(file.name, file.label, file.split) for file in finding.files]


def test_a_folder_per_class_gives_labels(tmp_path: Path) -> None:
    finding = find(touch(tmp_path, "dog/1.jpg", "cat/2.PNG", "cat/deep/er/3.webp"))
    assert said(finding) == [("cat/2.PNG", "cat", ""), ("cat/deep/er/3.webp", "cat", ""), ("dog/1.jpg", "dog", "")]
    assert finding.classes == ("cat", "dog")
    assert finding.problems == ()


def test_split_folders_of_class_folders_give_both(tmp_path: Path) -> None:
    finding = find(touch(tmp_path, "train/cat/1.jpg", "Valid/cat/2.jpg", "test/dog/3.jpg"))
    assert [(file.label, file.split) for file in finding.files] == [("cat", "val"), ("dog", "test"), ("cat", "train")]


def test_classes_called_like_splits_are_classes_where_they_hold_images(tmp_path: Path) -> None:
    finding = find(touch(tmp_path, "test/1.jpg", "train/2.jpg"))
    assert finding.classes == ("test", "train")


def test_one_folder_around_the_classes_is_looked_through(tmp_path: Path) -> None:
    touch(tmp_path, "images/cat/1.jpg", "images/dog/2.jpg", "README.md")
    assert said(find(tmp_path)) == [("images/cat/1.jpg", "cat", ""), ("images/dog/2.jpg", "dog", "")]
    assert find(tmp_path, known=["images"]).classes == ("images",)


def test_a_folder_around_split_folders_is_looked_through(tmp_path: Path) -> None:
    touch(tmp_path, "set/train/cat/1.jpg", "set/val/dog/2.jpg")
    assert [(file.label, file.split) for file in find(tmp_path).files] == [("cat", "train"), ("dog", "val")]


@pytest.mark.parametrize("names", [("cat/deep/er/1.jpg",), ("cat/a/1.jpg", "cat/2.jpg"), ("cat/1.jpg",)])
def test_the_only_class_is_no_wrapper(tmp_path: Path, names: tuple[str, ...]) -> None:
    assert find(touch(tmp_path, *names)).classes == ("cat",)


def test_one_split_folder_is_no_wrapper(tmp_path: Path) -> None:
    touch(tmp_path, "train/cat/1.jpg", "train/dog/2.jpg")
    assert [(file.label, file.split) for file in find(tmp_path).files] == [("cat", "train"), ("dog", "train")]


def test_a_flat_folder_has_no_labels(tmp_path: Path) -> None:
    assert said(find(touch(tmp_path, "1.jpg", "2.jpg"))) == [("1.jpg", "", ""), ("2.jpg", "", "")]


def test_labels_can_be_turned_off_or_demanded(tmp_path: Path) -> None:
    touch(tmp_path, "a/1.jpg")
    assert find(tmp_path, "none").classes == ()
    with pytest.raises(Invalid, match="one folder per class"):
        find(tmp_path / "a", "folders")
    with pytest.raises(Invalid, match="labels must be auto, folders or none"):
        find(tmp_path, "guess")  # type: ignore[arg-type]


def test_files_lists_and_patterns_are_found(tmp_path: Path) -> None:
    touch(tmp_path, "a/1.jpg", "a/2.jpg", "b/3.jpg")
    assert said(find(tmp_path / "a" / "1.jpg")) == [("1.jpg", "", "")]
    assert len(find([tmp_path / "a", str(tmp_path / "b" / "3.jpg")]).files) == 3
    assert len(find([tmp_path / "a", tmp_path / "a"]).files) == 2
    assert [file.name for file in find(str(tmp_path / "*" / "*.jpg")).files] == ["a/1.jpg", "a/2.jpg", "b/3.jpg"]
    assert [file.name for file in find(f"{tmp_path}/**/[12].jpg").files] == ["a/1.jpg", "a/2.jpg"]
    with pytest.raises(NotFound, match="path"):
        find(str(tmp_path / "*.bmp"))


def test_a_name_with_brackets_is_a_name_where_it_exists(tmp_path: Path) -> None:
    assert len(find(touch(tmp_path / "[old]", "1.jpg")).files) == 1


def test_a_path_with_dots_is_resolved(tmp_path: Path) -> None:
    touch(tmp_path / "a", "1.jpg")
    (tmp_path / "b").mkdir()
    finding = find(tmp_path / "b" / ".." / "a")
    assert said(finding) == [("1.jpg", "", "")]
    assert ".." not in finding.files[0].path


def test_a_missing_path_is_not_found(tmp_path: Path) -> None:
    with pytest.raises(NotFound, match="nowhere"):
        find(tmp_path / "nowhere")


def test_an_empty_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(Invalid, match="must be a place with images; got no image in it"):
        find(tmp_path)
    with pytest.raises(Invalid, match="an empty list"):
        find([])


def test_a_folder_without_images_names_what_was_there_instead(tmp_path: Path) -> None:
    with pytest.raises(Invalid, match=r"the first of 1 problems: .*notes\.txt must be an image"):
        find(touch(tmp_path, "notes.txt"))


def test_hidden_and_system_files_are_ignored_and_others_listed(tmp_path: Path) -> None:
    touch(tmp_path, "cat/1.jpg", "cat/.hidden.jpg", ".git/x.jpg", "cat/Thumbs.db", "__MACOSX/cat/1.jpg", "cat/a.txt")
    finding = find(tmp_path)
    assert [file.name for file in finding.files] == ["cat/1.jpg"]
    assert [(problem.where, problem.error) for problem in finding.problems] == [
        (str(tmp_path / "cat" / "a.txt"), "invalid")
    ]


def test_classes_that_differ_only_in_case_are_refused_with_both_names(tmp_path: Path) -> None:
    touch(tmp_path, "Cat/1.jpg", "cat/2.jpg")
    with pytest.raises(Invalid, match="'Cat' and 'cat'"):
        find(tmp_path)


def test_a_loop_of_links_ends_and_is_listed(tmp_path: Path) -> None:
    touch(tmp_path, "cat/1.jpg")
    (tmp_path / "cat" / "up").symlink_to(tmp_path)
    (tmp_path / "self").symlink_to(tmp_path / "self")
    finding = find(tmp_path)
    assert [file.name for file in finding.files] == ["cat/1.jpg"]
    assert {Path(problem.where).name for problem in finding.problems} == {"up", "self"}


def test_a_link_to_a_file_is_read_and_a_broken_one_listed(tmp_path: Path) -> None:
    touch(tmp_path / "else", "1.jpg")
    (folder := tmp_path / "photos").mkdir()
    (folder / "a.jpg").symlink_to(tmp_path / "else" / "1.jpg")
    (folder / "b.jpg").symlink_to(tmp_path / "gone.jpg")
    finding = find(folder)
    assert [file.name for file in finding.files] == ["a.jpg"]
    assert [problem.where for problem in finding.problems] == [str(folder / "b.jpg")]


def test_a_path_that_is_itself_a_loop_is_refused(tmp_path: Path) -> None:
    (tmp_path / "self").symlink_to(tmp_path / "self")
    with pytest.raises(Invalid, match="leads nowhere"):
        find(tmp_path / "self")


def test_a_pipe_called_jpg_is_listed_and_not_waited_for(tmp_path: Path) -> None:
    touch(tmp_path, "1.jpg")
    os.mkfifo(tmp_path / "2.jpg")
    finding = find(tmp_path)
    assert [problem.where for problem in finding.problems] == [str(tmp_path / "2.jpg")]


def test_a_folder_that_may_not_be_read_is_listed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    touch(tmp_path, "a/1.jpg", "b/2.jpg")
    scan = os.scandir

    def refuse(path: str) -> object:
        if str(path).endswith("/b"):
            raise PermissionError(13, "Permission denied")
        return scan(path)

    monkeypatch.setattr("loopworks.data.files.os.scandir", refuse)
    finding = find(tmp_path)
    assert [file.name for file in finding.files] == ["a/1.jpg"]
    assert [problem.message for problem in finding.problems] == [
        f"{tmp_path / 'b'} must be readable; got: Permission denied"
    ]


def test_names_that_are_no_text_are_shown_as_escapes(tmp_path: Path) -> None:
    (tmp_path / os.fsdecode(b"caf\xe9.jpg")).write_bytes(b"x")
    assert [file.name for file in find(tmp_path).files] == ["caf\\udce9.jpg"]


def test_composed_and_decomposed_class_names_are_one_class(tmp_path: Path, pictures: Callable[..., Path]) -> None:
    pictures(tmp_path, {"caf\u00e9": 1, "cafe\u0301": 1}, size=4)
    assert find(tmp_path).classes == ("caf\u00e9",)
