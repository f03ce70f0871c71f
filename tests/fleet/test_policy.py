from monosem.fleet.policy import RESTARTS, Action, PackHistory, after_death


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
