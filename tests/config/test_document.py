import pytest

from fedknow_ray.config.document import Document, Faults, Place, open_document, value_at
from fedknow_ray.errors import Fault

FILE = Place(0, 1, "x.yaml:1")


@pytest.fixture
def opened(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)

    def open_bytes(content):
        path = tmp_path / "x.yaml"
        path.write_bytes(content)
        faults = Faults()
        return open_document(path.relative_to(tmp_path), faults), [str(fault) for fault in faults.in_order()]

    return open_bytes


@pytest.mark.parametrize(
    ("content", "fault"),
    [
        (b"", "x.yaml:1: is empty; a config is a mapping such as `seed: 1`"),
        (b"# nothing\n\n", "x.yaml:1: is empty; a config is a mapping such as `seed: 1`"),
        (b"# a list\n- seed\n", "x.yaml:2: must be a mapping of keys such as `seed: 1`, got a list"),
        (b"seed\n", "x.yaml:1: must be a mapping of keys such as `seed: 1`, got 'seed'"),
        (b"seed: 1\nname: \xff\n", "x.yaml:2: is not UTF-8 text (byte 0xff)"),
        (b"seed: 1\n\tb: 2\n", "x.yaml:2: not valid YAML: a tab cannot indent or start a value; use spaces"),
    ],
)
def test_a_file_that_holds_no_mapping_is_one_fault_with_its_line(opened, content, fault):
    assert opened(content) == (None, [fault])


def test_a_byte_order_mark_is_no_fault(opened):
    document, faults = opened(b"\xef\xbb\xbfseed: 1\n")
    assert (document.tree, faults) == ({"seed": 1}, [])


def test_a_missing_file_is_a_fault(tmp_path):
    faults = Faults()
    assert open_document(tmp_path / "none.yaml", faults) is None
    assert faults.in_order() == [Fault(str(tmp_path / "none.yaml"), "", "there is no such file")]


def test_a_folder_is_a_fault(tmp_path):
    faults = Faults()
    assert open_document(tmp_path, faults) is None
    assert faults.in_order() == [Fault(str(tmp_path), "", "is a folder; give the YAML file in it")]


def test_a_path_through_a_file_is_a_fault(tmp_path):
    (tmp_path / "a").write_text("seed: 1")
    faults = Faults()
    assert open_document(tmp_path / "a" / "b.yaml", faults) is None
    assert faults.in_order()[0].message == "cannot be read: Not a directory"


def test_a_key_that_was_not_said_has_the_place_of_the_nearest_above():
    above = Place(0, 4, "x.yaml:4")
    document = Document({"a": {}}, {(): FILE, ("a",): above})
    assert document.place(("a", "b", "c")) == above
    assert document.place(("z",)) == FILE


def test_of_several_keys_the_first_that_was_said_has_the_place():
    said = Place(0, 4, "x.yaml:4")
    document = Document({"a": 1}, {(): FILE, ("a",): said})
    assert document.place(("z",), ("a", "b")) == said


def test_a_key_that_is_put_loses_the_places_below_it():
    option = Place(1, 0, "--set a=...")
    document = Document({"a": {"b": 1}}, {(): FILE, ("a",): FILE, ("a", "b"): FILE})
    document.put(("a",), {"b": 2}, option)
    assert document.get(("a", "b")) == 2
    assert document.place(("a", "b")) == option


def test_a_value_that_is_put_is_copied():
    value = {"b": 1}
    document = Document({}, {(): FILE})
    document.put(("a",), value, FILE)
    document.put(("a", "b"), 2, FILE)
    assert value == {"b": 1}


def test_only_the_first_fault_of_a_key_in_a_place_is_kept():
    faults = Faults()
    faults.add(FILE, ("a",), "first")
    faults.add(FILE, ("a",), "second")
    assert [fault.message for fault in faults.in_order()] == ["first"]


def test_faults_are_told_down_the_file_and_then_along_the_options():
    faults = Faults()
    for place in (Place(2, 0, "--set b"), Place(1, 0, "--set z"), Place(0, 10, "x:10"), Place(0, 9, "x:9")):
        faults.add(place, ("a",), "wrong")
    assert [fault.where for fault in faults.in_order()] == ["x:9", "x:10", "--set z", "--set b"]


@pytest.mark.parametrize(
    ("path", "touched"),
    [(("a", "b"), True), (("a",), True), (("a", "b", "c"), True), (("a", "x"), False), (("b",), False)],
)
def test_a_fault_touches_the_keys_above_and_below_it(path, touched):
    faults = Faults()
    faults.add(FILE, ("a", "b"), "wrong")
    assert faults.touches(path) is touched


def test_a_fault_of_the_whole_file_touches_no_key():
    faults = Faults()
    faults.add(FILE, (), "wrong")
    assert not faults.touches(("a",))


@pytest.mark.parametrize(
    ("path", "value"),
    [(("a", 1, "b"), 2), (("a", 5), "absent"), (("a", "x"), "absent"), (("c",), None), (("c", "d"), "absent")],
)
def test_values_are_found_through_dicts_and_lists(path, value):
    assert value_at({"a": [0, {"b": 2}], "c": None}, path, "absent") == value
