"""Splits: sums, shares, and that nothing ever moves."""

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from loopworks.core.errors import Invalid
from loopworks.data.splits import assign

ids = st.text("0123456789abcdef", min_size=6, max_size=6)
single = st.dictionaries(ids, st.sampled_from(["a", "b", "c"]).map(lambda name: [name]), max_size=60)
multi = st.dictionaries(ids, st.lists(st.sampled_from(["a", "b", "c", "d"]), unique=True, max_size=3), max_size=60)
share = st.sampled_from([0.0, 0.1, 0.2, 0.33, 0.49])


@given(labels=multi, test=share, val=share, seed=st.integers(0, 9), data=st.data())
def test_every_item_gets_one_split_and_none_moves(
    labels: dict[str, list[str]], test: float, val: float, seed: int, data: st.DataObject
) -> None:
    now = {item: data.draw(st.sampled_from(["", "", "train", "val", "test"])) for item in labels}
    fresh = assign(labels, now, test=test, val=val, seed=seed)
    assert set(fresh) == {item for item, split in now.items() if not split}
    assert set(fresh.values()) <= {"train", "val", "test"}
    after = {**now, **fresh}
    assert assign(labels, after, test=val, val=test, seed=seed + 1) == {}


@given(labels=single, test=share, val=share, seed=st.integers(0, 9))
def test_each_class_keeps_one_for_training_and_its_shares(
    labels: dict[str, list[str]], test: float, val: float, seed: int
) -> None:
    done = assign(labels, dict.fromkeys(labels, ""), test=test, val=val, seed=seed)
    for name in "abc":
        splits = Counter(done[item] for item, classes in labels.items() if classes == [name])
        total = sum(splits.values())
        assert splits["train"] >= min(total, 1)
        if total >= 3:
            assert abs(splits["test"] - test * total) <= 1
            assert abs(splits["val"] - val * total) <= 1.5


@given(labels=single, seed=st.integers(0, 9))
def test_the_order_of_the_items_does_not_matter(labels: dict[str, list[str]], seed: int) -> None:
    turned = dict(reversed(labels.items()))
    first = assign(labels, dict.fromkeys(labels, ""), test=0.2, val=0.1, seed=seed)
    assert first == assign(turned, dict.fromkeys(turned, ""), test=0.2, val=0.1, seed=seed)


def test_another_seed_is_another_split() -> None:
    labels = {f"{number:03}": ["a"] for number in range(100)}
    none = dict.fromkeys(labels, "")
    splits = [assign(labels, none, test=0.2, val=0.1, seed=seed) for seed in (0, 0, 1)]
    assert splits[0] == splits[1] != splits[2]
    assert [Counter(split.values()) for split in splits] == [Counter(train=70, test=20, val=10)] * 3


def test_labels_that_come_a_few_at_a_time_reach_the_same_shares() -> None:
    labels: dict[str, list[str]] = {}
    splits: dict[str, str] = {}
    for number in range(100):
        labels[f"{number:03}"] = ["a"]
        splits[f"{number:03}"] = ""
        splits |= assign(labels, splits, test=0.2, val=0.1, seed=0)
    assert Counter(splits.values()) == Counter(train=70, test=20, val=10)


def test_a_test_set_that_is_large_enough_takes_no_more() -> None:
    labels = {f"{number:02}": ["a"] for number in range(20)}
    splits = {item: "test" if int(item) < 10 else "" for item in labels}
    assert Counter(assign(labels, splits, test=0.2, val=0.1, seed=0).values()) == Counter(train=8, val=2)


def test_several_classes_are_shared_out_by_the_rarest() -> None:
    labels = {f"{number:02}": ["common", "rare"] if number < 10 else ["common"] for number in range(50)}
    done = assign(labels, dict.fromkeys(labels, ""), test=0.2, val=0.1, seed=0)
    assert Counter(done[item] for item in labels if "rare" in labels[item]) == Counter(train=7, test=2, val=1)


@pytest.mark.parametrize(("test", "val"), [(-0.1, 0.1), (1.0, 0.0), (0.1, 1.5), (0.5, 0.5), (float("nan"), 0.1)])
def test_shares_that_leave_nothing_to_train_on_are_refused(test: float, val: float) -> None:
    with pytest.raises(Invalid, match="share"):
        assign({}, {}, test=test, val=val, seed=0)
