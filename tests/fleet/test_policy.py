from monosem.fleet.policy import RESTARTS, Action, PackHistory, after_death, in_waves, slow_ranks


def test_deaths_with_progress_in_between_go_on_for_ever():
    history = PackHistory()
    for step in range(10, 200, 10):
        action, history = after_death(history, step, 3)
        assert action is Action.restart and history.deaths == 1


def test_a_pack_that_makes_no_progress_is_parted_then_given_up():
    def deaths(runs: int) -> Action:
        history = PackHistory()
        for n in range(RESTARTS):
            action, history = after_death(history, 0, runs)
            assert action is Action.restart and history.deaths == n + 1
        action, history = after_death(history, 0, runs)
        if action is Action.part:
            assert history == PackHistory(0, 0)
        return action

    assert deaths(runs=4) is Action.part
    assert deaths(runs=1) is Action.give_up


def test_waves_hold_every_pack_once_and_never_more_than_there_is_room_for():
    for n in range(8):
        for room in range(1, 9):
            waves = in_waves(range(n), room)
            assert [pack for wave in waves for pack in wave] == list(range(n))[::-1]
            assert all(1 <= len(wave) <= room for wave in waves)


def test_who_is_slow():
    assert slow_ranks([0.1]) == {} and slow_ranks([0.1, 0.0]) == {}, "nobody to compare with, or not known yet"
    assert slow_ranks([0.1, 0.14]) == {}
    assert slow_ranks([0.1, 0.16]) == {1: 0.1}
    assert slow_ranks([0.5, 0.1, 0.1, 0.12]) == {0: 0.1}
