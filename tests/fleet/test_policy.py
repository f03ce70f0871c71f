from monosem.fleet.policy import (
    RESTARTS,
    Action,
    PackHistory,
    Shape,
    after_death,
    fits,
    in_waves,
    needs,
    slow_ranks,
    smaller,
)


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


def test_ever_smaller_shapes_go_from_what_is_wanted_to_the_least():
    for workers in range(6):
        for groups in range(1, 4):
            for replicas in range(1, 6):
                wanted = Shape(workers, groups, replicas)
                shapes = list(smaller(wanted))
                assert shapes[0] == wanted and shapes[-1] == Shape(min(1, workers), 1, 1)
                costs = [needs(shape, 2, 3, 1, 0.25) for shape in shapes]
                for before, after in zip(costs, costs[1:], strict=False):
                    assert all(after[k] <= before[k] for k in before) and after != before


def test_three_replicas_on_a_cluster_that_lost_half_of_itself():
    wanted = Shape(workers=2, groups=1, replicas=3)
    fitting = [s for s in smaller(wanted) if fits(needs(s, parts=1, shards=2, keepers=0, gpu_share=0), {"CPU": 2})]
    assert fitting[0] == Shape(2, 1, 2), "2.1 CPUs are wanted for three"
    assert not fits(needs(wanted, 1, 2, 0, gpu_share=0.5), {"CPU": 100, "GPU": 2})
    assert not fits({"GPU": 1.0}, {"CPU": 100}), "what a cluster does not name it does not have"


def test_who_is_slow():
    assert slow_ranks([0.1]) == {} and slow_ranks([0.1, 0.0]) == {}, "nobody to compare with, or not known yet"
    assert slow_ranks([0.1, 0.14]) == {}
    assert slow_ranks([0.1, 0.16]) == {1: 0.1}
    assert slow_ranks([0.5, 0.1, 0.1, 0.12]) == {0: 0.1}
