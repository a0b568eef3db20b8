"""The pickle machine without torch: plain values come out as they went in, everything else is refused."""

from __future__ import annotations

import collections
import pickle
import subprocess
import sys

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gare.common.plain_pickle import Machine, RefusedError

SCALARS = st.one_of(
    st.none(), st.booleans(), st.integers(-(2**70), 2**70), st.floats(allow_nan=False), st.text(max_size=20)
)
PLAIN = st.recursive(
    SCALARS,
    lambda inner: st.one_of(
        st.lists(inner, max_size=4),
        st.tuples(inner, inner),
        st.tuples(inner),
        st.just(()),
        st.dictionaries(st.text(max_size=5) | st.integers(), inner, max_size=4),
    ),
    max_leaves=20,
)


@settings(max_examples=200)
@given(value=PLAIN, protocol=st.integers(0, 5))
def test_plain_values_are_read_as_pickle_reads_them(value, protocol):
    assert Machine().run(pickle.dumps(value, protocol)) == value


def test_one_object_in_two_places_is_one_object():
    inner = ["a"]
    for protocol in range(6):
        read = Machine().run(pickle.dumps([inner, inner, {"x": inner}], protocol))
        assert read[0] is read[1] is read[2]["x"]


@pytest.mark.parametrize("protocol", range(6))
def test_an_ordered_mapping_is_a_mapping(protocol):
    read = Machine().run(pickle.dumps(collections.OrderedDict([("b", 1), ("a", 2)]), protocol))
    assert (type(read), list(read.items())) == (dict, [("b", 1), ("a", 2)])


@pytest.mark.parametrize(
    "program",
    [
        # What Python 2.7's cPickle writes for {'a': ['caf\xc3\xa9', u'x']} by protocol 0, 1 and 2.
        b"(dp1\nS'a'\n(lp2\nS'caf\\xc3\\xa9'\np3\naVx\np4\nas.",
        b"}q\x01U\x01a]q\x02(U\x05caf\xc3\xa9q\x03X\x01\x00\x00\x00xq\x04es.",
        b"\x80\x02}q\x01U\x01a]q\x02(U\x05caf\xc3\xa9q\x03X\x01\x00\x00\x00xq\x04es.",
    ],
)
def test_byte_strings_of_python_2_are_text(program):
    assert Machine().run(program) == {"a": ["café", "x"]}


def test_byte_strings_that_are_no_utf8_are_latin_1():
    assert Machine().run(b"U\x04caf\xe9.") == Machine().run(b"S'caf\\xe9'\n.") == "café"


@pytest.mark.parametrize("value", [{1}, b"bytes", complex(1, 2), sorted, Machine, range(3), collections.Counter("a")])
@pytest.mark.parametrize("protocol", range(6))
def test_what_is_no_plain_value_is_refused(value, protocol):
    with pytest.raises(RefusedError, match=r"which is not data|does not need"):
        Machine().run(pickle.dumps(value, protocol))


def test_a_mapping_made_again_and_again_of_one_list_is_refused(monkeypatch):
    monkeypatch.setattr(Machine, "max_steps", 1000)
    pairs = b"]q\x00(" + b"U\x01aU\x01b\x86" * 50 + b"e"
    again = b"ccollections\nOrderedDict\nh\x00\x85R"
    assert Machine().run(pairs + again + b".") == {"a": "b"}
    with pytest.raises(RefusedError, match="too many steps"):
        Machine().run(pairs + again * 50 + b".")


@settings(max_examples=300)
@given(data=st.data())
def test_damage_is_refused_or_harmless(data):
    program = bytearray(pickle.dumps({"a": [["x", "y"], 1.5, (2, None)]}, data.draw(st.integers(0, 5))))
    for _ in range(data.draw(st.integers(1, 4))):
        program[data.draw(st.integers(0, len(program) - 1))] = data.draw(st.integers(0, 255))
    try:
        Machine().run(bytes(program[: data.draw(st.integers(0, len(program)))]))
    except RefusedError as error:
        assert str(error)  # noqa: PT017


def test_the_machine_and_the_benchmarks_need_neither_torch_nor_ray():
    code = "import gare.common.plain_pickle, pipelines.manifest.benchmarks, pipelines.manifest.benchmarks.build, sys; "
    code += "print([m for m in ('torch', 'ray', 'av') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
