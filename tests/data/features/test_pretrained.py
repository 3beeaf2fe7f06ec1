"""Models of the transformers library as descriptors: from a folder, offline, and one clear line where they are not."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from loopworks.core.errors import NotFound, Unreachable
from loopworks.data.features import pretrained
from loopworks.data.stage import Dataset, create_dataset
from loopworks.store.home import Home

pytestmark = [pytest.mark.train, pytest.mark.slow]
transformers = pytest.importorskip("transformers", reason="the extra [train] is not installed")


@pytest.fixture
def seer(tmp_path: Path) -> Path:
    """A tiny vision model with random weights, saved as any model is."""
    config = transformers.ViTConfig(
        hidden_size=24, num_hidden_layers=1, num_attention_heads=2, intermediate_size=32, image_size=32, patch_size=16
    )
    transformers.ViTModel(config).save_pretrained(folder := tmp_path / "seer")
    size = {"height": 32, "width": 32}
    transformers.ViTImageProcessor(size=size, image_mean=[0.1, 0.2, 0.3]).save_pretrained(folder)
    return folder


@pytest.fixture
def reader(tmp_path: Path) -> Path:
    """A tiny text model with random weights and a vocabulary of its own."""
    (folder := tmp_path / "reader").mkdir()
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "card", "lost", "my", "hello", "there"]
    (folder / "vocab.txt").write_text("\n".join(words), encoding="utf-8")
    transformers.BertTokenizer(str(folder / "vocab.txt")).save_pretrained(folder)
    config = transformers.BertConfig(
        vocab_size=len(words), hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=32
    )
    transformers.BertModel(config).save_pretrained(folder)
    return folder


def test_a_vision_model_in_a_folder_describes_images(seer: Path, labeled: Dataset) -> None:
    found = pretrained.load(str(seer), "image")
    assert found.rule is not None
    assert (found.rule.height, found.rule.width, found.width) == (32, 32, 24)
    assert tuple(found.mean) == (0.1, 0.2, 0.3)
    batch = np.random.default_rng(0).integers(0, 256, (2, 32, 32, 3), np.uint8)
    rows = found.describe(batch)
    assert rows.shape == (2, 24)
    assert (rows == found.describe(batch)).all()
    assert not np.allclose(rows[0], rows[1])
    told = labeled.embed(f"transformers:{seer}")
    assert (told["items"], told["width"], told["unread"]) == (20, 24, 0)
    hits = labeled.similar(labeled.items()[0].id, k=3, descriptor=f"transformers:{seer}")
    assert (len(hits.hits), hits.descriptor) == (3, f"transformers {seer}")
    assert pretrained.load(str(seer), "image").key == found.key
    (seer / "model.safetensors").touch()
    assert pretrained.load(str(seer), "image").key != found.key


def test_a_text_model_in_a_folder_describes_texts(reader: Path, home: Home, tmp_path: Path) -> None:
    texts = create_dataset(home, "texts", "text-classification", classes=["a", "b"])
    (tmp_path / "texts.csv").write_text("text\nmy card\nhello there\nmy lost card\n", encoding="utf-8")
    texts.add(tmp_path / "texts.csv", format="csv", options={"text": "text"})
    found = texts.similar(text="my card", k=1, descriptor=f"transformers:{reader}")
    (hit,) = found.hits
    assert texts.item(hit.item).text == "my card"
    assert hit.score == pytest.approx(1, abs=1e-4)
    model = pretrained.load(str(reader), "text")
    alone, beside = model.describe(["my card"]), model.describe(["my card", "hello there my lost card card"])
    np.testing.assert_allclose(alone[0], beside[0], atol=1e-5)  # padding says nothing


@pytest.mark.parametrize("name", ["nobody/nothing-at-all", "no/such/folder/anywhere"])
def test_what_is_not_here_is_one_line_and_no_wait(name: str, labeled: Dataset) -> None:
    with pytest.raises(Unreachable, match="must be on this machine") as caught:
        labeled.similar(labeled.items()[0].id, descriptor=f"transformers:{name}")
    assert "\n" not in caught.value.message
    assert "hf download" in caught.value.hint


def test_weights_in_a_pickle_are_not_read(seer: Path) -> None:
    (seer / "model.safetensors").rename(seer / "pytorch_model.bin")
    with pytest.raises(Unreachable):
        pretrained.load(str(seer), "image")


def test_an_unknown_descriptor_names_those_there_are(labeled: Dataset, image_file: Callable[..., bytes]) -> None:
    with pytest.raises(NotFound) as caught:
        labeled.similar(image=image_file("PNG"), descriptor="nope")
    assert "transformers:NAME" in caught.value.hint
