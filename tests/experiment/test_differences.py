"""Where two trees of plain values differ, by hand."""

from __future__ import annotations

from fedknow_ray.experiment.differences import differences


def test_equal_trees_do_not_differ():
    assert list(differences({"a": {"b": [1]}}, {"a": {"b": [1]}}, absent="-")) == []


def test_leaves_are_named_by_dotted_keys_in_the_order_of_here_and_then_what_only_there_has():
    there = {"old": 1, "a": {"x": 1, "y": 2}, "b": 3}
    here = {"b": 4, "a": {"y": 2, "x": 5}, "new": None}
    assert list(differences(there, here, absent="-")) == [
        ("b", 3, 4),
        ("a.x", 1, 5),
        ("new", "-", None),
        ("old", 1, "-"),
    ]


def test_a_tree_in_place_of_a_leaf_is_one_difference():
    assert list(differences({"a": {"x": 1}}, {"a": 1}, absent="-")) == [("a", {"x": 1}, 1)]
