import json
import os
import threading
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from demur.base.errors import PolicyError
from demur.store.policies.folder import read_folder, reload
from demur.store.policies.policy_file import policy_digest, policy_to_json, write_policy
from tests.builders import MODEL, policy


def named(name, threshold=0.5, **fields):
    return replace(policy(2, "heaviest", [threshold] * 2), name=name, fingerprint=MODEL, **fields)


@pytest.fixture
def folder(tmp_path):
    write_policy(tmp_path / "a.json", named("first"))
    write_policy(tmp_path / "b.json", named("second"))
    return tmp_path


def thresholds(there):
    return {name: live.policy.categories[0].threshold for name, live in there.policies.items()}


def told(changes):
    return {(c.kind, c.file, c.name) for c in changes}


def test_a_folder_gives_its_policies_by_name_with_the_digest_that_answers_carry(folder):
    (folder / "notes.txt").write_text("not a policy")
    (folder / ".c.json.part").write_text("half")
    (folder / "old.json").mkdir()
    there = read_folder(folder, MODEL)
    there.require_sound()
    assert sorted(there.policies) == ["first", "second"]
    assert there.policies["first"].digest == policy_digest(named("first"))
    assert there.policies["second"].file == "b.json"


def test_one_file_is_a_folder_of_one(folder):
    there = read_folder(folder / "a.json", MODEL)
    assert sorted(there.policies) == ["first"]
    write_policy(folder / "a.json", named("first", 0.7))
    assert thresholds(reload(there)[0]) == {"first": 0.7}


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ("{", "is damaged"),
        ("[]", "the whole file"),
        ('{"format": "demur.policy/1"}', "name"),
        (b"\xff\xfe", "is damaged"),
        ("[" * 100_000, "is damaged"),
        (json.dumps(policy_to_json(named("x"))).replace("0.5", "-0.5"), "-0.5"),
        (
            json.dumps(
                policy_to_json(replace(named("x"), fingerprint=replace(MODEL, dtype="bfloat16")))
            ),
            "dtype differ",
        ),
        (json.dumps(policy_to_json(replace(named("x"), fingerprint=None))), "names no model"),
    ],
)
def test_a_bad_file_stops_a_start_and_never_a_server_that_runs(folder, content, says):
    sound = read_folder(folder, MODEL)
    (folder / "a.json").write_bytes(content if isinstance(content, bytes) else content.encode())
    after, changes = reload(sound)
    assert thresholds(after) == thresholds(sound)
    assert told(changes) == {("rejected", "a.json", "first")}
    assert says in changes[0].message
    assert changes[0].digest == sound.policies["first"].digest
    assert reload(after)[1] == ()  # said once
    with pytest.raises(PolicyError, match=r"a\.json"):
        read_folder(folder, MODEL).require_sound()
    assert sorted(read_folder(folder, MODEL).policies) == ["second"]


def test_a_repaired_file_is_taken_and_said_to_be(folder):
    sound = read_folder(folder, MODEL)
    whole = (folder / "a.json").read_bytes()
    (folder / "a.json").write_bytes(whole[:100])
    bad, _ = reload(sound)
    (folder / "a.json").write_bytes(whole)
    after, changes = reload(bad)
    assert told(changes) == {("recovered", "a.json", "first")}
    assert after.faults == ()
    write_policy(folder / "a.json", named("first", 0.9))
    assert told(reload(after)[1]) == {("changed", "a.json", "first")}


def test_files_that_come_change_and_go_do_so_one_by_one(folder):
    start = read_folder(folder, MODEL)
    write_policy(folder / "a.json", named("first", 0.7))
    write_policy(folder / "c.json", named("third"))
    (folder / "b.json").unlink()
    after, changes = reload(start, needed=["first"])
    assert thresholds(after) == {"first": 0.7, "third": 0.5}
    assert told(changes) == {
        ("changed", "a.json", "first"),
        ("added", "c.json", "third"),
        ("removed", "b.json", "second"),
    }
    # who still holds the old set is not disturbed
    assert thresholds(start) == {"first": 0.5, "second": 0.5}


def test_rewriting_the_same_policy_changes_nothing(folder):
    start = read_folder(folder, MODEL)
    (folder / "a.json").write_text(json.dumps(policy_to_json(named("first"))), encoding="utf-8")
    os.utime(folder / "b.json", (1, 1))
    after, changes = reload(start)
    assert changes == ()
    assert thresholds(after) == thresholds(start)


def test_only_a_file_that_was_long_the_same_is_known_by_its_stamp(folder):
    """Two writes within a tick of the clock leave one stamp, and the first must not pass for the
    second.
    """
    start = read_folder(folder, MODEL)
    write_policy(folder / "a.json", named("first", 0.7))
    second = read_folder(folder, MODEL).seen["a.json"]
    mistaken = replace(start.seen["a.json"], stamp=second.stamp)
    young = replace(start, seen={**start.seen, "a.json": mistaken})
    assert thresholds(reload(young)[0])["first"] == 0.7
    old = replace(start, seen={**start.seen, "a.json": replace(mistaken, settled=True)})
    # not opened: the stamp says that nothing has changed
    assert thresholds(reload(old)[0])["first"] == 0.5


def test_a_tenants_default_outlives_its_file_until_another_takes_the_name(folder):
    start = read_folder(folder, MODEL)
    (folder / "a.json").unlink()
    after, changes = reload(start, needed=["first"])
    assert told(changes) == {("rejected", "a.json", "first")}
    assert "tenant's default" in changes[0].message
    assert reload(after, needed=["first"])[1] == ()
    write_policy(folder / "moved.json", named("first", 0.6))
    moved, changes = reload(after, needed=["first"])
    assert thresholds(moved) == {"first": 0.6, "second": 0.5}
    assert told(changes) == {("changed", "moved.json", "first")}
    assert moved.faults == ()


def test_a_tenants_default_cannot_be_renamed_away(folder):
    start = read_folder(folder, MODEL)
    write_policy(folder / "a.json", named("new name"))
    after, changes = reload(start, needed=["first"])
    assert sorted(after.policies) == ["first", "second"]
    assert told(changes) == {("rejected", "a.json", "first")}
    free, changes = reload(after)
    assert sorted(free.policies) == ["new name", "second"]
    assert ("added", "a.json", "new name") in told(changes)


def test_a_name_belongs_to_who_had_it_and_to_nobody_of_two_newcomers(folder):
    start = read_folder(folder, MODEL)
    write_policy(folder / "aa.json", named("second", 0.9))
    write_policy(folder / "c.json", named("third"))
    write_policy(folder / "d.json", named("third"))
    after, changes = reload(start)
    assert thresholds(after) == thresholds(start)
    assert told(changes) == {("rejected", f, None) for f in ("aa.json", "c.json", "d.json")}
    (folder / "d.json").unlink()
    (folder / "b.json").unlink()  # now each name is wanted once
    later, changes = reload(after)
    assert thresholds(later) == {"first": 0.5, "second": 0.9, "third": 0.5}
    assert ("recovered", "c.json", "third") in told(changes)


def test_a_file_that_takes_anothers_name_keeps_what_it_held(folder):
    start = read_folder(folder, MODEL)
    write_policy(folder / "a.json", named("second", 0.9))
    write_policy(folder / "c.json", named("first", 0.8))  # wants the name that a.json falls back on
    after, changes = reload(start)
    assert thresholds(after) == thresholds(start)
    assert told(changes) == {("rejected", "a.json", "first"), ("rejected", "c.json", None)}


def test_two_files_may_swap_names(folder):
    start = read_folder(folder, MODEL)
    write_policy(folder / "a.json", named("second", 0.6))
    write_policy(folder / "b.json", named("first", 0.7))
    after, changes = reload(start, needed=["first", "second"])
    assert thresholds(after) == {"second": 0.6, "first": 0.7}
    assert {c.kind for c in changes} == {"changed"}


def test_a_folder_that_vanishes_leaves_every_policy_in_force(folder):
    start = read_folder(folder, MODEL)
    folder.rename(folder.with_name("away"))
    after, changes = reload(start)
    assert thresholds(after) == thresholds(start)
    assert told(changes) == {("rejected", "", None)}
    assert reload(after)[1] == ()
    folder.with_name("away").rename(folder)
    assert told(reload(after)[1]) == {("recovered", "", None)}


def test_a_start_without_any_policy_is_refused(tmp_path):
    with pytest.raises(PolicyError, match="holds no policy"):
        read_folder(tmp_path).require_sound()
    with pytest.raises(PolicyError, match="cannot read"):
        read_folder(tmp_path / "absent").require_sound()


def test_readers_see_only_whole_policies_while_files_are_replaced_and_torn(folder):
    there = read_folder(folder, MODEL)
    whole = {t: json.dumps(policy_to_json(named("first", t))).encode() for t in (0.1, 0.2, 0.3)}
    turns = list(whole.values()) * 50

    def write():
        for turn, data in enumerate(turns):
            if turn % 2:
                (folder / "a.json").write_bytes(data)  # in place: readers may catch it half-written
            else:
                (folder / ".next").write_bytes(data)
                (folder / ".next").replace(folder / "a.json")

    writer = threading.Thread(target=write)
    writer.start()
    seen = set()
    while writer.is_alive():
        there, _ = reload(there, needed=["first"])
        seen.add(thresholds(there)["first"])
    writer.join()
    there, _ = reload(there, needed=["first"])
    assert seen <= {0.1, 0.2, 0.3, 0.5}
    assert there.faults == ()
    assert thresholds(there)["first"] == 0.3  # what was written last


@given(
    st.binary(max_size=300)
    | st.recursive(
        st.none() | st.floats() | st.integers() | st.text(max_size=5), st.lists, max_leaves=5
    ).map(
        lambda value: json.dumps(
            {"format": "demur.policy/1", "name": value, "rule": value}
        ).encode()
    )
)
def test_no_content_raises_or_puts_a_policy_in_force(tmp_path_factory, content):
    folder = tmp_path_factory.mktemp("fuzz", numbered=True)
    write_policy(folder / "a.json", named("first"))
    sound = read_folder(folder, MODEL)
    (folder / "a.json").write_bytes(content)
    (folder / "b.json").write_bytes(content)
    after, _ = reload(sound)
    assert thresholds(after) == thresholds(sound)
    assert {f.file for f in after.faults} == {"a.json", "b.json"}


def test_a_link_that_leads_nowhere_is_a_fault_and_a_pipe_is_not_waited_for(folder):
    start = read_folder(folder, MODEL)
    (folder / "a.json").unlink()
    (folder / "a.json").symlink_to(folder / "a.json")
    (folder / "b.json").unlink()
    (folder / "b.json").symlink_to("absent")
    os.mkfifo(folder / "c.json")
    after, _ = reload(start)
    assert thresholds(after) == thresholds(start)
    assert {f.file for f in after.faults} == {"a.json", "b.json"}
    os.mkfifo(folder / "alone")
    assert [f.file for f in read_folder(folder / "alone", MODEL).faults] == ["alone"]
