"""Splits: sums, shares, and that nothing ever moves."""

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from loopworks.core.errors import Invalid
from loopworks.data.splits import assign, assign_by_time, assign_groups, join, keep_test

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


many = st.dictionaries(ids, st.lists(st.sampled_from("abcdefgh"), unique=True, max_size=4), max_size=80)


@given(labels=many, test=share, val=share, seed=st.integers(0, 9))
def test_several_classes_keep_one_for_training_and_the_order_does_not_matter(
    labels: dict[str, list[str]], test: float, val: float, seed: int
) -> None:
    done = assign(labels, dict.fromkeys(labels, ""), test=test, val=val, seed=seed)
    turned = dict(reversed(labels.items()))
    assert done == assign(turned, dict.fromkeys(turned, ""), test=test, val=val, seed=seed)
    for name in {name for classes in labels.values() for name in classes}:
        assert any(done[item] == "train" for item, classes in labels.items() if name in classes)
    for split, part in (("test", test), ("val", val)):
        if part == 0:
            assert split not in done.values()


def scattered(count: int, seed: int) -> dict[str, list[str]]:
    """Items with one to three of twelve classes, the later ones ever rarer."""
    import numpy as np

    rng = np.random.default_rng(seed)
    weights = 1 / np.arange(1, 13)
    picked = [rng.choice(12, rng.integers(1, 4), replace=False, p=weights / weights.sum()) for _ in range(count)]
    return {f"{n:04}": [f"c{one}" for one in found] for n, found in enumerate(picked)}


def test_each_of_many_classes_comes_near_its_share() -> None:
    labels = scattered(1000, seed=3)
    done = assign(labels, dict.fromkeys(labels, ""), test=0.2, val=0.1, seed=0)
    assert Counter(done.values())["test"] == pytest.approx(200, abs=15)
    for name in {name for classes in labels.values() for name in classes}:
        inside = Counter(done[item] for item, classes in labels.items() if name in classes)
        total = sum(inside.values())
        assert inside["test"] / total == pytest.approx(0.2, abs=0.02), name
        assert inside["val"] / total == pytest.approx(0.1, abs=0.02), name


def test_several_classes_that_come_a_few_at_a_time_reach_the_same_shares() -> None:
    labels = scattered(600, seed=4)
    splits: dict[str, str] = {}
    seen: dict[str, list[str]] = {}
    for number, (item, classes) in enumerate(labels.items(), 1):
        seen[item], splits[item] = classes, ""
        if number % 50 == 0:
            splits |= assign(seen, splits, test=0.2, val=0.1, seed=0)
    inside = Counter(splits[item] for item, classes in labels.items() if "c0" in classes)
    assert inside["test"] / sum(inside.values()) == pytest.approx(0.2, abs=0.03)


@given(labels=many, test=share, val=share, seed=st.integers(0, 9), data=st.data())
def test_a_group_never_straddles(
    labels: dict[str, list[str]], test: float, val: float, seed: int, data: st.DataObject
) -> None:
    groups = {item: data.draw(st.integers(0, 8)) for item in labels}
    before = {group: data.draw(st.sampled_from(["", "", "train", "val", "test"])) for group in range(9)}
    now = {item: before[groups[item]] if data.draw(st.booleans()) else "" for item in labels}
    fresh = assign_groups(labels, now, groups, test=test, val=val, seed=seed)
    assert set(fresh) == {item for item, split in now.items() if not split}
    after = {**now, **fresh}
    for group in set(groups.values()):
        assert len({after[item] for item in labels if groups[item] == group}) == 1


def test_groups_come_near_the_shares_of_every_class() -> None:
    labels = scattered(2000, seed=5)
    groups = {item: int(item) % 97 for item in labels}
    done = assign_groups(labels, dict.fromkeys(labels, ""), groups, test=0.2, val=0.1, seed=0)
    for name in (f"c{n}" for n in range(6)):
        inside = Counter(done[item] for item, classes in labels.items() if name in classes)
        assert inside["test"] / sum(inside.values()) == pytest.approx(0.2, abs=0.05), name
    assert done != assign_groups(labels, dict.fromkeys(labels, ""), groups, test=0.2, val=0.1, seed=1)


def test_three_groups_are_enough_for_three_sets() -> None:
    labels = {f"{n:02}": ["a" if n % 2 else "b"] for n in range(30)}
    done = assign_groups(
        labels, dict.fromkeys(labels, ""), {i: int(i) // 10 for i in labels}, test=0.2, val=0.1, seed=0
    )
    assert Counter(done.values()) == Counter(train=10, val=10, test=10)
    two = assign_groups(labels, dict.fromkeys(labels, ""), {i: int(i) // 15 for i in labels}, test=0.2, val=0, seed=0)
    assert Counter(two.values()) == Counter(train=15, test=15)


def test_a_group_with_an_item_in_the_test_set_follows_it_there() -> None:
    labels = {f"{n}": ["a"] for n in range(6)}
    now = {"0": "test", "1": "train", "2": "train", "3": "", "4": "", "5": ""}
    groups = {"0": 0, "1": 0, "2": 0, "3": 0, "4": 1, "5": 1}
    fresh = assign_groups(labels, now, groups, test=0.2, val=0.1, seed=0)
    assert fresh["3"] == "test"
    assert fresh["4"] == fresh["5"]


times_of = st.dictionaries(ids, st.integers(0, 30).map(float), min_size=1, max_size=60)


@given(times=times_of, test=share, val=share)
def test_by_time_no_newer_item_is_trained_on_than_tested(times: dict[str, float], test: float, val: float) -> None:
    done = assign_by_time(times, dict.fromkeys(times, ""), test=test, val=val)
    assert set(done) == set(times)
    spans = {name: [times[item] for item, split in done.items() if split == name] for name in ("train", "val", "test")}
    assert spans["train"]
    for older, newer in (("train", "val"), ("train", "test"), ("val", "test")):
        if spans[older] and spans[newer]:
            assert max(spans[older]) < min(spans[newer])


def test_by_time_the_shares_are_reached_and_later_items_go_on_from_there() -> None:
    times = {f"{n:03}": float(n) for n in range(100)}
    done = assign_by_time(times, dict.fromkeys(times, ""), test=0.2, val=0.1)
    assert Counter(done.values()) == Counter(train=70, val=10, test=20)
    assert min(item for item, split in done.items() if split == "test") == "080"
    more = {**times, **{f"{n:03}": float(n) for n in range(100, 150)}}
    now = {item: done.get(item, "") for item in more}
    fresh = assign_by_time(more, now, test=0.2, val=0.1)
    assert Counter(fresh.values()) == Counter(train=35, val=5, test=10)
    assert {item for item, split in fresh.items() if split == "test"} == {f"{n:03}" for n in range(140, 150)}


def test_items_that_share_any_key_are_one_group() -> None:
    pairs = [("a", 1), ("b", 2), ("b", 1), ("c", 3), ("d", 4), ("e", 4), ("e", 3)]
    found = join(pairs)
    assert found["a"] == found["b"] != found["c"] == found["d"] == found["e"]


def test_what_comes_from_elsewhere_takes_nothing_out_of_the_test_set() -> None:
    now = {"a": "test", "b": "train", "c": "", "d": "test"}
    assert keep_test(now, {"a": "train", "b": "test", "c": "val", "d": "test", "e": "train"}) == (
        {"b": "test", "c": "val", "d": "test", "e": "train"},
        ["a"],
    )
