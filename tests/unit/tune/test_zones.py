"""Places of trials that run at the same time."""

from tune.zones import Zones


def test_trials_take_the_zone_with_most_places_left():
    zones = Zones(["a", "b", "b"])
    assert zones.slots == 3
    assert [zones.take(trial) for trial in range(3)] == ["b", "a", "b"]
    zones.give_back(1)
    assert zones.take(3) == "a"


def test_a_trial_that_starts_again_takes_no_second_place():
    zones = Zones(["a", "b"])
    assert zones.take(0) == zones.take(0) == "a"
    assert zones.take(1) == "b"


def test_one_trial_more_than_there_are_places_is_still_given_one():
    zones = Zones(["a"])
    assert [zones.take(0), zones.take(1)] == ["a", "a"]
    zones.give_back(7)


def test_without_zones_there_is_nothing_to_choose():
    assert Zones([None, None]).take(0) is None
