"""Labels of nodes and what selects them, against Ray's own functions."""

from __future__ import annotations

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from gare.common.nodes import NODE_ID, Node, in_words, matches, selected, wrong

VALUES = st.sampled_from(["a", "b", "train", "in", "a.b-c_d", "9"])
CONDITIONS = st.one_of(
    st.builds("{}{}".format, st.sampled_from(["", "!"]), VALUES),
    st.builds(
        lambda no, values: f"{no}in({','.join(values)})",
        st.sampled_from(["", "!"]),
        st.lists(VALUES, min_size=1, max_size=3),
    ),
)
KEYS = st.sampled_from(["gare.role", "ray.io/node-id", "x"])


@given(st.dictionaries(KEYS, VALUES), st.dictionaries(KEYS, CONDITIONS))
def test_a_node_is_selected_as_ray_selects_it(labels, selector):
    from ray._raylet import node_labels_match_selector

    assert wrong(selector) is None
    assert matches(labels, selector) == node_labels_match_selector(labels, selector)


@pytest.mark.parametrize(
    ("condition", "of_a", "of_b", "of_none"),
    [
        ("a", True, False, False),
        ("!a", False, True, True),
        ("in(a,c)", True, False, False),
        ("!in(a,c)", False, True, True),
    ],
)
def test_a_label_that_a_node_lacks_equals_no_value(condition, of_a, of_b, of_none):
    nodes = [Node({}, {"x": "a"}), Node({}, {"x": "b"}), Node({}, {"y": "a"})]
    assert selected(nodes, {"x": condition}) == [
        node for node, yes in zip(nodes, (of_a, of_b, of_none), strict=True) if yes
    ]
    assert selected(nodes, {}) == nodes


@given(st.text(alphabet="ab-_.!in(), /", max_size=12), st.text(alphabet="ab-_./ ", max_size=8))
@example("in(a,b)", "a.b/c")
@example("!in(a, b)", "a")
@example("in()", "/a")
@example("a" * 64, "a" * 64)
@example("!!a", "a..b/c")
def test_what_ray_would_refuse_is_refused(condition, key):
    from ray._private.label_utils import validate_label_selector

    accepted = wrong({key: condition}) is None
    if validate_label_selector({key: condition}) is not None:
        assert not accepted
    # Ray accepts more: an empty condition, a list without "in", a space that becomes part of a value.
    elif condition and condition.lstrip("!")[:1] != "(" and " " not in condition and "." not in key.rpartition("/")[0]:
        assert accepted == (not key.startswith("/"))


def test_a_space_that_ray_would_take_for_a_part_of_the_value_is_refused():
    from ray._raylet import node_labels_match_selector

    assert not node_labels_match_selector({"x": "b"}, {"x": "in(a, b)"})
    assert "without spaces" in wrong({"x": "in(a, b)"})


def test_the_refusal_says_what_to_write():
    assert "write value, !value, in(a,b) or !in(a,b)" in wrong({"gare.role": "!!x"})
    assert "'a b' is not a label" in wrong({"a b": "x"})


def test_a_selector_of_many_nodes_is_short_in_a_sentence():
    assert in_words({"gare.role": "!train"}) == "{gare.role: !train}"
    assert len(in_words({NODE_ID: "!in(" + ",".join(["f" * 56] * 50) + ")"})) < 100
