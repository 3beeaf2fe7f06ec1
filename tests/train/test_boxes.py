"""Boxes as tensors: suppression against the greedy loop, moves against moved pixels, assignment by hand."""

import numpy as np
import pytest

pytest.importorskip("torch")

import torch  # noqa: E402

from loopworks.tasks import detection as task  # noqa: E402
from loopworks.train.augment import Augment, Change  # noqa: E402
from loopworks.train.detection import boxes as tools  # noqa: E402
from loopworks.train.detection.assign import assign  # noqa: E402
from loopworks.train.detection.dense import Dense, prepare  # noqa: E402

pytestmark = pytest.mark.train


def drawn(count: int, classes: int, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    """Boxes around few middles, and scores."""
    rng = torch.Generator().manual_seed(seed)
    middle = torch.rand((2, 12, 2), generator=rng)[:, torch.randint(0, 12, (count,), generator=rng)]
    middle = middle + 0.02 * torch.randn((2, count, 2), generator=rng)
    half = 0.05 + 0.05 * torch.rand((2, count, 2), generator=rng)
    scores = 0.05 + 0.9 * torch.rand((2, count, classes), generator=rng)
    return torch.cat((middle - half, middle + half), dim=-1), scores


def test_suppression_is_what_the_greedy_loop_gives() -> None:
    from torchvision.ops import batched_nms

    found, scores = drawn(80, 2)
    said = tools.suppressed(found, scores)
    for i in range(2):
        flat = scores[i].flatten()
        box = found[i].clamp(0, 1).repeat_interleave(2, dim=0)
        label = torch.arange(2).repeat(80)
        best = batched_nms(box, flat, label, tools.SAME)[: task.MOST]
        count = len(best)
        np.testing.assert_allclose(said["scores"][i, :count], flat[best])
        assert said["classes"][i, :count].tolist() == label[best].tolist()
        np.testing.assert_allclose(said["boxes"][i, :count, :2], box[best][:, :2])
        assert not said["scores"][i, count:].any()


def test_few_places_are_filled_up_with_no_boxes() -> None:
    found, scores = drawn(5, 1)
    said = tools.suppressed(found, scores)
    assert said["boxes"].shape == (2, task.MOST, 4)
    assert not said["scores"][:, 5:].any()


@pytest.mark.parametrize(
    "change",
    [Change(shift=0.2, scale=0.3), Change(flip="both"), Change(flip="horizontal", rotate_deg=20, shift=0.1, scale=0.2)],
)
def test_boxes_move_with_their_pixels(change: Change) -> None:
    images = torch.zeros((16, 120, 160, 3), dtype=torch.uint8)
    images[:, 40:80, 50:110] = 255
    rows = torch.zeros((16, 2, 10))
    rows[:, :, task.LABEL] = -1
    rows[:, 0] = torch.tensor([0, 50 / 160, 40 / 120, 60 / 160, 40 / 120, 0, 2400, 160, 120, 0])
    augment = Augment(change, torch.zeros(3), torch.ones(3), torch.device("cpu"))
    augment.seed(3)
    x, moved = prepare(augment, images, rows, is_training=True)
    for pixels, row in zip(x[:, 0] > 127, moved[:, 0], strict=True):
        ys, xs = np.nonzero(pixels.numpy())
        seen = np.array([xs.min(), ys.min(), xs.max() + 1, ys.max() + 1])
        box = tools.corners(row[None])[0].numpy() * (160, 120, 160, 120)
        np.testing.assert_allclose(box, seen, atol=1.6)
    assert rows[0, 0, task.X] == pytest.approx(50 / 160), "the targets given stay as they were"


def test_things_that_leave_the_image_are_taught_no_more() -> None:
    rows = torch.zeros((1, 2, 10))
    rows[0, 0, :5] = torch.tensor([1, 0.0, 0.0, 0.1, 0.1])
    rows[0, 1, :5] = torch.tensor([2, 0.5, 0.5, 0.2, 0.2])
    moves = torch.tensor([[[1.0, 0, 0.4], [0, 1, 0]]])  # a fifth of the width is cut away at the left
    cut, left = tools.moved(tools.corners(rows), moves)
    np.testing.assert_allclose(left[0], [0, 1], atol=1e-5)
    np.testing.assert_allclose(cut[0, 1], [0.3, 0.5, 0.5, 0.7], atol=1e-6)


def test_each_thing_is_learnt_by_the_guesses_that_come_closest() -> None:
    places = torch.tensor([[0.25, 0.5], [0.3, 0.5], [0.75, 0.5], [0.9, 0.9]])
    truth = torch.tensor([[[0.2, 0.4, 0.4, 0.6], [0.7, 0.4, 0.8, 0.6], [0.0, 0.0, 0.0, 0.0]]])
    found = torch.tensor([[[0.2, 0.4, 0.4, 0.6], [0.2, 0.4, 0.3, 0.6], [0.7, 0.4, 0.8, 0.5], [0.8, 0.8, 1.0, 1.0]]])
    said = assign(
        found,
        torch.full((1, 4, 2), 0.5),
        places,
        0.01,
        truth,
        torch.tensor([[1, 0, 0]]),
        torch.tensor([[True, True, False]]),
    )
    assert said.is_taught.tolist() == [[True, True, True, False]]
    assert said.thing[0, :3].tolist() == [0, 0, 1]
    np.testing.assert_allclose(said.share[0, 0], [0, 1], atol=1e-4)  # perfect
    np.testing.assert_allclose(said.share[0, 1], [0, 0.5**6], atol=1e-4)  # overlap one half, beside a perfect one
    np.testing.assert_allclose(said.share[0, 2], [0.5, 0], atol=1e-4)  # the best there is: as good as its overlap
    assert not said.share[0, 3].any()


def test_inside_a_crowd_nothing_is_wrong() -> None:
    augment = Augment(Change(), torch.zeros(3), torch.ones(3), torch.device("cpu"))
    objective = Dense(augment, torch.tensor([[0.25, 0.5], [0.75, 0.5]]), 0.01)
    rows = torch.zeros((1, 1, 10))
    rows[0, 0, :6] = torch.tensor([0, 0.0, 0.0, 0.5, 1.0, 1])
    boxes = torch.tensor([[[0.2, 0.4, 0.3, 0.6], [0.7, 0.4, 0.8, 0.6]]])
    sure = {place: torch.full((1, 2, 1), -9.0) for place in (0, 1)}
    for place, logits in sure.items():
        logits[0, place] = 5.0
    inside, outside = (float(objective.loss((sure[place], boxes), rows)) for place in (0, 1))
    assert inside < 1e-3
    assert outside > 1.0
